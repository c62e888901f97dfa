"""Linear classifiers of several spaces, whose mean is a labelling (TURTLE: Gadetsky et al., ICML 2024)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TaskEncoder(nn.Module):
    """S labellings, each a linear map of every space of M, weight-normalised (Salimans & Kingma, NIPS 2016).

    Weights and biases begin as U(+-1 / sqrt(D)), and the lengths of weights as they are then.
    """

    def __init__(self, spaces: tuple[int, ...], clusters: int, heads: int) -> None:
        """For spaces of so many features."""
        super().__init__()
        self.directions, self.lengths, self.biases = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for size in spaces:
            weight, bias = ((2 * torch.rand(heads, clusters, many) - 1) / math.sqrt(size) for many in (size, 1))
            self.directions.append(weight)
            self.lengths.append(weight.norm(dim=2))
            self.biases.append(bias[..., 0])

    def forward(self, spaces: list[Tensor]) -> Tensor:
        """Log probabilities [M, B, S, K] of rows in each of their spaces [B, D]."""
        found = []
        for z, direction, length, bias in zip(spaces, self.directions, self.lengths, self.biases, strict=True):
            weight = F.normalize(direction, dim=2) * length[..., None]
            logits = F.linear(z, weight.flatten(0, 1), bias.flatten()).unflatten(1, bias.shape)
            found.append(logits.log_softmax(2))
        return torch.stack(found)
