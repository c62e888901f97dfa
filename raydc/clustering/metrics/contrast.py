"""What sets a cluster apart: each feature's mean in it, against that of all other rows, in standard deviations."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LARGE = 0.8
"""Effect from which a difference is large (Cohen, Statistical Power Analysis, 1988)."""
NAMING = 2
"""Features at most in a suggested name."""


@dataclass(frozen=True)
class Contrast:
    """Of K clusters and F features."""

    clusters: NDArray[np.int64]
    """[K], ascending."""
    mean: NDArray[np.float64]
    """[K, F], in the features' own units."""
    rest: NDArray[np.float64]
    """[K, F], of the rows of all other clusters; NaN, as `mean` is, where they have no value."""
    effect: NDArray[np.float64]
    """[K, F]: (mean - rest) / the standard deviation within the two, Cohen's d; 0 of a feature that never differs."""


def contrast(rows: ArrayLike, labels: ArrayLike) -> Contrast:
    """Of rows [N, F] in clusters [N]; NaN is no value. Infinite where the two groups differ and neither varies."""
    x, ids = np.asarray(rows, np.float64), np.asarray(labels, np.int64)
    clusters, place = np.unique(ids, return_inverse=True)
    here = ~np.isnan(x)
    stored = np.where(here, x, 0)
    origin = stored.sum(0) / np.maximum(here.sum(0), 1)
    centred = np.where(here, x - origin, 0)  # a far origin loses no digits
    n, sums, squares, own = (
        _by_cluster(values, place, len(clusters)) for values in (here, centred, centred**2, stored)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, rest = own / n, (own.sum(0) - own) / (n.sum(0) - n)
    return Contrast(clusters, mean, rest, of_sums(clusters, n, sums, squares).effect)


def of_sums(
    clusters: NDArray[np.int64], n: NDArray[np.float64], sums: NDArray[np.float64], squares: NDArray[np.float64]
) -> Contrast:
    """Of clusters [K] whose features have so many values, of these sums and sums of squares: [K, F] each."""
    others, total = n.sum(0) - n, np.maximum(n.sum(0) - 2, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, rest = sums / n, (sums.sum(0) - sums) / others
        within = squares - n * mean**2 + squares.sum(0) - squares - others * rest**2
        deviation = np.sqrt(np.maximum(within, 0) / total)
        same = np.isclose(mean, rest, rtol=1e-9, atol=0) | (n == 0) | (others == 0)
        effect = np.where(same, 0.0, (mean - rest) / deviation)
    return Contrast(clusters, mean, rest, effect)


def suggested(found: Contrast, names: Sequence[str], shares: Collection[int] = ()) -> dict[int, str]:
    """Short names by cluster, such as "high length, colour=red": of the features with the largest effects, if large.

    `shares` are the features, by place, whose means are shares of rows. Of the values of one column (colour=red,
    colour=blue) one is named: of two of equal effect what the cluster has, not what it lacks.
    """
    told = {}
    for place, (cluster, effects) in enumerate(zip(found.clusters.tolist(), found.effect, strict=True)):
        order = np.lexsort((effects < 0, -np.abs(effects).round(9))).tolist()
        columns = {feature: names[feature].rpartition("=")[0] if feature in shares else feature for feature in order}
        told_once = {column: feature for feature, column in reversed(columns.items())}
        first = [f for f in order if told_once[columns[f]] == f and abs(effects[f]) >= LARGE][:NAMING]
        said = [
            _of_share(names[feature], found.mean[place, feature], effects[feature])
            if feature in shares
            else f"{direction(effects[feature])} {names[feature]}"
            for feature in first
        ]
        if said:
            told[cluster] = ", ".join(said)
    return told


def _of_share(name: str, share: float, effect: float) -> str:
    if effect < 0:
        return f"rarely {name}"
    return name if share > 0.5 else f"often {name}"


def strongest(effects: NDArray[np.float64], most: int) -> list[int]:
    """Features [at most `most`] by the size of their effects [F], the largest first."""
    return np.argsort(-np.abs(effects), kind="stable")[:most].tolist()


def direction(effect: float) -> str:
    """Where a cluster lies."""
    return "high" if effect > 0 else "low"


def _by_cluster(values: NDArray[np.float64], place: NDArray[np.int64], clusters: int) -> NDArray[np.float64]:
    sums = np.zeros((clusters, values.shape[1]))
    np.add.at(sums, place, values)
    return sums
