"""Fully connected classifier of IMSAT: D-1200-1200-K, batch norm and ReLU after each hidden layer."""

import math
from itertools import pairwise

import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from raydc.core.settings import Settings
from raydc.networks.norm import BatchNorm


class MLPClassifier(nn.Module):
    def __init__(self, widths: list[int], norm: bool, scale: float, last_scale: float) -> None:
        super().__init__()
        *hidden, last = pairwise(widths)
        self.hidden = nn.ModuleList(nn.Linear(a, b, bias=not norm) for a, b in hidden)
        self.norms = nn.ModuleList(BatchNorm(b) if norm else nn.Identity() for _, b in hidden)
        self.last = nn.Linear(*last)
        for layer in self.linears():
            deviation = last_scale if layer is self.last else scale
            nn.init.normal_(layer.weight, std=deviation * math.sqrt(2 / layer.in_features))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def linears(self) -> list[nn.Linear]:
        return [m for m in self.modules() if isinstance(m, nn.Linear)]

    def activations(self, x: Tensor) -> list[Tensor]:
        """What each layer makes of x [B, ...]; the logits [B, K] are the last."""
        x, found = x.flatten(1), []
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
            found.append(x)
        return [*found, self.last(x)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, K] of x [B, ...]."""
        return self.activations(x)[-1]


class Classifier(Settings):
    """Sizes of a network that predicts clusters."""

    hidden: tuple[PositiveInt, ...] = (1200, 1200)
    """Widths of the hidden layers; () is a linear model."""
    norm: bool = True
    """Batch norm after each hidden layer."""
    scale: float = Field(0.1, gt=0)
    """Hidden weights start from N(0, 2 / inputs) times this."""
    last_scale: float = Field(1e-4, gt=0)
    """The same for the last layer: predictions start from uniform."""

    def build(self, shape: tuple[int, ...], clusters: int) -> MLPClassifier:
        return MLPClassifier([math.prod(shape), *self.hidden, clusters], self.norm, self.scale, self.last_scale)
