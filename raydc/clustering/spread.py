"""How widely the rows of a clustering lie around their centroids: what makes memberships free of units.

Of rows that lie around their centroids as a Gaussian of covariance S does, the squared distances are like sigma^2 times
a chi-square with n degrees of freedom, n = tr(S)^2 / tr(S^2): one for each feature where all spread alike, and fewer
where few of them carry most (Box, Annals of Mathematical Statistics 1954). A mixture that takes all D features to
spread alike is sure of every row as soon as D is large: of 2,000 texts in 20 clusters the mean of the largest
membership is .998, and .44 with the 56 degrees of freedom that there are; .35 of them are with their own kind.

sigma^2 and n come from the mean and the variance of the logarithms, log 2 sigma^2 + digamma(n / 2) and trigamma(n / 2)
(Bartlett and Kendall, Journal of the Royal Statistical Society 1946), of all rows but the farthest hundredth: a few
rows far away, which would make any mean of squares their own, change nothing.
"""

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import digamma, polygamma
from torch import Tensor

from raydc.clustering import Clusters
from raydc.networks.losses.hardening import exact_squared_distances

NEAR = 0.99
"""Share of the rows, the nearest ones, that tell how wide clusters are."""
SHARPEST = 1e300
"""Where every row is its own centroid."""


def sharpness(squared: np.ndarray, weights: np.ndarray | None, dim: int, floor: float) -> float:
    """1 / (2 sigma^2) of rows [N] of D = `dim` features, from their squared distances to their own centroids.

    Rows count by their weights [N], and not at all where the distance is `floor` or less, which is rounding. Distances
    count in 24 bits, for devices sum float64 in orders of their own.
    """
    heavy = np.ones(len(squared)) if weights is None else weights
    apart = (squared > floor) & (heavy > 0)
    if not apart.any():
        return SHARPEST
    mantissa, exponent = np.frexp(squared[apart])
    rounded = np.ldexp(np.round(np.ldexp(mantissa, 24)), exponent - 24)
    order = np.argsort(rounded, kind="stable")
    logs, heavy = np.log(rounded[order]), heavy[apart][order]
    near = heavy.cumsum() - heavy < NEAR * heavy.sum()
    logs, heavy = logs[near], heavy[near]
    mean = np.average(logs, weights=heavy)
    half = _half_degrees(float(np.average((logs - mean) ** 2, weights=heavy)), dim)
    return float(min(np.exp(digamma(half) - mean), SHARPEST))


def _half_degrees(variance: float, dim: int) -> float:
    """n / 2 whose trigamma is this variance, for n of 1 to `dim` degrees of freedom."""
    least, most = 0.5, max(dim / 2, 0.5)
    if variance >= polygamma(1, least):
        return least
    if variance <= polygamma(1, most):
        return most
    return float(brentq(lambda half: polygamma(1, half) - variance, least, most))


@torch.no_grad()
def of_rows(z: Tensor, centroids: Tensor, clusters: Clusters) -> float:
    """`sharpness` of all workers' rows, of which these are z [N, D], around the nearest of centroids [K, D]."""
    squared = exact_squared_distances(z, centroids).amin(1)
    rounding = 2.0**-48 * z.double().square().sum(1)
    apart = clusters.gather(torch.where(squared > rounding, squared, 0))
    return sharpness(apart.cpu().numpy(), None, z.shape[1], 0.0)
