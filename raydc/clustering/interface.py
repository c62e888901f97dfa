"""Section 2.6 of the taxonomy: clustering over all shards. `Clusters` is all a method ever sees of other workers."""

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor


@dataclass(frozen=True)
class ClusteringResult:
    """What a clustering comes to, for rows old and new; the same on every worker."""

    centroids: Tensor
    """[K, D] float32. Rows beyond `found` repeat no row: they are far away and hold nothing."""
    counts: Tensor
    """int64 [K], members over all workers."""
    offsets: Tensor
    """[K] float32: a row belongs where its squared distance less this is smallest. Zero, unless balanced."""
    sharpness: float
    """Memberships are softmax(sharpness * (offset - squared distance)): see `raydc.clustering.spread`, or, where
    clusters are balanced, `raydc.clustering.kmeans.balanced`."""
    origin: Tensor
    """[D] float32, around which rows and centroids are compared; zero on the sphere."""


@dataclass(frozen=True)
class KMeansResult(ClusteringResult):
    """A clustering of every worker's rows; the same on every worker but for `labels`."""

    labels: Tensor
    """int64 [N], this worker's rows."""
    inertia: float
    """Sum over all rows of the squared distance to their centroid, times their weight."""
    iterations: int
    found: int
    """Clusters with members: fewer than K where there are fewer distinct rows."""
    refilled: int
    """Empty clusters that were given rows during the iterations."""


class Clusters(Protocol):
    """Sums and clusterings over all workers' rows. Every worker must call each method, in the same order."""

    seed: int

    def total(self, part: Tensor) -> Tensor:
        """Sum of every worker's `part`; exact and order-free for integers."""

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all rows of all workers of values [N, ...], in float64: the same bits on any number of workers."""

    def gather(self, values: Tensor) -> Tensor:
        """Values of all rows of all workers, in the order of the data: [N over all workers, ...]."""

    def kmeans(
        self,
        z: Tensor,
        n_clusters: int,
        *,
        restarts: int = 20,
        centroids: Tensor | None = None,
        weights: Tensor | None = None,
        spherical: bool = False,
        iterations: int = 300,
        tolerance: float = 1e-4,
        start: Literal["k-means++", "k-means||"] = "k-means++",
        balanced: float = 0.0,
        batch_groups: int | None = None,
    ) -> KMeansResult:
        """k-means of all workers' z [N, D], from `centroids` or from the best of `restarts` starts.

        Rows count as much as their `weights` [N]. `Options` (kmeans/iteration.py) says what the other options mean.
        """

    def neighbours(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k nearest rows, over all workers and without itself, of each of this worker's z [N, D].

        Positions among all rows, int64 [N, k], and squared distances [N, k], nearest first.
        """

    def fetch(self, values: Tensor, rows: Tensor) -> Tensor:
        """values [M, ...] of the rows at these positions among all workers' rows, each worker asking for its own."""
