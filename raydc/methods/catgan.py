"""CatGAN. Springenberg, ICLR 2016, arXiv:1511.06390.

The critic is a classifier of K clusters and no judge of what is real: it is to be sure of real rows, H(Y|x) small, to
use all clusters alike, H(Y) of the marginal large, and to be unsure of generated ones. The generator wants the critic
sure of its rows, and these spread over all clusters. A row's cluster is the likeliest. Both marginals are those of the
global batch, with right gradients over workers.

From a PyTorch code by others, for CIFAR-10: leaky ReLU of slope .2, half of the critic's hidden units dropped, 100
normal noise values, Adam 2e-4 with moments .5 and .9. The networks of the paper's figures on MNIST are not known: those
of InfoGAN are taken. Decided here: 200 rows a batch, for a marginal of few rows is a poor one; 5000 steps; batch norms
keep the statistics of real rows. The paper takes 20 clusters for ten digits and counts each for the class that is the
most frequent in it. Results vary much between seeds, and clusters of about one size are assumed.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raydc.clustering import Clusters
from raydc.core.schedule import Joint, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import Group, Method, MethodInfo, Parts, Player, StepState
from raydc.networks.gan import AdversarialNetwork
from raydc.networks.losses.information import entropy, likeliest, probabilities
from raydc.networks.norm import batch_statistics_only

DRAWS = 32
"""Generated rows of which the one that is surest to be in a cluster is shown."""


class CatGAN(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Springenberg 2016",
        architecture="GAN",
        features="softmax output",
        network_loss="adversarial: certainty of generated rows",
        clustering_loss="mutual information",
        combination="joint training",
        updates="jointly updated",
    )
    batch_size: ClassVar[int] = 200
    scaling: ClassVar[ScalingKind] = "unit"

    class Config(Method.Config):
        network: AdversarialNetwork = AdversarialNetwork(leak=0.2, dropout=0.5)
        noise: int = Field(100, ge=1)
        """Noise values of the generator."""
        adversarial: Joint = Joint(length="5000 steps", optimizer=Optimizer(lr=2e-4, beta1=0.5, beta2=0.9), alpha=0.5)

    quick: ClassVar[dict[str, Any]] = {
        "network.family": "mlp",
        "network.hidden": (64, 64),
        "network.dropout": 0.2,
        "noise": 4,
        "adversarial.optimizer.lr": 1e-3,
        "adversarial.length": "40 epochs",
    }
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.net = config.network.build(shape, config.noise, lambda hidden, _: nn.Linear(hidden, config.n_clusters))

    def players(self, phase: str) -> dict[str, Player]:
        sides = {"critic": self.net.critic, "generator": self.net.generator}
        return {name: Player([Group([*side.parameters()])]) for name, side in sides.items()}

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        made = self.generate(len(batch.x), batch.x)
        with batch_statistics_only(self.net.critic):
            p = probabilities(self.net.critic(made.detach() if player == "critic" else made))
        unsure = batch.mean(entropy(p))
        if player == "generator":
            return {"network": (1 - state.alpha, unsure), "clustering": (state.alpha, -entropy(batch.global_mean(p)))}
        real = probabilities(self.net.critic(batch.x))
        information = entropy(batch.global_mean(real)) - batch.mean(entropy(real))
        return {"network": (1 - state.alpha, -unsure), "clustering": (state.alpha, -information)}

    def generate(self, rows: int, like: Tensor) -> Tensor:
        """So many rows [B, ...] of noise, of the kind of `like`."""
        return self.net.generator(torch.randn(rows, self.config.noise).to(like))

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self.finalize_clusters(shard, clusters)

    def features(self, x: Tensor) -> Tensor:
        return probabilities(self.net.critic(x))

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.net.critic(x))

    def samples(self, per_cluster: int) -> Tensor:
        """Of many generated rows those that are the surest to be in each cluster: the generator is told of none."""
        made = self.generate(DRAWS * self.n_clusters * per_cluster, next(self.parameters()))
        surest = self.features(made).topk(per_cluster, 0).indices.T
        return made[surest].reshape(self.n_clusters, per_cluster, *self.shape)
