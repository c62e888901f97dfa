"""Section 2.1 of the taxonomy: the main branch. A network knows nothing of clusters."""

import logging
from typing import Literal

from pydantic import Field, PositiveInt

from raydc.core.settings import Settings
from raydc.networks.autoencoder import Autoencoder
from raydc.networks.belief import DeepBeliefNetwork
from raydc.networks.conv_autoencoder import ConvAutoencoder
from raydc.networks.convolution import NO_CONV, NO_MLP
from raydc.networks.init import Initial
from raydc.networks.mlp import MLPAutoencoder

log = logging.getLogger("raydc")


class Network(Settings):
    """An autoencoder's family and sizes."""

    family: Literal["mlp", "conv", "dbn"] = "mlp"
    """mlp: fully connected; conv: convolutional, for rows that are images; dbn: a deep belief network, whose layers
    learn one at a time in the phase `layerwise`."""
    hidden: tuple[PositiveInt, ...] = (500, 500, 2000)
    """Widths of the hidden layers of the mlp and the dbn."""
    latent: int = Field(10, ge=1)
    """Size of the code."""
    channels: tuple[PositiveInt, ...] = (50, 50)
    """Channels of the conv stages; each halves height and width."""
    kernel: int = Field(5, ge=1)
    """Kernel size of the conv stages."""
    initial: Initial = "glorot"
    """Weights at the start: uniform in +-1 / sqrt(fan_in), Glorot's or Kaiming's bounds, or normal with variance
    1 / fan_in or .01^2."""

    tied: bool = False
    """Whether the mlp's decoder has the encoder's weights, transposed."""

    def convolutional(self, shape: tuple[int, ...]) -> bool:
        """Whether the network for rows of this shape is the conv one."""
        return self.family == "conv" and len(shape) == 3

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        if self.convolutional(shape):
            return dict.fromkeys(["hidden", "tied"], NO_MLP)
        idle = dict.fromkeys(["channels", "kernel"] + ["family"] * (self.family == "conv"), NO_CONV)
        return idle | ({"tied": "a dbn has the same weights both ways"} if self.family == "dbn" else {})

    def build(self, shape: tuple[int, ...], latent: int | None = None) -> Autoencoder:
        """The network for rows of this shape, (D,) or (C, H, W); a conv network needs an image and says so if not.

        Its code has `latent` numbers where that is given, else as many as set.
        """
        latent = latent or self.latent
        if self.convolutional(shape):
            return ConvAutoencoder(shape, self.channels, self.kernel, latent, self.initial)
        if self.family == "conv":
            log.warning("rows of shape %s are no images: the mlp %s is used instead of conv", shape, self.hidden)
        inputs = 1
        for size in shape:
            inputs *= size
        if self.family == "dbn":
            return DeepBeliefNetwork(inputs, self.hidden, latent, self.initial)
        return MLPAutoencoder(inputs, self.hidden, latent, self.initial, self.tied)


__all__ = ["Autoencoder", "ConvAutoencoder", "DeepBeliefNetwork", "MLPAutoencoder", "Network"]
