"""An embedding that keeps which rows are near: parametric t-SNE (van der Maaten, AISTATS 2009)."""

import torch
from torch import Tensor

from raydc.core.autocast import full_precision
from raydc.networks.losses.hardening import squared_distances


@full_precision
def log_neighbour_probabilities(z: Tensor, nu: float) -> Tensor:
    """log p [B, B] that row i, of z [B, D], takes row j for its neighbour: Student's t with `nu` degrees of freedom.

    Each row's probabilities of the others add up to 1; its own is 0, and that of any is at least 1e-10.
    """
    log_kernel = -(nu + 1) / 2 * torch.log1p(squared_distances(z, z) / nu)
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    return log_kernel.masked_fill(own, torch.finfo(z.dtype).min).log_softmax(1).clamp_min(-23.0)


@full_precision
def neighbour_cross_entropy(z: Tensor, e: Tensor, nu: float) -> Tensor:
    """-sum_j p_ij log q_ij of each row [B]: p of z [B, D] with `nu` degrees of freedom, q of e [B, E] with 1.

    Gradients reach both: what z is nearest to becomes fewer rows, as the entropy of p is part of it.
    """
    others = 1 - torch.eye(len(z), dtype=z.dtype, device=z.device)
    p = log_neighbour_probabilities(z, nu).exp() * others
    return -(p * log_neighbour_probabilities(e, 1.0)).sum(1)
