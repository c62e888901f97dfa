"""Clusters of nearly equal size: k-means with the assignment of optimal transport.

Sinkhorn's iteration (Cuturi, NeurIPS 2013, arXiv:1306.0895) as in self-labelling (Asano, Rupprecht and Vedaldi, ICLR
2020, arXiv:1911.05371): memberships softmax_k((g_k - d_k^2) / eps) are held to equal column sums by offsets g. A pass
over the rows gives the column sums for the offsets that stand, and eps log(target / sum) is what each offset lacks; so
a pass is a step of Sinkhorn and of Lloyd at once. A row is with the cluster of the largest g_k - d_k^2, exactly
(`steps.Assigner`), and new rows are assigned alike. eps is the variance of the rows over `KMeansOptions.balanced`: the
larger that is, the nearer sizes come to equal, and the more passes it takes. Memberships are summed as integers, so
their order leaves no trace.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from raydc.clustering.kmeans.steps import FixedPoint, Geometry

EVEN = 0.01
"""The largest part by which a cluster's share may miss its target when the iterations end."""
TILE = 1024


def sharpness(strength: float, spread: float) -> float:
    """1 / eps, for rows of mean squared distance `spread` to their mean."""
    return strength / max(spread, 1e-300)


def after(offsets: Tensor, soft: Tensor, sharp: float) -> tuple[Tensor, bool]:
    """The next offsets [K] float64 from the sums of memberships [K], and whether those were even."""
    share = soft.double() / soft.double().mean()
    # a cluster that no row is near comes nearer by leaps that are bounded
    moved = offsets - share.clamp(min=1e-6).log() / sharp
    return moved - moved.mean(), bool((share - 1).abs().max() < EVEN)


class Memberships:
    """Memberships of tiles of rows by centroids [K, D] around the origin with offsets [K]."""

    def __init__(self, centroids: Tensor, offsets: Tensor, sharp: float, geometry: Geometry) -> None:
        self.centroids, self.sharp = centroids.float(), sharp
        norms = torch.ones_like(offsets) if geometry.spherical else centroids.square().sum(1)
        self.norms, self.offsets = norms, offsets

    def __call__(self, x: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Squared distances to the clusters `labels` [n] less |x|^2, float64 [n], and memberships float64 [n, K]."""
        for tile, own in zip(x.split(TILE), labels.split(TILE), strict=True):
            distances = self.norms - 2 * (tile @ self.centroids.T).double()
            memberships = ((self.offsets - distances) * self.sharp).softmax(1)
            yield distances.gather(1, own[:, None])[:, 0], memberships


def masses(memberships: Tensor, weights: Tensor | None, fixed: FixedPoint) -> Tensor:
    """Sums of memberships [n, K] over rows of weights [n], int64 [K]."""
    weighed = memberships if weights is None else memberships * weights.double()[:, None]
    return fixed.integers(weighed).sum(0)
