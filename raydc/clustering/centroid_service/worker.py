"""A worker's side of the centroid service: row groups are read and counted, one at a time.

Peak memory is one row group (two before a GPU), the sums, and what the reader keeps.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raydc.clustering.centroid_service.ledger import Contribution, Receipt, Refused, ServicePlan
from raydc.clustering.centroid_service.shards import State
from raydc.clustering.kmeans import steps
from raydc.clustering.kmeans.accumulate import pass_of
from raydc.core.autocast import exact_float32
from raydc.core.fault_injection import failpoint
from raydc.data.shard import RowBlock

Reader = Callable[[RowBlock], np.ndarray | tuple[np.ndarray, np.ndarray]]
"""Rows [n, D] of a row group, always the same; with their weights [n], if the plan is for weighted rows."""


class Service(Protocol):
    """The part of the centroid service that workers need, near or far."""

    def state(self, centroids: bool = True) -> State: ...
    def push(self, contribution: Contribution) -> Receipt: ...


def work(service: Service, plan: ServicePlan, groups: Sequence[RowBlock], read: Reader, device: str = "cpu") -> Receipt:
    """Contribute what of `groups` is missing in the open version, as one push.

    After a death shards may lack other row groups than the service: then those that lack where the first does, and the
    rest by another call. Raises ValueError for rows that cannot be used.
    """
    while True:
        state = service.state()
        missing = set(state.missing)
        wanted = [group for group in groups if group.id in missing]
        if not wanted:
            return Receipt("stale" if state.done else "duplicate", state.version)
        lacking = [state.targets.get(group.id) for group in wanted]
        alike = [group for group, who in zip(wanted, lacking, strict=True) if who == lacking[0]]
        mine = contribution(plan, state, alike, read, device)
        failpoint("push")
        receipt = service.push(mine)
        failpoint("pushed")
        if receipt.answer != "overlap":
            return receipt


@exact_float32()
def contribution(
    plan: ServicePlan, state: State, groups: Sequence[RowBlock], read: Reader, device: str = "cpu"
) -> Contribution:
    """What these row groups, each named once, add to the version of `state`; counted on this device."""
    if state.clustering is None:
        raise ValueError("expected the state with its centroids, got it without")
    if not groups:
        raise ValueError("expected at least one row group, got none")
    step, check = pass_of(state.clustering.to(device)), 0
    for group, (x, weights) in zip(groups, _rows(plan, groups, read, ahead=device != "cpu"), strict=True):
        positions = np.arange(group.start, group.stop)
        if state.version == 0:
            _refuse_unusable(x, weights, positions)
        step.add(x.to(device), None if weights is None else weights.to(device), positions)
        check += steps.checksum_between(group.start, group.stop, plan.seed)
    arrays = step.result() | {"check": np.array([check % (1 << 63)], np.int64)}
    targets = tuple(sorted({target for group in groups for target in state.targets.get(group.id, (0,))}))
    return Contribution(plan.run, state.version, tuple(sorted(group.id for group in groups)), arrays, targets)


def _rows(
    plan: ServicePlan, groups: Sequence[RowBlock], read: Reader, ahead: bool
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """`rows_of` each group; with `ahead` the next one is read by a thread while the device counts this one."""
    if not ahead:
        yield from (rows_of(plan, group, read) for group in groups)
        return
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(rows_of, plan, groups[0], read)
        for group in groups[1:]:
            rows, following = following.result(), reader.submit(rows_of, plan, group, read)
            yield rows
        yield following.result()


def rows_of(plan: ServicePlan, group: RowBlock, read: Reader) -> tuple[Tensor, Tensor | None]:
    """Rows [n, D] and, where the plan has them, weights [n] of a row group, float32."""
    got = read(group)
    rows, weights = got if isinstance(got, tuple) else (got, None)
    rows = np.require(rows, np.float32, ["C", "W"])  # as torch takes them over
    if rows.shape != (len(group), plan.dim) or len(group) != plan.rows[group.id]:
        raise Refused(f"row group {group.id}: expected {len(group)} rows of {plan.dim}, got shape {rows.shape}")
    if (weights is not None) != plan.weighted or (weights is not None and weights.shape != (len(group),)):
        raise Refused(f"row group {group.id}: expected {'a weight a row' if plan.weighted else 'rows without weights'}")
    return torch.from_numpy(rows), None if weights is None else torch.from_numpy(np.array(weights, np.float32))


def _refuse_unusable(x: Tensor, weights: Tensor | None, positions: np.ndarray) -> None:
    bad = ~x.isfinite().all(1)
    if bool(bad.any()):
        row = int(positions[int(bad.nonzero()[0, 0])])
        raise Refused(f"row {row}: expected finite values, got NaN or infinity: clean or drop such rows")
    if weights is not None and not bool(((weights >= 0) & weights.isfinite()).all()):
        row = int((~((weights >= 0) & weights.isfinite())).nonzero()[0, 0])
        raise Refused(f"row {int(positions[row])}: expected a weight of 0 or more, got {float(weights[row]):g}")
