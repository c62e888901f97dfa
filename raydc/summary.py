"""What a finished run came to: sizes, label-free measures beside those when clustering began, and warnings."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydc.data import Source, load_shard, open_source, read_labels
from raydc.job import Job
from raydc.metrics import external, graph, monitors
from raydc.storage import Store

SAMPLE = 4000
"""Rows on which the label-free measures are taken, evenly spaced."""


def read_assignments(store: Store) -> pa.Table:
    """All rows' assignments in the order of the data: row, id, cluster, confidence, initial."""
    parts = [pq.read_table(io.BytesIO(store.read_bytes(name))) for name in store.list("assignments")]
    return pa.concat_tables(parts).sort_by("row")


def summarise(job: Job, store: Store, seconds: float) -> dict[str, Any]:
    """Write summary.json from what the workers wrote, and return it. Labels are read here, and nowhere before."""
    table = read_assignments(store)
    labels = table["cluster"].to_numpy()
    found = int(labels.max()) + 1
    n_clusters = max(found, job.config.method.n_clusters or 0)
    counts = np.bincount(labels, minlength=n_clusters)
    source = job.source or open_source(job.config.data)
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(SAMPLE, len(labels))).astype(np.int64))
    reference = graph.neighbour_graph(_rows(job, source, chosen))
    measures = _measures(reference, labels[chosen], n_clusters)
    measures["mean confidence"] = float(np.mean(table["confidence"].to_numpy()))
    warnings = [message for message in (monitors.collapsed(counts),) if message]
    initial = None
    if "initial" in table.column_names:
        initial = _measures(reference, table["initial"].to_numpy()[chosen], n_clusters)
        if measures["score"] < initial["score"] - 1e-9:
            warnings.append(
                f"the clusters score {measures['score']:.4f} on the rows' neighbour graph, below the "
                f"{initial['score']:.4f} of k-means on the same pretrained features: prefer ae_kmeans or other settings"
            )
    summary = {
        "rows": len(labels),
        "dropped": len(job.survey.dropped_rows),
        "n_clusters": n_clusters,
        "found": int((counts > 0).sum()),
        "sizes": counts.tolist(),
        "measures": measures,
        "initial": initial,
        **_against_labels(job, source, labels, n_clusters),
        "warnings": warnings,
        "notes": [*job.survey.notes],
        "seconds": seconds,
    }
    store.write_text("summary.json", json.dumps(summary, indent=1))
    return summary


def _measures(reference: graph.NeighbourGraph, labels: np.ndarray, n_clusters: int) -> dict[str, float]:
    counts = np.bincount(labels, minlength=n_clusters)
    return {
        "score": graph.stage_one_score(labels, reference),
        "modularity": graph.modularity(labels, reference),
        "agreement": graph.agreement(labels, reference),
        "balance": monitors.balance(counts),
        "largest share": monitors.largest_share(counts),
    }


def _against_labels(job: Job, source: Source, labels: np.ndarray, n_clusters: int) -> dict[str, Any]:
    classes = read_labels(source, job.survey)
    if classes is None or (classes < 0).all():
        return {"labels": None, "table": None}
    known = classes >= 0
    table = external.contingency(labels[known], classes[known], n_clusters, int(classes.max()) + 1)
    return {"labels": external.external_scores(table), "table": table.tolist()}


def _rows(job: Job, source: Source, chosen: np.ndarray) -> np.ndarray:
    """Scaled rows [n, D] at these positions, reading only the groups that hold them."""
    parts = []
    for group in job.survey.groups:
        inside = chosen[(chosen >= group.start) & (chosen < group.stop)] - group.start
        if len(inside):
            only = [[group]]
            shard = load_shard(source, job.survey, job.scaling, only, 0, "cpu", "memory")
            parts.append(shard.rows.take(slice(0, len(group)))[inside].flatten(1).numpy())
    return np.concatenate(parts)
