"""Deep Clustering Network. Yang, Fu, Sidiropoulos & Hong, ICML 2017, arXiv:1610.04794.

Reconstruction plus lambda / 2 times the k-means loss, both summed over features; network and centroids in turn: after
each step the batch's rows are assigned anew and every centroid moves towards its rows by 1 / count. The paper does this
row by row; here by sums over the batch and all workers, which is the same for any number of workers.

From the authors' code: counts start at 100. Decided here: counts are capped at 10 N / K, so that centroids can follow
the encoder; a centroid that no row has chosen since the last update, and none would now, is put on the farthest row.
"paper": lambda .05 with 50 epochs; pretraining as DEC's, for the authors' layer-wise stage has the same form.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.data import Batch, Shard
from raydc.losses.hardening import squared_distances
from raydc.losses.kmeans import kmeans_loss
from raydc.losses.reconstruction import squared_error
from raydc.methods.base import AutoencoderMethod, CentroidMethod, MethodInfo, Parts, StepState
from raydc.settings.schedule import Clustering, Optimizer, Phase


class DCN(CentroidMethod, AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Yang et al. 2017",
        architecture="MLP",
        features="encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="k-means loss",
        combination="pretraining, then joint training",
        updates="alternatingly updated",
    )

    class Config(AutoencoderMethod.Config):
        weight: float = Field(0.05, gt=0)
        """lambda, the weight of the k-means loss (halved, as in the paper)."""
        first_count: float = Field(100.0, gt=0)
        """Rows that each centroid is taken to stand for at the start: damps its first moves."""
        cluster: Clustering = Clustering(length="50 epochs", optimizer=Optimizer(lr=1e-4))

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"cluster.length": "20 epochs"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.hold_centroids(self.net.latent)
        self.register_buffer("counts", torch.full((config.n_clusters,), config.first_count))
        self.register_buffer("chosen", torch.zeros(config.n_clusters))
        self.register_buffer("cap", torch.tensor(float("inf")))
        self.counts: Tensor
        self.chosen: Tensor
        self.cap: Tensor

    def phases(self) -> dict[str, Phase]:
        return super().phases() | {"cluster": self.config.cluster}

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if state.phase != "cluster":
            return super().loss(batch, state, player)
        z = self.features(batch.x)
        rebuilt = squared_error(batch.x.flatten(1), self.net.decode(z).flatten(1))
        pulled = kmeans_loss(z, self.centroids, self.rows["label"][batch.row])
        return {
            "network": (1.0, batch.mean(rebuilt)),
            "clustering": (self.config.weight / 2, batch.mean(pulled)),
        }

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        found = clusters.kmeans(shard.map(self.features), self.n_clusters)
        self.centroids.copy_(found.centroids)
        self.cap.fill_(max(10 * shard.total / self.n_clusters, self.config.first_count))
        self.rows["label"] = found.labels.clone()
        return found.labels

    @torch.no_grad()
    def after_step(self, batch: Batch, clusters: Clusters, state: StepState) -> None:
        z = self.features(batch.x).to(self.centroids)
        label = squared_distances(z, self.centroids).argmin(1)
        self.rows["label"][batch.row] = label
        one_hot = torch.nn.functional.one_hot(label, self.n_clusters).to(z.dtype)
        sums = clusters.total(torch.cat([one_hot.T @ z, one_hot.sum(0)[:, None]], 1))
        moved, count = sums[:, :-1], sums[:, -1]
        self.centroids += (moved - count[:, None] * self.centroids) / (self.counts + count)[:, None]
        self.counts.copy_((self.counts + count).clamp_max(self.cap))
        self.chosen += count

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        z = shard.map(self.features).to(self.centroids)
        distance, label = squared_distances(z, self.centroids).min(1)
        counts = clusters.total(label.bincount(minlength=self.n_clusters))
        empty = ((self.chosen == 0) & (counts == 0)).nonzero()[:, 0]
        if len(empty):
            self._refill(z, clusters, distance, empty)
            label = squared_distances(z, self.centroids).argmin(1)
        self.chosen.zero_()
        self.rows["label"] = label
        return label

    def _refill(self, z: Tensor, clusters: Clusters, distance: Tensor, empty: Tensor) -> None:
        """Put each centroid that nobody chose on one of the globally farthest rows."""
        far = clusters.fetch(z, clusters.largest(distance, len(empty)))
        empty = empty[: len(far)]
        self.centroids[empty] = far
        self.counts[empty] = self.config.first_count
