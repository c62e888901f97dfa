"""A device that is not the CPU, without hardware: code that would fail on a GPU for want of a move fails here.

`Far` tensors say that they live on "meta" and keep their values on the CPU. As on a GPU, an operation takes tensors of
one device alone (but for indices, and numbers without dimensions), a new tensor must be asked for there, and numpy sees
nothing until it is moved back. What is particular to CUDA - its kernels, streams, autocast - is not pretended.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

FAR = "meta"
aten = torch.ops.aten
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)


class Far(torch.Tensor):
    """A tensor elsewhere, around one on the CPU that has its values."""

    near: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, near: torch.Tensor) -> "Far":
        size, strides, offset = near.size(), near.stride(), near.storage_offset()
        made = torch.Tensor._make_wrapper_subclass(
            cls, size, strides=strides, storage_offset=offset, dtype=near.dtype, device=FAR
        )
        made.near = near
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return work(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Far({self.near})"

    def tolist(self) -> Any:
        return self.near.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """As a GPU's tensors are saved: those that are read are where the reader wants them."""
        return self.near.__reduce_ex__(protocol)


def work(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Do on the CPU what is asked for elsewhere. RuntimeError where devices are mixed."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = any(isinstance(tensor, Far) for tensor in tensors)
    others = [tensor for tensor in tensors if not isinstance(tensor, Far)]
    assert all(tensor.device.type == "cpu" for tensor in others), f"{func}: a tensor was made elsewhere without values"
    kind = func.overloadpacket
    if far and kind not in (aten._to_copy, aten.copy_):
        wrong = [t for t in others if (t is args[0] if kind in INDEXED else t.dim())]
        if wrong:
            shapes = [list(tensor.shape) for tensor in wrong]
            raise RuntimeError(f"{func}: expected all tensors on {FAR}, got {shapes} on the CPU")
    near_args, near_kwargs = tree_map(lambda leaf: leaf.near if isinstance(leaf, Far) else leaf, (args, kwargs))
    asked = kwargs.get("device")
    if asked is not None:
        near_kwargs["device"] = "cpu"
    found = func(*near_args, **near_kwargs)
    there = far if asked is None else torch.device(asked).type == FAR
    if not there or kind is aten._local_scalar_dense:
        return found
    found = tree_map(lambda leaf: Far(leaf) if isinstance(leaf, torch.Tensor) else leaf, found)
    return return_and_correct_aliasing(func, args, kwargs, found)


class _Operations(TorchDispatchMode):
    """Those that make tensors elsewhere; all others reach `Far` by themselves."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        asked = (kwargs or {}).get("device")
        if asked is not None and torch.device(asked).type == FAR:
            return work(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class _Literals(TorchFunctionMode):
    """Python numbers that become tensors elsewhere, which torch does below all operations."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and str(kwargs.get("device")) == FAR:
            return func(*args, **(kwargs | {"device": "cpu"})).to(FAR)
        if func is torch.Tensor.new_tensor and isinstance(args[0], Far):
            return torch.tensor(*args[1:], **({"dtype": args[0].dtype} | kwargs)).to(FAR)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and isinstance(args[0], Far):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(one, dtype=torch.int64) if isinstance(one, list) else one for one in index)
            args = (args[0], index, *args[2:])
        return func(*args, **kwargs)


@contextmanager
def elsewhere() -> Iterator[str]:
    """The device's name; in here tensors can be made there and moved there."""
    autocast = torch.autocast

    def without(device: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device == FAR else autocast(device, *args, **kwargs)

    fused = [*_get_fused_kernels_supported_devices(), FAR]
    with (
        patch("torch.autocast", without),
        patch("torch.optim.optimizer._get_fused_kernels_supported_devices", lambda: fused),
        _Operations(),
        _Literals(),
    ):
        yield FAR
