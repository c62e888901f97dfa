"""Which clusters of two partitions of the same rows are the same, by overlap and never by number."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

THRESHOLD = 0.5
"""Least overlap (Jaccard) of clusters that are the same. Below it a cluster counts as dissolved (Hennig, CSDA 2007),
and above it no other can overlap as much."""
MOST = 0.5
"""Share of a cluster's rows, from which another holds most of them."""


@dataclass(frozen=True)
class Alignment:
    """What became of the clusters of an earlier partition in a later one; both by their places in the table."""

    kept: tuple[tuple[int, int, float], ...]
    """Later, earlier, and their overlap: rows of both among rows of either."""
    new: tuple[int, ...]
    """Later ones that are none of the earlier."""
    died: tuple[int, ...]
    """Earlier ones that are none of the later."""
    split: Mapping[int, tuple[int, ...]]
    """Earlier ones of which several later ones have most of their rows; those."""
    merged: Mapping[int, tuple[int, ...]]
    """Later ones that have most of the rows of several earlier ones; those."""


def align(table: ArrayLike, nowhere: ArrayLike, threshold: float = THRESHOLD) -> Alignment:
    """From counts of rows [later, earlier], and of rows that had no earlier cluster [later].

    One to one with the largest sum of overlaps (Kuhn, Naval Research Logistics Quarterly 1955).
    """
    both = np.asarray(table, np.int64)
    later, earlier = both.sum(1) + np.asarray(nowhere, np.int64), both.sum(0)
    overlap = both / np.maximum(later[:, None] + earlier - both, 1)
    pairs = zip(*linear_sum_assignment(overlap, maximize=True), strict=True)
    kept = tuple((int(i), int(j), float(overlap[i, j])) for i, j in pairs if overlap[i, j] >= threshold)
    names = [{pair[side] for pair in kept} for side in (0, 1)]
    of_later, of_earlier = both > MOST * later[:, None], both > MOST * earlier
    split = {j: tuple(np.flatnonzero(of_later[:, j]).tolist()) for j in range(both.shape[1])}
    merged = {i: tuple(np.flatnonzero(of_earlier[i]).tolist()) for i in range(len(both))}
    return Alignment(
        kept,
        tuple(i for i in range(len(both)) if i not in names[0]),
        tuple(j for j in range(both.shape[1]) if j not in names[1]),
        {j: parts for j, parts in split.items() if len(parts) > 1},
        {i: parts for i, parts in merged.items() if len(parts) > 1},
    )
