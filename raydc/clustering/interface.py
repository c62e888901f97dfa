"""Section 2.6 of the taxonomy: clustering over all shards. `Clusters` is all a method ever sees of other workers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from raydc.clustering.kmeans.options import USUAL, KMeansOptions


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

    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """left^T right [A, B] of all workers' rows left [N, A] and right [N, B], float64: the same bits on any number
        of workers.
        """

    def gather(self, values: Tensor) -> Tensor:
        """Values of all rows of all workers, in the order of the data: [N over all workers, ...]."""

    def kmeans(
        self,
        z: Tensor,
        n_clusters: int,
        options: KMeansOptions = USUAL,
        *,
        centroids: Tensor | None = None,
        weights: Tensor | None = None,
        draw: int = 0,
    ) -> KMeansResult:
        """k-means of all workers' z [N, D], from `centroids` [K, D] or from the best of several starts.

        Rows count as much as their `weights` [N]. Each `draw` has starts of its own.
        """

    def neighbours(self, z: Tensor, k: int, probes: int | None = None) -> tuple[Tensor, Tensor]:
        """The k nearest rows, over all workers and without itself, of each of this worker's z [N, D].

        Positions among all rows, int64 [N, k], and squared distances float32 [N, k], nearest first, with the same bits
        on any number of workers. Exact, or by an index: among the rows of the `probes` cells around each row.
        """

    def fetch(self, values: Tensor, rows: Tensor) -> Tensor:
        """values [M, ...] of the rows at these positions among all workers' rows, each worker asking for its own."""

    def label_on_one_worker(self, label: Callable[[], Tensor]) -> Tensor:
        """int64 [N], this worker's part of the labels of all rows, int64 [N over all workers], that `label` returns.

        It is called on one worker alone: for what one machine works out from gathered values.
        """

    def choose_on_one_worker(self, choose: Callable[[], int]) -> int:
        """The number that `choose` returns on one worker, on all of them."""
