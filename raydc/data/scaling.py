"""Scaling of rows: part of the model, from statistics over all rows of all workers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydc.data.profile import FINE, DataProfile
from raydc.data.settings import ScalingKind
from raydc.data.source import Source

EPS, TINY = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
FEW = 1e-4
"""Spread over distance from 0 below which float32 keeps few digits of a feature."""
AT_ONCE = 2**22
"""Values that are scaled at once: 32 MB in float64."""


@dataclass(frozen=True)
class Scaling:
    """x -> (x - shift) * factor, in float64 and from the precision that rows are stored in; only then float32.

    So a row always becomes the same row, and keeps digits that float32 has not where it is far from 0 for its spread.
    """

    kind: ScalingKind
    shift: np.ndarray
    """float64, [] for all features alike or [D]."""
    factor: np.ndarray
    """float64, [] or [D]; finite and never 0."""

    @staticmethod
    def of(kind: ScalingKind, profile: DataProfile) -> "Scaling":
        """The scaling that these rows need.

        power: x / sqrt(mean x^2), so that mean |x|^2 / D is 1, as DEC's authors scale (Xie et al., ICML 2016); features
        far from 0 for their spread are centred before.
        centred: (x - mean) / sqrt(mean variance): one factor for all features, each around its own mean.
        standard: each feature to mean 0 and variance 1; one that float32 cannot tell from a constant is centred only.
        unit, symmetric: smallest and largest value of all features to 0 and 1, to -1 and 1; unit_each, symmetric_each:
        those of each feature by itself.
        """
        shift, factor = np.zeros(()), np.ones(())
        if kind == "power":
            far = np.sqrt(profile.variance) < FEW * np.abs(profile.mean)
            shift = np.where(far, profile.mean, 0.0) if far.any() else shift
            square = np.mean(profile.variance + (profile.mean - shift) ** 2)
            factor = 1 / np.sqrt(square) if np.sqrt(square) > FINE else factor
        elif kind == "centred":
            spread = np.sqrt(np.mean(profile.variance))
            shift, factor = profile.mean, 1 / spread if spread > FINE else factor
        elif kind == "standard":
            spread = np.sqrt(profile.variance)
            shift, factor = profile.mean, 1 / np.where(profile.constant, 1.0, spread)
        elif kind != "none":
            each, unit = kind.endswith("_each"), kind.startswith("unit")
            low, high = (profile.lowest, profile.highest) if each else (profile.minimum, profile.maximum)
            shift = np.asarray(low if unit else (low + high) / 2)
            span = np.asarray(high - low)
            factor = np.where(span > FINE, (1.0 if unit else 2.0) / np.where(span > FINE, span, 1.0), 1.0)
        return Scaling(kind, np.asarray(shift, np.float64), np.asarray(factor, np.float64))

    def apply(self, rows: np.ndarray) -> Tensor:
        """Rows [B, ...] as stored, of any real type, to rows as networks take them, float32."""
        flat = rows.reshape(len(rows), math.prod(rows.shape[1:]))
        scaled = np.empty(flat.shape, np.float32)
        for start in range(0, len(flat), step := max(1, AT_ONCE // max(1, flat.shape[1]))):
            part = slice(start, start + step)
            moved = np.subtract(flat[part], self.shift, dtype=np.float64)
            np.multiply(moved, self.factor, out=scaled[part], casting="same_kind")
        return torch.from_numpy(scaled).view(rows.shape)

    def remarks(self, profile: DataProfile, source: Source) -> list[str]:
        """What float32 loses of the rows once they are scaled, in words; mostly nothing."""
        spread, far = np.sqrt(profile.variance), np.abs(profile.mean - self.shift)
        lost = (spread <= EPS * far) | (spread * self.factor <= TINY)
        few = ~lost & (spread < FEW * far)
        cure = "use data.scaling=standard, which subtracts means in float64"
        return [
            f"float32 {what} {source.some(which)}: small, or far from 0, for their spread; {cure}"
            for what, which in (
                ("loses the differences in", lost & ~profile.constant),
                ("keeps few digits of", few & ~profile.constant),
            )
            if which.any()
        ]

    def blurs(self, dtype: np.dtype) -> bool:
        """Whether rows of this type are stored so far from 0 that their rounding is a hundredth of scaled units."""
        short = dtype in (np.dtype(np.float16), np.dtype(np.float32))
        return short and bool((EPS * np.abs(self.shift) * self.factor).max() > 0.01)

    def invert(self, x: Tensor) -> Tensor:
        """Rows [B, ...] as networks give them back to the units of the data, float64."""
        flat = x.double().flatten(1)
        return (flat / torch.from_numpy(self.factor) + torch.from_numpy(self.shift)).view(x.shape)

    def to_json(self) -> dict[str, Any]:
        """As plain values; `from_json` gives the same bits back."""
        return {"kind": self.kind, "shift": self.shift.tolist(), "factor": self.factor.tolist()}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> "Scaling":
        """The scaling that `to_json` wrote."""
        shift, factor = np.asarray(values["shift"], np.float64), np.asarray(values["factor"], np.float64)
        return Scaling(values["kind"], shift, factor)
