"""Fully connected autoencoder of DEC, IDEC, DCN: D-500-500-2000-d, ReLU between, linear code, mirrored decoder."""

from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydc.networks.autoencoder import Autoencoder
from raydc.networks.init import Initial, begin


def linear(widths: Iterable[int]) -> list[nn.Linear]:
    """Linear layers of these widths."""
    return [nn.Linear(a, b) for a, b in pairwise(widths)]


def run(layers: Iterable[nn.Module], x: Tensor, *, linear_end: bool = True) -> Tensor:
    """x through the layers with ReLU between them, and after the last one too unless `linear_end`."""
    return [x, *outputs(layers, x, linear_end=linear_end)][-1]


def outputs(layers: Iterable[nn.Module], x: Tensor, *, linear_end: bool = True) -> list[Tensor]:
    """What `run` has behind each of the layers."""
    layers, found = list(layers), []
    for i, layer in enumerate(layers):
        x = layer(x)
        if not linear_end or i + 1 < len(layers):
            x = F.relu(x)
        found.append(x)
    return found


class Transposed(nn.Module):
    """A linear layer backwards: its weight transposed, and a bias of its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self._layer = (layer,)  # no submodule: the weight is the encoder's, and is saved and stepped once
        self.bias = nn.Parameter(torch.zeros(layer.in_features))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self._layer[0].weight.T, self.bias)


class MLPAutoencoder(Autoencoder):
    def __init__(self, inputs: int, hidden: tuple[int, ...], latent: int, initial: Initial, tied: bool = False) -> None:
        """`tied`: the decoder's weights are the encoder's, transposed."""
        super().__init__()
        self.latent, self.layers, self.widths = latent, len(hidden) + 1, (*hidden, latent)
        widths = [inputs, *hidden, latent]
        encoder = linear(widths)
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(map(Transposed, reversed(encoder)) if tied else linear(reversed(widths)))
        begin(self, initial)

    def activations(self, x: Tensor) -> list[Tensor]:
        return outputs(self.encoder, x.flatten(1))

    def decode(self, z: Tensor) -> Tensor:
        return run(self.decoder, z)

    def hidden_layers(self) -> list[nn.Module]:
        return [*self.encoder[:-1]]

    def reconstruct_layer(self, x: Tensor, layer: int, corruption: float) -> tuple[Tensor, Tensor]:
        """All but the code and the reconstructed row pass a ReLU (Vincent et al., JMLR 2010; Xie et al. 2016).

        Corrupted are, as in DEC's Caffe code, a layer's inputs but the rows, and its outputs but the code.
        """
        with torch.no_grad():
            below = run(self.encoder[:layer], x.flatten(1), linear_end=False)
        hidden = self.encoder[layer](F.dropout(below, corruption) if layer else below)
        if layer + 1 < self.layers:
            hidden = F.dropout(F.relu(hidden), corruption)
        back = self.decoder[self.layers - 1 - layer](hidden)
        return below, F.relu(back) if layer else back

    def layer_parameters(self, layer: int) -> list[nn.Parameter]:
        pair = (self.encoder[layer], self.decoder[self.layers - 1 - layer])
        return [p for module in pair for p in module.parameters()]


class ResidualMLP(nn.Module):
    """z + g(z) [B, D] of z [B, D], g a fully connected network whose last layer begins at 0: the identity at first."""

    def __init__(self, size: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        layers = linear([size, *hidden, size])
        self.layers = nn.ModuleList(layers)
        begin(self, "kaiming")
        nn.init.zeros_(layers[-1].weight)

    def forward(self, z: Tensor) -> Tensor:
        return z + run(self.layers, z)
