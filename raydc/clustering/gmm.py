"""Gaussian mixtures over all shards."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raydc.clustering import Clusters
from raydc.networks.losses.mixture import log_joint, log_joint_full


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture, the same on every worker but for `labels`; float64."""

    weights: Tensor
    """[K], adding up to 1."""
    means: Tensor
    """[K, D]."""
    covariances: Tensor
    """[K, D], the diagonals, or [K, D, D] where they are full."""
    labels: Tensor
    """int64 [N], this worker's rows."""
    iterations: int
    likelihood: float
    """Mean log density of a row."""


@torch.no_grad()
def fit_mixture(
    z: Tensor,
    total: int,
    clusters: Clusters,
    n_clusters: int,
    *,
    means: Tensor | None = None,
    memberships: Tensor | None = None,
    full: bool = False,
    iterations: int = 100,
    tolerance: float = 1e-3,
    ridge: float = 1e-6,
) -> Mixture:
    """EM (Dempster et al. 1977) of a mixture of all workers' z [N, D], `total` rows in all, diagonal unless `full`.

    Starts from `memberships` [N, K], else from k-means, which starts from `means` [K, D] where they are given, and
    keeps their order. `ridge` is added to variances; stops when the mean log density rises by less than `tolerance`
    (both as scikit-learn). Statistics are added by `clusters.products`, so the number of workers changes no bit of
    them.
    """
    centre = clusters.sum(z) / total  # E[z^2] - E[z]^2 cancels far from zero
    z = z.double() - centre
    if memberships is None:
        start = None if means is None else (means.double() - centre).float()
        labels = clusters.kmeans(z.float(), n_clusters, centroids=start).labels
        memberships = torch.nn.functional.one_hot(labels, n_clusters)
    gamma = memberships.double()
    density = log_joint_full if full else _log_joint
    done, likelihood = 0, -math.inf
    while True:
        weights, means, covariances = _maximise(z, gamma, clusters, ridge, full)
        joint = density(z, weights.log(), means, covariances)
        before, likelihood = likelihood, float(clusters.sum(joint.logsumexp(1))) / total
        gamma, done = joint.softmax(1), done + 1
        if done == iterations or likelihood - before < tolerance:
            return Mixture(weights, means + centre, covariances, joint.argmax(1), done, likelihood)


def _log_joint(z: Tensor, log_weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    return log_joint(z, log_weights, means, variances.log())


def _maximise(z: Tensor, gamma: Tensor, clusters: Clusters, ridge: float, full: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [K], means [K, D] and covariances, [K, D] or [K, D, D], of rows in clusters by gamma [N, K]."""
    dim = z.shape[1]
    squares = (z[:, :, None] * z[:, None]).flatten(1) if full else z.square()
    sums = clusters.products(gamma, torch.cat([torch.ones_like(z[:, :1]), z, squares], 1))
    counts = sums[:, 0].clamp_min(1e-9)
    means, second = (sums[:, 1:] / counts[:, None]).split([dim, squares.shape[1]], 1)
    if not full:
        return counts / counts.sum(), means, (second - means.square()).clamp_min(0) + ridge
    covariances = second.unflatten(1, (dim, dim)) - means[:, :, None] * means[:, None]
    return counts / counts.sum(), means, covariances + ridge * torch.eye(dim).to(z)
