"""Convolutions whose weights, and so their outputs, have the channels last in memory, where they are fastest."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NO_CONV = "it is of convolutional networks, and these rows have an mlp"
NO_MLP = "it is of an mlp, and these images have a convolutional network"
"""Why a size of a network has no effect."""


class Conv2d(nn.Conv2d):
    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.weight.data = self.weight.contiguous(memory_format=torch.channels_last)


class ConvTranspose2d(nn.ConvTranspose2d):
    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.weight.data = self.weight.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Bias is added afterwards: given one, oneDNN may take a kernel that is six times slower (50 channels, CPU)."""
        assert output_size is None and not isinstance(self.padding, str), "give output_padding at construction"
        at = self.stride, self.padding, self.output_padding
        y = F.conv_transpose2d(x, self.weight, None, *at, self.groups, self.dilation)
        return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]
