"""Centroids that follow the rows of batches: mini-batch k-means (Sculley, WWW 2010) while a network learns."""

import torch
from torch import Tensor

from raydc.clustering import Clusters


def follow(z: Tensor, labels: Tensor, centroids: Tensor, counts: Tensor, clusters: Clusters) -> tuple[Tensor, Tensor]:
    """Centroids [K, D] moved towards the rows of a global batch, and how many of its rows each has [K].

    Each is the mean of `counts` [K] rows before and the batch's own, of which z [B, D] with `labels` [B] are this
    worker's; every worker must call it.
    """
    one_hot = torch.nn.functional.one_hot(labels, len(centroids)).to(z.dtype)
    sums = clusters.total(torch.cat([one_hot.T @ z, one_hot.sum(0)[:, None]], 1))
    moved, count = sums[:, :-1], sums[:, -1]
    return centroids + (moved - count[:, None] * centroids) / (counts + count)[:, None], count
