"""Fully connected autoencoder of DEC, IDEC, DCN: D-500-500-2000-d, ReLU between, linear code, mirrored decoder."""

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydc.networks.autoencoder import Autoencoder
from raydc.networks.init import begin

DRAWS: dict[str, Callable[[Tensor], object]] = {
    "kaiming": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "normal": partial(nn.init.normal_, std=0.01),
    "keras": partial(nn.init.kaiming_uniform_, a=math.sqrt(5)),
}


def mlp(widths: Iterable[int]) -> nn.ModuleList:
    """Linear layers of these widths."""
    return nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))


def run(layers: Iterable[nn.Module], x: Tensor, *, linear_end: bool = True) -> Tensor:
    """x through the layers with ReLU between them, and after the last one too unless `linear_end`."""
    layers = list(layers)
    for i, layer in enumerate(layers):
        x = layer(x)
        if not linear_end or i + 1 < len(layers):
            x = F.relu(x)
    return x


class MLPAutoencoder(Autoencoder):
    def __init__(
        self, inputs: int, hidden: tuple[int, ...] = (500, 500, 2000), latent: int = 10, initial: str = "kaiming"
    ) -> None:
        super().__init__()
        self.latent, self.layers = latent, len(hidden) + 1
        self.encoder = mlp([inputs, *hidden, latent])
        self.decoder = mlp([latent, *reversed(hidden), inputs])
        begin(self, DRAWS[initial])

    def encode(self, x: Tensor) -> Tensor:
        return run(self.encoder, x.flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        return run(self.decoder, z)

    def reconstruct_layer(self, x: Tensor, layer: int, corruption: float) -> tuple[Tensor, Tensor]:
        """All but the code and the reconstructed row pass a ReLU (Vincent et al., JMLR 2010; Xie et al. 2016)."""
        with torch.no_grad():
            below = run(self.encoder[:layer], x.flatten(1), linear_end=False)
        hidden = self.encoder[layer](F.dropout(below, corruption))
        if layer + 1 < self.layers:
            hidden = F.relu(hidden)
        back = self.decoder[self.layers - 1 - layer](hidden)
        return below, F.relu(back) if layer else back

    def layer_parameters(self, layer: int) -> list[nn.Parameter]:
        pair = (self.encoder[layer], self.decoder[self.layers - 1 - layer])
        return [p for module in pair for p in module.parameters()]
