"""Entropies by hand, and the perturbation that hurts most."""

import math

import pytest
import torch
import torch.nn.functional as F

from raydc.networks.losses.information import (
    adversarial_direction,
    cross_entropy,
    entropy,
    gumbel_softmax,
    probabilities,
)


def test_entropy_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    torch.testing.assert_close(entropy(p), torch.tensor([math.log(2), 0.0, math.log(4)]))
    torch.testing.assert_close(entropy(p[2]), torch.tensor(math.log(4)))


def test_entropy_has_a_gradient_where_a_probability_underflows() -> None:
    logits = torch.tensor([[0.0, -200.0], [300.0, 0.0]], requires_grad=True)
    p = probabilities(logits)
    assert (p == 0).any()
    (entropy(p).sum() + entropy(p.mean(0))).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_cross_entropy_is_torchs() -> None:
    p = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]])
    torch.testing.assert_close(cross_entropy(p, logits), F.cross_entropy(logits, p, reduction="none"))


def test_cross_entropy_is_least_at_p() -> None:
    p = torch.tensor([[0.2, 0.3, 0.5]])
    logits = p.log().requires_grad_()
    cross_entropy(p, logits).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.zeros(1, 3), atol=1e-7, rtol=0)


def test_bf16_logits_are_widened() -> None:
    assert probabilities(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_adversarial_direction_of_a_linear_model_is_its_weight_vector() -> None:
    """Two clusters, logits (w x, 0): only moves along w change the prediction."""
    torch.manual_seed(0)
    w = torch.tensor([3.0, 4.0, 0.0])
    layer = torch.nn.Parameter(torch.stack([w, torch.zeros(3)]))
    x = torch.randn(50, 3)
    direction = adversarial_direction(lambda rows: rows @ layer.T, x, probabilities(x @ layer.T).detach(), 0.1)
    torch.testing.assert_close((direction @ w).abs(), torch.full((50,), 5.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(50))
    assert layer.grad is None and not direction.requires_grad


def test_the_adversarial_direction_is_found_in_a_nearly_flat_prediction() -> None:
    """A fresh network's last layer is 1e-4 of the usual size: gradients are tiny, directions are not."""
    torch.manual_seed(0)
    w = 1e-7 * torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)
    x = torch.randn(20, 2, dtype=torch.float64)
    direction = adversarial_direction(lambda rows: rows @ w.T, x, probabilities(x @ w.T), 10.0)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(20, dtype=torch.float64))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_soft_draws_are_largest_at_each_label_as_often_as_it_is_likely(temperature: float) -> None:
    torch.manual_seed(0)
    p = torch.tensor([[0.2, 0.3, 0.5]]).expand(4000, 3)
    drawn = gumbel_softmax(p.log(), torch.rand(4000, 3), temperature)
    torch.testing.assert_close(drawn.sum(1), torch.ones(4000))
    torch.testing.assert_close(F.one_hot(drawn.argmax(1)).double().mean(0), p[0].double(), atol=0.03, rtol=0)
    assert (drawn.max(1).values.mean() > 0.95) == (temperature < 1)


def test_soft_draws_are_finite_at_the_ends_of_uniform_numbers() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    drawn = gumbel_softmax(logits, torch.tensor([[0.0, 1.0]]), 0.5)
    drawn[0, 0].backward()
    assert drawn.isfinite().all() and logits.grad is not None and logits.grad.isfinite().all()
