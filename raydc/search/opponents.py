"""What every search compares with, and what it is told beforehand: Ward, Leiden and kNN-spectral, learnt by a network.

They take seconds and set the bar that a deep method must reach, and Leiden proposes numbers of clusters. Two of them
maximise how well clusters follow the neighbours, which scores are made of: they exceed the score of the true classes
(Leiden on MNIST: .735 against .667) without being better clusters. So their scores count only as far as clusters found
on some rows are followed by the neighbours of other rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from raydc.clustering.communities import RESOLUTIONS, leiden
from raydc.clustering.metrics.graph import NeighbourGraph, modularity, stability_score
from raydc.clustering.metrics.stability import stability
from raydc.clustering.shallow import placed

Labels = NDArray[np.int64]
Rows = NDArray[np.float32]
OPPONENTS = ("ward", "leiden", "spectral")
GRAPH_OPPONENTS = ("leiden", "spectral")
"""Those that cluster the graph of neighbours itself."""
SUBSAMPLES, SHARE = 3, 0.8
"""Fits by which a partition's stability is told, each on that share of the rows."""
SPLITS = 3
"""Into halves, by which it is told what clusters are worth among rows that they were not found on."""


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


def proposals(built: NeighbourGraph, bounds: tuple[int, int], seed: int) -> list[Proposal]:
    """Leiden's partitions of a graph into a number of communities within the bounds, the best first.

    One for each of RESOLUTIONS that gives such a number, ranked by its stability score over subsamples of the rows.
    """
    rng = np.random.default_rng(seed)
    kept = counted(built)
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


def kept_unseen(cluster: Callable[[Rows, int], Labels], rows: Rows, built: NeighbourGraph, seed: int) -> float:
    """Share of its modularity that a clustering keeps among rows that it did not see; in [0, 1].

    `cluster` gives labels [m] of rows [m, F], by a seed. Rows are split into halves, each is clustered, and the other
    half is put where its nearest rows are: on a half's own edges, labels that came from there and labels that came from
    the other half are compared. The drop is the optimism of what maximises the very score, and is somewhat overstated,
    as clusters of half as many rows are poorer.
    """
    own = other = 0.0
    for split in range(SPLITS):
        drawn = np.random.default_rng(seed + split).permutation(counted(built))
        halves = np.sort(drawn[: len(drawn) // 2]), np.sort(drawn[len(drawn) // 2 :])
        found = [np.full(built.n_rows, -1) for _ in halves]
        for half, labels in zip(halves, found, strict=True):
            labels[half] = cluster(rows[half], seed + split)
        for half, seen, unseen in zip(halves, found, found[::-1], strict=True):
            part = within(built, np.isin(np.arange(built.n_rows), half))
            own += modularity(seen, part)
            other += modularity(placed(rows, unseen), part)
    return float(np.clip(other / own, 0, 1)) if own > 0 else 0.0


def counted(built: NeighbourGraph) -> Labels:
    """Positions of the rows of a graph that count."""
    return np.arange(built.n_rows) if built.kept is None else built.kept


def _alike(labels: Labels, others: Labels) -> float:
    """AMI on the rows that have a label in both."""
    both = (labels >= 0) & (others >= 0)
    return stability(np.stack([labels[both], others[both]]))


def within(built: NeighbourGraph, mask: NDArray[np.bool_]) -> NeighbourGraph:
    """The part of a graph whose edges have both ends among the rows of a mask [n]."""
    inside = mask[built.left] & mask[built.right]
    return NeighbourGraph(built.n_rows, built.left[inside], built.right[inside], np.flatnonzero(mask))
