"""DEPICT. Ghasedi Dizaji, Herandi, Deng, Cai & Huang, ICCV 2017, arXiv:1704.06327.

A softmax on the code predicts clusters from noisy rows; the targets come in closed form from the clean encoder and the
cluster frequencies of *all* rows; every layer of the clean encoder is reconstructed from the noisy code (weight 1 for
rows, .1 for hidden layers, each a mean over its numbers). L = cross-entropy + reconstruction.

From the authors' code: the first labels from agglomeration (USPS, and MNIST's test part of 10,000) or from 40 k-means
(MNIST, and sets of faces), the normalised means of these clusters as the softmax's weights, a stage that learns their
labels, and target "code", q ~ p^2 / f, with which their figures were made; gradients of the reconstruction reach the
clean layers too. "paper" is eq. 6, q ~ p / sqrt(f), which does not sharpen balanced predictions at all. Decided here:
targets come from one clean pass before each epoch, not from network states mixed over an epoch; the decoder begins at
the mean row; agglomeration up to 11,000 rows, and it is JULE's, by the degrees of the 20 neighbours' graph, where
theirs takes path integrals on it, by the same authors; the stage of the first labels has a length instead of a
validation split; training ends when fewer than 1e-4 of the labels change, not when the predictions move less than 1e-7
in square; the default pretrains 300 epochs with Adam's usual rate (recipe "paper": 4000 with 1e-4, the authors' upper
bound).
"""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from raydc.clustering import Clusters, KMeansOptions
from raydc.clustering.linkage import agglomerate
from raydc.core.schedule import Joint, Optimizer, Phase
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import Group, Method, MethodInfo, Parts, Player, StepState
from raydc.networks.layered import LayeredNetwork
from raydc.networks.losses.hardening import sharpen
from raydc.networks.losses.information import cross_entropy, likeliest, probabilities
from raydc.networks.losses.reconstruction import mean_squared_error

NEIGHBOURS = 20  # nearest rows that have an affinity to a row, in the agglomeration
UNITS = 2**20  # of the sums that the mean row is made of: integers add up to the same on any number of workers


class DEPICT(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Ghasedi Dizaji et al. 2017",
        architecture="CNN",
        features="encoder output",
        network_loss="reconstruction of every layer",
        clustering_loss="cross-entropy to balanced targets",
        combination="pretraining, then joint training",
        updates="alternatingly updated",
    )
    batch_size: ClassVar[int] = 100
    scaling: ClassVar[ScalingKind] = "symmetric"

    class Config(Method.Config):
        network: LayeredNetwork = LayeredNetwork()
        target: Literal["code", "paper"] = "code"
        """Closed-form targets: code, p^2 / f; paper, p / sqrt(f)."""
        noise: float = Field(0.1, ge=0, lt=1)
        """Share of the noisy encoder's inputs set to zero, in each layer but the code's."""
        hidden_weight: float = Field(0.1, ge=0)
        """Weight of the reconstruction of a hidden layer; that of rows is 1."""
        agglomerated: int = Field(11_000, ge=0)
        """Rows up to which the first labels are an agglomeration's; those of more rows are k-means'."""
        pretrain: Phase = Phase(length="300 epochs", optimizer=Optimizer(schedule="cosine"))
        start: Joint = Joint(length="20 epochs", optimizer=Optimizer(lr=1e-4), alpha=0.5)  # learns the first labels
        cluster: Joint = Joint(length="200 epochs", optimizer=Optimizer(lr=1e-4), alpha=0.5, tolerance=1e-4)

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": {
                "pretrain.length": "4000 epochs",
                "pretrain.optimizer.lr": 1e-4,
                "pretrain.optimizer.schedule": "constant",
            }
        }

    quick: ClassVar[dict[str, Any]] = {
        "network.channels": (8, 16),
        "network.hidden": (64,),
        "pretrain.length": "10 epochs",
        "start.length": "60 epochs",
        "cluster.length": "10 epochs",
    }
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.net = config.network.build(shape, config.n_clusters)
        self.theta = nn.Parameter(torch.zeros(config.n_clusters, *self.net.shapes[-1]))

    def players(self, phase: str) -> dict[str, Player]:
        return {"all": Player([Group([*self.net.parameters(), *([] if phase == "pretrain" else [self.theta])])])}

    def features(self, x: Tensor) -> Tensor:
        return self.net.encode(x)[-1]

    def prepare(self, shard: Shard, clusters: Clusters) -> None:
        if self.net.common.any():  # a network that was trained before
            return
        sums = shard.map(lambda x: (x.double() * UNITS).round().long().sum(0, keepdim=True)).sum(0)
        self.net.begin_at(clusters.total(sums) / (UNITS * shard.total))

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        clean = self.net.encode(batch.x)
        z = self.net.encode(batch.x, self.config.noise)[-1]
        losses = [mean_squared_error(a, b) for a, b in zip(clean[:-1], self.net.decode(z), strict=True)]
        rebuilt = losses[0] + self.config.hidden_weight * sum(losses[1:], torch.zeros_like(losses[0]))
        parts = {"network": (1 - state.alpha, batch.mean(rebuilt))}
        if state.alpha > 0:
            wrong = cross_entropy(self.rows["target"][batch.row], z @ self.theta.T)
            parts["clustering"] = (state.alpha, batch.mean(wrong))
        return parts

    @torch.no_grad()
    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        z = shard.map(self.features)
        if shard.total > self.config.agglomerated:
            labels = clusters.kmeans(z, self.n_clusters, KMeansOptions(restarts=40)).labels
        else:
            labels = agglomerate(z, clusters, NEIGHBOURS, None, 0.0, self.n_clusters)
        sums = torch.stack([clusters.sum(z * (labels == k)[:, None]) for k in range(self.n_clusters)])
        self.theta.copy_(F.normalize(sums, dim=1))
        self.rows["target"] = F.one_hot(labels, self.n_clusters).to(self.theta.dtype)
        return labels

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        logits = shard.map(self.logits)
        if state.phase == "cluster":
            f = clusters.sum(p := probabilities(logits))
            self.rows["target"] = sharpen(p, f) if self.config.target == "code" else sharpen(p, f.sqrt(), 1.0)
        return logits.argmax(1)

    def logits(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.theta.T

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.logits(x))
