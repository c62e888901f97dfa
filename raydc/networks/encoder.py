"""Encoders without a decoder, for methods that learn by comparing rows: convolutional, and a twin for vectors."""

import logging
from itertools import pairwise

import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from raydc.core.settings import Settings
from raydc.networks.convolution import NO_CONV, NO_MLP, Conv2d
from raydc.networks.init import begin
from raydc.networks.norm import BatchNorm

log = logging.getLogger("raydc")

SMALL = 8
"""Pixels that no stage is pooled under, and that end the stages."""


class Encoder(Settings):
    """Sizes of an encoder; its shape follows JULE (Yang et al., CVPR 2016, arXiv:1604.03628) on every image size."""

    channels: int = Field(50, ge=1)
    """Channels of every conv stage; there are as many stages as bring an image to 8 pixels."""
    kernel: int = Field(5, ge=1)
    """Kernel size of the conv stages."""
    hidden: tuple[PositiveInt, ...] = (500,)
    """Widths of the hidden layers of the mlp, for rows that are no images."""
    latent: int = Field(160, ge=1)
    """Size of the code."""
    norm: bool = True
    """Batch norm after each hidden layer."""

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        return {"hidden": NO_MLP} if len(shape) == 3 else dict.fromkeys(["channels", "kernel"], NO_CONV)

    def build(self, shape: tuple[int, ...]) -> nn.Module:
        """x [B, *shape] to [B, latent]; weights N(0, 0.01^2), and without batch norm kaiming-normal."""
        if len(shape) == 3:
            network: nn.Module = ConvEncoder(shape, self.channels, self.kernel, self.latent, self.norm)
        else:
            log.warning("rows of shape %s are no images: an mlp %s is used instead of conv", shape, self.hidden)
            network = MLPEncoder(shape[0], self.hidden, self.latent, self.norm)
        begin(network, "normal" if self.norm else "kaiming")
        return network


class ConvEncoder(nn.Module):
    """Stages of conv, batch norm (if `norm`) and ReLU, pooled 2x2 while more than 8 pixels are left, then a dense code.

    Convolutions are not padded, but where an image is smaller than two kernels.
    """

    def __init__(self, shape: tuple[int, ...], channels: int, kernel: int, latent: int, norm: bool) -> None:
        super().__init__()
        colours, height, width = shape
        self.convs, self.pools = nn.ModuleList(), []
        while not self.convs or min(height, width) > SMALL:
            padded = min(height, width) < 2 * kernel
            self.convs.append(Conv2d(colours, channels, kernel, padding="same" if padded else "valid", bias=not norm))
            colours = channels
            if not padded:
                height, width = height - kernel + 1, width - kernel + 1
            self.pools.append(min(height, width) > SMALL)
            if self.pools[-1]:
                height, width = -(-height // 2), -(-width // 2)
        self.norms = nn.ModuleList(BatchNorm(channels) if norm else nn.Identity() for _ in self.convs)
        self.code = nn.Linear(channels * height * width, latent)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, pool in zip(self.convs, self.norms, self.pools, strict=True):
            x = F.relu(norm(conv(x)))
            x = F.max_pool2d(x, 2, ceil_mode=True) if pool else x
        return self.code(x.flatten(1))


class MLPEncoder(nn.Module):
    """Dense layers with batch norm (if `norm`) and ReLU, then a dense code."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], latent: int, norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=not norm) for a, b in pairwise([inputs, *hidden]))
        self.norms = nn.ModuleList(BatchNorm(width) if norm else nn.Identity() for width in hidden)
        self.code = nn.Linear([inputs, *hidden][-1], latent)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return self.code(x)
