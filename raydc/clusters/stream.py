"""A worker's side of the centroid service: row groups are read, counted and forgotten, one at a time.

Peak memory is one row group and the sums; it does not grow with the number of rows.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raydc.clusters import kmeans
from raydc.clusters.kmeans import Assigner, FixedPoint, Geometry
from raydc.clusters.service import FARTHEST, Contribution, Plan, Receipt, Refused, State, combine
from raydc.data.shard import RowGroup

Reader = Callable[[RowGroup], np.ndarray]
"""Rows [n, D] of a row group, always the same."""


class Service(Protocol):
    """The part of the centroid service that workers need, near or far."""

    def state(self, centroids: bool = True) -> State: ...
    def push(self, contribution: Contribution) -> Receipt: ...


def work(service: Service, plan: Plan, groups: Sequence[RowGroup], read: Reader) -> Receipt:
    """Contribute what of `groups` is missing in the open version, as one push.

    Raises ValueError for rows that cannot be used.
    """
    while True:
        state = service.state()
        missing = set(state.missing)
        wanted = [group for group in groups if group.id in missing]
        if not wanted:
            return Receipt("stale" if state.done else "duplicate", state.version)
        receipt = service.push(contribution(plan, state, wanted, read))
        if receipt.answer != "overlap":
            return receipt


def contribution(plan: Plan, state: State, groups: Iterable[RowGroup], read: Reader) -> Contribution:
    """What these row groups add to the version of `state`, combined."""
    whole: Contribution | None = None
    step = Step(plan, state) if state.version else None
    for group in groups:
        rows = np.asarray(read(group))
        if rows.shape != (len(group), plan.dim) or len(group) != plan.rows[group.id]:
            raise Refused(f"row group {group.id}: expected {len(group)} rows of {plan.dim}, got shape {rows.shape}")
        x = torch.from_numpy(np.array(rows, np.float32))
        positions = np.arange(group.start, group.stop)
        arrays = step(x, positions) if step else survey(plan, x, positions)
        arrays["check"] = np.array([kmeans.checksum(positions, plan.seed)])
        part = Contribution(plan.run, state.version, (group.id,), arrays)
        whole = part if whole is None else combine([whole, part])
    if whole is None:
        raise ValueError("expected at least one row group, got none")
    return whole


def survey(plan: Plan, x: Tensor, positions: np.ndarray) -> dict[str, np.ndarray]:
    """Largest values, and the rows that the sample draws by their positions."""
    many = max(plan.sample, 40 * plan.n_clusters)
    drawn = kmeans.hashed(positions, plan.seed) < min(many / plan.total, 1.0) * 2.0**63
    drawn |= positions == 0  # never an empty sample
    largest = x.abs().amax(0).numpy() if len(x) else np.zeros(plan.dim, np.float32)
    if not np.isfinite(largest).all():
        bad = int((~x.isfinite()).any(1).nonzero()[0, 0])
        raise Refused(
            f"row {int(positions[bad])}: expected finite values, got NaN or infinity: clean or drop such rows"
        )
    return {"largest": largest, "sample": x.numpy()[drawn], "positions": positions[drawn]}


class Step:
    """Sums of row groups by the centroids of one version."""

    def __init__(self, plan: Plan, state: State) -> None:
        arrays = {name: torch.from_numpy(value.copy()) for name, value in state.arrays.items()}
        self.geometry = Geometry(arrays["origin"], FixedPoint(arrays["scale"]), 0.0, plan.spherical)
        self.energy = FixedPoint(arrays["energy_scale"])
        self.centroids = arrays["centroids"]
        self.assigner = Assigner(self.centroids, self.geometry)

    def __call__(self, x: Tensor, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Sums, counts, and the farthest rows of rows x [n, D] at these positions of the data."""
        x = self.geometry.around(x)
        sums = torch.zeros(self.centroids.shape, dtype=torch.int64)
        counts = torch.zeros(self.centroids.shape[:2], dtype=torch.int64)
        labels, squared, squares = [], [], []
        counted = kmeans.add(x, self.assigner, self.geometry, sums, counts)
        for tile, nearest in zip(self.assigner.tiles(x), counted, strict=True):
            square = tile.double().square().sum(1)
            # On the sphere a centroid has length 1. What is left of a row that is its own centroid is rounding.
            distance = (2 * self.assigner.scores(tile, nearest) + square + self.geometry.spherical).clamp_(min=0)
            squared.append(torch.where(distance < 1e-12 * square, 0.0, distance))
            squares.append(square)
            labels.append(nearest)
        far, whose = torch.cat(squared, 1), torch.cat(labels, 1).long()  # [A, n]
        order = torch.stack([kmeans.farthest(each, torch.from_numpy(positions), FARTHEST) for each in far])
        return {
            "sums": sums.numpy(),
            "counts": counts.numpy(),
            "energy": self.energy.integers(torch.cat(squares)).sum().reshape(1).numpy(),
            "far": far.gather(1, order).numpy(),
            "where": positions[order.numpy()],
            "whose": whose.gather(1, order).numpy(),
            "rows": x[order].numpy(),
        }
