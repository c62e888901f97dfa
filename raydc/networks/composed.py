"""Networks to compose a method of: the autoencoders, and IMSAT's classifier as an encoder without a decoder."""

import math
from typing import Literal

from torch import nn

from raydc.networks import Autoencoder, Network
from raydc.networks.classifier import Classifier, MLPClassifier


class ClassifierEncoder(MLPClassifier, Autoencoder):
    """The classifier's logits as the code of a row. Nothing leads back from them."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], latent: int) -> None:
        sizes = Classifier(hidden=hidden)
        super().__init__([inputs, *hidden, latent], sizes.norm, sizes.scale, sizes.last_scale)
        self.latent, self.widths = latent, (*hidden, latent)

    def hidden_layers(self) -> list[nn.Module]:
        return [*self.hidden]


class ComposedNetwork(Network):
    """An autoencoder's or a classifier's family and sizes."""

    family: Literal["mlp", "conv", "dbn", "classifier"] = "mlp"  # type: ignore[assignment]
    """mlp: fully connected; conv: convolutional, for rows that are images; dbn: a deep belief network, whose layers
    learn one at a time in the phase `layerwise`; classifier: IMSAT's, fully connected with batch norm, no decoder."""

    @property
    def decodes(self) -> bool:
        """Whether there is a decoder."""
        return self.family != "classifier"

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        own = [] if self.decodes else ["initial", "tied"]
        return super().idle(shape) | dict.fromkeys(own, "a classifier's weights begin as IMSAT's")

    def build(self, shape: tuple[int, ...], latent: int | None = None) -> Autoencoder:
        if self.decodes:
            return super().build(shape, latent)
        return ClassifierEncoder(math.prod(shape), self.hidden, latent or self.latent)
