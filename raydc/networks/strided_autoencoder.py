"""Convolutional autoencoder without pooling and without a dense code: each stage halves height and width by its stride.

The shape of DSC-Nets (Ji et al., NeurIPS 2017, arXiv:1709.02508): ReLU after every convolution, the code's too; the
decoder mirrors the encoder by transposed convolutions, and ends without a ReLU: one that is dead at the start stays so.
Weights begin Glorot-uniform and biases at 0, as in the authors' code: they set the scale of the codes, by which the
losses that express them weigh.
"""

from itertools import pairwise

import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from raydc.networks import Network
from raydc.networks.autoencoder import Autoencoder
from raydc.networks.convolution import NO_MLP, Conv2d, ConvTranspose2d
from raydc.networks.init import Initial, begin


class StridedAutoencoder(Autoencoder):
    def __init__(
        self, shape: tuple[int, ...], channels: tuple[int, ...], kernel: int, initial: Initial = "glorot"
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(
                f"method.network.kernel: expected an odd size, so that a stage halves an image, got {kernel}"
            )
        colours, height, width = shape
        rests, sizes = [], []
        for channel in channels:
            rests.append((1 - height % 2, 1 - width % 2))
            height, width = -(-height // 2), -(-width // 2)
            sizes.append(channel * height * width)
        self.widths = (*sizes,)
        widths = [colours, *channels]
        self.latent, self.top = widths[-1] * height * width, (widths[-1], height, width)
        pad = kernel // 2
        self.encoder = nn.ModuleList(Conv2d(a, b, kernel, 2, pad) for a, b in pairwise(widths))
        self.decoder = nn.ModuleList(
            ConvTranspose2d(b, a, kernel, 2, pad, rest)
            for (a, b), rest in reversed([*zip(pairwise(widths), rests, strict=True)])
        )
        begin(self, initial)

    def hidden_layers(self) -> list[nn.Module]:
        return [*self.encoder[:-1]]

    def activations(self, x: Tensor) -> list[Tensor]:
        found = []
        for conv in self.encoder:
            x = F.relu(conv(x))
            found.append(x)
        return [*found[:-1], x.flatten(1)]

    def decode(self, z: Tensor) -> Tensor:
        x = z.reshape(len(z), *self.top)
        for i, conv in enumerate(self.decoder):
            x = conv(F.relu(x) if i else x)
        return x


class Strided(Network):
    """An autoencoder of strided convolutions for images; an mlp for other rows."""

    channels: tuple[PositiveInt, ...] = (15,)
    """Channels of the conv stages; each halves height and width by its stride."""
    kernel: int = Field(3, ge=1)
    """Kernel size of the conv stages, odd."""
    initial: Initial = "glorot"
    """Weights at the start; the scale of the codes, and so the weight of what expresses them, is theirs."""
    latent: int = Field(64, ge=1)
    """Size of the mlp's code; the conv network's is what its stages leave."""

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        return super().idle(shape) | ({"latent": NO_MLP} if self.convolutional(shape) else {})

    def build(self, shape: tuple[int, ...], latent: int | None = None) -> Autoencoder:
        if self.convolutional(shape):
            return StridedAutoencoder(shape, self.channels, self.kernel, self.initial)
        return super().build(shape, latent)
