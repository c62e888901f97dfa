"""A model that answers: loaded by a name that does not change, and asked by several at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raydc.data.encoders import EncoderError
from raydc.pipelines.assign import accelerate
from raydc.pipelines.serving.payloads import Question, Reply, refusal, refused, reply, rows_in
from raydc.pipelines.serving.settings import Serving
from raydc.tracking import registry
from raydc.tracking.payloads import example_rows
from raydc.training.labels import Asked
from raydc.training.model import ClusteringModel
from raydc.training.model_files import ModelError


@dataclass(frozen=True, eq=False)
class Served:
    """A model, and its name: models:/digits/3, or a folder."""

    model: ClusteringModel
    uri: str

    @property
    def takes(self) -> Any:
        """What a row has to be: another model that takes the same can be put in this one's place."""
        encoding = self.model.encoding
        columns = self.model.columns if encoding is None else [(each.name, each.stored) for each in encoding.columns]
        return self.model.shape if encoding is None else None, tuple(columns)

    def about(self) -> dict[str, Any]:
        """What a client has to know of it, as plain data."""
        model, encoding = self.model, self.model.encoding
        names = model.labels.names_at()
        stored = {} if encoding is None else {column.name: column.stored for column in encoding.columns}
        return {
            "model": self.uri,
            "method": model.method_name,
            "columns": stored or {name: "number" for name in model.columns},
            "shape": list(model.shape) if encoding is None else None,
            "clusters": [{"id": cluster, "name": names.get(cluster)} for cluster in model.clusters],
            "replicas": len(model.replicas),
            "levels": bool(model.labels.joins or model.labels.cells.splits),
            "outliers": model.distances is not None,
        }


@dataclass(frozen=True, eq=False)
class Prepared:
    """A question whose rows one model has taken, and which that model answers, whatever comes after it."""

    question: Question
    asked: Asked
    served: Served
    x: Tensor
    """The rows [B, ...], scaled."""


def load(serving: Serving) -> Served:
    """The model that is meant now, once it has answered a made-up row.

    RegistryError, ModelError or ValueError if it cannot be had, or assigns no rows: an encoder that is not here is not
    missed before a row is encoded.
    """
    uri = registry.pinned(serving.model, serving.tracking_uri)
    try:
        model = registry.load(uri, serving.tracking_uri, serving.allow_code)
    except EncoderError as problem:
        raise ModelError(f"{uri}: {problem}") from problem
    if model.refuses:
        raise ModelError(f"{uri}: a {model.method_name} model assigns no new rows: {model.refuses}")
    accelerate(model)
    try:
        model.assign(example_rows(model, 1))
    except (ValueError, RuntimeError, OSError, ImportError) as problem:
        raise ModelError(f"{uri} cannot answer: {problem}") from problem
    return Served(model, uri)


def follow(serving: Serving, served: Served) -> Served:
    """The model that is meant now, which is the present one where that has not changed.

    Raises as `load` does, and ModelError where the new one takes other rows: who asks would be refused at once.
    """
    if registry.pinned(serving.model, serving.tracking_uri) == served.uri:
        return served
    found = load(serving)
    if found.takes != served.takes:
        raise ModelError(
            f"{found.uri} takes other rows than {served.uri}, which stays; start the server anew to serve it"
        )
    return found


def prepare(question: Question, served: Served, serving: Serving) -> Prepared | Reply:
    """The question with its rows as the model takes them, or why they cannot be used."""
    try:
        asked = Asked(question.level, question.outliers)
        served.model.check(asked)
    except ValueError as problem:
        return refusal(422, "the model cannot be asked that", str(problem))
    try:
        x = rows_in(question, served.model, serving.request_rows, serving.waiting_bytes)
    except ValueError as problem:
        return refused(problem)
    return Prepared(question, asked, served, x)


def answer(prepared: Sequence[Prepared]) -> list[Reply]:
    """The replies, in order: rows of questions that ask the same of the same model go through it together."""
    alike: dict[tuple[Served, Asked], list[int]] = {}
    for at, one in enumerate(prepared):
        alike.setdefault((one.served, one.asked), []).append(at)
    replies: dict[int, Reply] = {}
    for (served, asked), places in alike.items():
        found = served.model.assigned_of_scaled(torch.cat([prepared[at].x for at in places]), asked)
        start = 0
        for at in places:
            one = prepared[at]
            part = type(found)(*(values[start : start + len(one.x)] for values in found))
            replies[at] = reply(one.question, asked, part, served.model, served.uri)
            start += len(one.x)
    return [replies[at] for at in range(len(prepared))]
