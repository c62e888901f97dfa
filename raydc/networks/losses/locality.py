"""Locality preserving and group sparsity: the losses of DEN (eq. 8 to 10 of the taxonomy)."""

import torch
from torch import Tensor

from raydc.core.autocast import full_precision

SMALLEST = 1e-10
"""Added under a root, which has no gradient at 0."""


@full_precision
def heat_kernel(squared: Tensor, width: float) -> Tensor:
    """exp(-squared / t) of squared distances; t is `width` times their mean, so that their unit does not matter."""
    mean = squared.mean().clamp_min(torch.finfo(squared.dtype).tiny)  # equal rows all have distance 0 and weight 1
    return torch.exp(-squared / (width * mean))


@full_precision
def locality(u: Tensor, partners: Tensor, weight: Tensor) -> Tensor:
    """sum_j weight_j ||u - partner_j||^2 of each row [B] (eq. 8): of u [B, D] to partners [B, k, D], weight [B, k]."""
    return (weight * (u[:, None] - partners).square().sum(2)).sum(1)


@full_precision
def group_sparsity(z: Tensor, groups: int) -> Tensor:
    """sum_g sqrt(D / G) ||z_g||_2 of each row [B] (eq. 9 and 10), z [B, D] cut into G groups of equal size."""
    parts = z.unflatten(1, (groups, -1))
    return parts.shape[2] ** 0.5 * (parts.square().sum(2) + SMALLEST).sqrt().sum(1)
