"""TURTLE's classifiers are torch's, and its prior by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from raydc.networks.losses.information import entropy
from raydc.networks.losses.separation import imbalance, labelling_error, linear_classifiers


def test_classifiers_are_those_of_torchs_adam() -> None:
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(30, 4, generator=draw, dtype=torch.float64)
    target = torch.randn(30, 2, 3, generator=draw, dtype=torch.float64).softmax(2)
    found = linear_classifiers(z, target, 10, 0.2, lambda left, right: left.T @ right / len(z))
    errors = labelling_error(z, target, found)
    for head in range(2):
        layer = torch.nn.Linear(4, 3, dtype=torch.float64)
        torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.Adam(layer.parameters(), 0.2 / 4)
        for _ in range(10):
            optimizer.zero_grad()
            F.cross_entropy(layer(z), target[:, head]).backward()
            optimizer.step()
        torch.testing.assert_close(found[head], torch.cat([layer.weight, layer.bias[:, None]], 1).detach())
        expected = F.cross_entropy(layer(z), target[:, head], reduction="none").detach()
        torch.testing.assert_close(errors[:, head], expected)


def test_the_prior_is_uniform_or_falls_as_a_power() -> None:
    shares = torch.tensor([[0.1, 0.6, 0.3], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(imbalance(shares, 0.0), math.log(3) - entropy(shares))
    powers = torch.tensor([1.0, 1 / 4, 1 / 9], dtype=torch.float64)
    prior = powers / powers.sum()
    assert float(imbalance(prior.flip(0), 2.0)) == pytest.approx(0.0, abs=1e-12)
    assert float(imbalance(shares[1], 2.0)) == pytest.approx(float(-(prior.log() + math.log(3)).mean()))
    empty = torch.tensor([1.0, 0.0], requires_grad=True)
    imbalance(empty, 0.0).backward()
    assert empty.grad is not None and empty.grad.isfinite().all()
