"""Autoencoder of DEPICT: a noisy and a clean encoder of the same weights, and a decoder that gives back every layer.

Ghasedi Dizaji et al., ICCV 2017, arXiv:1704.06327: two convolutions of stride 2 with leaky ReLU (.01), a dense code
with tanh, mirrored decoder with tanh at its end; Glorot-uniform weights. The decoder's last bias is one a value of the
row and can begin at the mean row: where it does not, the first steps push the codes of all rows to the same corner of
tanh, to give what rows have in common, and codes do not come back from there.
"""

import logging
import math
from itertools import pairwise
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from raydc.core.autocast import full_precision
from raydc.core.settings import Settings
from raydc.networks.convolution import NO_CONV, NO_MLP, Conv2d, ConvTranspose2d
from raydc.networks.init import begin

log = logging.getLogger("raydc")

tanh = full_precision(torch.tanh)
"""In bf16 it is exactly 1 from 3.2 on, and has no gradient there."""


class LayeredAutoencoder(nn.Module):
    """Encoder and decoder layers between activations of these shapes; the first is the row, the last the code."""

    def __init__(self, encoder: list[nn.Module], decoder: list[nn.Module], shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.encoder, self.decoder, self.shapes = nn.ModuleList(encoder), nn.ModuleList(decoder), shapes
        self.bounded = len(shapes[0]) == 3
        self.common = nn.Parameter(torch.zeros(shapes[0]))
        begin(self, "glorot")

    @torch.no_grad()
    def begin_at(self, mean: Tensor) -> None:
        """Let the last bias give the mean row; images' tanh reaches what lies between -1 and 1."""
        self.common.copy_(torch.atanh(mean.clamp(-0.99, 0.99)) if self.bounded else mean)

    def encode(self, x: Tensor, noise: float = 0.0) -> list[Tensor]:
        """The row and every layer's activation, the code last; `noise` is the share of inputs dropped before layers.

        Nothing is dropped just before the code.
        """
        activations = [x.view(-1, *self.shapes[0])]
        for i, (layer, below) in enumerate(zip(self.encoder, self.shapes[:-1], strict=True)):
            last = i + 1 == len(self.encoder)
            x = layer(F.dropout(activations[-1], 0.0 if last else noise).reshape(-1, *_into(layer, below)))
            activations.append(tanh(x) if last else F.leaky_relu(x))
        return activations

    def decode(self, z: Tensor) -> list[Tensor]:
        """Reconstructions of every activation under the code, the row first."""
        rebuilt: list[Tensor] = []
        for layer, shape in zip(self.decoder, reversed(self.shapes[:-1]), strict=True):
            z = layer(z).reshape(-1, *shape)
            last = len(rebuilt) + 1 == len(self.decoder)
            z = z + self.common if last else F.leaky_relu(z)
            rebuilt.append(tanh(z) if last and self.bounded else z)
        return rebuilt[::-1]


class LayeredNetwork(Settings):
    """Sizes of an autoencoder whose layers are all reconstructed."""

    family: Literal["conv", "mlp"] = "conv"
    """conv: convolutional, for rows that are images; mlp: fully connected, with a linear end."""
    channels: tuple[PositiveInt, ...] = (50, 50)
    """Channels of the convolutions; each halves height and width."""
    kernels: tuple[PositiveInt, ...] = (4, 5)
    """Kernel sizes of the convolutions."""
    paddings: tuple[NonNegativeInt, ...] = (0, 2)
    """Paddings of the convolutions."""
    hidden: tuple[PositiveInt, ...] = (500, 500, 2000)
    """Widths of the hidden layers of the mlp."""
    latent: int = Field(0, ge=0)
    """Size of the code; 0: as many as clusters."""

    @model_validator(mode="after")
    def _as_many_of_each(self) -> Self:
        if not len(self.channels) == len(self.kernels) == len(self.paddings):
            raise ValueError(
                "expected as many kernels and paddings as channels, one each for a convolution, got "
                f"{len(self.channels)} channels, {len(self.kernels)} kernels and {len(self.paddings)} paddings"
            )
        return self

    def convolutional(self, shape: tuple[int, ...]) -> bool:
        """Whether the network for rows of this shape is the conv one."""
        return self.family == "conv" and len(shape) == 3

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        if self.convolutional(shape):
            return {"hidden": NO_MLP}
        return dict.fromkeys(["channels", "kernels", "paddings"] + ["family"] * (self.family == "conv"), NO_CONV)

    def build(self, shape: tuple[int, ...], clusters: int) -> LayeredAutoencoder:
        """The network for rows of this shape; conv needs images and says so where the mlp is used instead."""
        latent = self.latent or clusters
        if self.convolutional(shape):
            return self._conv(shape, latent)
        if self.family == "conv":
            log.warning("rows of shape %s are no images: the mlp %s is used instead of conv", shape, self.hidden)
        widths = [math.prod(shape), *self.hidden, latent]
        encoder: list[nn.Module] = [nn.Linear(a, b) for a, b in pairwise(widths)]
        decoder: list[nn.Module] = [
            nn.Linear(b, a, bias=i > 0) for i, (a, b) in reversed([*enumerate(pairwise(widths))])
        ]
        return LayeredAutoencoder(encoder, decoder, [(width,) for width in widths])

    def _conv(self, shape: tuple[int, ...], latent: int) -> LayeredAutoencoder:
        shapes = [shape]
        encoder: list[nn.Module] = []
        decoder: list[nn.Module] = []
        for channels, kernel, pad in zip(self.channels, self.kernels, self.paddings, strict=True):
            below, *sizes = shapes[-1]
            height, width = (size + 2 * pad - kernel for size in sizes)
            if min(height, width) < 0:
                raise ValueError(f"images of {shape[1:]} are too small for kernels {self.kernels}: use family=mlp")
            shapes.append((channels, height // 2 + 1, width // 2 + 1))
            encoder.append(Conv2d(below, channels, kernel, 2, pad))
            rest = (height % 2, width % 2)
            decoder.append(ConvTranspose2d(channels, below, kernel, 2, pad, rest, bias=len(shapes) > 2))
        flat = math.prod(shapes[-1])
        encoder.append(nn.Linear(flat, latent))
        decoder.append(nn.Linear(latent, flat))
        return LayeredAutoencoder(encoder, decoder[::-1], [*shapes, (latent,)])


def _into(layer: nn.Module, below: tuple[int, ...]) -> tuple[int, ...]:
    return (math.prod(below),) if isinstance(layer, nn.Linear) else below
