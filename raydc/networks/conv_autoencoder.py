"""Convolutional autoencoder: stages of conv, batch norm, ReLU and 2x2 pooling, then a linear code; decoder mirrored.

The shape of Aljalbout et al. 2018, arXiv:1801.07648 (conv50 5x5, pool, conv50 5x5, pool, dense), for any image size.
Unpooling is nearest-neighbour upsampling to the size that the encoder saw.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from raydc.networks.autoencoder import Autoencoder
from raydc.networks.convolution import Conv2d
from raydc.networks.init import Initial, begin
from raydc.networks.norm import BatchNorm


class ConvAutoencoder(Autoencoder):
    def __init__(
        self, shape: tuple[int, ...], channels: tuple[int, ...], kernel: int, latent: int, initial: Initial
    ) -> None:
        super().__init__()
        self.latent = latent
        colours, height, width = shape
        self.sizes = [(height, width)]
        for _ in channels:
            height, width = -(-height // 2), -(-width // 2)
            self.sizes.append((height, width))
        self.widths = (*(c * h * w for c, (h, w) in zip(channels, self.sizes[1:], strict=True)), latent)
        widths = [colours, *channels]
        self.top = (widths[-1], height, width)
        self.encoder = nn.ModuleList(Conv2d(a, b, kernel, padding="same") for a, b in pairwise(widths))
        self.encoder_norms = nn.ModuleList(BatchNorm(c) for c in channels)
        self.code = nn.Linear(widths[-1] * height * width, latent)
        self.back = nn.Linear(latent, widths[-1] * height * width)
        self.decoder = nn.ModuleList(Conv2d(b, a, kernel, padding="same") for a, b in reversed([*pairwise(widths)]))
        self.decoder_norms = nn.ModuleList(BatchNorm(c) for c in reversed(widths[1:-1]))
        begin(self, initial)

    def hidden_layers(self) -> list[nn.Module]:
        return [*self.encoder]

    def activations(self, x: Tensor) -> list[Tensor]:
        found = []
        for conv, norm in zip(self.encoder, self.encoder_norms, strict=True):
            x = F.max_pool2d(F.relu(norm(conv(x))), 2, ceil_mode=True)
            found.append(x)
        return [*found, self.code(x.flatten(1))]

    def decode(self, z: Tensor) -> Tensor:
        x = F.relu(self.back(z)).view(len(z), *self.top)
        norms = [*self.decoder_norms, None]
        for conv, norm, size in zip(self.decoder, norms, reversed(self.sizes[:-1]), strict=True):
            x = conv(F.interpolate(x, size=size))
            if norm is not None:
                x = F.relu(norm(x))
        return x
