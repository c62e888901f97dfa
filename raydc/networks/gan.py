"""Generator and critic of InfoGAN (Chen et al., NeurIPS 2016, arXiv:1606.03657, appendix C.1) for images of any size.

CatGAN takes them too, with another head on the critic.

Images: generator dense-dense-deconv-deconv, critic conv-conv-dense, 4x4 kernels with stride 2. Vectors: two dense
layers each, and a linear end of the generator, for vectors need not lie in [0, 1].

Those for images begin as in the authors' code: weights normal with deviation .02, batch norm's about 1, biases 0.
"""

import logging
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from raydc.core.settings import Settings
from raydc.networks.convolution import NO_CONV, Conv2d, ConvTranspose2d
from raydc.networks.norm import BatchNorm

log = logging.getLogger("raydc")


class Generator(nn.Module):
    """Rows of codes [B, inputs]."""

    def __init__(self, inputs: int, shape: tuple[int, ...], hidden: tuple[int, ...], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        if not channels:
            widths = [inputs, *hidden]
            self.layers = nn.Sequential(
                *(_dense(a, b, nn.ReLU()) for a, b in pairwise(widths)), nn.Linear(widths[-1], math.prod(shape))
            )
            return
        colours, height, width = shape
        low, top = channels
        height, width = -(-height // 4), -(-width // 4)
        self.layers = nn.Sequential(
            _dense(inputs, hidden[-1], nn.ReLU()),
            _dense(hidden[-1], top * height * width, nn.ReLU()),
            nn.Unflatten(1, (top, height, width)),
            ConvTranspose2d(top, low, 4, 2, 1, bias=False),
            BatchNorm(low),
            nn.ReLU(),
            ConvTranspose2d(low, colours, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, codes: Tensor) -> Tensor:
        x = self.layers(codes)
        if x.dim() == 4:
            return x[:, :, : self.shape[1], : self.shape[2]]
        return x.reshape(-1, *self.shape)


class Noise(nn.Module):
    """Gaussian noise of this deviation on what comes in, in training alone."""

    def __init__(self, deviation: float) -> None:
        super().__init__()
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.deviation * torch.randn_like(x) if self.training and self.deviation else x


class ScoreAndCode(nn.Module):
    """A score that a row is real, and what Q reads from it: logits of the cluster and means of the continuous codes."""

    def __init__(self, hidden: int, leak: float, clusters: int, continuous: int) -> None:
        super().__init__()
        self.clusters = clusters
        self.score = nn.Linear(hidden, 1)
        self.code = nn.Sequential(_dense(hidden, 128, nn.LeakyReLU(leak)), nn.Linear(128, clusters + continuous))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [B], logits [B, K] and continuous codes [B, continuous]."""
        code = self.code(hidden)
        return self.score(hidden)[:, 0], code[:, : self.clusters], code[:, self.clusters :]


class GAN(nn.Module):
    def __init__(self, generator: Generator, critic: nn.Sequential) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic

    def begin_small(self) -> None:
        """Weights from N(0, .02^2), those of batch norm from N(1, .02^2), biases 0."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, BatchNorm) and layer.weight is not None:
                nn.init.normal_(layer.weight, 1.0, 0.02)


class AdversarialNetwork(Settings):
    """Sizes of generator and critic."""

    family: Literal["conv", "mlp"] = "conv"
    """conv: convolutional, for rows that are images; mlp: two or more dense layers."""
    hidden: tuple[PositiveInt, ...] = Field((1024, 1024), min_length=1)
    """Widths of the dense layers; conv takes the last one alone."""
    channels: tuple[PositiveInt, ...] = Field((64, 128), min_length=2, max_length=2)
    """Channels of the two convolutions."""
    leak: float = Field(0.01, ge=0, lt=1)
    """Slope of the critic's leaky ReLU; InfoGAN's code has .01, its paper's table .1."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the critic's hidden units that are dropped in training."""
    noise: float = Field(0.0, ge=0)
    """Deviation of the Gaussian noise on the critic's rows in training."""

    def convolutional(self, shape: tuple[int, ...]) -> bool:
        """Whether the network for rows of this shape is the conv one: images of at least 4 x 4."""
        return self.family == "conv" and len(shape) == 3 and min(shape[1:]) >= 4

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        paths = [] if self.convolutional(shape) else ["channels"] + ["family"] * (self.family == "conv")
        return dict.fromkeys(paths, NO_CONV)

    def build(self, shape: tuple[int, ...], inputs: int, head: Callable[[int, float], nn.Module]) -> GAN:
        """A GAN for rows of this shape; conv needs images of at least 4 x 4, and says so where the mlp is used.

        `head` makes the critic's end from the width of its last layer and the slope of its leaky ReLU.
        """
        conv = self.convolutional(shape)
        if self.family == "conv" and not conv:
            log.warning("rows of shape %s are no images: the mlp %s is used instead of conv", shape, self.hidden)
        channels = self.channels if conv else ()
        critic = nn.Sequential(Noise(self.noise), *self._body(shape, channels), head(self.hidden[-1], self.leak))
        gan = GAN(Generator(inputs, shape, self.hidden, channels), critic)
        if channels:
            gan.begin_small()
        return gan

    def _body(self, shape: tuple[int, ...], channels: tuple[int, ...]) -> list[nn.Module]:
        """The critic's layers, from rows to hidden units [B, hidden[-1]]."""
        act, drop = nn.LeakyReLU(self.leak), nn.Dropout(self.dropout)
        if not channels:
            first = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), self.hidden[0]), act)
            layers = [first, *(_dense(a, b, act) for a, b in pairwise(self.hidden))]
            return [nn.Sequential(layer, drop) for layer in layers]
        low, top = channels
        flat = top * (shape[1] // 4) * (shape[2] // 4)
        return [
            nn.Sequential(Conv2d(shape[0], low, 4, 2, 1), act, drop),
            nn.Sequential(Conv2d(low, top, 4, 2, 1, bias=False), BatchNorm(top), act, drop),
            nn.Sequential(nn.Flatten(), _dense(flat, self.hidden[-1], act), drop),
        ]


def _dense(inputs: int, outputs: int, activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, outputs, bias=False), BatchNorm(outputs), activation)


__all__ = ["GAN", "AdversarialNetwork", "Generator", "ScoreAndCode"]
