"""Marginalised denoising. Chen, Xu, Weinberger & Sha, ICML 2012, arXiv:1206.4683."""

import torch
from torch import Tensor

RIDGE = 1e-5
"""Added to the diagonal that is inverted."""


def marginalised_denoiser(moments: Tensor, corruption: float) -> Tensor:
    """The W [D, D + 1] for which W [x', 1] is nearest to x, over all ways to set values of x to 0, each with
    probability `corruption`.

    `moments` are the sum over rows of [x, 1] [x, 1]^T [D + 1, D + 1], float64; the 1 is never set to 0. Exact: it is
    what infinitely many corrupted copies of the rows would come to.
    """
    kept = moments.new_full((len(moments),), 1 - corruption)
    kept[-1] = 1
    both = moments * kept[:, None] * kept
    both.diagonal().copy_(moments.diagonal() * kept)
    both = both + RIDGE * torch.eye(len(moments), dtype=moments.dtype, device=moments.device)
    return torch.linalg.solve(both, moments[:-1].T * kept[:, None]).T
