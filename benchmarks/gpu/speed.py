"""How fast: epochs of three methods on rows of MNIST's size, and k-means. The CPU's figures stand beside them."""

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.answers import rows_of
from benchmarks.gpu.row import Row
from raydc.clustering.kmeans import steps
from raydc.clustering.kmeans.steps import FixedPoint, Geometry
from raydc.core.settings import fields, unflatten
from raydc.data import ArraySource
from raydc.methods import load
from raydc.training import worker_job
from raydc.training.config import RunConfig
from raydc.training.loop import Progress

MANY = {"cuda": 70_000, "cpu": 600}
"""Rows by device."""
FEATURES, EPOCHS = 784, 3


def synchronised(device: str) -> float:
    """The time when all that was asked of the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def epochs(name: str, rows: int, device: str, precision: str, threads: int) -> dict[str, float]:
    """Seconds of an epoch by phase, the median but for the first epoch, which warms up."""
    x = rows_of("easy", rows, FEATURES)[0].abs().clamp(max=10).numpy() / 10
    own = {path: f"{EPOCHS} epochs" for path, _ in fields(load(name).Config, "method") if path.endswith(".length")}
    training = {"workers": 0, "precision": precision, "threads": threads, "checkpoint_every": 0}
    flat = own | {f"training.{key}": value for key, value in training.items()}
    config = RunConfig.of(unflatten(flat | {"method.name": name, "data.path": "rows", "output.out": "rows"}))
    times: dict[str, list[float]] = {}
    last = [0.0]

    def on_epoch(progress: Progress) -> bool:
        now = synchronised(device)
        times.setdefault(progress.phase, []).append(now - last[0])
        last[0] = synchronised(device)
        return False

    job = worker_job.prepare(config, ArraySource(x, settings=config.data))
    last[0] = synchronised(device)
    worker_job.work(job, device=device, on_epoch=on_epoch)
    return {phase: statistics.median(each[1:] or each) for phase, each in times.items()}


def training(name: str, device: str) -> dict[str, Any]:
    """Seconds of an epoch on the device in both precisions, and thousands of rows a second beside the CPU's."""
    rows, cores = MANY[device], os.cpu_count() or 1
    found: dict[str, Any] = {"rows": rows}
    for precision in ("fp32", "bf16") if device == "cuda" else ("fp32",):
        seconds = epochs(name, rows, device, precision, 1)
        found |= {f"{phase} {precision} s": value for phase, value in seconds.items()}
    if device == "cuda":
        few = rows // 10
        beside = epochs(name, few, "cpu", "fp32", cores)
        found |= {
            f"{phase}: times the rows a second of {cores} cores": value / few * rows / found[f"{phase} fp32 s"]
            for phase, value in beside.items()
        }
    return found


def iteration(x: torch.Tensor, clusters: int) -> Callable[[], object]:
    """One iteration of Lloyd over rows on their device, in row groups as runs have them."""
    geometry = Geometry(torch.zeros(x.shape[1], device=x.device), FixedPoint.of(x.abs().amax(0), len(x)), 0.0)
    groups, centroids = [*x.split(4096)], x[:clusters].double()[None]
    return lambda: steps.means(*steps.statistics(groups, centroids, geometry), centroids, geometry)


def lloyd(dim: int, clusters: int, device: str) -> dict[str, Any]:
    """Millions of rows a second of an iteration, on the device and on one core."""
    found: dict[str, Any] = {}
    for place in dict.fromkeys((device, "cpu")):
        rows = 10 * MANY[place]
        run = iteration(rows_of("easy", rows, dim)[0].to(place), clusters)
        run()
        times = []
        for _ in range(3):
            began = synchronised(place)
            run()
            times.append(synchronised(place) - began)
        found[f"{place}: million rows a second"] = rows / statistics.median(times) / 1e6
    return found


ROWS = [
    *(Row(f"{name}: epochs", partial(training, name)) for name in ("dec", "imsat", "vade")),
    *(
        Row(f"k-means iteration, D = {dim}, K = {clusters}", partial(lloyd, dim, clusters))
        for dim, clusters in ((64, 10), (64, 100), (512, 100))
    ),
]
