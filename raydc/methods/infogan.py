"""InfoGAN. Chen, Duan, Houthooft, Schulman, Sutskever & Abbeel, NeurIPS 2016, arXiv:1606.03657.

A generator of noise and a code - a category of K, and numbers in (-1, 1) - plays against a critic, and both help a head
Q on the critic's layers to read the code from generated rows: a lower bound of the mutual information of code and row.
A row's cluster is the category that Q reads from it.

From the authors' code: a leak of .01 (their paper's table says .1), small weights at the start of the networks for
images, 62 noise values, 2 continuous codes with unit variance, Adam with beta1 .5, rate 2e-4 for critic and Q and 1e-3
for the generator, 5000 steps of 128 rows, lambda = 1 for the whole code; critic, Q and generator all descend the code's
error. Decided here: Q never trains on real rows, so at least its batch norms keep the statistics of real ones, on which
they assign; two dense layers where rows are no images. Results vary much between seeds.
"""

from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.core.schedule import Joint, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import Group, Method, MethodInfo, Parts, Player, StepState
from raydc.networks.gan import AdversarialNetwork, ScoreAndCode
from raydc.networks.losses.adversarial import code_error, taken_for_fake, taken_for_real
from raydc.networks.losses.information import cross_entropy, likeliest, probabilities
from raydc.networks.norm import batch_statistics_only


class InfoGAN(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Chen et al. 2016",
        architecture="GAN",
        features="output of Q",
        network_loss="adversarial",
        clustering_loss="mutual information of the code",
        combination="joint training",
        updates="jointly updated",
    )
    batch_size: ClassVar[int] = 128
    scaling: ClassVar[ScalingKind] = "unit"

    class Config(Method.Config):
        network: AdversarialNetwork = AdversarialNetwork()
        noise: int = Field(62, ge=1)
        """Noise values of the generator."""
        continuous: int = Field(2, ge=0)
        """Continuous codes beside the category."""
        generator: Optimizer = Optimizer(lr=1e-3, beta1=0.5)
        """How the generator steps; the critic and Q step by the phase's optimizer."""
        adversarial: Joint = Joint(length="5000 steps", optimizer=Optimizer(lr=2e-4, beta1=0.5), alpha=0.5)

    quick: ClassVar[dict[str, Any]] = {
        "network.family": "mlp",
        "network.hidden": (64, 64),
        "noise": 2,
        "continuous": 0,
        "generator.lr": 2e-3,
        "adversarial.optimizer.lr": 2e-3,
        "adversarial.alpha": 0.02,
        "adversarial.length": "50 epochs",
    }
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        inputs = config.noise + config.n_clusters + config.continuous
        head = partial(ScoreAndCode, clusters=config.n_clusters, continuous=config.continuous)
        self.net = config.network.build(shape, inputs, head)

    def players(self, phase: str) -> dict[str, Player]:
        return {
            "critic": Player([Group([*self.net.critic.parameters()])]),
            "generator": Player([Group([*self.net.generator.parameters()])], self.config.generator),
        }

    def generate(self, category: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of these categories [B], with the categories one-hot [B, K] and the continuous codes [B, C]."""
        noise = 2 * torch.rand(len(category), self.config.noise + self.config.continuous).to(like) - 1
        one_hot = F.one_hot(category, self.n_clusters).to(like)
        return self.net.generator(torch.cat([noise, one_hot], 1)), one_hot, noise[:, self.config.noise :]

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        category = torch.randint(self.n_clusters, (len(batch.x),)).to(batch.x.device)
        made, one_hot, continuous = self.generate(category, batch.x)
        if player == "critic":
            made = made.detach()
        with batch_statistics_only(self.net.critic):
            score, logits, read = self.net.critic(made)
        if player == "critic":
            fooled = taken_for_fake(score) + taken_for_real(self.net.critic(batch.x)[0])
        else:
            fooled = taken_for_real(score)
        error = cross_entropy(one_hot, logits) + code_error(continuous, read)
        return {"network": (1 - state.alpha, batch.mean(fooled)), "clustering": (state.alpha, batch.mean(error))}

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self.finalize_clusters(shard, clusters)

    def features(self, x: Tensor) -> Tensor:
        return probabilities(self.net.critic(x)[1])

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.net.critic(x)[1])

    def samples(self, per_cluster: int) -> Tensor:
        like = next(self.parameters())
        category = torch.arange(self.n_clusters, device=like.device).repeat_interleave(per_cluster)
        return self.generate(category, like)[0].reshape(self.n_clusters, per_cluster, *self.shape)
