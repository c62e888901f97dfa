"""This worker's part of the rows, wherever they live, and the batches drawn from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor

from raydc.distributed import collectives

GROUP_VALUES = 2**24
"""Values of a row group at most: 64 MB as float32, and up to 4096 features groups of 4096 rows."""


class Rows(Protocol):
    """Where rows live: a tensor on the device, one in memory, a memory map, a sparse matrix."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor | slice) -> Tensor:
        """x [B, ...] of these rows, dense float32, scaled, on the shard's device."""


@dataclass(frozen=True)
class DenseRows:
    """Rows in one tensor: on the device, in memory, or over a memory-mapped file."""

    values: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: Tensor | slice) -> Tensor:
        if isinstance(rows, slice):
            return self.values[rows].to(self.device)
        return self.values.index_select(0, rows.to(self.values.device)).to(self.device)


@dataclass(frozen=True)
class RowBlock:
    """The unit of work and of bookkeeping: rows that are always processed together, whichever worker holds them.

    Its boundaries depend on the data alone, never on the number of workers.
    """

    id: int
    start: int
    """Position of its first row among all rows that are used."""
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass
class Shard:
    """This worker's rows: whole row groups, next to each other in the order of the data."""

    rows: Rows
    groups: tuple[RowBlock, ...]
    sizes: tuple[int, ...]
    """Rows of every worker's shard, by rank."""
    ids: Any = None
    """The rows' own identifiers [N] (numpy), where the data has them."""
    weights: Tensor | None = None
    """How much each row counts, float32 [N]; None where all count alike."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _order: tuple[int, Tensor] | None = field(default=None, repr=False)

    @staticmethod
    def of(x: Tensor, group_rows: int | None = None) -> "Shard":
        """All rows of x [N, ...] on one worker, for tests and in-process use."""
        groups = split(len(x), group_rows, prod(x.shape[1:]))
        return Shard(DenseRows(x, x.device), groups, (len(x),), device=x.device)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """x [B, ...] of these rows (positions within this shard)."""
        return self.rows.take(rows)

    @property
    def total(self) -> int:
        """Rows over all workers."""
        return sum(self.sizes)

    @property
    def start(self) -> int:
        """Position of this shard's first row among all rows."""
        return sum(self.sizes[: collectives.rank()])

    @property
    def spans(self) -> list[slice]:
        """The row groups as slices of this shard."""
        return [slice(g.start - self.start, g.stop - self.start) for g in self.groups]

    @torch.no_grad()
    def map(self, function: Callable[[Tensor], Tensor], values: Tensor | None = None) -> Tensor:
        """function(x) [N, ...] of every row, or of what is known of it in `values` [N, ...], a row group at a time.

        Without gradients. Groups are never cut, so that a row's result does not depend on the number of workers.
        """
        spans = self.spans or [slice(0, 0)]
        return torch.cat([function(self[span] if values is None else values[span].clone()) for span in spans])

    def gather(self, values: Tensor) -> Tensor:
        """Values of all workers' rows, in the order of the data, [N over all workers, ...], of this shard's [N, ...].

        Every worker calls it. Raises ValueError if there is not a value for each row.
        """
        self.check(values)
        if values.dtype == torch.bool:
            return collectives.gather(values.to(torch.uint8), self.sizes).bool()
        return collectives.gather(values.contiguous(), self.sizes)

    def among(self, places: Tensor) -> Tensor:
        """Of ascending `places` among all rows those of this shard, as positions within it."""
        held = (places >= self.start) & (places < self.start + len(self))
        return places[held].to(self.device) - self.start

    def thinned(self, places: Tensor, x: Tensor) -> "Shard":
        """The shard of the rows at ascending `places` alone; x [n, ...] are this worker's, as `among` has them.

        Rows of a group stay one.
        """
        ends = torch.tensor(self.sizes).cumsum(0)
        sizes = torch.bincount(torch.bucketize(places, ends, right=True), minlength=len(self.sizes))
        bounds = torch.tensor([[g.start, g.stop] for g in self.groups]).view(-1, 2)
        spans = torch.searchsorted(places, bounds).tolist()
        groups = tuple(RowBlock(g.id, *span) for g, span in zip(self.groups, spans, strict=True))
        return Shard(DenseRows(x, x.device), groups, tuple(sizes.tolist()), device=self.device)

    def check(self, values: Tensor) -> None:
        """Raises ValueError if there is not a value for each row."""
        if len(values) != len(self):
            raise ValueError(f"expected a value for each of the shard's {len(self)} rows, got {len(values)}")

    def order(self, seed: int) -> Tensor:
        """A permutation of this shard's rows that depends on `seed` and where it starts; the last one is kept."""
        if self._order is None or self._order[0] != seed:
            shuffled = torch.randperm(len(self), generator=torch.Generator().manual_seed((seed + self.start) % 2**63))
            self._order = (seed, shuffled.to(self.device))
        return self._order[1]

    def batch(self, positions: Tensor, **extra: Tensor) -> "Batch":
        """The global batch of these positions among all rows, distinct and ascending, the same on every worker."""
        ends = torch.tensor(self.sizes).cumsum(0).to(positions.device)
        held = torch.bucketize(positions, ends, right=True)
        sizes = tuple(torch.bincount(held, minlength=len(self.sizes)).tolist())
        row = (positions[held == collectives.rank()] - self.start).to(self.device)
        return Batch(self[row], row, len(positions), sizes, extra)


def split(total: int, group_rows: int | None = None, n_features: int = 1) -> tuple[RowBlock, ...]:
    """Row groups over `total` rows: of `group_rows` each, by default about 64 of them and at most 4096 rows.

    Few rows make about 16 groups: mapping and summing groups of under a hundred rows costs more than their arithmetic.
    Rows of many features make groups of GROUP_VALUES at most, or of one row.
    """
    size = max(16, min(128, -(-total // 16)), min(4096, -(-total // 64)))
    size = group_rows or max(1, min(size, GROUP_VALUES // max(1, n_features)))
    return tuple(RowBlock(i, at, min(at + size, total)) for i, at in enumerate(range(0, total, size)))


def partition(groups: Sequence[RowBlock], workers: int) -> list[tuple[RowBlock, ...]]:
    """Consecutive groups for each worker, as near to equal numbers of rows as groups allow."""
    total, dealt, at = sum(map(len, groups)), [], 0
    for worker in range(workers):
        end = total * (worker + 1) / workers
        mine = []
        while at < len(groups) and (groups[at].start + groups[at].stop) / 2 <= end:
            mine.append(groups[at])
            at += 1
        dealt.append(tuple(mine))
    return dealt


@dataclass(frozen=True)
class Batch:
    """This worker's rows of one global batch; it may hold none of them, and takes part all the same."""

    x: Tensor
    """[B_w, ...], scaled."""
    row: Tensor
    """[B_w], positions within this worker's shard."""
    total: int
    """Rows over all workers that a mean is over: those of the batch, but for partners that stand beside them."""
    sizes: tuple[int, ...]
    """Rows of the batch by rank."""
    extra: dict[str, Tensor] = field(default_factory=dict)
    """What `Method.sample_batch` chose besides rows, such as edges."""

    def mean(self, losses: Tensor) -> Tensor:
        """This worker's share of the mean over the global batch, of a loss per row [B_w, ...]."""
        return losses.sum(0) * (collectives.workers() / self.total)

    def global_mean(self, values: Tensor) -> Tensor:
        """The mean over the global batch itself [...], the same on every worker, of values [B_w, ...].

        For losses that are not linear in it, such as the entropy of the marginal. Every worker must call it.
        """
        return collectives.differentiable_total(values.sum(0) / self.total)

    def global_products(self, left: Tensor, right: Tensor) -> Tensor:
        """left^T right over the rows of the global batch [P, Q], the same on every worker, of left [B_w, P] and right
        [B_w, Q]. Every worker must call it.
        """
        return collectives.differentiable_total(left.T @ right / self.total)

    def gather(self, values: Tensor) -> Tensor:
        """Values of every row of the global batch [B, ...]; gradients reach the worker that owns the row."""
        return collectives.gather(values, self.sizes)
