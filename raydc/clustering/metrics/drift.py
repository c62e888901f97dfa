"""Whether rows are spread as earlier ones were: tests on counts, how large a difference is, and many tests at once.

A difference is drift where chance does not explain it, and where it is large as well: of ten million rows, chance
explains no difference at all, and of fifty rows it explains large ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import stats

ALPHA = 0.01
"""Chance of any false alarm among all comparisons of one look at unchanged rows, at most (Holm)."""
EXPECTED = 5.0
"""Rows that a bin must be expected to hold of either side; bins of fewer are taken together (Cochran's rule)."""
MODERATE, LARGE = 0.1, 0.25
"""Population stability index from which on a change is called moderate, and large (Siddiqi, Credit Risk Scorecards)."""
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Check:
    """One comparison of new rows with those trained on."""

    kind: str
    """What is compared: clusters, cluster, membership, agreement, distance, nowhere, input (of numbers), category,
    missing, unusable or repeats."""
    name: str
    """Of which cluster, input or column; empty where there is one alone."""
    before: float
    """A number that tells of the rows trained on, such as a share or a median; NaN where none does."""
    now: float
    effect: float
    """How large the difference is: a population stability index, or a difference of shares."""
    threshold: float
    """From which effect on it counts."""
    p: float
    """Chance of such a difference, or a larger one, where there is none."""
    detail: str = ""
    """What differs most, such as a category."""
    adjusted: float = 1.0
    """The same chance among all comparisons."""

    @property
    def drifted(self) -> bool:
        return bool(self.adjusted < ALPHA and self.effect >= self.threshold)


def stability_index(before: Counts, now: Counts) -> float:
    """Population stability index: sum of (q - p) ln(q / p) over bins [B], of shares with half a row in each bin added.

    Unchanged rows come to about (B - 1)(1/n + 1/m) by chance alone (Yurdakul and Naranjo, 2020).
    """
    p, q = ((side + 0.5) / (side.sum() + 0.5 * len(side)) for side in (before, now))
    return float(np.sum((q - p) * np.log(q / p)))


def homogeneity(before: Counts, now: Counts, ordered: bool = True) -> float:
    """Chance of counts [B] that differ like that between two samples of one kind: Pearson's chi-square test.

    Bins that are expected to hold few rows are taken together with their neighbours, or where they are not `ordered`
    with the next larger ones.
    """
    table = np.stack([before, now]).astype(np.float64)
    if not ordered:
        table = table[:, np.argsort(table.sum(axis=0), kind="stable")]
    table = _pooled(table)
    if table.shape[1] < 2:
        return 1.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    return float(stats.chi2.sf(((table - expected) ** 2 / expected).sum(), table.shape[1] - 1))


def _pooled(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns [2, B] taken together from the left until each is expected to hold EXPECTED rows of either side."""
    sides = table.sum(axis=1)
    if sides.min() == 0:
        return table[:, :0]
    enough = EXPECTED * sides.sum() / sides.min()
    ends, held = [0], 0.0
    for place, rows in enumerate(table.sum(axis=0), start=1):
        held += rows
        if held >= enough:
            ends.append(place)
            held = 0.0
    ends[-1:] = [table.shape[1]] if len(ends) > 1 else [0, table.shape[1]]
    return np.stack([table[:, start:stop].sum(axis=1) for start, stop in pairwise(ends)], axis=1)


def same_share(before: int, of_before: int, now: int, of_now: int) -> float:
    """Chance of shares that differ like that between two samples of one kind: Fisher's exact test."""
    if not of_before or not of_now:
        return 1.0
    return float(stats.fisher_exact([[before, of_before - before], [now, of_now - now]]).pvalue)


def adjusted(checks: Sequence[Check]) -> list[Check]:
    """The comparisons with the chance of each among all of them (Holm, Scandinavian Journal of Statistics 1979)."""
    order = sorted(range(len(checks)), key=lambda i: checks[i].p)
    found, highest = list(checks), 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, checks[i].p * (len(checks) - rank)))
        found[i] = replace(checks[i], adjusted=highest)
    return found


def of_counts(
    kind: str, name: str, before: Counts, now: Counts, *, ordered: bool = True, threshold: float = MODERATE
) -> Check:
    """Whether rows are spread over bins [B] as before; tells the bin whose share changed most."""
    shares = [side / max(1, side.sum()) for side in (before, now)]
    most = int(np.abs(shares[1] - shares[0]).argmax())
    return Check(
        kind, name, float(shares[0][most]), float(shares[1][most]), stability_index(before, now), threshold,
        homogeneity(before, now, ordered), str(most),
    )  # fmt: skip


def of_share(
    kind: str, name: str, before: tuple[int, int], now: tuple[int, int], threshold: float, rising: bool = True
) -> Check:
    """Whether a share of the rows, given as (rows, of all), is larger by `threshold`; or, not `rising`, differs so."""
    shares = before[0] / max(1, before[1]), now[0] / max(1, now[1])
    change = shares[1] - shares[0]
    return Check(kind, name, *shares, change if rising else abs(change), threshold, same_share(*before, *now))


def repeated_share(counts: Counts, share: float) -> float:
    """Share of rows that another one of them repeats, were `share` of the rows drawn; of rows by content [n], counted.

    By rarefaction (Hurlbert, Ecology 1971): the more rows there are, the more repeat.
    """
    rows = share * counts.sum()
    different = np.sum(-np.expm1(counts * np.log1p(-min(share, 1 - 1e-12))))
    return float(max(0.0, 1 - different / rows)) if rows else 0.0


def densest(rows: NDArray[np.float32], radius: float, starts: int = 64, steps: int = 20) -> int:
    """Most of the rows [n, D] that a ball of this radius holds: mean shift with a flat kernel (Cheng, PAMI 1995)."""
    best = 0
    for start in rows[np.linspace(0, len(rows) - 1, min(starts, len(rows))).round().astype(int)].astype(np.float64):
        centre = start
        for _ in range(steps):
            inside = np.linalg.norm(rows - centre, axis=1) <= radius
            best = max(best, int(inside.sum()))
            moved = rows[inside].mean(axis=0, dtype=np.float64)
            if np.array_equal(moved, centre):
                break
            centre = moved
    return best
