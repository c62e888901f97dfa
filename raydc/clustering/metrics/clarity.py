"""Which clusters are clear and which rows belong nowhere: a verdict without labels, by one rule.

The rule: a cluster is clear if its strength, in [0, 1], reaches a bar, and doubtful below it; a row belongs nowhere if
fewer than half of those that are asked put it into its cluster. Of one training the row's neighbours are asked, and
the bar lies between what clusters of one cloud reach and 1; of a model with replicas these are asked, and the bar is
Hennig's.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydc.clustering.metrics import graph
from raydc.clustering.metrics.graph import N_NEIGHBOURS, NeighbourGraph

CLEAR = 0.75
"""Least strength of a clear cluster: what Hennig (CSDA 2007) calls valid."""
BELONGS = 0.5
"""Least share of neighbours, or of replicas, that put a row into its cluster, if it is to belong there."""
LEAST_ROWS, ROWS_OF_A_CLUSTER = 1000, 20
"""Rows of which the neighbours are asked: at least, and for each cluster; fewer where there are not as many."""


@dataclass(frozen=True)
class Verdict:
    """What there is to say of K clusters."""

    clear: tuple[int, ...]
    doubtful: tuple[int, ...]
    nowhere: float
    """Share of the rows that belong nowhere."""
    bar: float
    """Strength from which a cluster is clear."""


def judge(strengths: ArrayLike, belonging: ArrayLike, bar: float = CLEAR) -> Verdict:
    """The rule, of strengths [K], NaN for a cluster without rows, and of the share of each row that belongs [N]."""
    values, shares = np.asarray(strengths, np.float64), np.asarray(belonging, np.float64)
    if values.ndim != 1 or shares.ndim != 1 or not len(shares):
        raise ValueError(f"expected strengths [K] and shares [N], got {list(values.shape)} and {list(shares.shape)}")
    return Verdict(
        tuple(np.flatnonzero(values >= bar).tolist()),
        tuple(np.flatnonzero(values < bar).tolist()),
        float((shares < BELONGS).mean()),
        float(bar),
    )


def neighbour_shares(labels: ArrayLike, neighbours: NeighbourGraph) -> NDArray[np.float64]:
    """For each row the share of its neighbours in its own cluster, of as many as can be there: [N], in [0, 1].

    A cluster of three rows can hold two neighbours of each. A row that is alone in its cluster has 0.
    """
    ids = np.unique(np.asarray(labels), return_inverse=True)[1]
    ends, same = np.concatenate([neighbours.left, neighbours.right]), ids[neighbours.left] == ids[neighbours.right]
    degree = np.bincount(ends, minlength=neighbours.n_rows)
    own = np.bincount(ends, np.concatenate([same, same]), minlength=neighbours.n_rows)
    possible = np.minimum(degree, np.bincount(ids)[ids] - 1)
    return np.where(possible > 0, own / np.maximum(possible, 1), 0.0)


def strengths(labels: ArrayLike, shares: ArrayLike, n_clusters: int) -> NDArray[np.float64]:
    """How far the shares [N] of each cluster's rows, labels [N] in [0, K), exceed chance: [K], at most 1; NaN if dead.

    (mean share - p) / (1 - p), where p is the cluster's share of all rows; 0 for a cluster that holds them all.
    """
    ids = np.asarray(labels, np.int64)
    sizes = np.bincount(ids, minlength=n_clusters)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, chance = np.bincount(ids, np.asarray(shares, np.float64), minlength=n_clusters) / sizes, sizes / len(ids)
        return np.where(chance < 1, (mean - chance) / (1 - chance), 0.0)


def noise_strength(rows: ArrayLike, n_clusters: int, n_neighbours: int = N_NEIGHBOURS) -> float:
    """The mean strength of k-means's clusters of one normal cloud with the mean and covariance of rows [N, F].

    Cells of one cloud hold most neighbours of their rows as well, the more the fewer directions the rows vary in: a
    cluster is clear only beyond that. Rounded to hundredths, as one draw is no exacter. Known failure: clouds with
    heavy tails have clusters a little stronger than that.
    """
    from sklearn.cluster import KMeans  # here, for it takes long to import

    noise = graph.null_rows(rows, 0, "gaussian")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer distinct rows than clusters
        labels = KMeans(n_clusters, n_init=1, random_state=0).fit_predict(noise)
    shares = neighbour_shares(labels, graph.neighbour_graph(noise, n_neighbours))
    return round(float(np.nanmean(strengths(labels, shares, n_clusters))), 2)


def of_one_training(rows: ArrayLike, labels: ArrayLike, n_clusters: int) -> tuple[Verdict, int, float]:
    """The verdict on labels [N] in [0, K) of rows [N, F] by their neighbours; how many rows were asked, and the noise.

    Clear clusters are as strong as `CLEAR`, and half of the way from noise to 1.
    """
    points, ids = np.asarray(rows), np.asarray(labels, np.int64)
    chosen = graph.drawn_rows(len(points), max(LEAST_ROWS, ROWS_OF_A_CLUSTER * n_clusters))
    points, ids = points[chosen], ids[chosen]
    n_neighbours = min(N_NEIGHBOURS, len(points) - 1)
    shares = neighbour_shares(ids, graph.neighbour_graph(points, n_neighbours))
    noise = noise_strength(points, len(np.unique(ids)), n_neighbours)
    bar = round(max(CLEAR, (1 + noise) / 2), 3)
    return judge(strengths(ids, shares, n_clusters), shares, bar), len(points), noise


def named(clusters: Sequence[int], most: int = 5) -> str:
    """The first clusters by number, and how many more."""
    more = f" and {len(clusters) - most} more" if len(clusters) > most else ""
    return ", ".join(map(str, clusters[:most])) + more
