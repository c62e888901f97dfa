"""What a finished run came to: sizes, label-free measures beside those when clustering began, a verdict, warnings."""

import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raydc.clustering.distances import Counts, merge
from raydc.clustering.metrics import clarity, external, graph, hierarchy, monitors
from raydc.core.storage import Store
from raydc.data import Scaling, Source, load_shard, read_labels, units
from raydc.data.marginals import Inputs
from raydc.training.baseline import Baseline, trusted_of
from raydc.training.labels import NOWHERE
from raydc.training.model import TRUST, ClusteringModel
from raydc.training.model_files import LABELS, amend, labels_of, relabel
from raydc.training.worker_job import Job

SAMPLE = 4000
"""Rows on which the label-free measures are taken, drawn at random and the same in every run."""
NEIGHBOURS = 10
"""Of each of these rows, in the method's features, whose classes are asked where there are any."""


def assignments(store: Store) -> Iterator[pa.Table]:
    """Assignments part by part in the order of the data: row, id, cluster, membership, agreement, distance, initial."""
    for name in store.list("assignments"):
        if name.endswith(".parquet"):
            yield pq.read_table(io.BytesIO(store.read_bytes(name)))


def labels_at(store: Store, positions: np.ndarray) -> np.ndarray:
    """Cluster, int64 [n], of the rows at these ascending positions in the data; NOWHERE of those that have none."""
    found = np.full(len(positions), NOWHERE, np.int64)
    for part in assignments(store):
        rows = part["row"].to_numpy()
        at = np.searchsorted(positions, rows).clip(max=len(positions) - 1)
        inside = positions[at] == rows
        found[at[inside]] = part["cluster"].to_numpy()[inside]
    return found


def write_baseline(store: Store, inputs: Inputs) -> None:
    """Count the assignments in `store`, and write what the training rows were like into its model.

    Its clusters are the method's own, whatever ids they have.
    """
    given = labels_of({LABELS: (store / "model").read_bytes(LABELS)}).given
    order = np.argsort(given)
    sizes, counts = np.zeros(len(given), np.int64), dict[str, Counts]()
    for part in assignments(store):
        own = order[np.searchsorted(given, part["cluster"].to_numpy(), sorter=order)]
        sizes += np.bincount(own, minlength=len(given))
        for name in TRUST:
            values = part[name].to_numpy()
            if not np.isnan(values).any():
                found = Counts.of(own, values, len(given))
                counts[name] = merge([counts[name], found]) if name in counts else found
    trust = {name: trusted_of(found) for name, found in counts.items() if found.rows.sum() == sizes.sum()}
    amend(store / "model", Baseline(sizes, trust, inputs).files())


def summarise(job: Job, store: Store, seconds: float) -> dict[str, Any]:
    """Write summary.json from what the workers wrote, and return it. Labels are read here, and nowhere before.

    The model gets the tree of its clusters, which takes all of them.
    """
    rows, membership, counts = job.profile.rows, 0.0, np.zeros(job.config.method.n_clusters or 1, np.int64)
    chosen = graph.drawn_rows(rows, SAMPLE)
    positions = job.profile.positions(chosen)
    drawn: dict[str, list[np.ndarray]] = {"cluster": [], "initial": []}
    for part in assignments(store):
        own = np.bincount(part["cluster"].to_numpy(), minlength=len(counts))
        own[: len(counts)] += counts
        counts, membership = own, membership + float(part["membership"].to_numpy().sum(dtype=np.float64))
        inside = np.isin(part["row"].to_numpy(), positions, assume_unique=True)
        for name in drawn.keys() & {*part.column_names}:
            drawn[name].append(part[name].to_numpy()[inside])
    n_clusters = len(counts)
    source = job.opened()
    scaling = units.reference(job.profile, source)
    drawn_rows = _rows(job, source, chosen, scaling)
    reference = graph.neighbour_graph(drawn_rows, min(graph.N_NEIGHBOURS, len(chosen) - 1))
    labels = np.concatenate(drawn["cluster"])
    measures = _measures(reference, labels, n_clusters)
    if math.isfinite(membership):  # some methods define none
        measures["mean membership"] = membership / rows
    warnings = [message for message in (monitors.collapsed(counts), monitors.splintered(counts)) if message]
    initial = None
    if drawn["initial"]:
        initial = _measures(reference, np.concatenate(drawn["initial"]), n_clusters)
        if measures["score"] < initial["score"] - 1e-9:
            warnings.append(
                f"the clusters score {measures['score']:.4f} on the rows' neighbour graph, below the "
                f"{initial['score']:.4f} of the first ones: prefer other settings, or a baseline such as ae_kmeans"
            )
    joins = hierarchy.tree([hierarchy.of_neighbours(labels, reference, n_clusters)])
    relabel(store / "model", lambda named: named.with_tree(joins))
    summary = {
        "rows": rows,
        "dropped": len(job.profile.dropped_rows),
        "n_clusters": n_clusters,
        "found": int((counts > 0).sum()),
        "sizes": counts.tolist(),
        "measures": measures,
        "reference": units.space_named(f"the rows, scaled ({scaling.kind})", drawn_rows),
        "initial": initial,
        "verdict": _verdict(drawn_rows, labels, n_clusters),
        "levels": hierarchy.stability(labels, reference, joins),
        **_against_labels(job, source, store, n_clusters, chosen),
        "warnings": warnings,
        "notes": [*job.profile.notes],
        "seconds": seconds,
    }
    store.write_text("summary.json", json.dumps(summary, indent=1))
    return summary


def _measures(reference: graph.NeighbourGraph, labels: np.ndarray, n_clusters: int) -> dict[str, float]:
    counts = np.bincount(labels, minlength=n_clusters)
    return {
        "score": graph.neighbour_score(labels, reference),
        "modularity": graph.modularity(labels, reference),
        "agreement": graph.agreement(labels, reference),
        "balance": monitors.balance(counts),
        "largest share": monitors.largest_share(counts),
    }


def _verdict(rows: np.ndarray, labels: np.ndarray, n_clusters: int) -> dict[str, Any]:
    found, asked, noise = clarity.of_one_training(rows, labels, n_clusters)
    return asdict(found) | {"asked": "neighbours", "rows": asked, "noise": noise}


def _against_labels(job: Job, source: Source, store: Store, n_clusters: int, chosen: np.ndarray) -> dict[str, Any]:
    classes = read_labels(source, job.profile)
    if classes is None or (classes < 0).all():
        return {"labels": None, "table": None}
    table = np.zeros((n_clusters, int(classes.max()) + 1), np.int64)
    for part in assignments(store):
        own = classes[job.profile.places(part["row"].to_numpy())]
        table += external.contingency(part["cluster"].to_numpy()[own >= 0], own[own >= 0], *table.shape)
    known = chosen[classes[chosen] >= 0]
    scores = external.external_scores(table) | _of_features(job, source, store, known, classes[known])
    return {"labels": scores, "table": table.tolist()}


def _of_features(job: Job, source: Source, store: Store, chosen: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """How well the method's features of the rows at these positions keep classes apart; nothing for few rows."""
    if len(chosen) <= NEIGHBOURS:
        return {}
    rows = torch.from_numpy(_rows(job, source, chosen, job.scaling)).unflatten(1, job.shape)
    model = ClusteringModel.stored(store / "model", allow_code=[job.config.method_name])
    return {"knn": external.neighbour_accuracy(model.features_of_scaled(rows), classes, NEIGHBOURS)}


def _rows(job: Job, source: Source, chosen: np.ndarray, scaling: Scaling) -> np.ndarray:
    """Scaled rows [n, D] at these positions, reading only the groups that hold them."""
    drawn = np.empty((len(chosen), source.n_features), np.float32)  # kept pieces would break up what groups leave free
    for group in job.profile.groups:
        first, last = np.searchsorted(chosen, [group.start, group.stop])
        if first < last:
            shard = load_shard(source, job.profile, scaling, [[group]], 0, "cpu", "memory")
            drawn[first:last] = shard[slice(0, len(group))].flatten(1).numpy()[chosen[first:last] - group.start]
    return drawn
