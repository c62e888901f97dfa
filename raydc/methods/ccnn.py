"""Clustering CNN. Hsu & Lin, IEEE Transactions on Multimedia 2018, arXiv:1705.07091.

Centroids begin at the features of K random rows, moved by one pass over all rows. Then a network and its centroids
learn together: a row's label is its nearest centroid, a softmax on the features learns the labels by cross-entropy, and
centroids move towards the batch's rows by 1 / count. Features move with the network: the batch's are
extracted anew after the step, before centroids follow them (drift compensation).

The paper starts from a network that was trained on ImageNet's labels; this one starts from random weights, or from
those of a run of `jule` without batch norm (`training.init_from`). Its drift compensation, rates and network are not
known here. Decided here: features of length one, network of JULE without batch norm, for rows are to have the same
features in a step and outside of it; SGD as JULE's. At each update, once an epoch, all features are extracted anew for
a pass of k-means, counts begin anew, and a centroid without rows is put on the farthest row: else the trivial solution
is near, one cluster for all. Known failure: from random weights the network can only sharpen what its random features
tell.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raydc.clustering import Clusters
from raydc.clustering.kmeans.options import KMeansOptions
from raydc.core.schedule import Clustering, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import CentroidMethod, MethodInfo, StepState
from raydc.networks.encoder import Encoder
from raydc.networks.losses.hardening import squared_distances


class CCNN(CentroidMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Hsu & Lin 2018",
        architecture="CNN",
        features="an internal layer, of length one",
        network_loss="none",
        clustering_loss="cluster classification",
        combination="clustering loss only",
        updates="alternatingly updated",
    )
    scaling: ClassVar[ScalingKind] = "unit"

    class Config(CentroidMethod.Config):
        network: Encoder = Encoder(norm=False)
        first_count: float = Field(100.0, gt=0)
        """Rows that each centroid is taken to stand for after an update: damps its moves until the next."""
        cluster: Clustering = Clustering(
            length="50 epochs", optimizer=Optimizer(name="sgd", lr=0.01, momentum=0.9, weight_decay=5e-5)
        )

    quick: ClassVar[dict[str, Any]] = {"network.channels": 8, "network.latent": 32, "cluster.length": "10 epochs"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.net = config.network.build(shape)
        self.head = nn.Linear(config.network.latent, config.n_clusters)
        self.hold_centroids(config.network.latent)
        self.hold_counts(config.first_count)

    def features(self, x: Tensor) -> Tensor:
        return F.normalize(self.net(x), dim=1)

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        z = self.features(batch.x)
        label = squared_distances(z.detach(), self.centroids).argmin(1)
        return batch.mean(F.cross_entropy(self.head(z), label, reduction="none"))

    def after_step(self, batch: Batch, clusters: Clusters, state: StepState) -> None:
        self.follow(batch.x, clusters)

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        z = shard.map(self.features)
        return self._pass(z, clusters.fetch(z, torch.randperm(shard.total)[: self.n_clusters]), clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self._pass(shard.map(self.features), self.centroids, clusters)

    def _pass(self, z: Tensor, centroids: Tensor, clusters: Clusters) -> Tensor:
        """One of k-means over features z [N, D] of this worker's rows; the labels [N] it comes to."""
        found = clusters.kmeans(z, self.n_clusters, KMeansOptions(iterations=1), centroids=centroids)
        self.centroids.copy_(found.centroids)
        self.counts.fill_(self.config.first_count)
        return found.labels
