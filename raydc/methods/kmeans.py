"""k-means on the rows themselves (Lloyd 1982; k-means++ of Arthur & Vassilvitskii 2007): the shallow baseline.

Memberships of new rows are Student's t around the centroids, so that the nearest centroid has the largest.
"""

from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from raydc.clusters import Clusters
from raydc.data import Shard
from raydc.losses.hardening import student_t
from raydc.methods.base import Card, Method
from raydc.networks.augment import Augment
from raydc.phases import Phase


class KMeans(Method):
    card: ClassVar[Card] = Card(
        source="Lloyd 1982",
        architecture="none",
        features="input",
        network_loss="none",
        clustering_loss="k-means loss",
        combination="none",
        updates="Lloyd's iterations",
    )

    class Config(Method.Config):
        restarts: int = Field(20, ge=1)
        """k-means++ starts, of which the one with the smallest inertia is kept."""
        iterations: int = Field(300, ge=1)
        """Lloyd iterations at most."""
        tolerance: float = Field(1e-4, ge=0)
        """Stop when the centroids move less than this, relative to the mean variance of a feature."""
        spherical: bool = False
        """Compare directions (cosine) instead of positions."""

        @model_validator(mode="after")
        def _trains_nothing(self) -> Self:
            if self.augment != Augment():
                raise ValueError("k-means trains no network that could see augmented rows: leave augment out")
            return self

    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        features = int(torch.tensor(shape).prod())
        self.register_buffer("centroids", torch.zeros(config.n_clusters, features))
        self.centroids: Tensor

    def phases(self) -> dict[str, Phase]:
        return {}

    def features(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return torch.nn.functional.normalize(flat, dim=1) if self.config.spherical else flat

    def finish(self, shard: Shard, clusters: Clusters) -> Tensor:
        found = clusters.kmeans(
            shard.map(self.features),
            self.n_clusters,
            restarts=self.config.restarts,
            iterations=self.config.iterations,
            tolerance=self.config.tolerance,
            spherical=self.config.spherical,
        )
        self.centroids.copy_(found.centroids)
        return found.labels

    def assign(self, x: Tensor) -> Tensor:
        return student_t(self.features(x), self.centroids)
