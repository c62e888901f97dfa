"""Where bf16 autocast must not reach: targets, distances, probabilities; and what float32 means on a GPU."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def exact_float32() -> Iterator[None]:
    """On a GPU, products and convolutions of float32 in float32, and in the same order each time; then as before.

    TF32, torch's default for convolutions and some containers' for products, has bfloat16's rounding but for 3 bits:
    labels on a GPU would not be the CPU's, and k-means relies on float32's bounds. cuDNN's default adds in any order.
    """
    cudnn: Any = torch.backends.cudnn
    places = torch.backends.cuda.matmul, cudnn.conv
    before, ordered = [place.fp32_precision for place in places], cudnn.deterministic
    try:
        cudnn.deterministic = True
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        cudnn.deterministic = ordered
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def full_precision(function: F) -> F:
    """Run a loss or a target in at least fp32, whatever autocast says: bf16 has 8 bits, too few for distances."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        args = tuple(_widen(a) for a in args)
        kwargs = {key: _widen(value) for key, value in kwargs.items()}
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        with torch.autocast(device, enabled=False), exact_float32():
            return function(*args, **kwargs)

    return wrapped  # type: ignore[return-value]


def _widen(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16) else value
