"""Requests and answers as bytes: JSON and Arrow to rows as the model takes them, and what it says of them back."""

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from torch import Tensor

from raydc.data.decoding import DAMAGED, pixels
from raydc.data.inputs import table_of
from raydc.data.source import DataError, UnusableRow
from raydc.pipelines.serving.arrow import TooManyRows, table_in
from raydc.training.labels import Asked
from raydc.training.model import TRUST, Assigned, ClusteringModel
from raydc.training.worker_job import trusted

Form = Literal["application/json", "application/vnd.apache.arrow.stream"]
JSON: Form = "application/json"
ARROW: Form = "application/vnd.apache.arrow.stream"
PROBLEM = "application/problem+json"
"""Of refusals (RFC 9457)."""


@dataclass(frozen=True)
class Question:
    """A request that may be answered."""

    body: bytes
    form: Form
    wanted: Form
    """Form of the answer."""
    level: int | None = None
    outliers: float | None = None
    memberships: bool = False
    """Whether the memberships in all clusters are wanted."""


@dataclass(frozen=True)
class Reply:
    """An answer, or a refusal."""

    status: int
    form: str
    body: bytes
    model: str = ""
    """Which model answers, such as models:/digits/3."""
    rows: int = 0


def refusal(status: int, title: str, detail: str, **more: Any) -> Reply:
    """A refusal in words, with whatever else is known of it."""
    return Reply(status, PROBLEM, json.dumps({"title": title, "status": status, "detail": detail} | more).encode())


def refused(problem: ValueError) -> Reply:
    """What is said of rows that cannot be used."""
    if isinstance(problem, TooManyRows):
        return refusal(413, "too many rows", str(problem))
    more = {"row": problem.row, "column": problem.column} if isinstance(problem, UnusableRow) else {}
    return refusal(422, "the rows cannot be used", str(problem), **more)


def rows_in(question: Question, model: ClusteringModel, most_rows: int, most_bytes: int) -> Tensor:
    """The question's rows [B, ...] as the model scales them.

    DataError says what cannot be used: UnusableRow in which row, TooManyRows where there are more than `most_rows`, or
    more than `most_bytes` of text behind dictionaries.
    """
    takes = model.encoding.names if model.encoding is not None else model.columns
    if question.form == ARROW:
        return model.rows(table_in(question.body, takes, most_rows, most_bytes))
    kind, values = _given(question.body)
    if len(values) > most_rows:
        raise TooManyRows(f"expected {most_rows:,} rows at most, got {len(values):,}; send them in several requests")
    if not values:
        return model.rows(np.zeros((0, model.n_features), np.float32))
    if kind == "pictures":
        return model.rows(_pictures(values, model))
    if any(isinstance(row, dict) for row in values):
        return model.rows(_table(_complete(values, takes), model))
    if model.encoding is not None:
        raise DataError(f"expected every row as an object with {', '.join(takes)}, got {type(values[0]).__name__}")
    return model.rows(values)


def _given(body: bytes) -> tuple[str, list[Any]]:
    """What a JSON body holds: rows or pictures."""
    expected = 'expected {"rows": [...]} or {"pictures": [...]}'
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"the body is no JSON: {problem}; {expected}") from None
    if not isinstance(found, dict) or [*found] not in (["rows"], ["pictures"]):
        names = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        raise DataError(f"{expected}, got {names[:200] or 'nothing'}")
    ((kind, values),) = found.items()
    if not isinstance(values, list):
        raise DataError(f"{kind}: expected a list, got {type(values).__name__}")
    return kind, values


def _complete(rows: list[Any], columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """The columns of rows that are all objects which have them; a value that is missing has to be said."""
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UnusableRow(f"row {at}: expected an object as in the other rows, got {type(row).__name__}", at)
        lacking = next((name for name in columns or rows[0] if name not in row), None)
        if lacking is not None:
            raise UnusableRow(f"row {at} lacks column {lacking}; null stands for a missing value", at, lacking)
    return [{name: row[name] for name in columns} for row in rows] if columns else rows


def _table(rows: list[dict[str, Any]], model: ClusteringModel) -> Any:
    """The rows as columns by name, pictures as the files that they are."""
    table = table_of(rows)
    for name in _picture_columns(model):
        table[name] = [_file(text, at, name) for at, text in enumerate(table[name])]
    return table


def _pictures(texts: list[Any], model: ClusteringModel) -> Any:
    """Rows of files in base64: a column of pictures that the model encodes, or pixels [B, D] in the model's shape."""
    shape, names = model.shape, () if model.encoding is None else model.encoding.names
    encoded = len(names) == 1 and _picture_columns(model) == [*names]
    if not encoded and (names or len(shape) != 3 or shape[0] not in (1, 3)):
        takes = ", ".join(names) or "x".join(map(str, shape))
        raise DataError(f"the model takes rows of {takes}, not pictures alone")
    files = [_file(text, at) for at, text in enumerate(texts)]
    if encoded:
        return {names[0]: files}
    x = np.zeros((len(files), int(np.prod(shape))), np.uint8)
    for at, file in enumerate(files):
        try:
            x[at] = pixels(file, *shape).reshape(-1)
        except DAMAGED as problem:
            raise UnusableRow(f"picture {at}: cannot be decoded: {problem}", at) from None
    return x


def _picture_columns(model: ClusteringModel) -> list[str]:
    """Columns that hold a picture in each row."""
    columns = () if model.encoding is None else model.encoding.columns
    return [column.name for column in columns if column.stored == "picture"]


def _file(text: Any, row: int, column: str | None = None) -> bytes:
    """A file that is given in base64. UnusableRow if it is not."""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as problem:
        raise UnusableRow(f"row {row}: expected a picture's file in base64: {problem}", row, column) from None


def reply(question: Question, asked: Asked, found: Assigned, model: ClusteringModel, uri: str) -> Reply:
    """What a model of this name says of the rows, as the question wants it."""
    clusters, names = model.labels.clusters_at(asked.level), model.labels.names_at(asked.level)
    columns: dict[str, Any] = {
        "cluster": pa.array(found.clusters, pa.int64()),
        "name": pa.array([names.get(cluster) for cluster in found.clusters.tolist()], pa.string()),
        **trusted(*(getattr(found, name) for name in TRUST)),
    }
    if asked.outliers is not None:
        columns["outlier"] = pa.array(asked.leaves_out(found.distance))
    if question.memberships:
        flat = pa.array(found.memberships.reshape(-1))
        columns["memberships"] = pa.FixedSizeListArray.from_arrays(flat, len(clusters))
    about = {"model": uri, "level": asked.level, "outliers": asked.outliers, "clusters": clusters}
    write = _arrow if question.wanted == ARROW else _json
    return Reply(200, question.wanted, write(pa.table(columns), about), uri, len(found.clusters))


def _json(table: pa.Table, about: Mapping[str, Any]) -> bytes:
    return json.dumps({**about, "rows": table.to_pylist()}, separators=(",", ":")).encode()


def _arrow(table: pa.Table, about: Mapping[str, Any]) -> bytes:
    """The table, with what holds for all rows in its schema's metadata."""
    sink = io.BytesIO()
    table = table.replace_schema_metadata({"raydc": json.dumps(about)})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()
