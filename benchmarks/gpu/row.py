"""What a row of the table is, and the numbers that stand in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class LeftOut(Exception):
    """Why a row does not apply here."""


@dataclass(frozen=True)
class Row:
    """One comparison, or one measurement where nothing is `allowed`."""

    name: str
    measure: Callable[[str], dict[str, Any]]
    """What is found on a device, by name."""
    allowed: Mapping[str, float] = field(default_factory=dict)
    """The most that may be found, by name."""

    def beyond(self, found: Mapping[str, Any]) -> list[str]:
        """Names of what is found above the allowed, or is no number."""
        return [name for name, most in self.allowed.items() if not found[name] <= most]


def differ(one: Any, other: Any) -> int:
    """How many entries are not equal."""
    return int((np.asarray(one) != np.asarray(other)).sum())


def apart(one: Any, other: Any) -> float:
    """Largest difference, over the largest entry of the other; infinite where only one is finite."""
    one, other = (np.asarray(each, np.float64) for each in (one, other))
    if not one.size:
        return 0.0
    if (np.isfinite(one) != np.isfinite(other)).any():
        return float("inf")
    finite = np.isfinite(other)
    most = np.abs(one[finite] - other[finite]).max(initial=0.0)
    return float(most / max(np.abs(other[finite]).max(initial=0.0), 1e-30)) if most else 0.0


def states_apart(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> float:
    """`apart` of the two states of a network, tensor by tensor; the largest."""
    return max((apart(value.cpu().double(), other[key].cpu().double()) for key, value in one.items()), default=0.0)


class DrawsOfTheCPU(TorchDispatchMode):
    """Random numbers are drawn on the CPU and moved: training on a device sees those that training on the CPU sees."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        asked = kwargs.get("device")
        there = torch.device(asked) if asked is not None else tensors[0].device if tensors else torch.device("cpu")
        if torch.Tag.nondeterministic_seeded not in func.tags or there.type == "cpu":
            return func(*args, **kwargs)
        near_args, near_kwargs = tree_map(partial(_copied, to=torch.device("cpu")), (args, kwargs))
        found = func(*near_args, **(near_kwargs | ({} if asked is None else {"device": "cpu"})))
        if func.overloadpacket.__name__.endswith("_"):
            return args[0].copy_(found)
        return tree_map(partial(_copied, to=there), found)


def _copied(leaf: Any, to: torch.device) -> Any:
    """A tensor on another device, by the one operation that is left at this depth."""
    return torch.ops.aten._to_copy(leaf, device=to) if isinstance(leaf, torch.Tensor) else leaf
