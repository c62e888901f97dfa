"""The two sides of a generative adversarial network. Goodfellow et al., NeurIPS 2014, arXiv:1406.2661."""

import torch.nn.functional as F
from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def taken_for_real(score: Tensor) -> Tensor:
    """-log D of each row [B], D = sigmoid(score): the critic's loss of real rows, the generator's of its own.

    For the generator it is the non-saturating form.
    """
    return F.softplus(-score)


@full_precision
def taken_for_fake(score: Tensor) -> Tensor:
    """-log(1 - D) of each row [B]: the critic's loss of generated rows."""
    return F.softplus(score)


@full_precision
def code_error(code: Tensor, predicted: Tensor) -> Tensor:
    """-log N(code | predicted, 1) of each row [B], but for a constant: continuous codes [B, C] of InfoGAN."""
    return 0.5 * (code - predicted).square().sum(1)
