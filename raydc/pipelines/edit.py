"""Clusters mended by hand: a new version of a model whose weights are the same and whose clusters have other ids."""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
import yaml
from pydantic import Field

from raydc.clustering import KMeansOptions
from raydc.clustering.collective import CollectiveClusters
from raydc.core.fault_injection import failpoint
from raydc.core.settings import Settings, SettingsError, build
from raydc.core.storage import OWN, Store, alone
from raydc.data import DataSettings, Shard
from raydc.data.sample import spaced_rows
from raydc.pipelines.assign import OF_ENCODINGS, identity, opened_for
from raydc.tracking import mlflow_client, registry
from raydc.tracking.payloads import naming_tags
from raydc.tracking.tracker import RecordPending, Tracker
from raydc.training.labels import Drop, Edit, LabelMap, Merge, Rename, Revision, Split
from raydc.training.model import ClusteringModel
from raydc.training.model_files import ABOUT

SPLIT_ROWS, SPLIT_VALUES = 2**16, 2**26
"""Rows of the data, and values in them, that are drawn to split a cluster; at most."""
RESTARTS = 10
"""Of the k-means that splits a cluster."""


class SplitInto(Settings):
    """A cluster is to fall into parts, which k-means finds among its rows."""

    kind: Literal["split"] = "split"
    cluster: int
    parts: int = Field(2, ge=2)


Decision = Annotated[Merge | Rename | Drop | SplitInto, Field(discriminator="kind")]


class Decisions(Settings):
    """What is to be done to a model's clusters, in this order."""

    edits: tuple[Decision, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Edited:
    """A model with its clusters mended."""

    model: ClusteringModel
    of: str
    """The model before, such as models:/digits/3."""
    before: LabelMap
    places: dict[str, str]
    """Where it is, by name."""
    pending: str = ""
    """What MLflow could not be told, and how it is told later; empty where it has all."""


def edit(
    model_uri: str,
    decisions: Decisions | None,
    *,
    register_as: str | None = None,
    out: str | None = None,
    data: DataSettings | None = None,
    tracking_uri: str | None = None,
    allow_code: Collection[str] = (),
) -> Edited:
    """Apply decisions to a model's clusters, or with None take its last revision back; save it and register it.

    A split takes rows of `data`, else of those that the model was trained on as its run recorded them. Nothing is
    trained: weights stay, so do rows of other clusters. Doing it again gives the same version. Where MLflow is away,
    what it is to be told waits in `out`; without that, RegistryAway. ValueError says what cannot be done, before
    anything is written.
    """
    if register_as is not None:
        mlflow_client.check_name(register_as)
    elif out is None:
        raise SettingsError("edit: expected --register NAME, --out DIR, or both: where the edited model goes")
    model = registry.load(model_uri, tracking_uri, allow_code)
    if model.refuses:
        raise ValueError(f"{model_uri}: a {model.method_name} model assigns no new rows: {model.refuses}")
    came = registry.origin(model_uri, tracking_uri)
    of, before = came.version or f"sha256:{identity(model)[:16]}", model.labels
    if decisions is None:
        model = replace(model, renamed=before.undone())
    else:
        read = partial(_rows, model, data or came.data, model_uri)
        model = replace(model, renamed=_applied(model, decisions.edits, of, read))
    with contextlib.ExitStack() as held:
        place = held.enter_context(tempfile.TemporaryDirectory(prefix="raydc-")) if out is None else out
        store = Store(place).directory()
        held.enter_context(alone(store))
        _claim(store, model, came.data)
        found = Edited(model, of, before, {} if out is None else {"output": store.root})
        if register_as is not None:
            found = _registered(found, store, register_as, tracking_uri)
    if found.pending and out is None:
        raise mlflow_client.RegistryAway(f"{found.pending}; with --out DIR the edited model and its record wait there")
    return found


def told(edit: Edit) -> str:
    """An edit in a few words."""
    match edit:
        case Merge():
            return f"merge {', '.join(map(str, edit.clusters))}"
        case Rename():
            return f"rename {edit.cluster} = {edit.name}"
        case Drop():
            return f"drop {edit.cluster}"
        case Split():
            return f"split {edit.cluster} into {len(edit.centroids)}"


def _applied(
    model: ClusteringModel, decisions: Sequence[Decision], of: str, read: Callable[[], np.ndarray]
) -> LabelMap:
    """The map after all decisions; rows are read only where a cluster is split, and after all others were checked."""
    checked = model.labels
    for decision in decisions:
        stand_in = (
            Split(cluster=decision.cluster, centroids=((0.0,),) * decision.parts)
            if (isinstance(decision, SplitInto))
            else decision
        )
        checked = checked.edited(Revision(of=of, edits=(stand_in,)))
    edits: list[Edit] = []
    for decision in decisions:
        if isinstance(decision, SplitInto):
            now = model.labels.edited(Revision(of=of, edits=tuple(edits))) if edits else model.labels
            edits.append(split(replace(model, renamed=now), read(), decision))
        else:
            edits.append(decision)
    return model.labels.edited(Revision(of=of, edits=tuple(edits)))


def split(model: ClusteringModel, rows: np.ndarray, wanted: SplitInto) -> Split:
    """A cluster's parts, by k-means of the features of those rows [n, D] that are in it; the largest comes first.

    Sums are exact, so that the parts have the same bits on any machine. ValueError where its rows are too few.
    """
    own = rows[model.predict(rows) == wanted.cluster]
    z = torch.from_numpy(model.features(own))
    if len(z.unique(dim=0)) < wanted.parts:
        raise ValueError(
            f"split: cluster {wanted.cluster} has {len(own)} of {len(rows)} rows, too few different ones for "
            f"{wanted.parts} parts"
        )
    found = CollectiveClusters(Shard.of(z), seed=0).kmeans(z, wanted.parts, KMeansOptions(restarts=RESTARTS))
    sizes = np.bincount(found.labels.numpy(), minlength=wanted.parts)
    order = np.argsort(-sizes, kind="stable")
    return Split(cluster=wanted.cluster, centroids=tuple(map(tuple, found.centroids.float().numpy()[order].tolist())))


def _rows(model: ClusteringModel, data: DataSettings | Mapping[str, Any] | None, uri: str) -> np.ndarray:
    """Rows of the data, as stored."""
    if data is None:
        raise ValueError(f"split: {uri} does not say what it was trained on: name rows by --data")
    if isinstance(data, DataSettings):
        settings = data
    else:  # of the training, whose encoding is the model's
        settings = build(DataSettings, {key: data[key] for key in data if key not in OF_ENCODINGS}, at="data")
    source, _ = opened_for(settings, model)
    return spaced_rows(source, min(SPLIT_ROWS, SPLIT_VALUES // source.n_features)).x


def _claim(store: Store, model: ClusteringModel, data: Mapping[str, Any] | None) -> None:
    """Write the model into a directory that is empty, or holds part of it; SettingsError if it holds anything else."""
    files = {f"model/{name}": content for name, content in model.files().items()}
    if data is not None:
        files["config.yaml"] = yaml.safe_dump({"data": dict(data)}).encode()
    held = [name for name in files if store.exists(name) and store.read_bytes(name) == files[name]]
    store.only(f"{OWN}/", *held)
    for name, content in files.items():
        store.write_bytes(name, content)
        failpoint("edit")


def _registered(edited: Edited, store: Store, name: str, tracking_uri: str | None) -> Edited:
    """A version of the registered model `name` from the model in `store`, and a run that says what it came from.

    What MLflow misses waits in the store's outbox. RegistryRefused where it will not take it.
    """
    before, labels = edited.before, edited.model.labels
    undone = len(labels.revisions) < len(before.revisions)
    last = before.revisions[-1] if undone else labels.revisions[-1]
    said = ("undo " if undone else "") + "; ".join(map(told, last.edits))
    checksums = store.read_text(f"model/{ABOUT}")
    key = hashlib.sha256(json.dumps([edited.of, checksums]).encode()).hexdigest()
    tags = {"raydc.method": edited.model.method_name, "raydc.edited_from": edited.of, "raydc.edits": said}
    tags |= {"raydc.names": json.dumps(labels.cells.names)} if labels.cells.names else {}
    tags |= naming_tags(labels.suggested_at())
    tracker = Tracker(store, tracking_uri)
    tracker.start("raydc", f"edit-{key[:8]}", key, {"edited_from": edited.of, "edits": said})
    tracker.log_files()
    tracker.log_model()
    tracker.register(name, tags)
    failpoint("edited")
    try:
        found = replace(edited, places=tracker.finish() | edited.places)
    except RecordPending as pending:
        found = replace(edited, places=tracker.paths() | edited.places, pending=str(pending))
    if refused := tracker.refusals():
        raise mlflow_client.RegistryRefused("; ".join(refused))
    return found
