"""DEN's losses by hand, and where they have no slope of their own."""

import math

import torch

from raydc.networks.losses.locality import group_sparsity, heat_kernel, locality


def test_heat_kernel_by_hand() -> None:
    squared = torch.tensor([[1.0, 3.0], [2.0, 2.0]])  # mean 2
    expected = torch.tensor([[-0.25, -0.75], [-0.5, -0.5]]).exp()
    torch.testing.assert_close(heat_kernel(squared, 2.0), expected)
    torch.testing.assert_close(heat_kernel(100 * squared, 2.0), expected)
    assert heat_kernel(torch.zeros(3, 2), 1.0).tolist() == [[1.0, 1.0]] * 3


def test_locality_by_hand() -> None:
    u, partners = torch.tensor([[0.0, 0.0]]), torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
    assert locality(u, partners, torch.tensor([[1.0, 0.5]])).tolist() == [1 + 0.5 * 25]


def test_group_sparsity_by_hand() -> None:
    z = torch.tensor([[3.0, 4.0, 0.0, 0.0], [1.0, 0.0, 0.0, 2.0]])
    expected = math.sqrt(2) * torch.tensor([5.0, 3.0])
    torch.testing.assert_close(group_sparsity(z, 2), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(group_sparsity(z, 4), z.sum(1), atol=4e-5, rtol=0)  # groups of one: the L1 norm


def test_a_group_at_zero_has_a_finite_slope() -> None:
    z = torch.zeros(2, 6, requires_grad=True)
    group_sparsity(z, 3).sum().backward()
    assert z.grad is not None and (z.grad == 0).all()
