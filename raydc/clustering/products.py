"""Products of matrices whose rows are those of all workers, and their eigenvectors."""

import torch
from torch import Tensor

from raydc.clustering import Clusters
from raydc.distributed import collectives

TOGETHER = 4
"""Columns whose products are summed at once: memory for more buys little."""


def product(left: Tensor, right: Tensor, clusters: Clusters) -> Tensor:
    """left^T right [K, D] float64 of all workers' rows, of which these are left [N, K] and right [N, D].

    Added by `clusters.sum`, so the number of workers changes no bit of it.
    """
    left, right = left.double(), right.double()
    return torch.cat([clusters.sum(part[..., None] * right[:, None]) for part in left.split(TOGETHER, 1)])


def principal_axes(x: Tensor, clusters: Clusters) -> Tensor:
    """Eigenvectors of x^T x of all workers' rows x [N, D], float64 [D, D]: columns, by ascending eigenvalue."""
    axes = torch.linalg.eigh(product(x, x, clusters)).eigenvectors.contiguous()
    collectives.broadcast([axes])  # one machine decides, were they of different make
    return axes
