"""Eigenvectors of products whose rows are those of all workers."""

import torch
from torch import Tensor

from raydc.clustering import Clusters
from raydc.distributed import collectives


def principal_axes(x: Tensor, clusters: Clusters) -> Tensor:
    """Eigenvectors of x^T x of all workers' rows x [N, D], float64 [D, D]: columns, by ascending eigenvalue."""
    axes = torch.linalg.eigh(clusters.products(x, x)).eigenvectors.contiguous()
    collectives.broadcast([axes])  # one machine decides, were they of different make
    return axes
