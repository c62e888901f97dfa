"""Deep Embedded Clustering. Xie, Girshick & Farhadi, ICML 2016, arXiv:1511.06335.

Pretrain an autoencoder, drop the decoder, then descend KL(P || Q) over the encoder and the centroids. P sharpens Q by
the cluster frequencies of *all* rows, and is constant between two refreshes.

From the authors' code: k-means with 20 restarts, the tolerance as the rule that stops training. Decided here: the
default refreshes P once an epoch on every data set and steps by Adam, instead of a refresh interval chosen for each.
The recipe "paper" does as their Caffe code: P every 160 steps (MNIST's interval), SGD .01 whose solver begins anew at
each refresh, so that momentum, which rises to .9 in 1000 steps, stays small; "keras" has SGD .01 with momentum .9 and P
every 140 steps.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raydc.clustering import Clusters
from raydc.core.schedule import Joint, Optimizer
from raydc.data import Batch, Shard
from raydc.methods.base import AutoencoderMethod, Group, MethodInfo, Parts, Player, StepState
from raydc.networks.losses.hardening import (
    hardening,
    sharpen,
    squared_distances,
    student_memberships,
    student_t,
)
from raydc.networks.losses.posterior import nearest_student
from raydc.networks.losses.reconstruction import mean_squared_error

DESCENT = {
    "cluster.length": "20000 steps",
    "cluster.optimizer.name": "sgd",
    "cluster.optimizer.lr": 0.01,
    "cluster.optimizer.momentum": 0.9,
}
"""How DEC's authors and DEC-keras cluster."""


class DEC(AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Xie et al. 2016",
        architecture="MLP",
        features="encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="cluster assignment hardening",
        combination="pretraining and fine tuning",
        updates="jointly updated",
    )

    class Config(AutoencoderMethod.Config):
        nu: float = Field(1.0, gt=0)
        """Degrees of freedom of Student's t (eq. 3)."""
        power: float = Field(2.0, gt=1)
        """Exponent that sharpens q into the target (eq. 4)."""
        centroid_rate: float = Field(1.0, gt=0)
        """Learning rate of the centroids, times the network's."""
        cluster: Joint = Joint(length="100 epochs", optimizer=Optimizer(lr=1e-4), alpha=1.0, tolerance=1e-3)
        clear_moments: bool = False
        """Whether steps begin without moments at each refresh of the target."""

        recipes: ClassVar[dict[str, dict[str, Any]]] = AutoencoderMethod.Config.recipes | {
            "paper": AutoencoderMethod.Config.recipes["paper"]
            | DESCENT
            | {
                "cluster.update_every": "160 steps",
                "cluster.optimizer.momentum_ramp": "1000 steps",
                "clear_moments": True,
            },
            "keras": AutoencoderMethod.Config.recipes["keras"] | DESCENT | {"cluster.update_every": "140 steps"},
        }

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"cluster.length": "20 epochs"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.centroids = nn.Parameter(torch.zeros(config.n_clusters, self.net.latent))

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "cluster":
            return super().players(phase)
        cluster = self.config.cluster
        # without a network loss the decoder has no gradient, and stepping it would cost as much as the encoder
        alone = cluster.alpha == 1 and not cluster.ramp
        trained = self.groups(self.net.encoder_parameters() if alone else self.net.parameters())
        return {"all": Player([*trained, Group([self.centroids], rate=self.config.centroid_rate)])}

    @property
    def clears_moments(self) -> bool:
        return self.config.clear_moments

    def soft(self, x: Tensor) -> Tensor:
        return student_t(self.features(x), self.centroids, self.config.nu)

    def clustering_loss(self, batch: Batch, state: StepState) -> Tensor:
        return batch.mean(hardening(self.rows["target"][batch.row], self.soft(batch.x)))

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if not 0 < state.alpha < 1:
            return super().loss(batch, state, player)
        # the same two losses, from one pass through the encoder
        z = self.features(batch.x)
        rebuilt = mean_squared_error(batch.x.flatten(1), self.net.decode(z).flatten(1))
        pulled = hardening(self.rows["target"][batch.row], student_t(z, self.centroids, self.config.nu))
        return {"network": (1 - state.alpha, batch.mean(rebuilt)), "clustering": (state.alpha, batch.mean(pulled))}

    @torch.no_grad()
    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self.centroids.copy_(clusters.kmeans(shard.map(self.features), self.n_clusters).centroids)
        return self._refresh(shard, clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self._refresh(shard, clusters)

    def _refresh(self, shard: Shard, clusters: Clusters) -> Tensor:
        squared = shard.map(lambda x: squared_distances(self.features(x), self.centroids))
        q = student_memberships(squared, self.config.nu)
        self.rows["target"] = sharpen(q, clusters.sum(q), self.config.power)
        return squared.argmin(1)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return nearest_student(self.features(x), self.centroids, self.config.nu)
