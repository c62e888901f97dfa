"""Where bf16 autocast must not reach: targets, distances, probabilities."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def full_precision(function: F) -> F:
    """Run a loss or a target in at least fp32, whatever autocast says: bf16 has 8 bits, too few for distances."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        args = tuple(_widen(a) for a in args)
        kwargs = {key: _widen(value) for key, value in kwargs.items()}
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value
