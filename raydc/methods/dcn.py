"""Deep Clustering Network. Yang, Fu, Sidiropoulos & Hong, ICML 2017, arXiv:1610.04794.

Reconstruction plus a weight times the k-means loss, both squared norms; network and centroids in turn: after each step
the batch's rows are assigned anew and every centroid moves towards its rows by 1 / count. The paper does this row by
row; here by sums over the batch and all workers, which is the same for any number of workers.

From the authors' code: weight 1, a decoder with the encoder's weights, without which the codes shrink under that
weight, N(0, 1 / fan_in) at the start, biases at twice the rate, counts that start at 100, and every 10 epochs k-means
from the present centroids, which also fills empty clusters. Decided here: pretraining as all methods', and Adam, for
SGD's steps along a sum over features depend on their number. "paper": lambda = .05, which the paper halves; SGD a layer
at a time, of the authors' rate on MNIST, and no corruption.
"""

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters, KMeansResult
from raydc.core.schedule import Clustering, Optimizer
from raydc.data import Batch, Shard
from raydc.methods.base import AutoencoderMethod, BiasRate, CentroidMethod, MethodInfo, Parts, StepState
from raydc.networks import Network
from raydc.networks.losses.kmeans import kmeans_loss
from raydc.networks.losses.reconstruction import squared_error


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
        network: Network = Network(initial="lecun_normal", tied=True)
        bias_rate: BiasRate = 2.0
        weight: float = Field(1.0, gt=0)
        """Weight of the k-means loss; the paper's lambda / 2."""
        first_count: float = Field(100.0, gt=0)
        """Rows that each centroid is taken to stand for at the start: damps its first moves."""
        cluster: Clustering = Clustering(length="50 epochs", optimizer=Optimizer(lr=1e-4), update_every="10 epochs")

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "image": AutoencoderMethod.Config.recipes["image"],
            "paper": {
                "weight": 0.025,
                "layerwise.corruption": 0.0,
                **{
                    f"{phase}.{key}": value
                    for phase in ("layerwise", "pretrain")
                    for key, value in {
                        "length": "250 epochs",
                        "optimizer.name": "sgd",
                        "optimizer.lr": 0.2,  # theirs is 1e-4, of a sum over 784 features whose mean square is 2.92
                        "optimizer.momentum": 0.9,
                        "optimizer.nesterov": True,
                        "optimizer.schedule": "constant",
                    }.items()
                },
            },
        }

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"cluster.length": "20 epochs"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.hold_centroids(self.net.latent)
        self.hold_counts(config.first_count)

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if state.phase != "cluster":
            return super().loss(batch, state, player)
        z = self.features(batch.x)
        rebuilt = squared_error(batch.x.flatten(1), self.net.decode(z).flatten(1))
        pulled = kmeans_loss(z, self.centroids, self.rows["label"][batch.row])
        return {
            "network": (1.0, batch.mean(rebuilt)),
            "clustering": (self.config.weight, batch.mean(pulled)),
        }

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self.counts.fill_(self.config.first_count)
        return self._take(clusters.kmeans(shard.map(self.features), self.n_clusters))

    def _take(self, found: KMeansResult) -> Tensor:
        self.centroids.copy_(found.centroids)
        self.rows["label"] = found.labels.clone()
        return found.labels

    def after_step(self, batch: Batch, clusters: Clusters, state: StepState) -> None:
        self.rows["label"][batch.row] = self.follow(batch.x, clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self._take(clusters.kmeans(shard.map(self.features), self.n_clusters, centroids=self.centroids))
