"""GMVAE. Dilokthanakul, Mediano, Garnelo, Lee, Salimbeni, Arulkumaran & Shanahan 2016, arXiv:1611.02648.

A row x comes from a code z, and z from a cluster c and a style w: w ~ N(0, I), c uniform, z ~ N(mu_c(w),
sigma_c^2(w)), a network with an output for each cluster. (The paper calls rows y and codes x.) q(z | x) and q(w | x)
are Gaussians, and q(c) is p(c | z, w), which is exact. The loss is the negative ELBO: reconstruction, the KL of
q(z | x) from each cluster's Gaussian, weighted by p(c | z, w), the KL of q(w | x), and that of p(c | z, w) from
uniform.

The last one merges all clusters at the beginning, before codes tell them apart. As in the second version of the
authors' code its mean counts no less than `free_bits`: less of it is no gain. Their gradient above that bound has the
sign of the whole KL of q(z | x) turned as well; here it is max(free_bits, KL), the mean over the global batch. From
their code: sizes of the networks, Adam 1e-4, 50 rows a batch, 100 epochs. Decided here: q(z | x) and q(w | x) share
their layers below the last; two dense layers where rows are no images of 14 pixels or more; rows are decided at the
means of q(z | x) and q(w | x). Their figures count each cluster for its most confident row's class. Results vary much
between seeds, and more clusters than classes are steadier.
"""

import math
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from raydc.clustering import Clusters
from raydc.core.schedule import Joint, Optimizer
from raydc.data import Batch, ScalingKind, Shard
from raydc.methods.base import Method, MethodInfo, Parts, StepState, require_probabilities
from raydc.networks.losses.information import entropy, likeliest
from raydc.networks.losses.mixture import gaussian_kl, likelihood_error, log_gaussian
from raydc.networks.mixture_vae import MixtureNetwork


class GMVAE(Method):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="Dilokthanakul et al. 2016",
        architecture="VAE",
        features="encoder output",
        network_loss="variational bound: reconstruction",
        clustering_loss="mixture-prior KL, free bits",
        combination="joint training",
        updates="jointly updated",
    )
    batch_size: ClassVar[int] = 50
    scaling: ClassVar[ScalingKind] = "unit"

    class Config(Method.Config):
        network: MixtureNetwork = MixtureNetwork()
        draws: int = Field(1, ge=1)
        """Codes and styles drawn for each row (10 in the paper's better figures)."""
        free_bits: float = Field(0.5, ge=0)
        """The KL of clusters, in nats, under which it costs nothing more."""
        cluster: Joint = Joint(length="100 epochs", optimizer=Optimizer(lr=1e-4), alpha=0.5)

    quick: ClassVar[dict[str, Any]] = {
        "network.hidden": (64,),
        "network.latent": 5,
        "network.style": 2,
        "network.prior": 16,
        "cluster.optimizer.lr": 2e-3,
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
        code, style = self.net.encode(batch.x)
        z, w = (self.drawn(*distribution) for distribution in (code, style))
        mean, log_variance = self.net.clusters(w)
        p = log_gaussian(z[:, None], mean, log_variance).softmax(1)
        x, center, spread = (part.repeat_interleave(self.config.draws, 0) for part in (batch.x, *code))
        rebuilt = likelihood_error(x, self.net.decoder(z), self.bernoulli)
        apart = (p * gaussian_kl(center[:, None], spread[:, None], mean, log_variance)).sum(1)
        styles = gaussian_kl(*style, w.new_zeros(()), w.new_zeros(()))
        uncertain = batch.global_mean(self.each(math.log(self.n_clusters) - entropy(p)))
        return {
            "network": (1 - state.alpha, batch.mean(self.each(rebuilt))),
            "code": (state.alpha, batch.mean(self.each(apart))),
            "style": (state.alpha, batch.mean(styles)),
            "cluster": (state.alpha, uncertain.clamp_min(self.config.free_bits)),
        }

    def drawn(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """`draws` samples of each of B Gaussians, one after the other: [B * draws, ...]."""
        noise = torch.randn(len(mean), self.config.draws, mean.shape[1]).to(mean)
        return (mean[:, None] + noise * (0.5 * log_variance).exp()[:, None]).flatten(0, 1)

    def each(self, values: Tensor) -> Tensor:
        """The mean over the draws of each row [B], of values [B * draws]."""
        return values.unflatten(0, (-1, self.config.draws)).mean(1)

    def update_clusters(self, shard: Shard, clusters: Clusters, state: StepState) -> Tensor:
        return self.finalize_clusters(shard, clusters)

    def features(self, x: Tensor) -> Tensor:
        return self.net.encode(x)[0][0]

    def decide(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (z, _), (w, _) = self.net.encode(x)
        mean, log_variance = self.net.clusters(w)
        return likeliest(log_gaussian(z[:, None].double(), mean.double(), log_variance.double()))

    def samples(self, per_cluster: int) -> Tensor:
        like = next(self.parameters())
        w = torch.randn(per_cluster, self.config.network.style).to(like)
        mean, log_variance = (part.transpose(0, 1).flatten(0, 1) for part in self.net.clusters(w))
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        made = self.net.decoder(z)
        return (torch.sigmoid(made) if self.bernoulli else made).reshape(self.n_clusters, per_cluster, *self.shape)
