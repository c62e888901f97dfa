"""Scaling of rows: part of the model, from statistics over all rows of all workers."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydc.data.moments import FINE
from raydc.data.profile import DataProfile
from raydc.data.settings import ScalingKind
from raydc.data.source import Source

EPS, TINY = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
FEW = 1e-4
"""Spread over distance from 0 below which float32 keeps few digits of a feature."""
AT_ONCE = 2**22
"""Values that are scaled at once: 32 MB in float64."""


Moved = tuple[Any, Any]
"""Shift and factor, each [] for all features alike or [D]."""


def _none(profile: DataProfile) -> Moved:
    return 0.0, 1.0


def _power(profile: DataProfile) -> Moved:
    """x / sqrt(mean x^2), so that mean |x|^2 / D is 1, as DEC's authors scale (Xie et al., ICML 2016); features far
    from 0 for their spread are centred before.
    """
    far = np.sqrt(profile.variance) < FEW * np.abs(profile.mean)
    shift = np.where(far, profile.mean, 0.0) if far.any() else np.zeros(())
    size = np.sqrt(np.mean(profile.variance + (profile.mean - shift) ** 2))
    return shift, 1 / size if size > FINE else 1.0


def _centred(profile: DataProfile) -> Moved:
    """(x - mean) / sqrt(mean variance): one factor for all features, each around its own mean."""
    spread = np.sqrt(np.mean(profile.variance))
    return profile.mean, 1 / spread if spread > FINE else 1.0


def _standard(profile: DataProfile) -> Moved:
    """Each feature to mean 0 and variance 1; one that float32 cannot tell from a constant is centred only."""
    return profile.mean, 1 / np.where(profile.constant, 1.0, np.sqrt(profile.variance))


def _to_unit(low: Any, high: Any) -> Moved:
    """Smallest and largest value to 0 and 1."""
    span = np.asarray(high - low)
    return low, np.where(span > FINE, 1.0 / np.where(span > FINE, span, 1.0), 1.0)


def _to_symmetric(low: Any, high: Any) -> Moved:
    """Smallest and largest value to -1 and 1."""
    span = np.asarray(high - low)
    return (low + high) / 2, np.where(span > FINE, 2.0 / np.where(span > FINE, span, 1.0), 1.0)


MADE: Mapping[ScalingKind, Callable[[DataProfile], Moved]] = {
    "none": _none,
    "power": _power,
    "centred": _centred,
    "standard": _standard,
    "unit": lambda profile: _to_unit(profile.minimum, profile.maximum),
    "unit_each": lambda profile: _to_unit(profile.lowest, profile.highest),
    "symmetric": lambda profile: _to_symmetric(profile.minimum, profile.maximum),
    "symmetric_each": lambda profile: _to_symmetric(profile.lowest, profile.highest),
}
"""How each kind comes out of the statistics of all rows; of all features together, or of each by itself."""


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
        """The scaling that these rows need."""
        shift, factor = MADE[kind](profile)
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
