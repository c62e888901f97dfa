"""The number of clusters as a matter of scale: a short list, the tree of what merges into what, and a curve's band.

Nothing here decides; it shows what else the rows would bear. Pure functions of labels and of scores by number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from raydc.clustering.metrics import graph, hierarchy
from raydc.clustering.metrics.graph import NeighbourGraph
from raydc.clustering.metrics.hierarchy import Joins

Labels = NDArray[np.int64]
LISTED = 3
"""Numbers of clusters on the short list."""
APART = 1.2
"""Least ratio between two of them: nearer ones describe the same scale."""
DRAWS = 3
"""Subsamples that the band of raw k-means comes from."""
SHARE = 0.8
"""Of the rows, in such a subsample."""


def short_list(values: Mapping[int, float], first: int | None = None) -> list[int]:
    """At most three numbers of clusters: `first`, else the best, and the best ones that are a fifth apart from those.

    `values` are scores by number, higher is better.
    """
    found = [first] if first is not None else []
    for k in sorted(values, key=lambda k: (-values[k], k)):
        if len(found) < LISTED and all(max(k, other) >= APART * min(k, other) for other in found):
            found.append(k)
    return found


def at_edge(k: int, bounds: tuple[int, int]) -> bool:
    """Whether a wider range might hold a better number; there is none below 2."""
    low, high = bounds
    return low < high and (k == high or k == low > 2)


def relation(own: Labels, other: Labels) -> dict[str, list[list[int]]]:
    """What becomes of the clusters of labels [N] in other labels [N].

    "merged": clusters most of whose rows go to one of the others together. "split": [cluster, parts], where most rows
    of several others come from one.
    """
    table = np.zeros((int(own.max()) + 1, int(other.max()) + 1), np.int64)
    np.add.at(table, (own, other), 1)
    goes, comes = table.argmax(axis=1), table.argmax(axis=0)
    there, others = table.sum(axis=1) > 0, table.sum(axis=0) > 0
    together = [np.flatnonzero((goes == k) & there).tolist() for k in range(table.shape[1])]
    parts = [int(((comes == k) & others).sum()) for k in range(table.shape[0])]
    return {
        "merged": [group for group in together if len(group) > 1],
        "split": [[k, n] for k, n in enumerate(parts) if n > 1],
    }


def tree(own: Labels, replicas: Sequence[Labels], reference: NeighbourGraph, joins: Joins) -> dict[str, Any]:
    """The tree of joins over labels [N] in [0, K), and how firm each node is: first the K clusters, then each join.

    A node's firmness is its best Jaccard overlap with a node of the tree over a replica's labels, by their neighbours;
    the mean over replicas, as `stability.cluster_jaccard` has it of clusters. None where there is no replica.
    """
    nodes, best = _members(own, joins), []
    for labels in replicas:
        k = int(labels.max()) + 1
        other = _members(labels, hierarchy.tree([hierarchy.of_neighbours(labels, reference, k)]))
        shared = nodes.astype(np.float64) @ other.astype(np.float64).T
        union = nodes.sum(axis=1)[:, None] + other.sum(axis=1) - shared
        best.append((shared / np.maximum(union, 1)).max(axis=1))
    return {"joins": [[*join] for join in joins], "jaccard": np.mean(best, axis=0).tolist() if best else None}


def _members(labels: Labels, joins: Joins) -> NDArray[np.bool_]:
    """Which rows lie in each node of a tree: [2 K - 1, N]."""
    found = [*(labels == np.arange(len(joins) + 1)[:, None])]
    for left, right in children(joins):
        found.append(found[left] | found[right])
    return np.stack(found)


def children(joins: Sequence[Sequence[Any]]) -> list[tuple[int, int]]:
    """The two nodes of each join: node i < K is cluster i, and node K + j comes of join j."""
    k = len(joins) + 1
    node, found = {cluster: cluster for cluster in range(k)}, []
    for at, (one, other, _) in enumerate(joins):
        found.append((node[one], node[other]))
        node[one] = k + at
    return found


def band(
    rows: NDArray[np.float32], reference: NeighbourGraph, numbers: Sequence[int], seed: int
) -> dict[int, tuple[float, float]]:
    """Lowest and highest neighbour score of k-means on subsamples of rows [N, F], by number of clusters."""
    rng = np.random.default_rng(seed)
    kept = [rng.choice(len(rows), round(SHARE * len(rows)), replace=False) for _ in range(DRAWS)]
    found = {}
    for k in numbers:
        models = [KMeans(k, n_init=1, random_state=seed + at).fit(rows[some]) for at, some in enumerate(kept)]
        scores = [graph.neighbour_score(model.predict(rows), reference) for model in models]
        found[k] = (min(scores), max(scores))
    return found


def leaves(joins: Sequence[Sequence[Any]]) -> list[int]:
    """Clusters in an order in which no two joins cross."""
    under = {cluster: [cluster] for cluster in range(len(joins) + 1)}
    for one, other, _ in joins:
        under[one] += under.pop(other)
    return under[0]
