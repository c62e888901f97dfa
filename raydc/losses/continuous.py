"""Robust continuous clustering. Shah & Koltun, PNAS 2017; with a network: arXiv:1803.01449."""

from torch import Tensor

from raydc.precision import full_precision


@full_precision
def geman_mcclure(difference: Tensor, scale: Tensor) -> Tensor:
    """mu r^2 / (mu + r^2) [B] of differences [B, D] with norms r: quadratic near zero, never above mu = `scale`."""
    squared = difference.square().sum(1)
    return scale * squared / (scale + squared)
