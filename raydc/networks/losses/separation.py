"""How well linear classifiers tell a labelling, as a loss of the labelling (TURTLE: Gadetsky et al., ICML 2024)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from raydc.core.autocast import full_precision

BETAS, EPS = (0.9, 0.999), 1e-8
"""Adam's usual ones."""
Products = Callable[[Tensor, Tensor], Tensor]
"""left^T right [P, Q], the mean over the rows of all workers."""


@torch.no_grad()
@full_precision
def linear_classifiers(z: Tensor, target: Tensor, steps: int, rate: float, products: Products) -> Tensor:
    """S softmax regressions [S, K, D + 1], biases last, of targets [B, S, K] on z [B, D].

    From 0, after so many steps of Adam, at `rate` over D, on the cross-entropy of all rows of the global batch.
    """
    rate, z = rate / z.shape[1], F.pad(z, (0, 1), value=1.0)
    weights = z.new_zeros(*target.shape[1:], z.shape[1])
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    for step in range(1, steps + 1):
        wrong = _logits(z, weights).softmax(2) - target
        gradient = products(wrong.flatten(1), z).view_as(weights)
        first.lerp_(gradient, 1 - BETAS[0])
        second.lerp_(gradient.square(), 1 - BETAS[1])
        size = (second / (1 - BETAS[1] ** step)).sqrt() + EPS
        weights -= rate * first / (1 - BETAS[0] ** step) / size
    return weights


@full_precision
def labelling_error(z: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy [B, S] of the labelling `target` [B, S, K] and what classifiers [S, K, D + 1] say of z [B, D]."""
    return -(target * _logits(F.pad(z, (0, 1), value=1.0), weights).log_softmax(2)).sum(2)


@full_precision
def imbalance(shares: Tensor, exponent: float) -> Tensor:
    """KL(shares || pi) [...] of clusters' shares [..., K], the largest first, with pi_k in proportion to k^-exponent.

    With exponent 0 it is log K - H(shares); a larger one is the prior of PET-TURTLE (2026) for unequal clusters.
    """
    ranked = shares.sort(-1, descending=True).values.clamp_min(torch.finfo(shares.dtype).tiny)
    prior = -exponent * torch.arange(1, shares.shape[-1] + 1, device=shares.device, dtype=shares.dtype).log()
    return (ranked * (ranked.log() - prior.log_softmax(0))).sum(-1)


def _logits(z: Tensor, weights: Tensor) -> Tensor:
    return F.linear(z, weights.flatten(0, 1)).unflatten(1, weights.shape[:2])
