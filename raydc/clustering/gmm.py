"""Gaussian mixtures over all shards."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raydc.clustering import Clusters
from raydc.clustering.products import product
from raydc.losses.mixture import log_joint


@dataclass(frozen=True)
class Mixture:
    """A diagonal Gaussian mixture, the same on every worker but for `labels`; float64."""

    weights: Tensor
    """[K], adding up to 1."""
    means: Tensor
    """[K, D]."""
    variances: Tensor
    """[K, D]."""
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
    iterations: int = 100,
    tolerance: float = 1e-3,
    ridge: float = 1e-6,
) -> Mixture:
    """EM (Dempster et al. 1977) of a diagonal Gaussian mixture of all workers' z [N, D], `total` rows in all.

    Starts from k-means, which starts from `means` [K, D] where they are given, and keeps their order. `ridge` is added
    to variances; stops when the mean log density rises by less than `tolerance` (both as scikit-learn). Statistics are
    added by `clusters.sum`, so the number of workers changes no bit of them.
    """
    centre = clusters.sum(z) / total  # E[z^2] - E[z]^2 cancels far from zero
    z = z.double() - centre
    start = None if means is None else (means.double() - centre).float()
    labels = clusters.kmeans(z.float(), n_clusters, centroids=start).labels
    gamma = torch.nn.functional.one_hot(labels, n_clusters).double()
    done, likelihood = 0, -math.inf
    while True:
        weights, means, variances = _maximise(z, gamma, clusters, ridge)
        joint = log_joint(z, weights.log(), means, variances.log())
        before, likelihood = likelihood, float(clusters.sum(joint.logsumexp(1))) / total
        gamma, done = joint.softmax(1), done + 1
        if done == iterations or likelihood - before < tolerance:
            return Mixture(weights, means + centre, variances, joint.argmax(1), done, likelihood)


def _maximise(z: Tensor, gamma: Tensor, clusters: Clusters, ridge: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [K], means and variances [K, D] of rows that belong to clusters by gamma [N, K]."""
    moments = torch.cat([torch.ones_like(z[:, :1]), z, z.square()], 1)
    sums = product(gamma, moments, clusters)
    counts = sums[:, 0].clamp_min(1e-9)
    means, squares = (sums[:, 1:] / counts[:, None]).chunk(2, 1)
    return counts / counts.sum(), means, (squares - means.square()).clamp_min(0) + ridge
