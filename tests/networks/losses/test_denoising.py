"""The denoiser in closed form against least squares over all corrupted copies of the rows."""

import itertools

import torch

from raydc.networks.losses.denoising import marginalised_denoiser


def test_it_is_least_squares_over_all_corruptions_weighed_by_their_probability() -> None:
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    inputs, corruption = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], 1), 0.3
    copies, weights = [], []
    for kept in itertools.product([0.0, 1.0], repeat=3):
        copies.append(inputs * torch.tensor([*kept, 1.0], dtype=torch.float64))
        weights.append(0.7 ** sum(kept) * 0.3 ** (3 - sum(kept)))
    root = torch.tensor(weights, dtype=torch.float64).sqrt().repeat_interleave(7)[:, None]
    expected = torch.linalg.lstsq(root * torch.cat(copies), root * x.repeat(8, 1)).solution.T
    found = marginalised_denoiser(inputs.T @ inputs, corruption)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_corruption_it_gives_rows_back() -> None:
    inputs = torch.randn(9, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs[:, -1] = 1
    torch.testing.assert_close(
        marginalised_denoiser(inputs.T @ inputs, 0.0), torch.eye(4, dtype=torch.float64)[:3], atol=1e-4, rtol=0
    )
