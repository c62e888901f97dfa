"""Mixture densities and the KL of VaDE against torch.distributions and Monte Carlo; EM against scikit-learn."""

import math

import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    kl_divergence,
)

from raydc.clustering.collective import CollectiveClusters
from raydc.clustering.gmm import fit_mixture
from raydc.core.settings import build
from raydc.data import Shard
from raydc.methods.base import StepState
from raydc.methods.gmvae import GMVAE
from raydc.methods.gmvae_m2 import GMVAEM2
from raydc.methods.vade import VaDE
from raydc.networks.losses.information import gumbel_softmax
from raydc.networks.losses.mixture import (
    bernoulli_error,
    gaussian_kl,
    log_gaussian,
    log_joint,
    log_joint_full,
    mixture_kl,
)


@pytest.fixture
def prior() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
    return weights, 2 * torch.randn(3, 4, generator=draw).double(), torch.randn(3, 4, generator=draw).double()


def test_log_joint_is_a_mixture_density(prior: tuple[torch.Tensor, ...]) -> None:
    weights, means, log_variances = prior
    z = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    components = Independent(Normal(means, (0.5 * log_variances).exp()), 1)
    expected = MixtureSameFamily(Categorical(logits=weights), components).log_prob(z)
    torch.testing.assert_close(log_joint(z, *prior).logsumexp(1), expected)


def test_a_full_mixture_has_the_density_of_its_components(prior: tuple[torch.Tensor, ...]) -> None:
    weights, means, _ = prior
    draw = torch.Generator().manual_seed(1)
    z, roots = torch.randn(7, 4, generator=draw).double(), torch.randn(3, 4, 4, generator=draw).double()
    covariances = roots @ roots.mT + torch.eye(4)
    components = MultivariateNormal(means, covariances)
    expected = weights + components.log_prob(z[:, None])
    torch.testing.assert_close(log_joint_full(z, weights, means, covariances), expected)


def test_log_joint_far_from_zero_in_single_precision(prior: tuple[torch.Tensor, ...]) -> None:
    weights, means, log_variances = (value.float() for value in prior)
    z = torch.randn(7, 4, generator=torch.Generator().manual_seed(1))
    near, far = log_joint(z, weights, means, log_variances), log_joint(z + 1e3, weights, means + 1e3, log_variances)
    torch.testing.assert_close(near, far, atol=0.01, rtol=1e-3)


def test_kl_by_monte_carlo(prior: tuple[torch.Tensor, ...]) -> None:
    torch.manual_seed(2)
    mean, log_variance = torch.randn(1, 4, dtype=torch.float64), torch.randn(1, 4, dtype=torch.float64) - 1
    gamma = torch.tensor([[0.1, 0.2, 0.7]], dtype=torch.float64)
    z = mean + torch.randn(200_000, 4, dtype=torch.float64) * (0.5 * log_variance).exp()
    log_q = Independent(Normal(mean[0], (0.5 * log_variance[0]).exp()), 1).log_prob(z)
    joint = log_joint(z, *prior)
    sampled = log_q.mean() + (gamma * (gamma.log() - joint.mean(0))).sum()
    torch.testing.assert_close(mixture_kl(mean, log_variance, gamma, *prior)[0], sampled, rtol=5e-3, atol=0)


def test_kl_is_zero_for_the_prior_itself() -> None:
    """One cluster, q(z | x) = p(z)."""
    means, log_variances = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, -0.5]])
    kl = mixture_kl(means, log_variances, torch.ones(1, 1), torch.zeros(1), means, log_variances)
    torch.testing.assert_close(kl, torch.zeros(1))


def test_kl_has_a_gradient_where_a_posterior_underflows(prior: tuple[torch.Tensor, ...]) -> None:
    weights, means, log_variances = (value.float() for value in prior)
    mean = (100 * torch.ones(1, 4)).requires_grad_()
    gamma = log_joint(mean, weights, means, log_variances).softmax(1)
    assert (gamma == 0).any()
    mixture_kl(mean, torch.zeros(1, 4), gamma, weights, means, log_variances).sum().backward()
    assert mean.grad is not None and mean.grad.isfinite().all()


def test_gaussians_of_each_cluster_by_hand_and_by_torch() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    torch.testing.assert_close(gaussian_kl(one, zero, zero, zero), torch.tensor(0.5))
    four = torch.full((1,), math.log(4))  # KL(N(0, 4) || N(0, 1)) = (4 - 1 - log 4) / 2
    torch.testing.assert_close(gaussian_kl(zero, four, zero, zero), torch.tensor((3 - math.log(4)) / 2))
    draw = torch.Generator().manual_seed(4)
    mean, log_variance = torch.randn(2, 5, 1, 3, generator=draw)
    prior, prior_log_variance = torch.randn(2, 5, 4, 3, generator=draw)
    q, p = (Independent(Normal(m, (0.5 * v).exp()), 1) for m, v in ((mean, log_variance), (prior, prior_log_variance)))
    torch.testing.assert_close(
        gaussian_kl(mean, log_variance, prior, prior_log_variance), kl_divergence(q.expand([5, 4]), p)
    )
    torch.testing.assert_close(log_gaussian(mean, prior, prior_log_variance), p.log_prob(mean))


def gmvae_parts(free_bits: float, draws: int = 1) -> tuple[GMVAE, dict[str, torch.Tensor]]:
    """The parts of GMVAE's loss of five rows."""
    sizes = {"hidden": (8,), "latent": 3, "style": 2, "prior": 4}
    config = build(GMVAE.Config, {"n_clusters": 3, "network": sizes, "free_bits": free_bits, "draws": draws})
    torch.manual_seed(0)
    method = GMVAE(config, (1, 4, 4))
    shard = Shard.of(torch.rand(5, 1, 4, 4))
    parts = method.loss(shard.batch(torch.arange(5)), StepState("cluster", 0.5, 0.0, 0, 0), "all")
    return method, {name: value for name, (_, value) in parts.items()}


def test_gmvae_pays_for_clusters_above_the_free_bits_alone() -> None:
    (_, paid), (held, free) = gmvae_parts(0.0), gmvae_parts(1.0)
    assert 0 < paid["cluster"] < 1 and free["cluster"] == 1
    assert {**paid, "cluster": 0} == {**free, "cluster": 0}
    free["cluster"].backward()
    assert not any(p.grad.any() for p in held.parameters() if p.grad is not None)


def test_gmvae_takes_the_mean_over_a_rows_draws() -> None:
    method, _ = gmvae_parts(0.0, draws=2)
    assert method.each(torch.tensor([1.0, 3.0, 5.0, 9.0])).tolist() == [2.0, 7.0]
    mean = torch.tensor([[1.0], [2.0]])
    torch.testing.assert_close(method.drawn(mean, torch.full((2, 1), -100.0))[:, 0], torch.tensor([1.0, 1.0, 2.0, 2.0]))


def test_gmvae_m2_cools_to_a_quarter_but_not_under_the_coolest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noted(logits: torch.Tensor, uniform: torch.Tensor, temperature: float) -> torch.Tensor:
        seen.append(temperature)
        return gumbel_softmax(logits, uniform, temperature)

    monkeypatch.setattr("raydc.methods.gmvae_m2.gumbel_softmax", noted)
    config = build(GMVAEM2.Config, {"n_clusters": 3, "network": {"hidden": (8,), "latent": 3}})
    method, shard = GMVAEM2(config, (1, 4, 4)), Shard.of(torch.rand(5, 1, 4, 4))
    for progress in (0.0, 0.25, 0.75):
        parts = method.loss(shard.batch(torch.arange(5)), StepState("cluster", 0.5, progress, 0, 0), "all")
    assert seen == pytest.approx([1.0, 0.25**0.25, 0.5])
    assert 0 <= parts["cluster"][1] < math.log(3) and parts["code"][1] > 0


def test_bernoulli_error_by_hand() -> None:
    x, logits = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.zeros(2, 2)
    torch.testing.assert_close(bernoulli_error(x, logits), torch.full((2,), 2 * 0.6931472))


@pytest.mark.parametrize("kind", ["diag", "full"])
def test_mixture_is_scikit_learns(kind: str) -> None:
    draw = torch.Generator().manual_seed(3)
    centres = torch.tensor([[100.0, 0.0], [104.0, 1.0], [100.0, 6.0]])  # far from zero: E[z^2] - E[z]^2 would cancel
    z = centres[torch.randint(3, (300,), generator=draw)] + torch.randn(300, 2, generator=draw) * torch.tensor([0.5, 1])
    if kind == "full":
        z[:, 1] += 3 * (z[:, 0] - 100)  # no diagonal mixture tells these clusters' shape
    found = fit_mixture(z, 300, CollectiveClusters(Shard.of(z)), 3, full=kind == "full")
    reference = GaussianMixture(3, covariance_type=kind, means_init=found.means.numpy(), random_state=0)
    reference.fit(z.double().numpy())
    assert found.likelihood == pytest.approx(reference.score(z.double().numpy()), abs=2e-3)
    torch.testing.assert_close(found.means, torch.from_numpy(reference.means_), atol=0.05, rtol=0)
    torch.testing.assert_close(found.covariances, torch.from_numpy(reference.covariances_), atol=0.05, rtol=0.05)
    torch.testing.assert_close(found.weights.sum(), torch.tensor(1.0, dtype=torch.float64))
    assert found.labels.dtype == torch.int64 and len(found.labels.unique()) == 3


def test_a_step_of_em_starts_from_the_memberships_that_are_given() -> None:
    z, memberships = torch.tensor([[0.0], [2.0], [10.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    clusters = CollectiveClusters(Shard.of(z))
    found = fit_mixture(z, 3, clusters, 2, memberships=memberships, full=True, iterations=1, ridge=0.5)
    torch.testing.assert_close(found.means, torch.tensor([[1.0], [10.0]], dtype=torch.float64))
    torch.testing.assert_close(found.covariances.flatten(), torch.tensor([1.5, 0.5], dtype=torch.float64))


def test_mixture_of_more_clusters_than_distinct_rows_stays_finite() -> None:
    z = torch.tensor([[0.0], [1.0]]).repeat(10, 1)
    found = fit_mixture(z, 20, CollectiveClusters(Shard.of(z)), 4)
    assert found.means.isfinite().all() and (found.covariances > 0).all() and found.covariances.isfinite().all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_vade_is_pretrained_on_the_likelihood_of_its_bound(likelihood: str) -> None:
    settings = {"network": {"hidden": (7,), "latent": 3, "likelihood": likelihood}}
    method = VaDE(build(VaDE.Config, settings, at="method"), (2, 3))
    x = torch.randint(2, (5, 2, 3), generator=torch.Generator().manual_seed(0)).float()
    logits = method.net.logits(method.net.encode(x))
    p = Bernoulli(logits=logits) if likelihood == "bernoulli" else Normal(logits, 1)
    constant = 0 if likelihood == "bernoulli" else math.log(2 * math.pi) / 2
    expected = -p.log_prob(x.flatten(1)).mean(1) - constant
    torch.testing.assert_close(method.reconstruction_error(x, x), expected)
