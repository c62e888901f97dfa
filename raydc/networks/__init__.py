"""Section 2.1 of the taxonomy: the main branch. A network knows nothing of clusters."""

import logging
from typing import Literal

from pydantic import Field, PositiveInt

from raydc.networks.autoencoder import Autoencoder
from raydc.networks.conv_autoencoder import ConvAutoencoder
from raydc.networks.convolution import NO_CONV, NO_MLP
from raydc.networks.mlp import MLPAutoencoder
from raydc.settings import Settings

log = logging.getLogger("raydc")


class Network(Settings):
    """An autoencoder's family and sizes."""

    family: Literal["mlp", "conv"] = "mlp"
    """mlp: fully connected; conv: convolutional, for rows that are images."""
    hidden: tuple[PositiveInt, ...] = (500, 500, 2000)
    """Widths of the hidden layers of the mlp."""
    latent: int = Field(10, ge=1)
    """Size of the code."""
    channels: tuple[PositiveInt, ...] = (50, 50)
    """Channels of the conv stages; each halves height and width."""
    kernel: int = Field(5, ge=1)
    """Kernel size of the conv stages."""
    initial: Literal["kaiming", "normal", "keras"] = "kaiming"
    """mlp weights at the start: kaiming-uniform, N(0, 0.01^2) (DEC), or uniform with variance 1 / (3 fan_in)."""

    def convolutional(self, shape: tuple[int, ...]) -> bool:
        """Whether the network for rows of this shape is the conv one."""
        return self.family == "conv" and len(shape) == 3

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        if self.convolutional(shape):
            return dict.fromkeys(["hidden", "initial"], NO_MLP)
        return dict.fromkeys(["channels", "kernel"] + ["family"] * (self.family == "conv"), NO_CONV)

    def build(self, shape: tuple[int, ...]) -> Autoencoder:
        """The network for rows of this shape, (D,) or (C, H, W); a conv network needs an image and says so if not."""
        if self.convolutional(shape):
            return ConvAutoencoder(shape, self.channels, self.kernel, self.latent)
        if self.family == "conv":
            log.warning("rows of shape %s are no images: the mlp %s is used instead of conv", shape, self.hidden)
        inputs = 1
        for size in shape:
            inputs *= size
        return MLPAutoencoder(inputs, self.hidden, self.latent, self.initial)


__all__ = ["Autoencoder", "ConvAutoencoder", "MLPAutoencoder", "Network"]
