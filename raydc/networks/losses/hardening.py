"""Cluster assignment hardening. Xie, Girshick & Farhadi, ICML 2016, arXiv:1511.06335; eq. 3-5 of the taxonomy."""

import torch
from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def student_t(z: Tensor, centroids: Tensor, nu: float = 1.0) -> Tensor:
    """q [B, K] of z [B, D] (eq. 3): Student's t with `nu` degrees of freedom around each centroid [K, D]."""
    return student_memberships(squared_distances(z, centroids), nu)


def student_memberships(squared: Tensor, nu: float = 1.0) -> Tensor:
    """q [B, K] (eq. 3) from squared distances [B, K]."""
    log_kernel = -(nu + 1) / 2 * torch.log1p(squared / nu)
    return log_kernel.softmax(1)


@full_precision
def squared_distances(z: Tensor, centroids: Tensor) -> Tensor:
    """||z - mu||^2 [B, K] of z's type, for losses.

    The square is expanded, which a matrix product makes fast, but in float64 and around the centroids' mean: in float32
    nothing would be left of it where rows lie some thousand spreads from 0, or one centroid so far from the others.
    """
    origin = centroids.detach().double().mean(0)
    x, mu = z.double() - origin, centroids.double() - origin
    squared = x.square().sum(1, keepdim=True) - 2 * x @ mu.T + mu.square().sum(1)
    return squared.clamp_min(0).to(z.dtype)


@torch.no_grad()
def exact_squared_distances(z: Tensor, centroids: Tensor) -> Tensor:
    """||z - mu||^2 [B, K] float64, for labels: by differences, each by itself, whatever rows stand beside it."""
    apart = torch.cdist(z.double(), centroids.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return apart.square()


@full_precision
def sharpen(q: Tensor, frequency: Tensor, power: float = 2.0) -> Tensor:
    """Target p [B, K] (eq. 4): q^power / f, normalised; `frequency` f [K] sums over all rows of the data set."""
    weight = q.pow(power) / frequency.to(q.dtype).clamp_min(torch.finfo(q.dtype).tiny)
    return weight / weight.sum(1, keepdim=True)


@full_precision
def hardening(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of each row [B] (eq. 5); p is a constant."""
    return (p * (p.clamp_min(torch.finfo(p.dtype).tiny).log() - q.clamp_min(1e-12).log())).sum(1)
