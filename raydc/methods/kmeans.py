"""k-means on the rows themselves (Lloyd 1982; k-means++ of Arthur & Vassilvitskii 2007): the shallow baseline.

A row, old or new, is with its nearest centroid, to the last bit as in training. Memberships are the posterior of equal
spherical Gaussians around the centroids, whose variance and degrees of freedom are those of the training rows about
their own centroids (`raydc.clustering.spread` says why, and how that goes in many dimensions): the units of the rows do
not matter. Where sizes are balanced (Cuturi 2013; Asano et al. 2020), they are those of the optimal transport.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from raydc.clustering import ClusteringResult, Clusters, KMeansOptions
from raydc.clustering.kmeans.steps import Geometry, labels, unit
from raydc.data import Shard
from raydc.methods.base import Method, MethodInfo, UntrainedConfig
from raydc.networks.losses.posterior import held, posterior


class KMeans(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Lloyd 1982",
        architecture="none",
        features="input",
        network_loss="none",
        clustering_loss="k-means loss",
        combination="none",
        updates="Lloyd's iterations",
    )

    trains: ClassVar[bool] = False
    weighs_rows: ClassVar[bool] = True

    class Config(UntrainedConfig, KMeansOptions):
        shards: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
        """Actors that share sums and centroids of streamed rows; auto: one for each 256 MB of sums."""

    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        features = int(torch.tensor(shape).prod())
        self.register_buffer("centroids", torch.zeros(config.n_clusters, features))
        self.register_buffer("origin", torch.zeros(features))
        self.register_buffer("offsets", torch.zeros(config.n_clusters))
        self.register_buffer("sharpness", torch.zeros((), dtype=torch.float64))
        self.centroids: Tensor
        self.origin: Tensor
        self.offsets: Tensor
        self.sharpness: Tensor

    def features(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return unit(flat) if self.config.spherical else flat

    def streamed(self) -> dict[str, Any]:
        return self.config.model_dump(include={"n_clusters", "shards", *KMeansOptions.model_fields})

    def load_result(self, found: ClusteringResult) -> None:
        self.centroids.copy_(found.centroids)
        self.origin.copy_(found.origin)
        self.offsets.copy_(found.offsets)
        self.sharpness.fill_(found.sharpness)

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        found = clusters.kmeans(shard.map(self.features), self.n_clusters, self.config, weights=shard.weights)
        self.load_result(found)
        return found.labels

    def located(self, x: Tensor) -> Tensor:
        return self.features(x)

    def centres(self) -> Tensor:
        return self.centroids

    def label(self, x: Tensor) -> Tensor:
        return labels(*self._around(x))

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z, centroids, geometry, offsets = self._around(x)
        label, mu = labels(z, centroids, geometry, offsets), centroids.float().double()
        score = 2 * z.double() @ mu.T - mu.square().sum(1) + offsets.double()
        return label, held(posterior(score, self.sharpness), label)

    def _around(self, x: Tensor) -> tuple[Tensor, Tensor, Geometry, Tensor]:
        """Rows and centroids around the origin, as training compares them; and how."""
        geometry = Geometry(self.origin, spherical=self.config.spherical)
        return geometry.around(self.features(x)), self.centroids.double() - self.origin, geometry, self.offsets
