"""Networks of the Gaussian mixture variational autoencoders: encoders and decoders with Gaussians at their ends.

Images: Dilokthanakul et al. 2016, arXiv:1611.02648, in their code's sizes: convolutions of 6x6, 6x6 and 4x4 (stride 2,
padding 1), batch norm and ReLU, a dense layer; the decoder mirrors them. Vectors and images under 14 pixels: dense
layers with ReLU. Weights begin as PyTorch's and, before it, Torch's: uniform within 1 / sqrt(fan_in).
"""

import logging
import math
from itertools import pairwise
from typing import Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from raydc.core.settings import Settings
from raydc.networks.convolution import NO_CONV, Conv2d, ConvTranspose2d
from raydc.networks.norm import BatchNorm

log = logging.getLogger("raydc")

LEAST = 14
"""Pixels under which the convolutions leave nothing to see."""


class Gaussian(nn.Module):
    """Means and log variances [B, size] of diagonal Gaussians, linear in hidden units [B, inputs]."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.mean, self.log_variance = nn.Linear(inputs, size), nn.Linear(inputs, size)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(hidden), self.log_variance(hidden)


def dense(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers of these widths, each with a ReLU behind it."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)))


class MixtureVAE(nn.Module):
    """q(z | x), q(w | x), p(z | c, w) and p(x | z), x a row, z its code, w its style and c its cluster."""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, hidden: int, latent: int, style: int, prior: int, clusters: int
    ) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.code, self.style = Gaussian(hidden, latent), Gaussian(hidden, style)
        self.prior = nn.Sequential(nn.Linear(style, prior), nn.Tanh(), Gaussian(prior, clusters * latent))
        self.split = (clusters, latent)

    def encode(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Mean and log variance of the code z [B, latent], and those of the style w [B, style], of rows x [B, ...]."""
        hidden = self.encoder(x)
        return self.code(hidden), self.style(hidden)

    def clusters(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, K, latent] of the code in each cluster, for styles w [B, style]."""
        mean, log_variance = self.prior(w)
        return mean.unflatten(1, self.split), log_variance.unflatten(1, self.split)


class MixtureNetwork(Settings):
    """Sizes of an autoencoder of codes and styles."""

    family: Literal["conv", "mlp"] = "conv"
    """conv: convolutional, for rows that are images of 14 pixels and more; mlp: dense layers."""
    channels: tuple[PositiveInt, ...] = Field((16, 32, 64), min_length=3, max_length=3)
    """Channels of the three convolutions."""
    hidden: tuple[PositiveInt, ...] = Field((500, 500), min_length=1)
    """Widths of the dense layers; conv takes the last one alone."""
    latent: int = Field(200, ge=1)
    """Size of the code z."""
    style: int = Field(150, ge=1)
    """Size of the style w."""
    prior: int = Field(500, ge=1)
    """Hidden units between the style and the clusters."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """p(x | z): bernoulli for rows in [0, 1], gaussian of unit variance for any."""

    def convolutional(self, shape: tuple[int, ...]) -> bool:
        """Whether the network for rows of this shape is the conv one."""
        return self.family == "conv" and len(shape) == 3 and min(shape[1:]) >= LEAST

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        paths = [] if self.convolutional(shape) else ["channels"] + ["family"] * (self.family == "conv")
        return dict.fromkeys(paths, NO_CONV)

    def build(self, shape: tuple[int, ...], clusters: int) -> MixtureVAE:
        """The networks for rows of this shape; says so where the mlp is used in place of conv."""
        if self.convolutional(shape):
            encoder, decoder = self._conv(shape)
        else:
            if self.family == "conv":
                log.warning("rows of shape %s are no images of %d pixels: an mlp is used instead of conv", shape, LEAST)
            inputs = math.prod(shape)
            encoder = nn.Sequential(nn.Flatten(), dense((inputs, *self.hidden)))
            decoder = nn.Sequential(dense((self.latent, *reversed(self.hidden))), nn.Linear(self.hidden[0], inputs))
        return MixtureVAE(encoder, decoder, self.hidden[-1], self.latent, self.style, self.prior, clusters)

    def _conv(self, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
        colours, height, width = shape
        low, middle, top = self.channels
        wide, high = width - 10, height - 10
        inner = (top, high // 2, wide // 2)
        flat, last = math.prod(inner), self.hidden[-1]

        def behind(channels: int) -> tuple[nn.Module, nn.Module]:
            return BatchNorm(channels), nn.ReLU()

        encoder = nn.Sequential(
            *(Conv2d(colours, low, 6, bias=False), *behind(low)),
            *(Conv2d(low, middle, 6, bias=False), *behind(middle)),
            *(Conv2d(middle, top, 4, 2, 1, bias=False), *behind(top)),
            *(nn.Flatten(), nn.Linear(flat, last, bias=False), *behind(last)),
        )
        decoder = nn.Sequential(
            *(nn.Linear(self.latent, last, bias=False), *behind(last)),
            *(nn.Linear(last, flat, bias=False), *behind(flat), nn.Unflatten(1, inner)),
            *(ConvTranspose2d(top, middle, 4, 2, 1, (high % 2, wide % 2), bias=False), *behind(middle)),
            *(ConvTranspose2d(middle, low, 6, bias=False), *behind(low)),
            *(ConvTranspose2d(low, colours, 6), nn.Flatten()),
        )
        return encoder, decoder


__all__ = ["Gaussian", "MixtureNetwork", "MixtureVAE", "dense"]
