"""Pointwise mutual information of the clusters of two rows, from two networks (TEMI: Adaloglou et al., BMVC 2023)."""

import torch
from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def pointwise_information(p: Tensor, q: Tensor, marginal: Tensor, power: float) -> Tensor:
    """log sum_k (p_k q_k)^power / marginal_k of each pair and head [B, H], for p and q [B, H, K], marginal [H, K]."""
    tiny = torch.finfo(p.dtype).tiny  # the power has no gradient at 0
    return ((p * q).clamp_min(tiny).pow(power) / marginal.clamp_min(tiny)).sum(-1).log()


@full_precision
def neighbour_losses(student: Tensor, teacher: Tensor, ends: Tensor, marginal: Tensor, power: float) -> Tensor:
    """TEMI's loss of each head [H], the mean over pairs both ways round, of predictions [B, H, K] of a batch's rows.

    `ends` [P, 2] are the pairs, and `marginal` [H, K] is the teachers'. A pair weighs as much as teachers, in the mean
    over heads, take its rows for one cluster.
    """
    left, right = ends.T
    weight = (teacher[left] * teacher[right]).sum(-1).mean(-1, keepdim=True).detach()
    both = [pointwise_information(student[a], teacher[b], marginal, power) for a, b in ((left, right), (right, left))]
    return -(weight * torch.stack(both)).mean((0, 1))
