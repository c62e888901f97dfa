"""Rows a second of `raydc train` on two nodes of one CPU beside one: DEC's pretraining, the nodes on this machine.

`python -m benchmarks.nodes --rows 8192 --epochs 6 --repeats 3`: wall clock from the end of the first epoch to that of
the last, in turns. Two nodes need two idle cores.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydc.core.settings import unflatten
from raydc.distributed.ray_cluster import connected
from raydc.training.config import RunConfig
from raydc.training.trainer import Watch, check, train
from tests.support.ray_nodes import Nodes


def rate(folder: Path, workers: int, rows: int, epochs: int, batch_size: int) -> float:
    """Rows a second of one training."""
    flat = {
        "method.name": "ae_kmeans", "method.n_clusters": 10, "data.path": str(folder / "rows.parquet"),
        "method.pretrain.length": f"{epochs + 1} epochs",
        "training.workers": workers, "training.batch_size": batch_size, "output.out": tempfile.mkdtemp(dir=folder),
    }  # fmt: skip
    ends: list[float] = []
    train(check(RunConfig.of(unflatten(flat))), Watch(lambda progress: ends.append(time.monotonic())))
    return rows * (len(ends) - 1) / (ends[-1] - ends[0])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=__doc__)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--features", type=int, default=784)
    parser.add_argument("--batch-size", type=int, default=1024, help="rows of the global batch [1024]")
    parser.add_argument("--epochs", type=int, default=6, help="after the first, which warms up [6]")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    x = np.random.default_rng(0).normal(size=(given.rows, given.features)).astype(np.float32)
    found: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(prefix="raydc-") as scratch:
        folder = Path(scratch)
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), given.features)
        pq.write_table(pa.table({"x": values}), folder / "rows.parquet", row_group_size=given.rows // 8)
        with Nodes(folder / "nodes", workers=2, PYTHONPATH=str(Path(__file__).parents[1])) as nodes:
            os.environ |= {"RAY_ADDRESS": nodes.address, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": nodes.token}
            with connected(0):
                for _ in range(given.repeats):
                    for workers, rates in found.items():
                        rates.append(rate(folder, workers, given.rows, given.epochs, given.batch_size))
    loads = "/".join(f"{load:.1f}" for load in os.getloadavg())
    print(
        f"{given.rows:,} rows x {given.features}, batches of {given.batch_size}, load {loads} on {os.cpu_count()} cores"
    )
    print("| nodes of 1 CPU | rows a second, median of repeats |\n| --- | --- |")
    for workers, rates in found.items():
        print(f"| {workers} | {median(rates):,.0f} |")
    ratios = sorted(two / one for one, two in zip(*found.values(), strict=True))
    print(f"ratio {median(ratios):.2f} (median of pairs; {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
