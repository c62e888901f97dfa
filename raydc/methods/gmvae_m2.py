"""GMVAE-M2, a simpler mixture than `gmvae`'s: M2 of Kingma, Mohamed, Rezende & Welling 2014, arXiv:1406.5298.

A row x comes from a code z, and z from a cluster c alone: c uniform, z ~ N(mu_c, sigma_c^2). There is no style, and a
network guesses q(c | x), where `gmvae` has the exact posterior p(c | z, w). As public code has it under the name of
GMVAE, c is no label that is summed over, as in M2, but drawn from q(c | x) by the Gumbel softmax (Jang, Gu & Poole,
ICLR 2017), soft so that it has a gradient, and z depends on it: q(z | x, c). The loss is the negative ELBO:
reconstruction, the KL of q(z | x, c) from N(mu_c, sigma_c^2), and that of q(c | x) from uniform.

From that code: two layers of 512 in each network, 64-d codes, a temperature that falls from 1 as e^-.01386 an epoch of
100, not under .5, Adam .001, batches of 64, one draw. Decided here: the KL of codes in closed form, where the code has
that of its draw; log variances in place of a softplus; Glorot's weights; features are the means of q(z | x, c) at
c = q(c | x), without noise.
"""

from typing import Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from raydc.clustering import Clusters
from raydc.core.schedule import Joint, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import Method, MethodInfo, Parts, StepState, require_probabilities
from raydc.networks.labelled_vae import LabelledNetwork
from raydc.networks.losses.information import entropy, gumbel_softmax, likeliest, probabilities
from raydc.networks.losses.mixture import gaussian_kl, likelihood_error


class GMVAEM2(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Kingma et al. 2014",
        architecture="VAE",
        features="encoder output",
        network_loss="variational bound: reconstruction",
        clustering_loss="mixture-prior KL",
        combination="joint training",
        updates="jointly updated",
    )
    batch_size: ClassVar[int] = 64
    scaling: ClassVar[ScalingKind] = "unit"

    class Config(Method.Config):
        network: LabelledNetwork = LabelledNetwork()
        temperature: float = Field(1.0, gt=0)
        """Of the Gumbel softmax, at the start; over the phase it falls to a quarter, but not under the coolest."""
        coolest: float = Field(0.5, gt=0)
        """Temperature at which it stays."""
        cluster: Joint = Joint(length="100 epochs", optimizer=Optimizer(lr=1e-3), alpha=0.5)

        @model_validator(mode="after")
        def _cools(self) -> Self:
            if self.coolest > self.temperature:
                raise ValueError(f"expected coolest up to temperature, got {self.coolest:g} and {self.temperature:g}")
            return self

    quick: ClassVar[dict[str, Any]] = {
        "network.hidden": (64,),
        "network.latent": 5,
        "cluster.optimizer.lr": 3e-3,
        "cluster.length": "40 epochs",
    }
    config: Config

    def __init__(self, config: Config, shape: tuple[int, ...]) -> None:
        super().__init__(config, shape)
        self.net = config.network.build(shape, config.n_clusters)

    @property
    def bernoulli(self) -> bool:
        return self.config.network.likelihood == "bernoulli"

    def prepare(self, shard: Shard, clusters: Clusters) -> None:
        if self.bernoulli:
            require_probabilities(shard, clusters)

    def loss(self, batch: Batch, state: StepState, player: str) -> Parts:
        x = batch.x.flatten(1)
        logits = self.net.guess(x)
        temperature = max(self.config.coolest, self.config.temperature * 0.25**state.progress)
        c = gumbel_softmax(logits, torch.rand(len(x), self.n_clusters).to(x), temperature)
        mean, log_variance = self.net.encode(x, c)
        z = mean + torch.randn(len(x), mean.shape[1]).to(x) * (0.5 * log_variance).exp()
        rebuilt = likelihood_error(x, self.net.decoder(z), self.bernoulli)
        unlike_uniform = entropy(torch.full_like(c, 1 / self.n_clusters)) - entropy(probabilities(logits))
        return {
            "network": (1 - state.alpha, batch.mean(rebuilt)),
            "code": (state.alpha, batch.mean(gaussian_kl(mean, log_variance, *self.net.prior(c)))),
            "cluster": (state.alpha, batch.mean(unlike_uniform)),
        }

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self.finalize_clusters(shard, clusters)

    def features(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return self.net.encode(x, probabilities(self.net.guess(x)))[0]

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return likeliest(self.net.guess(x.flatten(1)))

    def samples(self, per_cluster: int) -> Tensor:
        like = next(self.parameters())
        c = torch.eye(self.n_clusters).to(like).repeat_interleave(per_cluster, 0)
        mean, log_variance = self.net.prior(c)
        made = self.net.decoder(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())
        return (torch.sigmoid(made) if self.bernoulli else made).reshape(self.n_clusters, per_cluster, *self.shape)
