"""Scaling of rows: part of the model, from statistics over all rows of all workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydc.data.profile import FINE, DataProfile
from raydc.data.settings import ScalingKind


@dataclass(frozen=True)
class Scaling:
    """x -> (x - shift) * factor, in float32 wherever it is applied, so that a row always becomes the same row."""

    kind: ScalingKind
    shift: np.ndarray
    """float32, [] for all features alike or [D]."""
    factor: np.ndarray
    """float32, [] or [D]; finite and never 0."""

    @staticmethod
    def of(kind: ScalingKind, profile: DataProfile) -> "Scaling":
        """The scaling that these rows need.

        power: x / sqrt(mean x^2), so that mean |x|^2 / D is 1, as DEC's authors scale (Xie et al., ICML 2016).
        standard: each feature to mean 0 and variance 1; one that float32 cannot tell from a constant is centred only.
        unit, symmetric: smallest and largest value of all features to 0 and 1, to -1 and 1.
        """
        shift, factor = np.zeros(()), np.ones(())
        if kind == "power" and np.sqrt(profile.mean_square) > FINE:
            factor = 1 / np.sqrt(np.asarray(profile.mean_square))
        elif kind == "standard":
            spread = np.sqrt(profile.variance)
            shift, factor = profile.mean, 1 / np.where(profile.constant, 1.0, spread)
        elif kind in ("unit", "symmetric"):
            low, high = profile.minimum, profile.maximum
            shift = np.asarray(low if kind == "unit" else (low + high) / 2)
            if high - low > FINE:
                factor = np.asarray((1.0 if kind == "unit" else 2.0) / (high - low))
        return Scaling(kind, np.asarray(shift, np.float32), np.asarray(factor, np.float32))

    def apply(self, x: Tensor) -> Tensor:
        """Rows [B, ...] as stored to rows as networks take them."""
        shift, factor = self._like(x)
        return ((x.flatten(1) - shift) * factor).view(x.shape)

    def invert(self, x: Tensor) -> Tensor:
        """Rows [B, ...] as networks give them back to the units of the data."""
        shift, factor = self._like(x)
        return (x.flatten(1) / factor + shift).view(x.shape)

    def to_json(self) -> dict[str, Any]:
        """As plain values; `from_json` gives the same bits back."""
        return {"kind": self.kind, "shift": self.shift.tolist(), "factor": self.factor.tolist()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Scaling":
        """The scaling that `to_json` wrote."""
        shift, factor = np.asarray(values["shift"], np.float32), np.asarray(values["factor"], np.float32)
        return Scaling(values["kind"], shift, factor)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.shift).to(x), torch.tensor(self.factor).to(x)
