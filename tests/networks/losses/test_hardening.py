"""Cluster assignment hardening: eq. 3 to 5 by hand, and where numbers underflow."""

import pytest
import torch

from raydc.networks.losses.hardening import hardening, sharpen, student_t


def test_student_t_by_hand() -> None:
    q = student_t(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]]))
    torch.testing.assert_close(q, torch.tensor([[2 / 3, 1 / 3]]))  # 1 and 1 / 2


def test_target_by_hand() -> None:
    q = torch.tensor([[0.5, 0.5], [0.8, 0.2]])
    p = sharpen(q, q.sum(0))
    weight = torch.tensor([[0.25 / 1.3, 0.25 / 0.7], [0.64 / 1.3, 0.04 / 0.7]])
    torch.testing.assert_close(p, weight / weight.sum(1, keepdim=True))


def test_kl_is_that_of_torch() -> None:
    draw = torch.Generator().manual_seed(0)
    p, q = (torch.randn(5, 3, generator=draw).softmax(1) for _ in range(2))
    expected = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(1)
    torch.testing.assert_close(hardening(p, q), expected)
    torch.testing.assert_close(hardening(p, p), torch.zeros(5))


@pytest.mark.parametrize("nu", [1.0, 10.0, 50.0])
@pytest.mark.parametrize("power", [2.0, 8.0])
def test_a_centroid_far_away_leaves_gradients_finite(nu: float, power: float) -> None:
    z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    centroids = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1e4, 0.0]])
    q = student_t(z, centroids, nu)
    with torch.no_grad():
        p = sharpen(q, q.sum(0), power)
    hardening(p, q).sum().backward()
    assert p.isfinite().all() and z.grad is not None and z.grad.isfinite().all()
