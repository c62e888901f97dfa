"""The nearest rows of every row, over all workers: among all rows, or among those of the cells around it.

Cells are those of an inverted file (Jegou, Douze & Schmid, PAMI 2011): each row belongs to the nearest of many centres
and is compared with the rows of its own cell and of the next ones. Which rows are compared, and in which blocks, only
depends on the data, so that neighbours have the same bits on any number of workers.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from raydc.clustering.kmeans import kernels, steps
from raydc.data.shard import Shard
from raydc.distributed import collectives

Block = tuple[Tensor, Tensor]
"""Positions [M] among all rows, and the rows [M, D] there, the same on every worker."""
Asking = Callable[[int], Iterable[Tensor]]
"""Of a block by its number: the rows of this worker that are compared with it, those of a row group together."""


@dataclass(frozen=True)
class NeighbourSearch:
    """Rows of all workers; z [N, D] are this one's, compared around their mean [D], in float64."""

    z: Tensor
    mean: Tensor
    shard: Shard

    def exact(self, k: int) -> tuple[Tensor, Tensor]:
        """Positions int64 [N, k] and squared distances float32 [N, k] of the k nearest rows, nearest first."""
        found = self._none(k)
        spans = [torch.arange(span.start, span.stop, device=self.z.device) for span in self.shard.spans]
        self._search(self._row_groups(), lambda _: spans, found)
        return found

    def in_cells(self, k: int, centres: Tensor, probes: int) -> tuple[Tensor, Tensor]:
        """The same, among the rows whose nearest of centres [C, D] is one of a row's nearest `probes`.

        A row that finds fewer than k there is compared with all rows.
        """
        probed = self._nearest_centres(centres.double() - self.mean, min(probes, len(centres)))
        found = self._none(k)
        self._search(self._cells(probed[:, 0], len(centres)), _askers(probed, self.shard, len(centres)), found)
        lacking = found[1].isinf().any(1)
        if int(collectives.total(lacking.sum())):
            rows = [span.start + lacking[span].nonzero()[:, 0] for span in self.shard.spans]
            found[1][lacking] = torch.inf
            found[0][lacking] = -1
            self._search(self._row_groups(), lambda _: rows, found)
        return found

    def _none(self, k: int) -> tuple[Tensor, Tensor]:
        near = torch.full((len(self.z), k), -1, dtype=torch.int64, device=self.z.device)
        return near, torch.full((len(self.z), k), torch.inf, device=self.z.device)

    def _search(self, blocks: Iterable[Block], asking: Asking, found: tuple[Tensor, Tensor]) -> None:
        """Let rows keep the nearest that they see, block by block. A row sees each position at most once."""
        near, far = found
        for number, (positions, block) in enumerate(blocks):
            around = block.double() - self.mean
            for rows in asking(number):
                if len(rows) and len(positions):
                    far_rows, near_rows = far[rows], near[rows]
                    _closest(self._around(rows), around, positions, self.shard.start + rows, far_rows, near_rows)
                    far[rows], near[rows] = far_rows, near_rows

    def _around(self, rows: Tensor) -> Tensor:
        return self.z[rows].double() - self.mean

    def _nearest_centres(self, centres: Tensor, probes: int) -> Tensor:
        """Numbers [N, probes] of the nearest of centres [C, D], nearest first."""
        near, far = self._none(probes)
        numbers = torch.arange(len(centres), device=centres.device)
        for span in self.shard.spans:
            rows = torch.arange(span.start, span.stop, device=self.z.device)
            _closest(self._around(rows), centres, numbers, torch.full_like(rows, -1), far[span], near[span])
        return near

    def _row_groups(self) -> Iterator[Block]:
        """Every row group of every worker in turn."""
        bounds = torch.tensor([[g.start, g.stop] for g in self.shard.groups], dtype=torch.int64, device=self.z.device)
        first, last = self.shard.start, self.shard.start + len(self.z)
        for start, stop in collectives.gather(bounds.view(-1, 2)).tolist():
            mine = first <= start < last
            block = self.z[start - first : stop - first] if mine else self.z.new_zeros((stop - start, self.z.shape[1]))
            yield torch.arange(start, stop, device=self.z.device), collectives.total(block)

    def _cells(self, cell: Tensor, many: int) -> Iterator[Block]:
        """The rows of each of so many cells in turn, in the order of the data; `cell` [N] is that of each row."""
        order, counts = cell.argsort(stable=True), torch.bincount(cell, minlength=many)
        for rows, sizes in zip(order.split(counts.tolist()), collectives.gather(counts[None]).T.tolist(), strict=True):
            positions = collectives.gather(self.shard.start + rows, sizes)
            yield positions, collectives.gather(self.z[rows], sizes)


def _askers(probed: Tensor, shard: Shard, many: int) -> Asking:
    """Who is compared with each of so many cells, when rows probe those that `probed` [N, P] says."""
    lists = []
    for span in shard.spans:
        cells = probed[span].flatten()
        rows = span.start + cells.argsort(stable=True) // probed.shape[1]
        lists.append(rows.split(torch.bincount(cells, minlength=many).tolist()))
    return lambda cell: (rows[cell] for rows in lists)


def _closest(x: Tensor, block: Tensor, positions: Tensor, own: Tensor, far: Tensor, near: Tensor) -> None:
    """`kernels.closest` of rows x [N, D] among a block's [M, D], both float64, on any device."""
    noise = 4 * x.shape[1] * torch.finfo(torch.float64).eps
    given = (x @ block.T, x.square().sum(1), block.square().sum(1), positions, own)
    if x.device.type == "cpu":
        kernels.closest(*(t.numpy() for t in given), noise, far.numpy(), near.numpy())
    else:
        steps.closest(*given, noise, far, near)
