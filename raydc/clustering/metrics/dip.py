"""Hartigan's dip test: how far values are from having a single mode."""

from functools import cache

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@njit
def _hull(x: Floats, y: Floats, sign: int) -> NDArray[np.int64]:  # pragma: no cover (compiled)
    """Corners of the greatest convex minorant (sign 1) or least concave majorant (-1) of points with rising x."""
    kept = np.empty(len(x), np.int64)
    size = 0
    for i in range(len(x)):
        while size > 1:
            a, b = kept[size - 2], kept[size - 1]
            if sign * ((y[b] - y[a]) * (x[i] - x[b]) - (y[i] - y[b]) * (x[b] - x[a])) < 0:
                break
            size -= 1
        kept[size] = i
        size += 1
    return kept[:size].copy()


def dip(values: ArrayLike) -> float:
    """Least distance from the values' [N] distribution function to any with one mode. Larger: more modes.

    In [1 / 2N, 0.25] and exact where no two values are equal; equal values raise it, as if each were a mode; 0 where
    all are equal. O(N log N).
    Hartigan and Hartigan, Annals of Statistics 1985.
    """
    x, counts = np.unique(np.asarray(values, np.float64), return_counts=True)
    if not len(x) or not np.isfinite(x).all():
        raise ValueError(f"expected finite values [N], got {np.shape(values)}")
    if len(x) == 1:
        return 0.0
    above = np.cumsum(counts).astype(np.float64)  # N times the distribution function at x, and just before it
    before = above - counts
    low, high, found = 0, len(x) - 1, 1.0
    while True:
        inside = slice(low, high + 1)
        convex = low + _hull(x[inside], before[inside], 1)
        concave = low + _hull(x[inside], above[inside], -1)
        minorant, majorant = (
            np.interp(x, x[convex], before[convex]),
            np.interp(x, x[concave], above[concave]),
        )
        gap_convex = (majorant - before)[convex]
        gap_concave = (above - minorant)[concave]
        if max(gap_convex.max(), gap_concave.max()) <= found:
            break
        # The mode lies between the corner with the largest gap and the next corner of the other curve.
        if gap_convex.max() > gap_concave.max():
            new_low = int(convex[gap_convex.argmax()])
            new_high = int(concave[concave >= new_low][0])
        else:
            new_high = int(concave[gap_concave.argmax()])
            new_low = int(convex[convex <= new_high][-1])
        rising, falling = slice(low, new_low + 1), slice(new_high, high + 1)
        found = max(found, (above - minorant)[rising].max(), (majorant - before)[falling].max())
        if (new_low, new_high) == (low, high):
            break
        low, high = new_low, new_high
    return found / (2 * float(above[-1]))


@cache
def _uniform_dips(n: int, draws: int) -> Floats:
    rng = np.random.default_rng(0)
    return np.sort([dip(rng.random(n)) for _ in range(draws)])


def dip_p_value(values: ArrayLike, draws: int = 2000) -> float:
    """Probability of such a dip of as many uniform values, the hardest with one mode. In [1 / (draws + 1), 1].

    By simulation with a fixed seed; about 1 s for each new number of values. Known failure: sees one projection only.
    """
    null = _uniform_dips(len(np.asarray(values)), draws)
    exceeding = draws - np.searchsorted(null, dip(values))
    return float((1 + exceeding) / (1 + draws))
