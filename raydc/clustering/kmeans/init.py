"""Where k-means starts: k-means++ on a sample, or k-means|| on all rows, which a large number of clusters needs.

k-means++: Arthur and Vassilvitskii, SODA 2007, with the greedy trials of scikit-learn. k-means||: Bahmani, Moseley,
Vattani, Kumar and Vassilvitskii, VLDB 2012. In each of five rounds 2 K rows become candidates, a row's chance growing
with its squared distance d^2 to the candidates so far; then each candidate weighs as many rows as are nearest to it,
and weighted k-means++ picks K of them. The paper draws each row for itself, for which the sum of all d^2 must be known
before; here the 2 K rows with the smallest e / d^2 are taken, e being exponential (Efraimidis and Spirakis, Information
Processing Letters 2006), which needs one pass a round instead of two. e comes from the row's position, so that neither
the number of workers nor the order of row groups changes what is drawn.
"""

import math

import numpy as np
import torch
from torch import Tensor

from raydc.clustering.kmeans import steps

ROUNDS = 5
OVERSAMPLING = 2
"""Candidates of a round, for each cluster."""
EFFORT = 1 << 42
"""Of k-means++, about, in products of two numbers: some two minutes of a processor. Greedy trials end there."""
TILE = 1024
"""Rows whose distances to all candidates a processor keeps in its second-level cache."""


def sampled(positions: np.ndarray, sample: int, total: int, seed: int) -> np.ndarray:
    """bool [n]: which rows a sample of about `sample` rows takes by their positions."""
    # the first row is always in it, so that it is never empty
    return (steps.hashed(positions, seed) < min(sample / total, 1.0) * 2.0**63) | (positions == 0)


def waiting(positions: np.ndarray, seed: int, version: int) -> np.ndarray:
    """Exponential float64 [n], the same for a position wherever its row lives, and others in each version."""
    return -np.log((steps.hashed(positions, seed + 104729 * (version + 1)) + 1.0) / 2.0**63)


def first(positions: Tensor, weights: Tensor | None, seed: int) -> int:
    """Which of these rows is the first candidate: any one alike, or in proportion to its weight."""
    times = torch.from_numpy(waiting(positions.cpu().numpy(), seed, 0)).to(positions.device)
    return int((times if weights is None else times / weights.double()).argmin())


def next_candidates(
    x: Tensor, squared: Tensor, weights: Tensor | None, positions: np.ndarray, clusters: int, seed: int, version: int
) -> dict[str, np.ndarray]:
    """What rows x [n, D] with squared distances [n] to the candidates add to a round: those that come up first."""
    mass = (squared if weights is None else squared * weights.double()).cpu().numpy()
    apart = np.flatnonzero(mass > 0)  # a row that is a candidate already has no distance
    times, most = waiting(positions[apart], seed, version) / mass[apart], OVERSAMPLING * clusters
    order = steps.farthest(-times, positions[apart], most)
    chosen = apart[order]
    return {
        "times": times[order],
        "where": positions[chosen],
        "rows": x[chosen].cpu().numpy(),
        "most": np.array([most]),
    }


def plus_plus(x: Tensor, clusters: int, restarts: int, seed: int, weights: Tensor | None = None) -> Tensor:
    """Greedy k-means++ starts [R, K, D] float64 among rows x [M, D] of weights [M], all restarts side by side.

    On the CPU, wherever the rows are: the starts are the same on every device.
    """
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    draw = lambda *size: torch.rand(size, generator=generator, dtype=torch.float64)  # noqa: E731
    # Every draw depends on the last bits of all distances, which no other device's products have.
    device, x, weights = x.device, x.cpu(), None if weights is None else weights.cpu()
    trials = trials_of(clusters, restarts, *x.shape)
    mass = x.new_ones(len(x), dtype=torch.float64) if weights is None else weights.double()
    mean = x.double().mean(0)
    centred = torch.cat([(part.double() - mean).float() for part in x.split(1 << 16)])
    norms = centred.square().sum(1)
    chosen = torch.empty((restarts, clusters), dtype=torch.int64)
    chosen[:, 0] = _drawn(mass, draw(restarts))
    closest = _between(centred[chosen[:, 0]], norms[chosen[:, 0]], centred, norms)  # [R, M]
    each = torch.arange(restarts)
    for k in range(1, clusters):
        candidates = _drawn(closest.double() * mass, draw(restarts, trials))
        best = _left(centred, norms, candidates, closest, weights).argmin(1) if trials > 1 else 0
        chosen[:, k] = own = candidates[each, best]
        torch.minimum(closest, _between(centred[own], norms[own], centred, norms), out=closest)
    return x[chosen].double().to(device)


def trials_of(clusters: int, restarts: int, rows: int, dim: int) -> int:
    """Rows of which the best becomes the next start: as many as scikit-learn takes, fewer where that takes too long."""
    one = restarts * clusters * rows * (dim + 32)  # the distances, and what becomes of them
    return max(1, min(2 + int(math.log(clusters)), EFFORT // one))


def _drawn(mass: Tensor, uniform: Tensor) -> Tensor:
    """Positions drawn in proportion to mass [..., M], for uniform numbers [...] or [..., T]."""
    cumulative = mass.cumsum(-1)
    return torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True).clamp_(max=mass.shape[-1] - 1)


def _left(x: Tensor, norms: Tensor, candidates: Tensor, closest: Tensor, weights: Tensor | None) -> Tensor:
    """Squared distances of all rows x [M, D], weighted and summed, if a candidate of [R, T] were a start: [R, T]."""
    picked, own = x[candidates.flatten()], norms[candidates]
    left = torch.zeros_like(candidates, dtype=torch.float64)
    for at in range(0, len(x), TILE):
        rows = slice(at, at + TILE)
        after = _between(picked, own, x[rows], norms[rows])
        torch.minimum(after, closest[:, None, rows], out=after)
        left += after.sum(2, dtype=torch.float64) if weights is None else (after * weights[rows].double()).sum(2)
    return left


def _between(picked: Tensor, own: Tensor, x: Tensor, norms: Tensor) -> Tensor:
    """Squared distances [R, T, M] of rows picked [R T, D] of squared lengths own [R, T] to rows x [M, D]."""
    squared = torch.addmm(norms, picked, x.T, alpha=-2).view(*own.shape, len(x))
    return squared.add_(own[..., None]).clamp_(min=0)
