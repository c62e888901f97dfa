"""Memberships of clusters whose rows lie around centroids: the posterior of a spherical Gaussian mixture."""

import torch
from torch import Tensor

from raydc.networks.losses.hardening import exact_squared_distances, student_memberships


def posterior(score: Tensor, sharpness: Tensor) -> Tensor:
    """softmax_k(sharpness * score_k) [B, K], for scores [B, K] of -|z - mu_k|^2 up to a constant of the row.

    With sharpness 1 / (2 sigma^2) it is the posterior of K equal Gaussians of variance sigma^2. With the offsets of
    balanced clusters added to the scores it is their optimal transport (Cuturi, NeurIPS 2013, arXiv:1306.0895).
    """
    return (sharpness * (score - score.amax(1, keepdim=True))).softmax(1)


def held(memberships: Tensor, label: Tensor) -> Tensor:
    """Memberships [B, K] as float32, none of which is larger than that of the row's label [B].

    A label is exact, while memberships of clusters that are as near may differ by a rounding.
    """
    rounded = memberships.float()
    return rounded.scatter(1, label[:, None], rounded.amax(1, keepdim=True))


@torch.no_grad()
def nearest(z: Tensor, centroids: Tensor, sharpness: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of centroids [K, D] to each row z [B, D], int64 [B], the first of equals; and memberships [B, K]."""
    squared = exact_squared_distances(z, centroids)
    label = squared.argmin(1)
    return label, held(posterior(-squared, sharpness), label)


@torch.no_grad()
def nearest_student(z: Tensor, centroids: Tensor, nu: float) -> tuple[Tensor, Tensor]:
    """As `nearest`, with memberships by Student's t with `nu` degrees of freedom (eq. 3)."""
    squared = exact_squared_distances(z, centroids)
    label = squared.argmin(1)
    return label, held(student_memberships(squared, nu), label)
