"""Fully connected variational autoencoder. Kingma & Welling, ICLR 2014, arXiv:1312.6114."""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from raydc.networks import Network
from raydc.networks.init import Initial
from raydc.networks.mlp import MLPAutoencoder, run


class MLPVariationalAutoencoder(MLPAutoencoder):
    """D-500-500-2000-(mean, log variance), mirrored decoder; as an autoencoder its code is the mean."""

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], latent: int, initial: Initial, tied: bool, bernoulli: bool
    ) -> None:
        super().__init__(inputs, hidden, latent, initial, tied)
        self.bernoulli = bernoulli
        self.log_variance = nn.Linear(hidden[-1] if hidden else inputs, latent)
        nn.init.normal_(self.log_variance.weight, std=1e-3)  # all rows are nearly alike at first
        nn.init.zeros_(self.log_variance.bias)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, latent] of q(z | x)."""
        hidden = run(self.encoder[:-1], x.flatten(1), linear_end=False)
        return self.encoder[-1](hidden), self.log_variance(hidden)

    def decode(self, z: Tensor) -> Tensor:
        """The mean of p(x | z) [B, D]."""
        return self._mean(self.logits(z))

    def logits(self, z: Tensor) -> Tensor:
        """The mean of p(x | z), before the sigmoid where x is Bernoulli."""
        return run(self.decoder, z)

    def reconstruct_layer(self, x: Tensor, layer: int, corruption: float) -> tuple[Tensor, Tensor]:
        clean, back = super().reconstruct_layer(x, layer, corruption)
        return clean, back if layer else self._mean(back)

    def _mean(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.bernoulli else logits


class VariationalNetwork(Network):
    """A variational autoencoder's sizes."""

    family: Literal["mlp"] = "mlp"
    """mlp: fully connected."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """p(x | z): bernoulli for rows in [0, 1], gaussian of unit variance for any."""

    def build(self, shape: tuple[int, ...], latent: int | None = None) -> MLPVariationalAutoencoder:
        bernoulli = self.likelihood == "bernoulli"
        code = latent or self.latent
        return MLPVariationalAutoencoder(math.prod(shape), self.hidden, code, self.initial, self.tied, bernoulli)
