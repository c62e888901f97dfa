"""The same on a device as on the CPU: methods, k-means and its service."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.row import DrawsOfTheCPU, Row, apart, differ, states_apart
from raydc.clustering import KMeansOptions
from raydc.clustering.centroid_service.service import CentroidService, ServicePlan
from raydc.clustering.centroid_service.worker import work
from raydc.clustering.collective import CollectiveClusters
from raydc.data import Shard, split
from raydc.methods import available
from raydc.testing.cases import run_job, short_settings
from raydc.training.model import ClusteringModel

ROUNDING = 1e-4
"""What float32 may differ by between two devices where nothing was trained: relative to the largest entry."""
TRAINED = 1e-2
"""The same after a short training, whose steps carry each other's rounding on."""
BFLOAT16 = 0.1
"""The same of losses whose networks have 8 bits of fraction."""


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="raydc-gpu-", ignore_cleanup_errors=True) as path:
        yield Path(path)


def same_training(name: str, device: str) -> dict[str, Any]:
    """A whole short run by the CPU's draws; one that was interrupted, and its repetition: the same bits."""
    with folder() as place:
        flat = short_settings(name, place)
        near = run_job(flat, place / "near", "cpu")
        with DrawsOfTheCPU():
            whole = run_job(flat, place / "whole", device)
            if len(near.history) > 1:
                run_job(flat, place / "far", device, epochs=len(near.history) // 2)
            far = run_job(flat, place / "far", device)
    states = [each.model.method.state_dict() for each in (near, whole, far)]
    bits = sum(not torch.equal(value, states[2][key]) for key, value in states[1].items())
    losses = [[[*entry["losses"].values()] for entry in each.history] for each in (near, whole)]
    return {
        "labels": differ(whole.labels, near.labels),
        "losses": max((apart(b, a) for a, b in zip(*losses, strict=True)), default=0.0),
        "weights": states_apart(states[1], states[0]),
        "labels when it went on": differ(far.labels, whole.labels),
        "tensors of other bits when it went on": bits,
    }


def same_answers(name: str, device: str) -> dict[str, Any]:
    """A model that the CPU trained, asked on both: whole, one row at a time, in another order."""
    with folder() as place:
        flat = short_settings(name, place)
        run_job(flat, place / "near", "cpu")
        rows = np.load(place / "rows.npy")
        near, far = (ClusteringModel.load(place / "near" / "model") for _ in range(2))
        far.to(device)
        if near.refuses:
            return {"labels": 0, "memberships": 0.0, "embedding": 0.0, "labels by other batches": 0}
        order = np.random.default_rng(0).permutation(len(rows))
        labels = far.predict(rows)
        alone = np.concatenate([far.predict(rows[at : at + 1]) for at in range(0, len(rows), 10)])
        return {
            "labels": differ(labels, near.predict(rows)),
            "memberships": apart(far.memberships(rows), near.memberships(rows)),
            "embedding": apart(far.transform(rows), near.transform(rows)),
            "labels by other batches": differ(alone, labels[::10]) + differ(far.predict(rows[order]), labels[order]),
        }


def in_bfloat16(name: str, device: str) -> dict[str, Any]:
    """A short run with autocast beside one without, both on the device."""
    with folder() as place, DrawsOfTheCPU():
        flat = short_settings(name, place)
        whole = run_job(flat, place / "fp32", device)
        half = run_job(flat | {"training.precision": "bf16"}, place / "bf16", device)
    losses = [[value for entry in each.history for value in entry["losses"].values()] for each in (half, whole)]
    return {"share of labels": differ(half.labels, whole.labels) / len(whole.labels), "losses": apart(*losses)}


def rows_of(kind: str, count: int, dim: int, weighted: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Ten groups of rows [count, dim], easy or as they hurt; and weights."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, dim, generator=draw) + 4 * torch.randn(10, dim, generator=draw)[torch.arange(count) % 10]
    if kind == "constant column of 1e5":
        x[:, 0] = 1e5
    elif kind == "offset by 9000":
        x = x + 9000
    elif kind == "one outlier of 1e6":
        x[0] = 1e6
    elif kind == "duplicates":
        x = x[torch.arange(count) % 50]
    elif kind != "easy":
        x = x * float(kind.removeprefix("times "))
    return x, torch.rand(count, generator=draw) if weighted else None


def same_kmeans(count: int, dim: int, clusters: int, kind: str, options: dict[str, Any], device: str) -> dict[str, Any]:
    """All of `CollectiveClusters.kmeans`, of rows that lie on the device."""
    weighted = options.get("weighted", False)
    options = {"restarts": 2, "iterations": 10} | {name: value for name, value in options.items() if name != "weighted"}

    def on(place: str) -> Any:
        x, weights = rows_of(kind, count, dim, weighted)
        x = x.to(place)
        weights = None if weights is None else weights.to(place)
        return CollectiveClusters(Shard.of(x)).kmeans(x, clusters, KMeansOptions(**options), weights=weights)

    near, far = on("cpu"), on(device)
    assert far.centroids.device.type == torch.device(device).type
    return {
        "labels": differ(far.labels.cpu(), near.labels),
        "centroids of other bits": differ(far.centroids.cpu(), near.centroids),
        "centroids": apart(far.centroids.cpu(), near.centroids),
        "inertia": apart(far.inertia, near.inertia),
    }


def same_service(options: dict[str, Any], device: str) -> dict[str, Any]:
    """The centroid service, whose worker counts row groups on the device."""
    count, dim, clusters = 4000, 16, 12
    x, weights = rows_of("easy", count, dim, options.get("weighted", False))
    groups = split(count, 250)
    options = {"restarts": 2, "iterations": 10} | options
    plan = ServicePlan(run="rows", n_clusters=clusters, dim=dim, rows=tuple(map(len, groups)), **options)

    def read(group: Any) -> Any:
        rows = x[group.start : group.stop].numpy()
        return rows if weights is None else (rows, weights[group.start : group.stop].numpy())

    def centroids(place: str) -> tuple[int, np.ndarray, np.ndarray]:
        with folder() as path:
            service = CentroidService(path, plan)
            while not service.state(centroids=False).done:
                work(service, plan, groups, read, place)
            return service.centroids()

    (version, near, members), (other, far, counted) = centroids("cpu"), centroids(device)
    return {
        "versions": abs(version - other),
        "members": differ(counted, members),
        "centroids of other bits": differ(far, near),
        "centroids": apart(far, near),
    }


def same_neighbours(device: str) -> dict[str, Any]:
    x, _ = rows_of("easy", 3000, 16)

    def on(place: str) -> tuple[torch.Tensor, torch.Tensor]:
        there = x.to(place)
        near, far = CollectiveClusters(Shard.of(there)).neighbours(there, 10)
        return near.cpu(), far.cpu()

    (near, squared), (other, apart_squared) = on("cpu"), on(device)
    return {"neighbours": differ(other, near), "distances": apart(apart_squared, squared)}


def of(kind: str, measure: Callable[..., dict[str, Any]], names: Any, allowed: dict[str, float]) -> list[Row]:
    return [Row(f"{name}: {kind}", partial(measure, name), allowed) for name in names]


METHODS = [
    *of(
        "a model's answers", same_answers, available(),
        {"labels": 0, "memberships": ROUNDING, "embedding": ROUNDING, "labels by other batches": 0},
    ),
    *of(
        "a short training", same_training, available(),
        {
            "labels": 0, "losses": TRAINED, "weights": TRAINED,
            "labels when it went on": 0, "tensors of other bits when it went on": 0,
        },
    ),
    *of(
        "bf16 beside fp32", in_bfloat16, ("dec", "imsat", "vade", "aljalbout"),
        {"share of labels": 0.1, "losses": BFLOAT16},
    ),
    *of("bf16 beside fp32", in_bfloat16, ("dac", "infogan"), {}),  # so short, they have not decided yet
]  # fmt: skip

EXACT = {"labels": 0, "centroids of other bits": 0, "inertia": 1e-12}
NEARLY = {"labels": 0, "centroids": 1e-6, "inertia": 1e-9}
"""Balanced clusters: offsets are float64 sums, which a device adds in an order of its own."""
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "spherical": {"spherical": True},
    "k-means||": {"start": "k-means||"},
    "mini-batches": {"batch_groups": 2},
    "weighted": {"weighted": True},
    "balanced": {"balanced": 10.0},
}
HURTING = ("constant column of 1e5", "offset by 9000", "one outlier of 1e6", "duplicates", "times 1e-12", "times 1e12")
KMEANS = [
    *(
        Row(
            f"k-means {count:,} x {dim}, K = {clusters}: {name}",
            partial(same_kmeans, count, dim, clusters, "easy", options),
            NEARLY if name == "balanced" else EXACT,
        )
        for count, dim, clusters in ((6000, 16, 10), (3000, 128, 128))  # the second is screened by bfloat16 on a GPU
        for name, options in OPTIONS.items()
    ),
    *(Row(f"k-means: {kind}", partial(same_kmeans, 3000, 16, 10, kind, {}), EXACT) for kind in HURTING),
    *(
        Row(
            f"centroid service: {name}",
            partial(same_service, options),
            {"versions": 0, "centroids": 1e-6}
            if name == "balanced"
            else {"versions": 0, "members": 0, "centroids of other bits": 0},
        )
        for name, options in OPTIONS.items()
    ),
    Row("neighbours", same_neighbours, {"neighbours": 0, "distances": 1e-6}),
]
