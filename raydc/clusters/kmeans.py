"""k-means in steps that add up: a worker's part of a step is integers, so any split of the rows gives the same bits.

Lloyd 1982 with k-means++ starts (Arthur and Vassilvitskii, SODA 2007; greedy trials as in scikit-learn). A row group
is assigned by one matrix product, summed in float64 in the order of its rows, and turned into fixed-point integers:
integer sums do not depend on their order. Everything here is one worker's arithmetic; adding up is the caller's affair.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raydc.clusters.kernels import accumulate

TILE = 1 << 22
"""Entries of a block of scores: it should stay in the cache nearest to memory."""
LARGEST = 1e15
"""Beyond this, squared distances leave the range of float32."""


@dataclass(frozen=True)
class FixedPoint:
    """float64 values as int64 multiples of a power of two, per column, that no sum over all rows can overflow."""

    scale: Tensor
    """[...] float64, powers of two: integer = value * scale."""

    @staticmethod
    def of(largest: Tensor, total: int) -> "FixedPoint":
        """For values up to `largest` [...] (the same on every worker) summed over `total` rows."""
        exponent = torch.frexp(largest.double()).exponent.double()  # largest < 2 ** exponent
        bits = (62 - exponent - math.ceil(math.log2(max(total, 1)))).clamp(-1000, 1000)
        return FixedPoint(torch.exp2(bits))

    def integers(self, values: Tensor) -> Tensor:
        return (values.double() * self.scale).round_().long()

    def values(self, integers: Tensor) -> Tensor:
        return integers.double() / self.scale


@dataclass(frozen=True)
class Geometry:
    """What every worker must agree on before rows can be compared and summed."""

    mean: Tensor
    """[D] float64. Scores are taken around it, so that a far-away origin costs no digits; zero on the sphere."""
    fixed: FixedPoint
    floor: float
    """Squared distance below which two float32 rows are the same."""
    spherical: bool


def unit(z: Tensor) -> Tensor:
    """Rows z [N, D] scaled to length one; a zero row stays zero, has no direction and moves no centroid."""
    norm = z.double().norm(dim=1, keepdim=True)
    return (z / torch.where(norm > 0, norm, 1.0)).to(z.dtype)


def scores(x: Tensor, centroids: Tensor, geometry: Geometry) -> Tensor:
    """Squared distance less |x|^2 of rows x [N, D] to centroids [R, K, D]: [N, R, K] float32. On the sphere -2 cos."""
    restarts, clusters, dim = centroids.shape
    around = (centroids - geometry.mean).view(-1, dim)
    norms = torch.zeros_like(around[:, 0]) if geometry.spherical else around.square().sum(1)
    # A fresh, aligned copy of whole row groups: the product's bits then do not depend on where a shard begins.
    centred = x - geometry.mean.float()
    return torch.addmm(norms.float(), centred, around.float().T, alpha=-2).view(len(x), restarts, clusters)


def nearest(score: Tensor) -> Tensor:
    """Index of the lowest score in the last dimension, int64; the lowest index wins ties."""
    if score.device.type == "cpu":
        return torch.from_numpy(score.numpy().argmin(-1))
    lowest = score.amin(-1, keepdim=True)
    index = torch.arange(score.shape[-1], device=score.device)
    return torch.where(score == lowest, index, score.shape[-1]).amin(-1)  # CUDA's argmin breaks ties as it likes


def assign(z: Tensor, spans: Sequence[slice], centroids: Tensor, geometry: Geometry) -> Tensor:
    """Labels int64 [N] of rows z [N, D] by centroids [K, D]."""
    labels = torch.empty(len(z), dtype=torch.int64, device=z.device)
    for part in _parts(spans, len(centroids)):
        labels[part] = nearest(scores(z[part], centroids[None], geometry))[:, 0]
    return labels


def statistics(z: Tensor, spans: Sequence[slice], centroids: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Fixed-point sums [R, K, D] and counts [R, K], int64, of rows z [N, D] by their nearest of centroids [R, K, D]."""
    restarts, clusters = centroids.shape[:2]
    sums = torch.zeros(centroids.shape, dtype=torch.int64, device=z.device)
    counts = torch.zeros((restarts, clusters), dtype=torch.int64, device=z.device)
    offset = torch.arange(restarts, device=z.device) * clusters
    for span in spans:
        partial = torch.zeros(centroids.shape, dtype=torch.float64) if z.device.type == "cpu" else None
        for part in _parts([span], restarts * clusters):
            x = z[part]
            labels = nearest(scores(x, centroids, geometry))
            if partial is not None:
                accumulate(x.numpy(), labels.numpy(), partial.numpy(), counts.numpy())
            else:  # floating-point atomics would add in any order: rows become integers first
                rows = geometry.fixed.integers(x)
                for r in range(restarts):
                    sums[r].index_add_(0, labels[:, r], rows)
                counts += torch.bincount((labels + offset).flatten(), minlength=counts.numel()).view_as(counts)
        if partial is not None:
            sums += geometry.fixed.integers(partial)
    return sums, counts


def means(sums: Tensor, counts: Tensor, before: Tensor, geometry: Geometry) -> Tensor:
    """New centroids [..., K, D] float64 from sums over all rows; a cluster without members (or direction) stays."""
    mean = geometry.fixed.values(sums) / counts.clamp(min=1)[..., None]
    alive = counts > 0
    if geometry.spherical:
        norm = mean.norm(dim=-1, keepdim=True)
        alive = alive & (norm[..., 0] > 1e-12)
        mean = mean / norm.clamp(min=1e-12)
    return torch.where(alive[..., None], mean, before)


def inertia(sums: Tensor, counts: Tensor, centroids: Tensor, spread: float, geometry: Geometry) -> Tensor:
    """Sum of squared distances [R] from sums over all rows; `spread` is that to `geometry.mean`."""
    around = centroids - geometry.mean
    moment = geometry.fixed.values(sums) - counts[..., None] * geometry.mean
    return spread - 2 * (around * moment).sum((-2, -1)) + (counts * around.square().sum(-1)).sum(-1)


def distances(z: Tensor, spans: Sequence[slice], labels: Tensor, centroids: Tensor) -> Tensor:
    """Squared distance [N] float64 of each row to its own centroid, by differences."""
    squared = torch.empty(len(z), dtype=torch.float64, device=z.device)
    for part in _parts(spans, z.shape[1]):
        squared[part] = (z[part].double() - centroids[labels[part]].double()).square().sum(1)
    return squared


def hashed(positions: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random int64 >= 0 for each row position (splitmix64): the same wherever the row lives."""
    with np.errstate(over="ignore"):
        h = positions.astype(np.uint64) + np.uint64(seed % (1 << 63)) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            h = (h + np.uint64(0x9E3779B97F4A7C15)) if shift == 30 else h
            h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor)
        return ((h ^ (h >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def plus_plus(x: Tensor, clusters: int, restarts: int, seed: int) -> Tensor:
    """Greedy k-means++ starts [R, K, D] among rows x [M, D], all restarts side by side."""
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    draw = lambda *size: torch.rand(size, generator=generator, dtype=torch.float64).to(x.device)  # noqa: E731
    trials = 2 + int(math.log(clusters))
    x = x.double()
    centred = (x - x.mean(0)).float()
    norms = centred.square().sum(1)
    chosen = torch.empty((restarts, clusters), dtype=torch.int64, device=x.device)
    chosen[:, 0] = (draw(restarts) * len(x)).long()
    closest = _between(centred, norms, chosen[:, :1])[:, 0]  # [R, M]
    for k in range(1, clusters):
        cumulative = closest.double().cumsum(1)
        want = draw(restarts, trials) * cumulative[:, -1:]
        candidates = torch.searchsorted(cumulative, want, right=True).clamp_(max=len(x) - 1)
        after = torch.minimum(_between(centred, norms, candidates), closest[:, None])  # [R, T, M]
        best = after.double().sum(2).argmin(1)
        each = torch.arange(restarts, device=x.device)
        chosen[:, k] = candidates[each, best]
        closest = after[each, best]
    return x[chosen]


def _between(x: Tensor, norms: Tensor, chosen: Tensor) -> Tensor:
    """Squared distances [R, T, M] of rows chosen [R, T] to all rows x [M, D]."""
    rows = chosen.flatten()
    squared = torch.addmm(norms, x[rows], x.T, alpha=-2).add_(norms[rows, None]).clamp_(min=0)
    return squared.view(*chosen.shape, len(x))


def refill(
    sums: Tensor, counts: Tensor, far: Tensor, labels: Tensor, rows: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor, int]:
    """Give empty clusters, in order, the farthest distinct rows; the cluster that had a row loses it.

    Candidates `rows` [M, D] come farthest first, with their squared distances `far` [M] and clusters `labels` [M].
    Sums [K, D] and counts [K] come back changed, with the number of clusters filled.
    """
    sums, counts = sums.clone(), counts.clone()
    empty = (counts == 0).nonzero()[:, 0].tolist()
    integers, seen, filled = geometry.fixed.integers(rows), set(), 0
    for i, (distance, donor) in enumerate(zip(far.tolist(), labels.tolist(), strict=True)):
        row = rows[i].cpu().numpy().tobytes()
        if filled == len(empty) or distance <= geometry.floor:
            break
        if row in seen or counts[donor] < 2:
            continue
        seen.add(row)
        sums[donor] -= integers[i]
        counts[donor] -= 1
        sums[empty[filled]] = integers[i]
        counts[empty[filled]] = 1
        filled += 1
    return sums, counts, filled


def farthest(squared: Tensor, positions: Tensor, many: int) -> Tensor:
    """Indices of the `many` largest of squared [N], largest first, the lower position first among equals."""
    many = min(many, len(squared))
    if many == 0:
        return torch.empty(0, dtype=torch.int64, device=squared.device)
    among = (squared >= squared.topk(many).values[-1]).nonzero()[:, 0]
    order = np.lexsort((positions[among].cpu().numpy(), -squared[among].cpu().numpy()))
    return among[torch.from_numpy(order[:many]).to(among.device)]


def lloyd(
    centroids: Tensor,
    step: Callable[[Tensor], tuple[Tensor, Tensor]],
    refill_from: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, int]],
    geometry: Geometry,
    iterations: int,
    tolerance: float,
) -> tuple[Tensor, list[int], list[int]]:
    """Lloyd iterations of centroids [R, K, D] until no restart's centroids move by more than `tolerance`, squared.

    `step` gives sums and counts over all rows; `refill_from` fills the empty clusters of one restart. Returns
    centroids, and the iterations and refilled clusters of each restart.
    """
    centroids, restarts = centroids.clone(), len(centroids)
    done, refilled, active = [0] * restarts, [0] * restarts, list(range(restarts))
    for iteration in range(1, iterations + 1):
        before = centroids[active]
        sums, counts = step(before)
        moved = []
        for at, r in enumerate(active):
            filled = 0
            if bool((counts[at] == 0).any()):
                sums[at], counts[at], filled = refill_from(before[at], sums[at], counts[at])
                refilled[r] += filled
            done[r] = iteration
            centroids[r] = means(sums[at], counts[at], before[at], geometry)
            if filled or (centroids[r] - before[at]).square().sum() > tolerance:
                moved.append(r)
        active = moved
        if not active:
            break
    return centroids, done, refilled


def _parts(spans: Sequence[slice], width: int) -> list[slice]:
    """Spans cut so that rows times width fit a tile; the cuts depend on sizes alone."""
    rows = max(16, TILE // max(width, 1))
    return [slice(at, min(at + rows, span.stop)) for span in spans for at in range(span.start, span.stop, rows)]
