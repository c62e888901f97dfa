"""The first weights of a network, by the names of the schemes that the methods' sources use."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

Initial = Literal["fan_in", "glorot", "kaiming", "kaiming_normal", "lecun_normal", "normal"]
"""How weights are drawn; fan_in and fan_out are the inputs and outputs of a unit.

- fan_in: U(+-1 / sqrt(fan_in)). DEC-keras on MNIST and Fashion (VarianceScaling(1/3)).
- glorot: U(+-sqrt(6 / (fan_in + fan_out))) (Glorot & Bengio, AISTATS 2010). IDEC, VaDE, LESC, DEPICT, DSC-Nets,
  Aljalbout et al., DEC-keras on USPS and STL.
- kaiming: U(+-sqrt(6 / fan_in)), which keeps the variance through ReLUs (He et al., ICCV 2015). The draws of BRB.
- kaiming_normal: N(0, 2 / fan_in). DAC.
- lecun_normal: N(0, 1 / fan_in). DCN.
- normal: N(0, .01^2). DEC's and DCC's Caffe networks, trained a layer at a time; JULE.
"""

_DRAWS: dict[Initial, Callable[[Tensor], object]] = {
    "fan_in": partial(nn.init.kaiming_uniform_, a=math.sqrt(5)),
    "glorot": nn.init.xavier_uniform_,
    "kaiming": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "kaiming_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "normal": partial(nn.init.normal_, std=0.01),
}


@torch.no_grad()
def redraw(layer: nn.Module, keep: float) -> None:
    """keep * p + (1 - keep) * draw for the weight and bias of a linear or convolutional layer, in place.

    The draws are uniform: weights within +-sqrt(6 / fan_in), biases within +-1 / sqrt(fan_in).
    """
    fan_in = layer.get_parameter("weight")[0].numel()
    for p in layer.parameters():
        bound = math.sqrt((6 if p.dim() > 1 else 1) / fan_in)
        p.lerp_(bound * (2 * torch.rand_like(p) - 1), 1 - keep)


def begin(network: nn.Module, initial: Initial) -> None:
    """Draw in place the weights of every linear and convolutional layer; biases begin at 0."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            # a transposed convolution holds [inputs, outputs, ...], all others [outputs, inputs, ...]
            _DRAWS[initial](layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
