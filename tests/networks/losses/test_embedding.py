"""Neighbour probabilities by hand, and what the embedding's loss asks for."""

import pytest
import torch

from raydc.networks.losses.embedding import log_neighbour_probabilities, neighbour_cross_entropy


@pytest.mark.parametrize("nu", [1.0, 4.0])
def test_neighbour_probabilities_by_hand(nu: float) -> None:
    z = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    p = log_neighbour_probabilities(z, nu).exp()
    kernel = [[(1 + (a - b) ** 2 / nu) ** (-(nu + 1) / 2) for b in (0, 1, 3)] for a in (0, 1, 3)]
    for i, row in enumerate(kernel):
        others = sum(row) - row[i]
        for j, value in enumerate(row):
            assert float(p[i, j]) == pytest.approx(1e-10 if i == j else value / others, abs=2e-10)


def test_the_cross_entropy_is_least_where_neighbours_are_the_same() -> None:
    z = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = log_neighbour_probabilities(z, 1.0).exp() * (1 - torch.eye(12))
    entropy = -(p * p.clamp_min(1e-300).log()).sum(1)
    torch.testing.assert_close(neighbour_cross_entropy(z, z, 1.0), entropy)
    assert (neighbour_cross_entropy(z, z.flip(0), 1.0) >= entropy - 1e-9).all()


def test_gradients_reach_both_and_are_finite_far_away() -> None:
    z = (1e3 * torch.randn(8, 2, generator=torch.Generator().manual_seed(0))).requires_grad_()
    e = torch.randn(8, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    neighbour_cross_entropy(z, e, 4.0).mean().backward()
    for part in (z, e):
        assert part.grad is not None and part.grad.isfinite().all() and (part.grad != 0).any()
    assert neighbour_cross_entropy(z[:1], e[:1], 4.0).tolist() == [0.0]  # a row alone has no neighbour
