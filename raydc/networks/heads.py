"""Several small classifiers of the same rows, side by side (the heads of TEMI: Adaloglou et al., BMVC 2023)."""

import copy
import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from raydc.core.settings import Settings

SPREAD = 0.02
"""Weights begin as normal numbers of this deviation, cut at two units (the default of PyTorch's trunc_normal_)."""


class Heads(nn.Module):
    """H networks with GELU behind each hidden layer but the last, whose output has length 1.

    The layer behind that is a linear map without bias whose rows have a length and a direction apart (weight
    normalisation: Salimans & Kingma, NIPS 2016), so that logits are cosines times a learnt length, over a temperature.
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], clusters: int, heads: int, temperature: float) -> None:
        super().__init__()
        self.layers, self.temperature = len(hidden), temperature
        for layer, (a, b) in enumerate(pairwise([inputs, *hidden])):
            self.register_parameter(f"weight{layer}", nn.Parameter(_normal(heads, b, a)))
            self.register_parameter(f"bias{layer}", nn.Parameter(torch.zeros(heads, b)))
        self.direction = nn.Parameter(_normal(heads, clusters, [inputs, *hidden][-1]))
        self.length = nn.Parameter(torch.ones(heads, clusters))

    def frozen(self) -> "Heads":
        """A copy whose weights are buffers, which nobody descends."""
        twin = copy.deepcopy(self)
        for name, value in [*twin.named_parameters()]:
            delattr(twin, name)
            twin.register_buffer(name, value.detach())
        return twin

    @torch.no_grad()
    def follow(self, other: "Heads", keep: float) -> None:
        """keep * weight + (1 - keep) * the other's weight."""
        for name, value in other.named_parameters():
            self.get_buffer(name).lerp_(value, 1 - keep)

    def forward(self, x: Tensor, only: int | None = None, held: bool = False) -> Tensor:
        """Logits [B, H, K] of x [B, ...], or [B, 1, K] of one head `only`; gradients pass a `held` last layer by."""
        which = slice(None) if only is None else slice(only, only + 1)
        z = x.flatten(1)[None]
        for layer in range(self.layers):
            weight, bias = (getattr(self, f"{kind}{layer}")[which] for kind in ("weight", "bias"))
            if layer:
                z = torch.baddbmm(bias[:, None], F.gelu(z), weight.mT)
            else:  # all heads see the same rows: one product
                wide = F.linear(z[0], weight.flatten(0, 1), bias.flatten())
                z = wide.unflatten(1, bias.shape).transpose(0, 1)
        last = F.normalize(self.direction[which], dim=2) * self.length[which, :, None]
        return (F.normalize(z, dim=2) @ (last.detach() if held else last).mT).transpose(0, 1) / self.temperature


def _normal(*shape: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(shape), std=SPREAD)


class TaughtHeads(nn.Module):
    """Heads that learn from teachers, which are running means of their own weights; the best of them answers."""

    def __init__(self, student: Heads) -> None:
        super().__init__()
        heads, clusters = student.length.shape
        self.student = student
        self.teacher = self.student.frozen()
        self.register_buffer("marginal", torch.full((heads, clusters), 1 / clusters))
        self.register_buffer("losses", torch.zeros(heads, dtype=torch.float64))
        self.register_buffer("best", torch.zeros((), dtype=torch.int64))
        self.marginal: Tensor
        """[H, K], the running mean of what teachers predict."""
        self.losses: Tensor
        """[H], sums since `choose`."""
        self.best: Tensor
        """Number of the head that answers."""

    def choose(self) -> None:
        """Take the head of the lowest loss since the last choice; the same as before, where nothing was learnt."""
        if bool(self.losses.any()):
            self.best.copy_(self.losses.argmin())
            self.losses.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of x [B, ...] by the best head's teacher."""
        return self.teacher(x, only=int(self.best))[:, 0]


class HeadNetwork(Settings):
    """Heads, and their sizes."""

    heads: int = Field(16, ge=1)
    """Students, each with its teacher."""
    hidden: tuple[PositiveInt, ...] = (512, 256)
    """Widths of a head's hidden layers; the output of the last has length 1."""
    temperature: float = Field(0.1, gt=0)
    """By which logits are divided."""

    def build(self, shape: tuple[int, ...], clusters: int) -> TaughtHeads:
        return TaughtHeads(Heads(math.prod(shape), self.hidden, clusters, self.heads, self.temperature))

    def build_one(self, shape: tuple[int, ...], clusters: int) -> Heads:
        """A single head, without a teacher."""
        return Heads(math.prod(shape), self.hidden, clusters, 1, self.temperature)
