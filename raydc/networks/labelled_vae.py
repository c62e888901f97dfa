"""Networks of a variational autoencoder whose rows have a label beside their code: M2.

Kingma, Mohamed, Rezende & Welling, NIPS 2014, arXiv:1406.5298, with a Gaussian for each label as the prior of codes.
Dense layers with ReLU for rows of any shape.
"""

import math
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from raydc.core.settings import Settings
from raydc.networks.init import begin
from raydc.networks.mixture_vae import Gaussian, dense


class LabelledVAE(nn.Module):
    """q(c | x), q(z | x, c), p(z | c) and p(x | z), x a row, z its code and c its label, one-hot or soft."""

    def __init__(self, inputs: int, hidden: tuple[int, ...], latent: int, labels: int) -> None:
        super().__init__()
        last = hidden[-1]
        self.guess = nn.Sequential(dense((inputs, *hidden)), nn.Linear(last, labels))
        """Logits [B, K] of q(c | x), for rows [B, D]."""
        self.encoder = nn.Sequential(dense((inputs + labels, *hidden)), Gaussian(last, latent))
        self.prior = Gaussian(labels, latent)
        """Mean and log variance [B, latent] of p(z | c), for labels c [B, K]."""
        self.decoder = nn.Sequential(dense((latent, *reversed(hidden))), nn.Linear(hidden[0], inputs))
        """Means of p(x | z) [B, D], before the sigmoid where x is Bernoulli."""
        begin(self, "glorot")

    def encode(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [B, latent] of q(z | x, c), for rows x [B, D] and labels c [B, K]."""
        found: tuple[Tensor, Tensor] = self.encoder(torch.cat([x, c], 1))
        return found


class LabelledNetwork(Settings):
    """Sizes of a variational autoencoder of rows with labels."""

    hidden: tuple[PositiveInt, ...] = Field((512, 512), min_length=1)
    """Widths of the dense layers of each network; the decoder has them in reverse."""
    latent: int = Field(64, ge=1)
    """Size of the code z."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """p(x | z): bernoulli for rows in [0, 1], gaussian of unit variance for any."""

    def build(self, shape: tuple[int, ...], labels: int) -> LabelledVAE:
        return LabelledVAE(math.prod(shape), self.hidden, self.latent, labels)
