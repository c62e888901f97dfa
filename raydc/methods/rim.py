"""Regularised Information Maximisation. Gomes, Krause & Perona, NIPS 2010.

Maximise the mutual information of rows and predicted clusters minus R = lambda * sum of squared weights (biases free):
L = H(Y|X) - mu H(Y) + R, H(Y) of the marginal of the *global* batch, with right gradients over workers.

The paper's model is linear and descends by L-BFGS over all rows; linear is `network.hidden=()`, the default is the deep
RIM of Hu et al. 2017 (IMSAT's network and optimizer, weight decay instead of self-augmentation). Neither gives lambda:
.005 was decided here, and mu = 1 is the paper's. As random starts leave clusters empty, the network first learns the
labels of k-means on the rows, one of the paper's two ways to begin. K is a bound: clusters may die out.
"""

from typing import Any, ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.core.schedule import Clustering, Joint, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import Method, MethodInfo, Parts, StepState
from raydc.networks.classifier import Classifier
from raydc.networks.losses.information import cross_entropy, entropy, likeliest, probabilities


def information(batch: Batch, p: Tensor, balance: float) -> Tensor:
    """H(Y|X) - `balance` H(Y), H(Y) of the global batch, of p [B, K]: mutual information, negated, for balance 1."""
    return batch.mean(entropy(p)) - balance * entropy(batch.global_mean(p))


class RIM(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Gomes et al. 2010",
        architecture="MLP",
        features="softmax output",
        network_loss="weight decay",
        clustering_loss="mutual information",
        combination="joint training",
        updates="jointly updated",
    )
    batch_size: ClassVar[int] = 250
    scaling: ClassVar[ScalingKind] = "symmetric"
    quick: ClassVar[dict[str, Any]] = {"network.hidden": (64,), "cluster.length": "30 epochs"}

    class Config(Method.Config):
        network: Classifier = Classifier()
        weight_decay: float = Field(0.005, ge=0)
        """lambda, the weight of the squared weights."""
        balance: float = Field(1.0, gt=0)
        """mu, the weight of the marginal entropy H(Y) beside the conditional one."""
        start: Clustering = Clustering(length="5 epochs", optimizer=Optimizer(lr=2e-3))
        """Learning the labels of k-means."""
        cluster: Joint = Joint(length="50 epochs", optimizer=Optimizer(lr=2e-3), alpha=0.5)

    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.net = config.network.build(shape, config.n_clusters)

    def features(self, x: Tensor) -> Tensor:
        return probabilities(self.net(x))

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        logits = self.net(batch.x)
        if state.phase == "start":
            known = F.one_hot(self.rows["known"][batch.row], self.n_clusters)
            return {"clustering": (1.0, batch.mean(cross_entropy(known, logits)))}
        return {
            "network": (1 - state.alpha, self.regulariser(batch, logits)),
            "clustering": (state.alpha, information(batch, probabilities(logits), self.config.balance)),
        }

    def regulariser(self, batch: Batch, logits: Tensor) -> Tensor:
        squares = [layer.weight.square().sum() for layer in self.net.linears()]
        return self.config.weight_decay * sum(squares[1:], squares[0])

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor | None:
        self.rows["known"] = clusters.kmeans(shard.map(lambda x: x.flatten(1)), self.n_clusters).labels
        return self.rows["known"]

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self.finalize_clusters(shard, clusters)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.net(x))
