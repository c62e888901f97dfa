"""Infinite Ensemble Clustering. Liu, Shao, Li & Fu, KDD 2016.

Many basic partitions of the rows by k-means, with various numbers of clusters; a row is then what clusters it is in,
one-hot in each partition. A stack of marginalised denoising autoencoders fuses them: each layer is a linear map, in
closed form, that would be learnt from infinitely many copies of these codes with values dropped at random - as if from
infinitely many partitions - and a tanh behind it. k-means on all layers together is the consensus. Nothing descends a
gradient.

Each partition and each layer's moments are sums over all workers' rows. How many partitions, of how many clusters, how
many layers and how much is dropped in the paper is not known to us: 100 partitions, of K to twice as many clusters,
three layers and .2 were decided here. The paper draws the numbers of clusters at random; here they take turns, so that
a model's size follows from its settings. A new row is placed in each partition by its nearest centroid.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters, KMeansOptions
from raydc.data import Shard
from raydc.data.memory import refuse_beyond_memory
from raydc.methods.base import CentroidMethod, MethodInfo, UntrainedConfig
from raydc.networks.losses.denoising import marginalised_denoiser
from raydc.networks.losses.hardening import exact_squared_distances

ONCE = KMeansOptions(restarts=1)
"""A basic partition is one run of k-means, good or bad."""
BYTES = 16
"""A value of a row's layers costs this much: itself, and the copies that k-means makes."""


class IEC(CentroidMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Liu et al. 2016",
        architecture="MLP",
        features="all layers",
        network_loss="marginalised denoising, closed form",
        clustering_loss="none",
        combination="none",
        updates="none",
        after="k-means",
    )
    trains: ClassVar[bool] = False

    class Config(UntrainedConfig):
        partitions: int = Field(100, ge=1)
        """Basic partitions by k-means."""
        most: float = Field(2.0, ge=1)
        """Their numbers of clusters go from K to this many times K, in turn."""
        layers: int = Field(3, ge=1)
        """Layers of the denoising autoencoder."""
        corruption: float = Field(0.2, ge=0, lt=1)
        """Share of a layer's inputs that are dropped, on average over all ways to do so."""

    quick: ClassVar[dict[str, Any]] = {"partitions": 6, "layers": 2}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        spread = int(config.most * config.n_clusters) - config.n_clusters + 1
        self.sizes = [config.n_clusters + turn % spread for turn in range(config.partitions)]
        codes = sum(self.sizes)
        self.register_buffer("basic", torch.zeros(codes, torch.Size(shape).numel()))
        self.register_buffer("maps", torch.zeros(config.layers, codes, codes + 1))
        self.hold_centroids(config.layers * codes)
        self.basic: Tensor
        self.maps: Tensor

    def check_memory(self, total: int) -> None:
        advice = "set fewer method.partitions or method.layers, or train on a sample of the rows"
        refuse_beyond_memory("are kept with all their layers", total, BYTES * self.centroids.shape[1], 1, advice)

    def codes(self, x: Tensor) -> Tensor:
        """The cluster of each row in each partition, one-hot and side by side [B, sum of the partitions' clusters]."""
        parts = exact_squared_distances(x.flatten(1), self.basic).split(self.sizes, 1)
        return torch.cat([F.one_hot(part.argmin(1), part.shape[1]) for part in parts], 1).to(self.maps)

    def above(self, hidden: Tensor, layer: int) -> Tensor:
        """The layer's activations [B, D] of those under it [B, D]."""
        return torch.tanh(F.linear(hidden, self.maps[layer, :, :-1], self.maps[layer, :, -1]))

    def features(self, x: Tensor) -> Tensor:
        layers = [self.codes(x)]
        for layer in range(self.config.layers):
            layers.append(self.above(layers[-1], layer))
        return torch.cat(layers[1:], 1)

    def finalize_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        rows = shard.map(lambda x: x.flatten(1))
        found = [clusters.kmeans(rows, k, ONCE, draw=1 + turn).centroids for turn, k in enumerate(self.sizes)]
        self.basic.copy_(torch.cat(found))
        hidden = shard.map(self.codes)
        for layer in range(self.config.layers):
            inputs = F.pad(hidden, (0, 1), value=1.0)
            self.maps[layer] = marginalised_denoiser(clusters.products(inputs, inputs), self.config.corruption)
            hidden = self.above(hidden, layer)
        self.centroids.copy_(clusters.kmeans(shard.map(self.features), self.n_clusters).centroids)
        return super().finalize_clusters(shard, clusters)
