"""The agglomerative loss of JULE. Yang, Parikh & Batra, CVPR 2016, arXiv:1604.03628."""

import torch
from torch import Tensor

from raydc.core.autocast import full_precision


@full_precision
def agglomerative_triplets(z: Tensor, labels: Tensor, margin: float, weight: float = 1.0) -> Tensor:
    """Mean over triplets of max(0, margin + weight ||z_i - z_j||^2 - ||z_i - z_k||^2), of unit rows z [B, D]; a scalar.

    j is in the cluster of i by `labels` [B], k in any other one. Zero where the batch has no triplet.
    """
    distance = (2 - 2 * z @ z.T).clamp_min(0)
    same = labels[:, None] == labels
    anchor, positive = (same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)).nonzero().T
    hinge = (margin + weight * distance[anchor, positive][:, None] - distance[anchor]).clamp_min(0)
    triplets = ~same[anchor]
    return (hinge * triplets).sum() / triplets.sum().clamp_min(1)
