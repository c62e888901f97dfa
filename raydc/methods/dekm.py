"""Deep Embedded K-Means. Guo, Lin & Ye 2021, arXiv:2109.15149.

Pretrain an autoencoder, drop the decoder, then in turn: k-means on the code of all rows, and steps that sharpen what it
found. The scatter of the codes within their clusters is rotated to its eigenvectors V; along the last, that of the
largest scatter, clusters are least apart. There each row's target is its cluster's centre, along all others it is the
row's own code as it was, and the encoder descends the squared distance of V^T z to it. There is no weight to choose.

From the authors' code: an update every 40 steps (10 on texts), k-means with 100 restarts at first, training ends when
no more than .5% of the labels change. Decided here: later k-means start from the present centres, so that clusters keep
their numbers; pretraining as for DEC.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.clustering.kmeans.options import KMeansOptions
from raydc.clustering.principal_axes import principal_axes
from raydc.core.schedule import Clustering
from raydc.data import Batch, Shard
from raydc.methods.base import AutoencoderMethod, CentroidMethod, MethodInfo, Player, StepState
from raydc.networks.losses.reconstruction import mean_squared_error


class DEKM(CentroidMethod, AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Guo et al. 2021",
        architecture="MLP",
        features="encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="k-means loss along the direction of most scatter",
        combination="pretraining and fine tuning",
        updates="alternatingly updated",
    )

    class Config(AutoencoderMethod.Config):
        restarts: int = Field(100, ge=1)
        """Restarts of the first k-means."""
        cluster: Clustering = Clustering(length="100 epochs", update_every="40 steps", tolerance=5e-3)

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"cluster.length": "20 epochs"}
    config: Config
    rotation: Tensor

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.hold_centroids(self.net.latent)
        self.register_buffer("rotation", torch.eye(self.net.latent))

    def players(self, phase: str) -> dict[str, Player]:
        return (
            {"all": Player(self.groups(self.net.encoder_parameters()))}
            if phase == "cluster"
            else super().players(phase)
        )

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        rotated = self.features(batch.x) @ self.rotation
        return batch.mean(mean_squared_error(rotated, self.rows["target"][batch.row]))

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        return self._refresh(shard, clusters, None)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self._refresh(shard, clusters, self.centroids)

    def _refresh(self, shard: Shard, clusters: Clusters, centroids: Tensor | None) -> Tensor:
        z = shard.map(self.features)
        first = KMeansOptions(restarts=self.config.restarts)
        found = clusters.kmeans(z, self.n_clusters, first, centroids=centroids)
        self.centroids.copy_(found.centroids)
        centre = self.centroids[found.labels]
        self.rotation.copy_(principal_axes(z - centre, clusters))
        target = z @ self.rotation
        target[:, -1] = centre @ self.rotation[:, -1]
        self.rows["target"] = target
        return found.labels
