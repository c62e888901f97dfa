"""The first weights of a network."""

from collections.abc import Callable

from torch import Tensor, nn


def begin(network: nn.Module, draw: Callable[[Tensor], object]) -> None:
    """Draw in place the weights of every linear and convolutional layer [outputs, inputs, ...]; biases begin at 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            draw(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
