"""Variational Deep Embedding. Jiang, Zheng, Tan, Tang & Zhou, IJCAI 2017, arXiv:1611.05148.

A variational autoencoder whose prior is a Gaussian mixture; a row's clusters are gamma = p(c | z), its posterior. The
loss is the negative ELBO: reconstruction plus KL(q(z, c | x) || p(z, c)), each summed over its dimensions.

From the authors' code: the autoencoder is pretrained on the means, the mixture is fitted to them by EM (diagonal; here
from the best of 20 k-means, not 10 random starts), its weights start uniform, and gradients pass through gamma; Adam
.002 with epsilon 1e-4, times .9 every 10 epochs, not under 2e-4. Their log pi stands inside the sum over dimensions;
here it is counted once, as in the paper. Decided here: the weight of the KL rises from 0 over the first sixth of
training (`cluster.ramp`; the recipe "paper" has none, and 3000 epochs). Nothing holds the codes near the mixture then,
so it is fitted again at every update, from where it stands, until the weight is full; else one wide cluster takes all
rows. Encoder noise starts small beside the clusters, and log variances of the mixture stay within [-6, 6]. The authors
ship pretrained weights, not what made them: here it is the recipe of all autoencoders, with the bound's likelihood.
"""

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from raydc.clustering import Clusters
from raydc.clustering.gmm import fit_mixture
from raydc.core.schedule import Joint, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import AutoencoderMethod, Group, MethodInfo, Parts, Player, StepState, require_probabilities
from raydc.networks.losses.information import likeliest
from raydc.networks.losses.mixture import likelihood_error, log_joint, mixture_kl
from raydc.networks.vae import MLPVariationalAutoencoder, VariationalNetwork

ADAM = Optimizer(lr=2e-3, eps=1e-4, schedule="step", factor=0.9, every="10 epochs", floor=2e-4)

NOISE = -4.0
"""Log of the variance of the encoder's noise at first, less a cluster's; more of it scatters what pretraining found."""


class VaDE(AutoencoderMethod):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Jiang et al. 2017",
        architecture="VAE",
        features="encoder output",
        network_loss="variational bound: reconstruction",
        clustering_loss="mixture-prior KL",
        combination="pretraining, then joint training",
        updates="jointly updated",
    )
    batch_size: ClassVar[int] = 100
    scaling: ClassVar[ScalingKind] = "unit"

    class Config(AutoencoderMethod.Config):
        network: VariationalNetwork = VariationalNetwork()
        mixture_rate: float = Field(1.0, gt=0)
        """Learning rate of the mixture, times the network's."""
        cluster: Joint = Joint(length="300 epochs", optimizer=ADAM, alpha=0.5, ramp=1 / 6)

        recipes: ClassVar[dict[str, dict[str, Any]]] = {
            "paper": AutoencoderMethod.Config.recipes["paper"] | {"cluster.length": "3000 epochs", "cluster.ramp": 0.0}
        }

    quick: ClassVar[dict[str, Any]] = AutoencoderMethod.quick | {"cluster.length": "20 epochs"}
    config: Config
    net: MLPVariationalAutoencoder

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        size = (config.n_clusters, config.network.latent)
        self.weights = nn.Parameter(torch.zeros(config.n_clusters))
        """Logits of pi."""
        self.means = nn.Parameter(torch.zeros(size))
        self.log_variances = nn.Parameter(torch.zeros(size))

    def players(self, phase: str) -> dict[str, Player]:
        if phase != "cluster":
            return super().players(phase)
        mixture = Group([self.weights, self.means, self.log_variances], rate=self.config.mixture_rate)
        return {"all": Player([*self.groups(self.net.parameters()), mixture], fresh=True)}

    @property
    def prior(self) -> tuple[Tensor, Tensor, Tensor]:
        """log pi [K], mu and log sigma^2 [K, latent]."""
        return self.weights.log_softmax(0), self.means, self.log_variances

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        if state.phase != "cluster":
            return super().loss(batch, state, player)
        mean, log_variance = self.net.distribution(batch.x)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        gamma = log_joint(z, *self.prior).softmax(1)
        divergence = mixture_kl(mean, log_variance, gamma, *self.prior)
        return {
            "network": (1 - state.alpha, batch.mean(likelihood_error(batch.x, self.net.logits(z), self.net.bernoulli))),
            "clustering": (state.alpha, batch.mean(divergence)),
        }

    def reconstruction_error(self, x: Tensor, corrupted: Tensor) -> Tensor:
        logits = self.net.logits(self.net.encode(corrupted))
        return likelihood_error(x, logits, self.net.bernoulli) / x.shape[1:].numel()

    def prepare(self, shard: Shard, clusters: Clusters) -> None:
        if self.net.bernoulli:
            require_probabilities(shard, clusters)

    @torch.no_grad()
    def init_clusters(self, shard: Shard, clusters: Clusters) -> Tensor:
        self.weights.zero_()
        labels = self._fit(shard, clusters, None)
        self.net.log_variance.bias.copy_(self.log_variances.mean(0) + NOISE)
        return labels

    def _fit(self, shard: Shard, clusters: Clusters, means: Tensor | None) -> Tensor:
        found = fit_mixture(shard.map(self.features), shard.total, clusters, self.n_clusters, means=means)
        self.means.copy_(found.means)
        self.log_variances.copy_(found.covariances.log().clamp(-6, 6))
        return found.labels

    @torch.no_grad()
    def after_step(self, batch: Batch, clusters: Clusters, state: StepState) -> None:
        self.log_variances.clamp_(-6, 6)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        warming_up = state.alpha < self.config.cluster.alpha
        return self._fit(shard, clusters, self.means) if warming_up else self.finalize_clusters(shard, clusters)

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(log_joint(self.features(x).double(), *(part.double() for part in self.prior)))

    def samples(self, per_cluster: int) -> Tensor:
        _, means, log_variances = self.prior
        noise = torch.randn(self.n_clusters, per_cluster, means.shape[1], device=means.device)
        z = means[:, None] + noise * (0.5 * log_variances).exp()[:, None]
        return self.net.decode(z.flatten(0, 1)).reshape(self.n_clusters, per_cluster, *self.shape)
