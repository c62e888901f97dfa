"""Convolutions whose weights, and so their outputs, have the channels last in memory, where they are fastest."""

from typing import Any

import torch
from torch import nn


class Conv2d(nn.Conv2d):
    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.weight.data = self.weight.contiguous(memory_format=torch.channels_last)


class ConvTranspose2d(nn.ConvTranspose2d):
    def __init__(self, *sizes: Any, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.weight.data = self.weight.contiguous(memory_format=torch.channels_last)
