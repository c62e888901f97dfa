"""The k-means loss (eq. 2 of the taxonomy)."""

from torch import Tensor

from raydc.utils.autocast import full_precision


@full_precision
def kmeans_loss(z: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """||z - mu_label||^2 of each row [B]; centroids [K, D] and labels [B] are constants."""
    return (z - centroids[labels]).square().sum(1)
