"""Batch norm of one worker; tests/methods holds two against it."""

import pytest
import torch

from raydc.networks.norm import BatchNorm, batch_statistics_only


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_normalises_by_the_batch_and_remembers_it(shape: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    norm, x = BatchNorm(3, affine=affine).double(), 5 + 2 * torch.randn(shape, dtype=torch.float64)
    over, view = [0, *range(2, len(shape))], (1, 3, *[1] * (len(shape) - 2))
    mean, var = x.mean(over), x.var(over, correction=0)
    assert torch.allclose(norm(x), (x - mean.view(view)) / (var + 1e-5).sqrt().view(view))
    assert torch.allclose(norm.running_mean, 0.1 * mean)
    assert torch.allclose(norm.running_var, 0.9 + 0.1 * x.var(over))


def test_statistics_of_a_batch_can_be_used_and_forgotten() -> None:
    norm, x = BatchNorm(3), torch.randn(6, 3)
    expected = norm(x)
    before = norm.running_mean.clone(), norm.running_var.clone()
    with batch_statistics_only(norm):
        assert torch.equal(norm(x), expected)
    assert torch.equal(norm.running_mean, before[0]) and torch.equal(norm.running_var, before[1])
    norm.eval()
    assert torch.allclose(norm(x), (x - before[0]) / (before[1] + 1e-5).sqrt())


def test_a_single_row_is_normalised_to_nothing() -> None:
    norm = BatchNorm(3)
    assert torch.equal(norm(torch.randn(1, 3)), torch.zeros(1, 3))
    assert torch.isfinite(norm.running_var).all()
