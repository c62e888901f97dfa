"""A tree of clusters without labels: those whose rows are neighbours, or share clusters of replicas, are joined first.

Evidence is a table of how often two rows that belong together lie in clusters i and j; tables of several kinds are
averaged. Clusters are joined where such pairs are most frequent, compared with random labels of the same sizes: the
pair sampling ratio of Bonald, Charpentier, Galland & Hollocou, 2018, arXiv:1806.01664 ("Paris").
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raydc.clustering.metrics.external import ari, contingency
from raydc.clustering.metrics.graph import NeighbourGraph

Table = NDArray[np.float64]
Joins = list[tuple[int, int, float]]
"""First, second, and the strength of their tie; the strongest first."""
GONE = -1.0
"""In place of the tie to a cluster that was joined to another, and of that to itself."""
DRAWS = 20
"""Trees of half of the rows that a tree is compared with."""
MOST_LEVELS = 50
"""Levels whose stability is told, the coarsest ones."""
MOST_CLUSTERS = 500
"""Clusters up to which it is told at all: of more, a sample has too few rows of each."""


def of_neighbours(labels: ArrayLike, graph: NeighbourGraph, n_clusters: int) -> Table:
    """Share [K, K] of neighbours in clusters i and j; sums to 1, or is 0 where there are none."""
    ids = np.asarray(labels, np.int64)
    table = contingency(ids[graph.left], ids[graph.right], n_clusters, n_clusters).astype(np.float64)
    return _shares(table + table.T)


def of_replica(labels: ArrayLike, replica: ArrayLike, n_clusters: int) -> Table:
    """The same, of pairs of rows [N] of one cluster of a replica: a row at random, and one of its cluster there."""
    other = np.asarray(replica, np.int64)
    table = contingency(np.asarray(labels, np.int64), other, n_clusters, int(other.max()) + 1).astype(np.float64)
    return _shares(table @ (table / np.maximum(table.sum(0), 1)).T)


def tree(evidence: Sequence[Table]) -> Joins:
    """K - 1 joins of K clusters. A cluster is named by its lowest number; one without any tie is joined last."""
    pairs = np.mean(evidence, axis=0)
    sizes, joins, n = pairs.sum(1), Joins(), len(pairs)

    def ties_of(cluster: int) -> Table:
        expected = sizes[cluster] * sizes
        return np.divide(pairs[cluster], expected, out=np.zeros(n), where=expected > 0)

    ties = np.stack([ties_of(cluster) for cluster in range(n)])
    np.fill_diagonal(ties, GONE)
    nearest = ties.argmax(1)
    for _ in range(n - 1):
        closest = ties[np.arange(n), nearest].argmax()
        one, other = sorted((int(closest), int(nearest[closest])))
        joins.append((one, other, float(ties[one, other])))
        pairs[one] += pairs[other]
        pairs[:, one] += pairs[:, other]
        sizes[one] += sizes[other]
        ties[other], ties[:, other] = GONE, GONE
        alive = ties[one] != GONE
        ties[one, alive] = ties[alive, one] = ties_of(one)[alive]
        # the tie to a join is never stronger than that to one of its two: no other cluster's nearest changes
        moved = np.flatnonzero((nearest == one) | (nearest == other) | (np.arange(n) == one))
        nearest[moved] = ties[moved].argmax(1)
    return joins


def cut(joins: Joins, level: int) -> NDArray[np.int64]:
    """Cluster [K] of each cluster where the tree is cut to `level` of them: the lowest number of those joined."""
    found = np.arange(len(joins) + 1)
    for one, other, _ in joins[: len(joins) + 1 - level]:
        found[found == other] = one
    return found


def stability(labels: ArrayLike, graph: NeighbourGraph, joins: Joins) -> dict[str, float]:
    """By level, the mean adjusted Rand index of the tree's cut and those of trees of DRAWS random halves of the rows.

    1 where every half joins alike. Of 2 to K - 1 clusters, as the cut to 1 or K says nothing; of none where K is above
    MOST_CLUSTERS.
    """
    if len(joins) >= MOST_CLUSTERS:
        return {}
    ids, n_clusters, draw = np.asarray(labels, np.int64), len(joins) + 1, np.random.default_rng(0)
    sizes = np.bincount(ids, minlength=n_clusters)
    others = []
    for _ in range(DRAWS):
        half = draw.random(graph.n_rows) < 0.5
        inside = half[graph.left] & half[graph.right]
        some = NeighbourGraph(graph.n_rows, graph.left[inside], graph.right[inside])
        others.append(tree([of_neighbours(ids, some, n_clusters)]))
    found = {}
    for level in range(2, min(n_clusters, MOST_LEVELS + 2)):
        own, values = cut(joins, level), []
        for other in others:
            table = np.zeros((n_clusters, n_clusters), np.int64)
            np.add.at(table, (own, cut(other, level)), sizes)
            values.append(ari(table))
        found[str(level)] = float(np.mean(values))
    return found


def _shares(table: Table) -> Table:
    total = table.sum()
    return table / total if total else table
