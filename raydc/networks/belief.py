"""Deep belief network: restricted Boltzmann machines, each learning the units of the one below.

Hinton, Osindero & Teh, Neural Computation 2006; as an autoencoder, Hinton & Salakhutdinov, Science 2006: up by the
probabilities of hidden units, down by those of visible ones. Hidden units are binary. Decided here: rows are Gaussian
of unit variance around what hidden units say, for they need not lie in [0, 1].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydc.networks.init import Initial
from raydc.networks.losses.divergence import contrastive_divergence, free_energy
from raydc.networks.mlp import MLPAutoencoder


class DeepBeliefNetwork(MLPAutoencoder):
    def __init__(self, inputs: int, hidden: tuple[int, ...], latent: int, initial: Initial) -> None:
        super().__init__(inputs, hidden, latent, initial, tied=True)

    def activations(self, x: Tensor) -> list[Tensor]:
        found = [x.flatten(1)]
        for layer in self.encoder:
            found.append(torch.sigmoid(layer(found[-1])))
        return found[1:]

    def decode(self, z: Tensor) -> Tensor:
        for layer in range(self.layers)[::-1]:
            z = self._down(z, layer)
        return z

    def layer_error(self, x: Tensor, layer: int, corruption: float) -> Tensor:
        """Contrastive divergence of one machine (CD-1), of the units below, some of them dropped."""
        with torch.no_grad():
            below = [x.flatten(1), *self.activations(x)][layer]
            below = F.dropout(below, corruption)
            p = torch.sigmoid(self.encoder[layer](below))
            again = self._down((torch.rand_like(p) < p).to(p), layer)
        return contrastive_divergence(self._energy(below, layer), self._energy(again, layer))

    def _energy(self, visible: Tensor, layer: int) -> Tensor:
        bias = self._back(layer).get_parameter("bias")
        return free_energy(visible, bias, self.encoder[layer](visible), gaussian=layer == 0)

    def _back(self, layer: int) -> nn.Module:
        return self.decoder[self.layers - 1 - layer]

    def _down(self, hidden: Tensor, layer: int) -> Tensor:
        """What a machine's visible units are, given hidden ones [B, H]."""
        logits = self._back(layer)(hidden)
        return torch.sigmoid(logits) if layer else logits
