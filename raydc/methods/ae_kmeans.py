"""Autoencoder, then k-means on its code: the baseline that every deep method has to beat.

What the papers leave open: nothing is trained after the autoencoder; k-means has 20 restarts as in DEC's code.
Memberships of new rows are Student's t around the centroids, so that the nearest centroid has the largest.
"""

from typing import ClassVar

import torch
from torch import Tensor

from raydc.clustering import Clusters
from raydc.data import Shard
from raydc.losses.hardening import student_t
from raydc.methods.base import AutoencoderMethod, MethodInfo


class AEKMeans(AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="baseline of Xie et al. 2016",
        architecture="MLP",
        features="encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="none",
        combination="pretraining only",
        updates="none",
        after="k-means",
    )

    def __init__(self, config: AutoencoderMethod.Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.register_buffer("centroids", torch.zeros(self.n_clusters, self.net.latent))
        self.centroids: Tensor

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        found = clusters.kmeans(shard.map(self.features), self.n_clusters)
        self.centroids.copy_(found.centroids)
        return found.labels

    def assign(self, x: Tensor) -> Tensor:
        return student_t(self.features(x), self.centroids)
