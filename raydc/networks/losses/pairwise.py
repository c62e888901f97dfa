"""Pairwise binary clustering of DAC. Chang, Wang, Meng, Xiang & Pan, ICCV 2017."""

import torch
import torch.nn.functional as F
from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def label_features(logits: Tensor) -> Tensor:
    """l [B, K] of logits [B, K]: softmax, scaled to length one; the cosine of two rows lies in [0, 1]."""
    return F.normalize(logits.softmax(1), dim=1)


@full_precision
def cosines(features: Tensor, others: Tensor) -> Tensor:
    """[B, C] of features [B, K] and `others` [C, K] of length one."""
    return features @ others.T


def falling_thresholds(upper: float, lower: float, progress: float) -> tuple[float, float]:
    """(u, l) when this share of a training is over: from `upper` and `lower` they meet at its end, u ten times as fast.

    u = upper - lambda and l = lower + lambda / 10, whose lambda grows evenly.
    """
    grown = progress * (upper - lower) / 1.1
    return upper - grown, lower + 0.1 * grown


@full_precision
def confident_pairs(cosine: Tensor, upper: float, lower: float) -> tuple[Tensor, Tensor]:
    """(alike, apart), both bool [B, B]: pairs of two rows with a cosine above `upper`, or not above `lower`."""
    other = ~torch.eye(len(cosine), dtype=torch.bool, device=cosine.device)
    return (cosine > upper) & other, (cosine <= lower) & other


@full_precision
def pairwise_squares(cosine: Tensor, alike: Tensor) -> Tensor:
    """Mean over all pairs [B, B] of the square of 1 - g where they are `alike`, of g elsewhere, g the cosine."""
    return (cosine - alike.to(cosine)).square().mean()


@full_precision
def pairwise_cross_entropy(cosine: Tensor, alike: Tensor, apart: Tensor) -> Tensor:
    """Mean of -log g over pairs `alike` and -log(1 - g) over those `apart`, g the cosine [B, B]; a scalar.

    Zero where no pair is chosen.
    """
    g = cosine.clamp(1e-6, 1 - 1e-6)
    loss = torch.where(alike, -g.log(), torch.where(apart, -(1 - g).log(), 0.0))
    return loss.sum() / (alike | apart).sum().clamp_min(1)
