"""A trial that was scored and trained anew, and how it stands over those trainings."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydc.clustering.metrics import graph, stability
from raydc.clustering.metrics.graph import NeighbourGraph

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Candidate:
    """A trial that was scored, with its replicas where it has any; the first labels are its own."""

    number: int
    n_clusters: int
    seconds: float
    labels: Labels
    """[R, n], of the same evaluation rows."""
    features: NDArray[np.float32] | None = None
    """[n, D], of its first training."""
    unseen: float = 1.0
    """Share that counts of how well it follows the neighbours: less than all where that is what it maximises."""
    guarded: int = 0
    """Further replicas that guards refused: no labels of theirs count, and they agree with no other."""

    @property
    def trainings(self) -> int:
        return len(self.labels) + self.guarded

    def of_each(self, follows: Callable[[Labels, NeighbourGraph], float], reference: NeighbourGraph) -> list[float]:
        """How well the labels of each training follow the neighbours, by a function of labels [n] and their graph."""
        return [self.unseen * follows(labels, reference) for labels in self.labels]

    @property
    def sound_pairs(self) -> float:
        """Share of the pairs of trainings of which neither is guarded."""
        return math.comb(len(self.labels), 2) / math.comb(self.trainings, 2)


@dataclass(frozen=True)
class Standing:
    """How a finalist did over its replicas."""

    number: int
    modularity: float
    """Mean over replicas."""
    stability: float
    """Mean AMI over pairs of replicas; 0 for a pair with a guarded one."""
    score: float
    """The stability score: modularity times the root of stability."""
    spread: float
    """Standard deviation over trainings of the stability score, as their modularities move it: what its stability does
    to the score stands in the score already."""


def standing(candidate: Candidate, reference: NeighbourGraph) -> Standing:
    """The stability score of a finalist with two trainings or more."""
    q = candidate.of_each(graph.modularity, reference)
    agreement = of_replicas(candidate, stability.stability)
    mean = float(np.mean(q))
    spread = graph.stability_score(spread_of(q), agreement)
    return Standing(candidate.number, mean, agreement, graph.stability_score(mean, agreement), spread)


def spread_of(values: Sequence[float]) -> float:
    """Standard deviation over trainings; 0 for one of them."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def of_replicas(candidate: Candidate, agreement: Callable[[Labels], float], worst: float = 0.0) -> float:
    """How alike the labels [R, n] of a candidate's trainings are; NaN for one training.

    A pair with a guarded training has the `worst` that there is.
    """
    if candidate.trainings < 2:
        return math.nan
    share = candidate.sound_pairs
    return worst + share * (agreement(candidate.labels) - worst) if share else worst
