"""Mean, variance and range of features, of rows that come in parts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

FINE = 1e-150
"""Spreads up to this are not scaled: their squares are no numbers any more."""


@dataclass(frozen=True)
class Moments:
    """Mean, sum of squared deviations, smallest and largest value of each feature, in float64; and rows of zeros."""

    count: int
    mean: np.ndarray
    squares: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    zeros: int
    """Rows whose values are all 0."""

    @staticmethod
    def of(x: Any) -> "Moments":
        """Of rows [n, D], numpy or CSR."""
        rows = x.shape[0]
        if rows == 0:
            nothing = np.full(x.shape[1], np.inf)
            return Moments(0, np.zeros(x.shape[1]), np.zeros(x.shape[1]), nothing, -nothing, 0)
        if sparse.issparse(x):
            x = x.astype(np.float64)
            mean = np.asarray(x.sum(axis=0)).ravel() / rows
            squares = np.maximum(np.asarray(x.multiply(x).sum(axis=0)).ravel() - rows * mean**2, 0.0)
            lowest, highest = (end.toarray().ravel() for end in (x.min(axis=0), x.max(axis=0)))
            zeros = rows - np.count_nonzero((x != 0).sum(axis=1))
        else:
            mean = x.sum(axis=0, dtype=np.float64) / rows
            deviations = x - mean
            squares = np.einsum("ij,ij->j", deviations, deviations)
            lowest, highest = (end.astype(np.float64) for end in (x.min(axis=0), x.max(axis=0)))
            zeros = rows - np.count_nonzero(x.any(axis=1))
        return Moments(rows, mean, squares, lowest, highest, int(zeros))

    def merged(self, other: "Moments") -> "Moments":
        """Of both (Chan, Golub and LeVeque, The American Statistician 1983): without cancellation."""
        total = self.count + other.count
        if other.count == 0:
            return self
        step = other.mean - self.mean
        return Moments(
            total,
            self.mean + step * (other.count / total),
            self.squares + other.squares + step**2 * (self.count * other.count / total),
            np.minimum(self.lowest, other.lowest),
            np.maximum(self.highest, other.highest),
            self.zeros + other.zeros,
        )
