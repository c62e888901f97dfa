"""What sets each cluster of a finished run apart, in the features' own units: profiles.parquet and suggested names."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydc.clustering.metrics.contrast import Contrast, contrast, direction, strongest, suggested
from raydc.core.storage import Store
from raydc.data import open_source
from raydc.data.sample import spaced_rows
from raydc.training.labels import NOWHERE
from raydc.training.model import ClusteringModel
from raydc.training.summary import labels_at
from raydc.training.worker_job import Job

FILE = "profiles.parquet"
ROWS, VALUES = 2**14, 2**24
"""Rows of which means are taken, and values in them; at most."""
FEATURES = 200
"""Features that are told of each cluster, those with the largest effects; at most."""

SCHEMA = pa.schema(
    [
        ("cluster", pa.int64()),
        ("name", pa.string()),
        ("rows", pa.int64()),
        ("feature", pa.string()),
        ("mean", pa.float64()),
        ("rest", pa.float64()),
        ("effect", pa.float64()),
        ("direction", pa.string()),
    ]
)


def write(job: Job, store: Store, summary: dict[str, Any]) -> dict[str, Any]:
    """Write profiles.parquet of a trained run, and into its summary a suggested name for each cluster; the summary.

    Names are suggested where the features have names of their own.
    """
    source = job.source or open_source(job.config.data)
    drawn = spaced_rows(source, min(ROWS, VALUES // source.n_features))
    labels = labels_at(store, drawn.positions)
    known = labels != NOWHERE
    found, names = contrast(drawn.x[known], labels[known]), [source.name_of(i) for i in range(source.n_features)]
    named = suggested(found, names) if len(job.columns) == source.n_features else {}
    given = ClusteringModel.stored(store / "model", [job.config.method_name]).labels.cells.names
    buffer = io.BytesIO()
    pq.write_table(table(found, np.unique(labels[known], return_counts=True)[1], names, named | dict(given)), buffer)
    store.write_bytes(FILE, buffer.getvalue())
    told = summary | {"suggested": {str(cluster): name for cluster, name in named.items()}}
    store.write_text("summary.json", json.dumps(told, indent=1))
    return told


def table(found: Contrast, sizes: np.ndarray, features: list[str], names: dict[int, str]) -> pa.Table:
    """A line for each cluster and feature, the largest effects of each cluster first."""
    lines: list[dict[str, Any]] = []
    for place, cluster in enumerate(found.clusters.tolist()):
        for feature in strongest(found.effect[place], FEATURES):
            effect = float(found.effect[place, feature])
            lines.append(
                {
                    "cluster": cluster,
                    "name": names.get(cluster),
                    "rows": int(sizes[place]),
                    "feature": features[feature],
                    "mean": float(found.mean[place, feature]),
                    "rest": float(found.rest[place, feature]),
                    "effect": effect,
                    "direction": direction(effect) if effect else "same",
                }
            )
    return pa.Table.from_pylist(lines, SCHEMA)
