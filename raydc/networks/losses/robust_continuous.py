"""Robust continuous clustering. Shah & Koltun, PNAS 2017; with a network: arXiv:1803.01449."""

import torch
from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def geman_mcclure(difference: Tensor, scale: Tensor) -> Tensor:
    """mu r^2 / (mu + r^2) [B] of differences [B, D] with norms r: quadratic near zero, never above mu = `scale`."""
    squared = difference.square().sum(1)
    return scale * squared / (scale + squared).clamp_min(torch.finfo(squared.dtype).tiny)


@full_precision
def linked_pairs(u: Tensor, ends: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Sum over edges of `weight` [E] times the penalty between their `ends` [E, 2] in u [B, D]; a scalar."""
    return (weight * geman_mcclure(u[ends[:, 0]] - u[ends[:, 1]], scale)).sum()


@full_precision
def annealing_scales(z: Tensor, lengths: Tensor, shortest: float) -> tuple[Tensor, Tensor]:
    """Scales [2, 2], now and at the end, of rows (mu1) and pairs (mu2), and delta, by the authors' constants.

    From codes z [N, D] and the `lengths` [E] of the graph's edges between them; edges shorter than .01 sqrt(D) do not
    count. delta, up to which two linked rows are one cluster, is the mean of the shortest of the others, as many as the
    `shortest` share of all.
    """
    many, lengths = len(lengths), lengths.sort().values
    apart = lengths[lengths >= 0.01 * z.shape[1] ** 0.5]
    lengths = apart if len(apart) else lengths
    spread = (z - z.mean(0)).square().sum(1).mean()
    floors = torch.stack([spread, lengths[: min(max(many // 100, 1), 250)].mean() / 2])
    first = torch.stack([(16 * spread).clamp_min(132 * 16), 3 * lengths[-1] ** 2])
    delta = lengths[: max(int(many * shortest), 1)].mean()
    return torch.stack([torch.maximum(first, floors), floors]), delta
