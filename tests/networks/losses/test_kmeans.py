"""The k-means losses, hard and soft, by hand."""

import torch

from raydc.networks.losses.kmeans import kmeans_loss, soft_kmeans_loss


def test_by_hand() -> None:
    z, centroids = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([[0.0, 0.0], [1.0, 3.0]])
    assert kmeans_loss(z, centroids, torch.tensor([0, 1])).tolist() == [1, 1]
    memberships = torch.tensor([[0.75, 0.25], [0.0, 1.0]])
    torch.testing.assert_close(soft_kmeans_loss(z, centroids, memberships), torch.tensor([0.75 + 0.25 * 9, 1.0]))
