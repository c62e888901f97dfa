"""Agreement of clusters with known classes, each from one contingency table.

The table is additive over workers: each counts its own rows, the tables are summed once, and every score below is then
exact. Only the final report may read these: classes never steer a run.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.cluster import expected_mutual_information

Table = NDArray[np.int64]
Average = Literal["arithmetic", "geometric", "max", "min"]
_AVERAGES: dict[str, Callable[[float, float], float]] = {
    "arithmetic": lambda a, b: (a + b) / 2,
    "geometric": lambda a, b: math.sqrt(a * b),
    "max": max,
    "min": min,
}


def contingency(labels: ArrayLike, classes: ArrayLike, n_clusters: int, n_classes: int) -> Table:
    """Rows of cluster k and class c, int64 [K, C], of labels [N] in [0, K) and classes [N] in [0, C).

    Sum the tables of all workers to have that of all rows. Raises ValueError on ids out of range.
    """
    clusters = check_ids(labels, n_clusters, "labels")
    known = check_ids(classes, n_classes, "classes")
    if len(clusters) != len(known):
        raise ValueError(f"expected as many labels as classes, got {len(clusters)} and {len(known)}")
    cells = np.bincount(clusters * n_classes + known, minlength=n_clusters * n_classes)
    return cells.reshape(n_clusters, n_classes).astype(np.int64, copy=False)


def check_ids(values: ArrayLike, bound: int, name: str) -> NDArray[np.int64]:
    """The values [N] as int64; ValueError, naming value and row, unless they are integers in [0, bound)."""
    ids: NDArray[Any] = np.asarray(values)
    if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iub"):
        raise ValueError(f"expected {name} as integers [N], got {ids.dtype} {list(ids.shape)}; re-index: numpy.unique")
    ids = ids.astype(np.int64)
    outside = np.flatnonzero((ids < 0) | (ids >= bound))
    if len(outside):
        row = outside[0]
        raise ValueError(f"expected {name} in [0, {bound}), got {ids[row]} in row {row}; re-index: numpy.unique")
    return ids


def _checked(table: ArrayLike) -> Table:
    counts = np.asarray(table)
    if counts.ndim != 2 or counts.dtype.kind not in "iu" or counts.size == 0:
        raise ValueError(f"expected a table of counts [K, C], got {counts.dtype} {list(counts.shape)}")
    if counts.min() < 0 or counts.sum() == 0:
        raise ValueError(f"expected counts of at least one row, got {counts.sum()} rows and least count {counts.min()}")
    return counts.astype(np.int64)


def _pairs(sizes: Table) -> int:
    """Pairs of rows inside the groups, in Python integers: 70,000 squared overflows int32, products of sums int64."""
    return sum(n * (n - 1) // 2 for n in sizes[sizes > 1].tolist())


def match(table: ArrayLike) -> NDArray[np.int64]:
    """The class each cluster stands for, int64 [K], one to one so that most rows agree; -1 where K > C leaves it none.

    Kuhn, Naval Research Logistics Quarterly 1955 (the assignment problem).
    """
    counts = _checked(table)
    found = np.full(len(counts), -1, np.int64)
    clusters, classes = linear_sum_assignment(counts, maximize=True)
    found[clusters] = classes
    return found


def accuracy(table: ArrayLike) -> float:
    """Share of rows whose cluster stands for their class, under the best one-to-one match (ACC). Max, in (0, 1].

    Known failures: rows of surplus clusters (K > C) all count as wrong; large classes outweigh small ones, so with
    unbalanced classes a coarse partition scores high. Yang et al., CVPR 2010; Xie et al., arXiv:1511.06335, sec. 5.2.
    """
    counts = _checked(table)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def purity(table: ArrayLike) -> float:
    """Share of rows that are of the commonest class in their cluster (many-to-one accuracy). Max, in (0, 1].

    Known failure: never falls when a cluster is split, and is 1 with a cluster a row; not comparable with ACC.
    Zhao and Karypis, Machine Learning 2004.
    """
    counts = _checked(table)
    return float(counts.max(axis=1).sum() / counts.sum())


def entropy(counts: ArrayLike) -> float:
    """Shannon entropy in nats of the shares of non-negative counts [K]; a share of 0 adds nothing."""
    weights = np.asarray(counts, np.float64)
    shares = weights[weights > 0] / weights.sum()
    return float(max(0.0, -(shares * np.log(shares)).sum()))


def mutual_information(table: ArrayLike) -> float:
    """Mutual information of cluster and class in nats. In [0, min(log K, log C)]; grows with K (use nmi or ami)."""
    counts = _checked(table)
    gain = entropy(counts.sum(axis=1)) + entropy(counts.sum(axis=0)) - entropy(counts.ravel())
    return max(0.0, gain)


def _trivial(table: Table) -> tuple[bool, bool]:
    """Whether all rows are in one cluster, and whether all are of one class."""
    return bool((table.sum(axis=1) > 0).sum() == 1), bool((table.sum(axis=0) > 0).sum() == 1)


def nmi(table: ArrayLike, average: Average = "arithmetic") -> float:
    """Mutual information over the average of both entropies. Max, in [0, 1].

    1 where one cluster meets one class, 0 where only one side is trivial. Known failure: not adjusted for chance, so
    it rises with K; papers before 2020 often divide by the geometric mean. Strehl and Ghosh, JMLR 2002.
    """
    counts = _checked(table)
    trivial = _trivial(counts)
    if any(trivial):
        return float(all(trivial))
    bound = _AVERAGES[average](entropy(counts.sum(axis=1)), entropy(counts.sum(axis=0)))
    return min(1.0, mutual_information(counts) / bound)


def ami(table: ArrayLike, average: Average = "arithmetic") -> float:
    """Mutual information above its expectation under random labels of the same sizes (AMI). Max, 0 at chance, <= 1.

    1 where one cluster meets one class. Known failure: the expectation costs O(K C N / max(K, C)); still kinder to
    unbalanced sizes than ari. Vinh, Epps and Bailey, JMLR 2010 (arithmetic mean: their AMI_sum).
    """
    counts = _checked(table)
    trivial = _trivial(counts)
    if any(trivial):
        return float(all(trivial))
    bound = _AVERAGES[average](entropy(counts.sum(axis=1)), entropy(counts.sum(axis=0)))
    used = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]  # it takes the logarithm of every row and column
    expected = float(expected_mutual_information(used, int(used.sum())))
    room = bound - expected
    if abs(room) < 1e-12:  # two partitions that could not agree less: a cluster a row on both sides
        return 1.0
    return min(1.0, (mutual_information(counts) - expected) / room)


def rand(table: ArrayLike) -> float:
    """Share of pairs of rows that both partitions treat alike, together or apart. Max, in [0, 1]; 1 for a single row.

    Known failure: most pairs are apart anyway, so it goes to 1 as K grows, whatever the labels (use ari).
    Rand, Journal of the American Statistical Association 1971.
    """
    counts = _checked(table)
    total = _pairs(counts.sum(keepdims=True))
    if total == 0:
        return 1.0
    apart_once = _pairs(counts.sum(axis=1)) + _pairs(counts.sum(axis=0)) - 2 * _pairs(counts)
    return 1 - apart_once / total


def ari(table: ArrayLike) -> float:
    """Pairs of rows treated alike by clusters and classes, above chance (adjusted Rand index). Max, in [-0.5, 1].

    0 at chance. Known failure: pairs weigh a cluster by its size squared, so a few large ones decide.
    Hubert and Arabie, Journal of Classification 1985.
    """
    counts = _checked(table)
    together, by_cluster, by_class = _pairs(counts), _pairs(counts.sum(axis=1)), _pairs(counts.sum(axis=0))
    if by_cluster == by_class == together:  # the same partition, trivial or not
        return 1.0
    total = _pairs(counts.sum(keepdims=True))
    # All terms times 2 * total: the division is the only rounding.
    chance = 2 * by_cluster * by_class
    return (2 * total * together - chance) / (total * (by_cluster + by_class) - chance)


def neighbour_accuracy(features: ArrayLike, classes: ArrayLike, n_neighbours: int = 10) -> float:
    """Share of rows, features [N, F], whose class [N] is the commonest among their nearest other rows. In [0, 1].

    What a classifier that knows all classes but the row's own would get right (k-NN, leave one out): it tells how well
    features keep classes apart, and says nothing of clusters. Of classes as common the lower counts. ValueError unless
    there are more rows than neighbours.
    """
    from sklearn.neighbors import NearestNeighbors  # here, for it takes long to import

    points, ids = np.asarray(features), np.asarray(classes, np.int64)
    if points.ndim != 2 or ids.shape != points.shape[:1] or not 1 <= n_neighbours < len(points):
        raise ValueError(
            f"expected features [N, F] and classes [N] of more than n_neighbours={n_neighbours} rows, got "
            f"{list(points.shape)} and {list(ids.shape)}"
        )
    near = NearestNeighbors(n_neighbors=n_neighbours).fit(points).kneighbors(return_distance=False)
    votes = np.zeros((len(ids), int(ids.max()) + 1), np.int64)
    np.add.at(votes, (np.arange(len(ids))[:, None], ids[near]), 1)
    return float((votes.argmax(1) == ids).mean())


def external_scores(table: ArrayLike) -> dict[str, float]:
    """Every score above by its usual short name: acc, nmi, ari, ami, purity."""
    return {
        "acc": accuracy(table),
        "nmi": nmi(table),
        "ari": ari(table),
        "ami": ami(table),
        "purity": purity(table),
    }
