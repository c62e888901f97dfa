"""Convolutional autoencoder without pooling and without a dense code: each stage halves height and width by its stride.

The shape of DSC-Nets (Ji et al., NeurIPS 2017, arXiv:1709.02508): ReLU after every convolution, the code's too; the
decoder mirrors the encoder by transposed convolutions.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from raydc.networks.autoencoder import Autoencoder


class StridedAutoencoder(Autoencoder):
    def __init__(self, shape: tuple[int, ...], channels: tuple[int, ...], kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(
                f"method.network.kernel: expected an odd size, so that a stage halves an image, got {kernel}"
            )
        colours, height, width = shape
        self.sizes = [(height, width)]
        for _ in channels:
            height, width = -(-height // 2), -(-width // 2)
            self.sizes.append((height, width))
        widths = [colours, *channels]
        self.latent, self.top = widths[-1] * height * width, (widths[-1], height, width)
        pad = kernel // 2
        self.encoder = nn.ModuleList(nn.Conv2d(a, b, kernel, 2, pad) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(nn.ConvTranspose2d(b, a, kernel, 2, pad) for a, b in reversed([*pairwise(widths)]))

    def encode(self, x: Tensor) -> Tensor:
        for conv in self.encoder:
            x = F.relu(conv(x))
        return x.flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        x = z.view(len(z), *self.top)
        for conv, size in zip(self.decoder, reversed(self.sizes[:-1]), strict=True):
            x = F.relu(conv(x, output_size=size))
        return x
