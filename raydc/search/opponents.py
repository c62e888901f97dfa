"""Shallow opponents of a search: Ward, Leiden and kNN-spectral, on the evaluation rows in the space of neighbours.

They take a second each, set the bar that a deep method must reach, and Leiden proposes numbers of clusters. None is a
model of new rows, so none is returned. Above all Leiden must not be: it maximises the modularity that scores are made
of, and its communities exceed the score of the true classes (MNIST: .735 against .667) without being better clusters.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering, SpectralClustering

from raydc.clustering.communities import RESOLUTIONS, leiden
from raydc.clustering.metrics.graph import NeighbourGraph, distinct, modularity, neighbour_graph, stability_score
from raydc.clustering.metrics.stability import nearest_neighbours, stability

Labels = NDArray[np.int64]
Rows = NDArray[np.float32]
MOST_ROWS = 4000
"""Rows that an opponent clusters at most; the others are given the cluster of their nearest one."""
HALVINGS = 12
"""Of the range of resolutions, in which the one of K communities is looked for."""
SUBSAMPLES, SHARE = 3, 0.8
"""Fits by which a partition's stability is told, each on that share of the rows."""


@dataclass(frozen=True)
class Proposal:
    """A partition that Leiden proposes."""

    resolution: float
    labels: Labels
    """[n]; -1 for rows without an edge."""
    modularity: float
    stability: float
    """Mean AMI over pairs of fits on subsamples of the rows, on the rows that both have."""

    @property
    def n_clusters(self) -> int:
        return int(self.labels.max()) + 1

    @property
    def score(self) -> float:
        """The stability score."""
        return stability_score(self.modularity, self.stability)


def ward(rows: Rows, n_clusters: int, neighbours: int, seed: int) -> Labels:
    """Ward's clusters (Ward, JASA 1963) of rows [n, F]."""
    return AgglomerativeClustering(n_clusters).fit_predict(rows).astype(np.int64)


def spectral(rows: Rows, n_clusters: int, neighbours: int, seed: int) -> Labels:
    """Spectral clusters (Ng, Jordan and Weiss, NeurIPS 2001) of the graph of nearest neighbours of rows [n, F]."""
    found = SpectralClustering(
        n_clusters, affinity="nearest_neighbors", n_neighbors=neighbours, assign_labels="cluster_qr", random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a graph in several parts is what groups far apart look like
        return found.fit_predict(rows).astype(np.int64)


def communities(rows: Rows, n_clusters: int, neighbours: int, seed: int) -> Labels:
    """Leiden's communities of rows [n, F], at the resolution at which there are as many, or nearly."""
    built = neighbour_graph(rows, neighbours, distinct(rows))
    return placed(rows, at_number(built, n_clusters, seed))


OPPONENTS: Mapping[str, Callable[[Rows, int, int, int], Labels]] = MappingProxyType(
    {"ward": ward, "leiden": communities, "spectral": spectral}
)
"""By name: (rows [n, F], K, neighbours, seed) -> labels [n] in [0, K)."""
GRAPH_OPPONENTS = ("leiden", "spectral")
"""Those that cluster the graph of neighbours itself."""


def at_number(built: NeighbourGraph, n_clusters: int, seed: int) -> Labels:
    """Communities [n] by halving the range of resolutions until there are `n_clusters`; else nearly as many."""
    low, high = np.log(RESOLUTIONS[0] / 10), np.log(RESOLUTIONS[-1] * 10)
    best: Labels | None = None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = leiden(built, float(np.exp(middle)), seed)
        number = int(found.max()) + 1
        if best is None or abs(number - n_clusters) < abs(int(best.max()) + 1 - n_clusters):
            best = found
        if number == n_clusters:
            break
        low, high = (middle, high) if number < n_clusters else (low, middle)
    assert best is not None
    return best


def proposals(built: NeighbourGraph, bounds: tuple[int, int], seed: int) -> list[Proposal]:
    """Leiden's partitions of a graph into a number of communities within the bounds, the best first.

    One for each of RESOLUTIONS that gives such a number, ranked by its stability score over subsamples of the rows.
    """
    rng = np.random.default_rng(seed)
    kept = np.arange(built.n_rows) if built.kept is None else built.kept
    parts = []
    for _ in range(SUBSAMPLES):
        drawn = np.zeros(built.n_rows, bool)
        drawn[rng.permutation(kept)[: round(SHARE * len(kept))]] = True
        parts.append(within(built, drawn))
    found = []
    for resolution in RESOLUTIONS:
        labels = leiden(built, resolution, seed)
        if bounds[0] <= int(labels.max()) + 1 <= bounds[1]:
            fits = [leiden(part, resolution, seed + 1 + i) for i, part in enumerate(parts)]
            alike = [_alike(*pair) for pair in combinations(fits, 2)]
            found.append(Proposal(resolution, labels, modularity(labels, built), float(np.mean(alike))))
    return sorted(found, key=lambda one: -one.score)


def _alike(labels: Labels, others: Labels) -> float:
    """AMI on the rows that have a label in both."""
    both = (labels >= 0) & (others >= 0)
    return stability(np.stack([labels[both], others[both]]))


def within(built: NeighbourGraph, mask: NDArray[np.bool_]) -> NeighbourGraph:
    """The part of a graph whose edges have both ends among the rows of a mask [n]."""
    inside = mask[built.left] & mask[built.right]
    return NeighbourGraph(built.n_rows, built.left[inside], built.right[inside], np.flatnonzero(mask))


def placed(rows: Rows, labels: Labels) -> Labels:
    """Labels [n] of rows [n, F] in which those without a label, -1, have that of their nearest row with one."""
    known = labels >= 0
    if known.all():
        return labels
    whole = labels.copy()
    whole[~known] = nearest_neighbours(rows[known], labels[known], rows[~known])
    return whole
