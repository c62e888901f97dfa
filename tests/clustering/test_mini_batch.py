"""Centroids that follow batches, and products of all workers' rows."""

import pytest
import torch

from raydc.clustering.collective import CollectiveClusters
from raydc.clustering.mini_batch import follow
from raydc.clustering.principal_axes import principal_axes
from raydc.data import Shard


def over(rows: int) -> CollectiveClusters:
    return CollectiveClusters(Shard.of(torch.zeros(rows, 1)), 0)


def test_a_centroid_is_the_mean_of_all_rows_that_it_stands_for() -> None:
    z, labels = torch.tensor([[4.0, 0.0], [8.0, 2.0], [5.0, 5.0]]), torch.tensor([0, 0, 2])
    before, counts = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]), torch.tensor([2.0, 7.0, 1.0])
    centroids, own = follow(z, labels, before, counts, over(3))
    assert own.tolist() == [2, 0, 1]
    torch.testing.assert_close(centroids, torch.tensor([[3.0, 0.5], [1.0, 1.0], [3.0, 3.0]]))


@pytest.mark.parametrize("many", [1, 9])
def test_a_product_is_that_of_all_columns(many: int) -> None:
    left, right = torch.randn(40, many, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    torch.testing.assert_close(over(40).products(left, right), left.T @ right)


def test_principal_axes_ascend() -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    x = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64) @ turn.T
    axes = principal_axes(x, over(4))
    torch.testing.assert_close(axes[:, -1].abs(), turn[:, 0].abs())
    torch.testing.assert_close((x @ axes).square().sum(0), torch.tensor([2.0, 50.0], dtype=torch.float64))
