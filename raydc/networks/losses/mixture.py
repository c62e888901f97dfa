"""Gaussian mixtures as priors of codes. Jiang et al., IJCAI 2017, arXiv:1611.05148 (VaDE), eq. 11-16; full ones too."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from raydc.core.autocast import full_precision
from raydc.networks.losses.reconstruction import squared_error


@full_precision
def log_joint(z: Tensor, log_weights: Tensor, means: Tensor, log_variances: Tensor) -> Tensor:
    """log pi_c + log N(z | mu_c, diag sigma_c^2) [B, K] of z [B, D]; log pi [K], mu and log sigma^2 [K, D]."""
    precision = (-log_variances).exp()
    # centred on the mixture, so that the expanded square loses nothing where codes lie far from zero
    centre = means.detach().mean(0)
    z, means = z - centre, means - centre
    squares = z.square() @ precision.T - 2 * z @ (means * precision).T + (means.square() * precision).sum(1)
    constant = means.shape[1] * math.log(2 * math.pi)
    return log_weights - 0.5 * (squares + log_variances.sum(1) + constant)


@full_precision
def log_joint_full(z: Tensor, log_weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """log pi_c + log N(z | mu_c, Sigma_c) [B, K] of z [B, D]; log pi [K], mu [K, D] and Sigma [K, D, D]."""
    factors = torch.linalg.cholesky(covariances)
    apart = (z - means[:, None]).transpose(1, 2)  # [K, D, B]
    squares = torch.linalg.solve_triangular(factors, apart, upper=False).square().sum(1).T
    widths = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
    return log_weights - 0.5 * (squares + widths + means.shape[1] * math.log(2 * math.pi))


@full_precision
def mixture_kl(
    mean: Tensor, log_variance: Tensor, gamma: Tensor, log_weights: Tensor, means: Tensor, log_variances: Tensor
) -> Tensor:
    """KL(q(z, c | x) || p(z, c)) of each row [B]: q(z) = N(mean, diag e^log_variance) [B, D], q(c) = gamma [B, K].

    The sum over c of gamma_c (E_q[log gamma_c - log pi_c - log N(z | mu_c, sigma_c^2)]) less the entropy of q(z); at
    least 0.
    """
    precision = (-log_variances).exp()
    centre = means.detach().mean(0)
    mean, means = mean - centre, means - centre
    second = mean.square() + log_variance.exp()
    squares = second @ precision.T - 2 * mean @ (means * precision).T + (means.square() * precision).sum(1)
    gaussian = 0.5 * (squares + log_variances.sum(1)) - 0.5 * (1 + log_variance).sum(1, keepdim=True)
    # xlogy has no gradient where a posterior underflows to 0
    log_gamma = gamma.clamp_min(torch.finfo(gamma.dtype).tiny).log()
    return (gamma * (log_gamma + gaussian - log_weights)).sum(1)


@full_precision
def log_gaussian(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log N(z | mean, diag e^log_variance) over the last dimension, of tensors that broadcast."""
    squares = (z - mean).square() * (-log_variance).exp()
    return -0.5 * (squares + log_variance + math.log(2 * math.pi)).sum(-1)


@full_precision
def gaussian_kl(mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor) -> Tensor:
    """KL(N(mean, diag e^log_variance) || N(prior_mean, diag e^prior_log_variance)) over the last dimension.

    Tensors broadcast: one distribution against a prior for each cluster.
    """
    apart = (mean - prior_mean).square() + log_variance.exp()
    return 0.5 * (prior_log_variance - log_variance - 1 + apart * (-prior_log_variance).exp()).sum(-1)


@full_precision
def bernoulli_error(x: Tensor, logits: Tensor) -> Tensor:
    """-log p(x) of each row [B], x in [0, 1] with the probabilities of these logits, summed over features."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def likelihood_error(x: Tensor, logits: Tensor, bernoulli: bool) -> Tensor:
    """-log p(x) of each row [B], but for constants: Bernoulli of these logits, or Gaussian of variance 1 about them."""
    return bernoulli_error(x.flatten(1), logits) if bernoulli else squared_error(x.flatten(1), logits) / 2
