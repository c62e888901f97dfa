"""Methods whose clusters are centroids of the features."""

import torch
from torch import Tensor, nn

from raydc.clustering import Clusters, spread
from raydc.clustering.mini_batch import follow
from raydc.data import Shard
from raydc.methods.base.method import Method, StepState
from raydc.networks.losses.hardening import squared_distances
from raydc.networks.losses.posterior import nearest


class CentroidMethod(Method):
    """Shared by the methods whose clusters are centroids of the features, and whose papers give no memberships.

    A row is with its nearest centroid. Memberships are the posterior of equal Gaussians around the centroids, as wide
    as the training rows lie around theirs (`raydc.clustering.spread`): the units of the features do not matter.
    """

    centroids: Tensor
    counts: Tensor
    sharpness: Tensor

    def hold_centroids(self, dim: int, descended: bool = False) -> None:
        """Set room aside for centroids [K, dim], which a loss descends or not."""
        centroids = torch.zeros(self.n_clusters, dim)
        if descended:
            self.centroids = nn.Parameter(centroids)
        else:
            self.register_buffer("centroids", centroids)
        self.register_buffer("sharpness", torch.zeros((), dtype=torch.float64))

    def hold_counts(self, first: float) -> None:
        """Set room aside for the rows that each centroid stands for [K], `first` of them, as `follow` needs it."""
        self.register_buffer("counts", torch.full((self.n_clusters,), first))

    @torch.no_grad()
    def follow(self, x: Tensor, clusters: Clusters) -> Tensor:
        """Move the centroids towards the rows of a global batch by 1 / count; the nearest before, of x [B, ...]."""
        z = self.features(x).to(self.centroids)
        label = squared_distances(z, self.centroids).argmin(1)
        moved, count = follow(z, label, self.centroids, self.counts, clusters)
        self.centroids.copy_(moved)
        self.counts += count
        return label

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self.sharpness.fill_(spread.of_rows(shard.map(self.features), self.centroids, clusters))
        return super().finalize_clusters(shard, clusters)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return nearest(self.features(x), self.centroids, self.sharpness)


class FinalKMeansMethod(CentroidMethod):
    """Shared by the methods whose losses know no clusters: k-means finds them in the final features.

    Until then k-means goes on from its last centroids at each update, to show what it would find; no loss sees that.
    """

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        return self._kmeans(shard, clusters, None)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self._kmeans(shard, clusters, self.centroids)

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self._kmeans(shard, clusters, None)
        return super().finalize_clusters(shard, clusters)

    def _kmeans(self, shard: Shard, clusters: Clusters, centroids: Tensor | None) -> Tensor:
        found = clusters.kmeans(shard.map(self.features), self.n_clusters, centroids=centroids)
        self.centroids.copy_(found.centroids)
        return found.labels
