"""DAC-H: Deep Adversarial Gaussian Mixture Auto-Encoder. Harchaoui, Mattei & Bouveyron, ICLR 2017 workshop.

An adversarial autoencoder whose prior is a Gaussian mixture with trainable weights, means and full covariances: the
autoencoder reconstructs, a critic tells codes from draws of the mixture, the encoder deceives it, and the mixture
follows the codes by EM. A row's cluster is the one of the largest posterior.

The constants are not published where we could read them. Decided here: the pretraining and the network are those of
all autoencoders; the mixture is fitted to the codes by EM until it settles, and takes one step of EM an epoch from
there; the three players step once a batch, the encoder at a tenth of the rate, for a critic that overpowers it drives
codes together; .001 is added to variances. The paper's better figures are the consensus of many runs: `raydc tune`
repeats its best trials, and says of each row how many of them agree.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raydc.clustering import Clusters
from raydc.clustering.gmm import fit_mixture
from raydc.core.schedule import Clustering
from raydc.data import Batch, Shard
from raydc.methods.base import AutoencoderMethod, Group, MethodInfo, Parts, Player, StepState
from raydc.networks.losses.adversarial import taken_for_fake, taken_for_real
from raydc.networks.losses.information import likeliest
from raydc.networks.losses.mixture import log_joint_full

RIDGE = 1e-3
"""Added to the variances of the mixture."""


class DACH(AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Harchaoui et al. 2017",
        architecture="MLP",
        features="encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="adversarial: codes like a mixture",
        combination="pretraining, then joint training",
        updates="EM of a full mixture",
    )

    class Config(AutoencoderMethod.Config):
        critic: int = Field(500, ge=1)
        """Hidden units in each of the critic's two layers."""
        encoder_rate: float = Field(0.1, gt=0)
        """Learning rate at which the encoder deceives the critic, times the phase's."""
        adversarial: Clustering = Clustering(length="50 epochs")

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"critic": 16, "adversarial.length": "6 epochs"}
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        k, d, units = config.n_clusters, self.net.latent, config.critic
        layers = [nn.Linear(d, units), nn.ReLU(), nn.Linear(units, units), nn.ReLU(), nn.Linear(units, 1)]
        self.critic = nn.Sequential(*layers)
        self.register_buffer("weights", torch.full((k,), 1 / k, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(k, d, dtype=torch.float64))
        self.register_buffer("covariances", torch.eye(d, dtype=torch.float64).repeat(k, 1, 1))
        self.weights: Tensor
        self.means: Tensor
        self.covariances: Tensor

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "adversarial":
            return super().players(phase)
        return {
            "autoencoder": Player(self.groups(self.net.parameters())),
            "critic": Player([Group([*self.critic.parameters()])]),
            "encoder": Player([Group(self.net.encoder_parameters(), self.config.encoder_rate)]),
        }

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if player in ("all", "autoencoder"):
            return {"network": (1.0, self.network_loss(batch, state))}
        z = self.features(batch.x)
        if player == "encoder":
            return {"clustering": (1.0, batch.mean(taken_for_real(self.critic(z)[:, 0])))}
        drawn = self.drawn(self.component(torch.rand(len(z)).to(z))).to(z)
        told = taken_for_real(self.critic(drawn)[:, 0]) + taken_for_fake(self.critic(z.detach())[:, 0])
        return {"critic": (1.0, batch.mean(told))}

    def component(self, uniform: Tensor) -> Tensor:
        """Clusters [B] with the mixture's weights, for values [B] between 0 and 1."""
        return torch.bucketize(uniform, self.weights.cumsum(0).to(uniform)).clamp_max(self.n_clusters - 1)

    def drawn(self, cluster: Tensor) -> Tensor:
        """Codes [B, latent] of these clusters [B]."""
        noise = torch.randn(len(cluster), self.means.shape[1]).to(self.means)
        factors = torch.linalg.cholesky(self.covariances)
        return self.means[cluster] + (factors[cluster] @ noise[:, :, None])[:, :, 0]

    def _fit(self, shard: Shard, clusters: Clusters, **how: Any) -> Tensor:
        z = shard.map(self.features)
        found = fit_mixture(z, shard.total, clusters, self.n_clusters, full=True, ridge=RIDGE, **how)
        self.weights.copy_(found.weights)
        self.means.copy_(found.means)
        self.covariances.copy_(found.covariances)
        return found.labels

    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        return self._fit(shard, clusters)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        memberships = shard.map(lambda x: self.joint(x).softmax(1))
        return self._fit(shard, clusters, memberships=memberships, iterations=1)

    def joint(self, x: Tensor) -> Tensor:
        """Log densities [B, K], float64, of rows and clusters."""
        return log_joint_full(self.features(x).double(), self.weights.log(), self.means, self.covariances)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.joint(x))

    def samples(self, per_cluster: int) -> Tensor:
        cluster = torch.arange(self.n_clusters, device=self.means.device).repeat_interleave(per_cluster)
        made = self.net.decode(self.drawn(cluster).to(next(self.parameters())))
        return made.reshape(self.n_clusters, per_cluster, *self.shape)
