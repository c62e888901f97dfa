"""What workers tell each other inside a step. Without a process group there is one worker and nothing is sent.

The convention, everywhere: a loss is a *mean over workers*. A worker's linear loss is the sum over its rows times W / B
(`share`), a loss of a global statistic is the same number on every worker, and gradients of shared parameters are
averaged. Both then have the value and the gradient that one worker with the whole batch would have.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def workers() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


class _Total(torch.autograd.Function):
    """Sum over workers whose gradient is summed over workers as well: a plain all_reduce hides them from autograd."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return total(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return total(grads[0])


def total(x: Tensor) -> Tensor:
    """Sum of every worker's x, without gradients; every worker must call it."""
    if workers() == 1:
        return x
    x = x.detach().clone().contiguous()
    dist.all_reduce(x)
    return x


def differentiable_total(x: Tensor) -> Tensor:
    """Sum of every worker's x; gradients reach every worker's part. Every worker must call it, and backward."""
    return x if workers() == 1 else _Total.apply(x)


def maximum(x: Tensor) -> Tensor:
    """Elementwise maximum of every worker's x, without gradients."""
    if workers() == 1:
        return x
    x = x.detach().clone().contiguous()
    dist.all_reduce(x, dist.ReduceOp.MAX)
    return x


def gather(x: Tensor, sizes: Sequence[int] | None = None) -> Tensor:
    """Every worker's rows, in order of rank: [sum of N, ...] of each x [N, ...]; gradients reach their owner.

    `sizes` are the numbers of rows by rank, where they are known already.
    """
    if workers() == 1:
        return x
    if sizes is None:
        counts = torch.zeros(workers(), dtype=torch.int64, device=x.device)
        counts[rank()] = len(x)
        sizes = total(counts).tolist()
    start = sum(sizes[: rank()])
    padded = x.new_zeros((sum(sizes), *x.shape[1:]))
    return differentiable_total(padded.index_copy(0, torch.arange(start, start + len(x), device=x.device), x))


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all workers, in one all-reduce a dtype."""
    if workers() == 1 or not tensors:
        return
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        alike = [t for t in tensors if t.dtype == dtype]
        mean = torch.cat([t.detach().flatten() for t in alike])  # a copy, so that it can be summed in place
        dist.all_reduce(mean)
        mean /= workers()
        for t, part in zip(alike, mean.split([t.numel() for t in alike]), strict=True):
            t.copy_(part.view_as(t))


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Overwrite each tensor by that of rank 0."""
    if workers() > 1:
        for t in tensors:
            dist.broadcast(t, 0)
