"""The ids of an earlier model, given to the clusters of a new one that are the same."""

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from raydc.clustering.metrics.alignment import THRESHOLD, align
from raydc.core.fault_injection import failpoint
from raydc.core.storage import OWN, Store
from raydc.data.sample import spaced_rows
from raydc.training.labels import NOWHERE, LabelMap
from raydc.training.model import ClusteringModel
from raydc.training.model_files import relabel
from raydc.training.summary import labels_at
from raydc.training.worker_job import Job, write_assignments

EARLIER, VERSION = f"{OWN}/aligned_to", f"{OWN}/aligned_to/version.json"
"""The earlier model in an output directory, and what it is called: written last, so that the model is whole."""
ROWS, VALUES = 2**14, 2**26
"""Rows by which clusters are compared, and values in them; at most."""
MARK = "ids"
"""Of a file of assignments that has the ids of an earlier model."""


@dataclass(frozen=True)
class Followed:
    """A new model's clusters under the ids of an earlier one."""

    labels: LabelMap
    told: dict[str, Any] | None
    """What became of the earlier clusters, by ids; None where there are none."""


def keep(model: ClusteringModel, version: str, store: Store) -> None:
    """Put an earlier model into the output directory: whatever becomes of its alias, the same command does the same."""
    store.delete(EARLIER)  # of another model, where a process was killed here before its alias moved
    for name, data in model.files().items():
        store.write_bytes(f"{EARLIER}/{name}", data)
    failpoint("align.keep")
    store.write_text(VERSION, json.dumps({"version": version}))


def kept(store: Store, allow_code: list[str]) -> tuple[ClusteringModel, str] | None:
    """The earlier model and its name; None where there is none."""
    if not store.exists(VERSION):
        return None
    files = {name.removeprefix(f"{EARLIER}/"): store.read_bytes(name) for name in store.list(EARLIER)}
    version = json.loads(files.pop(VERSION.removeprefix(f"{EARLIER}/")))["version"]
    return ClusteringModel.of(files, f"{store.root}/{EARLIER}", allow_code), version


def follow(labels: LabelMap, own: ArrayLike, earlier: ClusteringModel, rows: Any, version: str) -> Followed:
    """A map with the earlier model's ids, from the method's clusters `own` [n] of rows [n, D] in the data's units."""
    clusters, n_clusters, before = np.asarray(own, np.int64), len(labels.given), earlier.labels.cells
    old = earlier.predict(rows)
    table = np.zeros((n_clusters, len(before.alive) + 1), np.int64)
    column = {cluster: i for i, cluster in enumerate((*before.alive, NOWHERE))}
    np.add.at(table, (clusters, np.array([column[cluster] for cluster in old.tolist()], np.int64)), 1)
    found = align(table[:, :-1], table[:, -1])
    ids = dict(zip(found.new, range(before.free, before.free + len(found.new)), strict=True))
    ids |= {new: before.alive[place] for new, place, _ in found.kept}
    names = {id_: before.names[id_] for id_ in ids.values() if id_ in before.names}
    given = tuple(ids[cluster] for cluster in range(n_clusters))
    told = {
        "to": version,
        "rows": len(clusters),
        "threshold": THRESHOLD,
        "kept": {
            str(before.alive[place]): overlap for _, place, overlap in sorted(found.kept, key=lambda pair: pair[1])
        },
        "new": sorted(ids[new] for new in found.new),
        "died": [before.alive[place] for place in found.died],
        "split": {str(before.alive[place]): [ids[new] for new in parts] for place, parts in found.split.items()},
        "merged": {str(ids[new]): [before.alive[place] for place in parts] for new, parts in found.merged.items()},
    }
    free = before.free + len(found.new)
    return Followed(LabelMap(given=given, names=names, free=free, joins=labels.joins), told)


def apply(job: Job, store: Store, summary: dict[str, Any]) -> dict[str, Any]:
    """Give a trained run's model, assignments and summary the ids of the earlier model that it keeps, if it keeps one.

    The summary, as it is written. A run that is killed meanwhile does it again, from assignments made anew.
    """
    earlier = kept(store, [job.config.method_name])
    if earlier is None:
        return summary
    source = job.opened()
    drawn = spaced_rows(source, min(ROWS, VALUES // source.n_features))
    own = labels_at(store, drawn.positions)
    known = own != NOWHERE
    followed: list[Followed] = []

    def renamed(labels: LabelMap) -> LabelMap:
        followed.append(follow(labels, own[known], earlier[0], drawn.x[known], earlier[1]))
        return followed[0].labels

    ids = np.array(relabel(store / "model", renamed).given)
    failpoint("align.model")
    for name in store.list("assignments"):
        table = pq.read_table(io.BytesIO(store.read_bytes(name)))
        columns = {column: table[column] for column in table.column_names}
        for column in columns.keys() & {"cluster", "initial"}:
            columns[column] = ids[columns[column].to_numpy()]
        write_assignments(store, name, columns, {MARK: ids.tolist()})
        failpoint("align.assignments")
    found = renumbered(summary, ids) | {"aligned": followed[0].told}
    store.write_text("summary.json", json.dumps(found, indent=1))
    failpoint("align.summary")
    return found


def withdraw(store: Store) -> None:
    """Remove assignments that have the ids of an earlier model, of a run that is not finished: they are made anew."""
    for name in store.list("assignments"):
        metadata = pq.read_metadata(io.BytesIO(store.read_bytes(name))).metadata or {}
        if MARK in json.loads(metadata.get(b"raydc", b"{}")):
            store.delete(name)


def renumbered(summary: dict[str, Any], ids: NDArray[np.int64]) -> dict[str, Any]:
    """What a summary says of the method's clusters, by their ids [K]: sizes, the verdict, the table of classes."""
    found, many = dict(summary), int(ids.max()) + 1

    def placed(rows: Any) -> Any:
        values = np.asarray(rows)
        by_id = np.zeros((many, *values.shape[1:]), values.dtype)
        by_id[ids[: len(values)]] = values
        return by_id.tolist()

    found["sizes"] = placed(summary["sizes"])
    if summary["table"] is not None:
        found["table"] = placed(summary["table"])
    found["verdict"] = dict(summary["verdict"]) | {
        kind: sorted(int(ids[cluster]) for cluster in summary["verdict"][kind]) for kind in ("clear", "doubtful")
    }
    return found
