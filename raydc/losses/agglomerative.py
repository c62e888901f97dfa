"""The agglomerative loss of JULE. Yang, Parikh & Batra, CVPR 2016, arXiv:1604.03628."""

import torch
from torch import Tensor

from raydc.precision import full_precision


@full_precision
def agglomerative_triplets(z: Tensor, groups: Tensor, margin: float, weight: float = 1.0) -> Tensor:
    """Mean over triplets of max(0, margin + weight ||z_i - z_j||^2 - ||z_i - z_k||^2), of unit rows z [B, D]; a scalar.

    `groups` [B, 1 + K_c] are each row's cluster and the clusters nearest to that. j is in the cluster of i, k in one of
    the nearest, or in any other one where some of these are -1. Zero where the batch has no triplet.
    """
    labels, near = groups[:, 0], groups[:, 1:]
    distance = (2 - 2 * z @ z.T).clamp_min(0)
    same = labels[:, None] == labels
    other = (near[:, :, None] == labels).any(1) | ((near < 0).any(1)[:, None] & ~same)
    anchor, positive = (same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)).nonzero().T
    hinge = (margin + weight * distance[anchor, positive][:, None] - distance[anchor]).clamp_min(0)
    triplets = other[anchor]
    return (hinge * triplets).sum() / triplets.sum().clamp_min(1)
