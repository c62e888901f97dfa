"""The k-means loss (eq. 2 of the taxonomy)."""

from torch import Tensor

from raydc.core.autocast import full_precision
from raydc.networks.losses.hardening import squared_distances


@full_precision
def kmeans_loss(z: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """||z - mu_label||^2 of each row [B]; centroids [K, D] and labels [B] are constants."""
    return (z - centroids[labels]).square().sum(1)


@full_precision
def soft_kmeans_loss(z: Tensor, centroids: Tensor, memberships: Tensor) -> Tensor:
    """sum_k u_k ||z - mu_k||^2 of each row [B]; centroids [K, D] and memberships u [B, K] are constants."""
    return (memberships * squared_distances(z, centroids)).sum(1)
