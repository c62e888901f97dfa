"""Memberships of clusters that are held to equal sizes (Cuturi, NeurIPS 2013, arXiv:1306.0895)."""

from torch import Tensor

from raydc.losses.hardening import squared_distances
from raydc.utils.autocast import full_precision


@full_precision
def transport(z: Tensor, centroids: Tensor, offsets: Tensor, sharpness: Tensor) -> Tensor:
    """softmax_k(sharpness * (g_k - |z - c_k|^2)) [B, K] of z [B, D], for centroids c [K, D] with offsets g [K]."""
    return (sharpness * (offsets - squared_distances(z, centroids))).softmax(1)
