"""What may choose among the finalists of a search, by name. Higher is better: errors change their sign.

A criterion is one entry of `OWN`, or what a package or a notebook registers: a `Criterion`, or a plain function of the
labels [n] of one training and the neighbour graph of the rows.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydc.clustering.metrics import graph, internal, stability
from raydc.clustering.metrics.graph import NeighbourGraph
from raydc.clustering.metrics.internal import Index
from raydc.core.registries import PluginError
from raydc.search.candidate import Candidate, Labels, of_replicas, standing
from raydc.search.settings import CRITERIA

Scores = NDArray[np.float64]
OfOne = Callable[[Labels, NeighbourGraph], float]
"""A value of one training, of its labels [n] and the graph of the rows."""


@dataclass(frozen=True)
class Comparison:
    """What criteria are asked about."""

    candidates: Sequence[Candidate]
    reference: NeighbourGraph
    rows: Any = None
    """[n, D], those of the reference space."""

    @property
    def first(self) -> NDArray[np.int64]:
        """[M, n], the labels of each candidate's first training."""
        return np.stack([candidate.labels[0] for candidate in self.candidates])

    @property
    def spaces(self) -> list[NDArray[np.float32]]:
        """The features of the candidates that have any."""
        return [candidate.features for candidate in self.candidates if candidate.features is not None]

    @cached_property
    def matrix(self) -> Scores:
        """Silhouettes of all candidates' partitions in all embeddings; those of a pair are made once."""
        return internal.score_matrix(self.spaces, self.first)


@dataclass(frozen=True)
class Criterion:
    """What orders candidates."""

    values: Callable[[Comparison], Scores]
    """[M], of each candidate; NaN where it has none."""
    of_one: OfOne | None = None
    """Its value of one training, where one has a value."""


def mean_of(function: OfOne) -> Criterion:
    """The mean over a candidate's trainings of what a function says of one."""

    def values(asked: Comparison) -> Scores:
        return np.array([np.mean(c.of_each(function, asked.reference)) for c in asked.candidates])

    return Criterion(values, function)


def over_replicas(agreement: Callable[[Labels], float], worst: float = 0.0) -> Criterion:
    """How alike the labels [R, n] of a candidate's trainings are."""
    return Criterion(lambda asked: np.array([of_replicas(c, agreement, worst) for c in asked.candidates]))


def over_pairs(function: Callable[[Labels, Labels], float], worst: float = 0.0) -> Criterion:
    """The same by the mean of a function over ordered pairs of trainings."""

    def agreement(labels: Labels) -> float:
        pairs = [(labels[i], labels[j]) for i in range(len(labels)) for j in range(len(labels)) if i != j]
        return float(np.mean([function(*pair) for pair in pairs]))

    return over_replicas(agreement, worst)


def on_rows(index: Index) -> Criterion:
    """An index of a candidate's first partition on the rows of the reference space."""

    def values(asked: Comparison) -> Scores:
        if asked.rows is None:
            raise ValueError(f"the criterion raw {index} needs the reference rows")
        return internal.raw_scores(asked.rows, asked.first, index)

    return Criterion(values)


def over_spaces(function: Callable[[Comparison], Scores]) -> Criterion:
    """Silhouettes of partitions in embeddings, of three candidates or more with two embeddings or more."""

    def values(asked: Comparison) -> Scores:
        enough = len(asked.spaces) >= 2 and len(asked.candidates) >= 3
        return function(asked) if enough else np.full(len(asked.candidates), np.nan)

    return Criterion(values)


def _stability_score(asked: Comparison) -> Scores:
    return np.array([standing(c, asked.reference).score if c.trainings > 1 else math.nan for c in asked.candidates])


def _consensus(asked: Comparison) -> Scores:
    weights = OWN["stability ami"].values(asked).clip(min=0)
    usable = np.isfinite(weights).all() and (weights > 0).sum() > 1
    return stability.weighted_consensus(asked.first, weights) if usable else np.full(len(weights), np.nan)


def _paired(asked: Comparison) -> Scores:
    """Each partition in its own embedding; NaN for candidates without one."""
    found = np.full(len(asked.candidates), np.nan)
    own = [i for i, candidate in enumerate(asked.candidates) if candidate.features is not None]
    found[own] = internal.paired_scores(asked.matrix[:, own])
    return found


OWN: Mapping[str, Criterion] = {
    "selector": Criterion(_stability_score),
    "neighbour_score": mean_of(graph.neighbour_score),
    "modularity": mean_of(graph.modularity),
    "kappa": mean_of(graph.kappa),
    "agreement": mean_of(graph.agreement),
    "stability ami": over_replicas(lambda labels: stability.stability(labels, "ami")),
    "stability ari": over_replicas(lambda labels: stability.stability(labels, "ari")),
    "stability rand": over_replicas(lambda labels: stability.stability(labels, "rand")),
    "fang wang": over_pairs(lambda one, other: -stability.fang_wang([(one, other)]), worst=-1.0),
    "prediction strength": over_pairs(stability.prediction_strength),
    "consensus": Criterion(_consensus),
    "raw silhouette": on_rows("silhouette"),
    "raw calinski_harabasz": on_rows("calinski_harabasz"),
    "raw davies_bouldin": on_rows("davies_bouldin"),
    "paired silhouette": over_spaces(_paired),
    "pooled silhouette": over_spaces(lambda asked: internal.pooled_scores(asked.matrix)),
    "ace": over_spaces(lambda asked: internal.ace(asked.matrix, internal.multimodal(asked.spaces)).scores),
}
"""Those that come with raydc."""


def available() -> list[str]:
    """Names of all criteria: raydc's own, then those of others."""
    return [*OWN, *(name for name in CRITERIA.names() if name not in OWN)]


def load(name: str) -> Criterion:
    """The criterion of that name. PluginError if there is none, or its package is broken."""
    if name in OWN:
        return OWN[name]
    if name not in CRITERIA:
        raise PluginError(f"no criterion {name!r}; there are {', '.join(available())}")
    found = CRITERIA.load(name)
    if isinstance(found, Criterion):
        return found
    if not callable(found) or len(inspect.signature(found).parameters) != 2:
        raise PluginError(
            f"the criterion {name!r}: expected a function of (labels, graph) or a Criterion, got {found!r}"
        )
    return mean_of(found)


def values_of(asked: Comparison, names: Iterable[str]) -> dict[str, Scores]:
    """Each criterion of each candidate [M]; NaN where it has no value.

    Those of stability need replicas, those in embeddings the candidates' features, raw ones the reference `rows`.
    PluginError where somebody else's fails, or gives other than a number for each candidate.
    """
    return {name: _asked(name, load(name), asked) for name in names}


def _asked(name: str, criterion: Criterion, asked: Comparison) -> Scores:
    if name in OWN:
        return criterion.values(asked)
    try:
        found = np.asarray(criterion.values(asked), np.float64)
    except Exception as problem:  # somebody else's code
        raise PluginError(f"the criterion {name!r} failed: {type(problem).__name__}: {problem}") from problem
    if found.shape != (len(asked.candidates),):
        raise PluginError(
            f"the criterion {name!r}: expected a number for each of {len(asked.candidates)} candidates, got an array "
            f"of shape {found.shape}"
        )
    return found
