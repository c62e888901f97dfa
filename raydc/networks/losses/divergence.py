"""Restricted Boltzmann machines with binary hidden units. Hinton, Neural Computation 2002 (contrastive divergence)."""

import torch.nn.functional as F
from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def free_energy(visible: Tensor, bias: Tensor, hidden: Tensor, gaussian: bool) -> Tensor:
    """F(v) of each row [B], -log p(v) up to a constant, of visible units v [B, D].

    `hidden` [B, H] are the inputs of the hidden units, W v + c. Visible units are binary, or Gaussian of unit variance.
    """
    own = (visible - bias).square() / 2 if gaussian else -visible * bias
    return own.sum(1) - F.softplus(hidden).sum(1)


def contrastive_divergence(data: Tensor, again: Tensor) -> Tensor:
    """Free energies [B] of rows less those of what one step of Gibbs sampling made of them, a constant: CD-1.

    Its gradient is the difference of the two correlations of visible and hidden units, by which the machine learns.
    """
    return data - again
