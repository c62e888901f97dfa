"""Entropies of predicted clusters: what mutual information and self-augmentation are made of."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def probabilities(logits: Tensor) -> Tensor:
    """p [..., K] of logits [..., K]."""
    return logits.softmax(-1)


@full_precision
def likeliest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The cluster of the largest logit, int64 [B], and probabilities float32 [B, K], of logits [B, K].

    Where probabilities are so near to one and zero that float32 holds equal ones, logits still tell clusters apart.
    """
    return logits.argmax(1), logits.softmax(1).float()


@full_precision
def entropy(p: Tensor) -> Tensor:
    """-sum p log p over the last dimension: H(Y|x) of each row [B] for p [B, K], H(Y) for a marginal [K]."""
    return -(p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(-1)  # xlogy has no gradient at p = 0


@full_precision
def cross_entropy(p: Tensor, logits: Tensor) -> Tensor:
    """-sum p log softmax(logits) of each row [B]; p [B, K] is a constant.

    As a function of the logits it is KL(p || softmax(logits)), but for a constant.
    """
    return -(p * logits.log_softmax(1)).sum(1)


@full_precision
def gumbel_softmax(logits: Tensor, uniform: Tensor, temperature: float) -> Tensor:
    """A soft draw [B, K] from softmax(logits) [B, K], near one-hot where the temperature is low.

    Jang, Gu & Poole, ICLR 2017, arXiv:1611.01144; `uniform` [B, K] are numbers drawn from [0, 1).
    """
    tiny = torch.finfo(uniform.dtype).tiny
    gumbel = -(-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
    return ((logits + gumbel) / temperature).softmax(1)


def adversarial_direction(predict: Callable[[Tensor], Tensor], x: Tensor, p: Tensor, step: float) -> Tensor:
    """Unit vectors [B, D] along which the prediction p [B, K] at x [B, D] changes fastest.

    One power iteration (Miyato et al., ICLR 2016, arXiv:1507.00677): the gradient of KL(p || predict(x + r)) at
    r = step * d, d a random unit vector. `predict` gives logits; no parameter gets a gradient.
    """
    probe = (step * F.normalize(torch.randn_like(x), dim=1)).requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(p, predict(x + probe)).sum(), probe)
    largest = gradient.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return F.normalize(gradient / largest, dim=1)
