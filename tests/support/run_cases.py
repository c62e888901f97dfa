"""Finished runs on a few easy rows, for the tests of what comes after training."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydc.core.settings import unflatten
from raydc.training.config import RunConfig
from raydc.training.trainer import check, train

COLUMNS = ("length", "width", "height", "weight")
SHORT_DEC = {
    "method.name": "dec",
    "method.network.hidden": [16],
    "method.network.latent": 4,
    "method.denoise.length": "1 epochs",
    "method.pretrain.length": "2 epochs",
    "method.cluster.length": "2 epochs",
}
KMEANS = {"method.name": "kmeans", "method.restarts": 2}


def table(rows: int = 300, seed: int = 0) -> pa.Table:
    """Three blobs in named columns of several types, with text ids and classes."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, rows)
    x = np.array([[0, 0, 9, 0], [9, 0, 0, 3], [0, 9, 0, 6]])[y] + draw.normal(size=(rows, 4))
    columns: dict[str, Any] = {name: x[:, i] for i, name in enumerate(COLUMNS)}
    columns["weight"] = x[:, 3].astype(np.float32)
    return pa.table({"id": [f"row {i}" for i in range(rows)], **columns, "y": y})


def images(rows: int = 300, seed: int = 0) -> pa.Table:
    """Three patterns of 4 x 4 pixels in a fixed-size list column."""
    draw = np.random.default_rng(seed)
    y = draw.integers(0, 3, rows)
    x = (draw.random((3, 16)) > 0.5)[y] + 0.1 * draw.random((rows, 16))
    return pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float32).ravel()), 16), "y": y})


def write(rows: pa.Table, path: Path, row_group_size: int = 100) -> str:
    pq.write_table(rows, path, row_group_size=row_group_size)
    return str(path)


def finished(out: Path, data: str, **settings: Any) -> str:
    """The output directory of a run trained in this process."""
    flat = {"method.n_clusters": 3, "data.path": data, "data.label_column": "y", "training.workers": 0}
    config = RunConfig.of(unflatten({**flat, "output.out": str(out), **settings}))
    train(check(config))
    return str(out)
