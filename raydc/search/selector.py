"""Choosing among finished trials: three stages, and the right to say no. Pure functions of records and label arrays.

The neighbour score scores every trial on one training. Stage two trains the best third anew, with new seeds and on new
subsamples. The stability score ranks them by modularity times the root of the stability of their labels; the winner is
registered as the replica nearest to all others. The exponents were found on trials whose classes were known (11
studies), so they are findings, not laws. Where neighbours in the reference space mean nothing, nothing here notices.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydc.metrics import graph, internal, stability
from raydc.metrics.graph import NeighbourGraph
from raydc.search.settings import Criterion

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]
LEAST_FINALISTS = 5
CHEAPER = 1e-9
"""Scores nearer than this are equal; the cheaper configuration then wins."""
SINGLE: dict[str, Callable[[Labels, NeighbourGraph], float]] = {
    "neighbour_score": graph.neighbour_score,
    "modularity": graph.modularity,
    "kappa": graph.kappa,
    "agreement": graph.agreement,
}
"""Criteria that one training has a value of."""


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
    registrable: bool = True
    """Whether it is a model, rather than a shallow opponent's labels."""
    guarded: int = 0
    """Further replicas that guards refused: no labels of theirs count, and they agree with no other."""

    @property
    def trainings(self) -> int:
        return len(self.labels) + self.guarded

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
    """Standard deviation over replicas of each one's own stability score."""


@dataclass
class Choice:
    """What the selector decided, and why."""

    number: int
    """The trial whose medoid is returned."""
    best: int
    """The trial that came first, before simpler ones were asked."""
    medoid: int
    """Which of its replicas."""
    notes: list[str] = field(default_factory=list)


def finalists(scores: Mapping[int, float], always: Sequence[int], share: float) -> list[int]:
    """The best `share` of the trials (at least five) by neighbour score, and those that are `always` compared."""
    usable = sorted((number for number in scores if scores[number] > graph.WORST_SCORE), key=lambda n: (-scores[n], n))
    first = usable[: max(LEAST_FINALISTS, math.ceil(share * len(scores)))]
    return first + [number for number in always if number in usable and number not in first]


def standing(candidate: Candidate, reference: NeighbourGraph) -> Standing:
    """The stability score of a finalist with two trainings or more."""
    q = np.array([graph.modularity(labels, reference) for labels in candidate.labels])
    alike = stability.similarities(candidate.labels)
    others = (alike.sum(axis=1) - 1) / (candidate.trainings - 1)
    own = [graph.stability_score(*pair) for pair in zip(q, others, strict=True)]
    agreement = _of_replicas("stability ami", candidate, reference)
    score = graph.stability_score(float(q.mean()), agreement)
    return Standing(candidate.number, float(q.mean()), agreement, score, _spread(own))


def _spread(values: Sequence[float]) -> float:
    """Standard deviation over replicas; 0 for one of them."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def choose(
    candidates: Sequence[Candidate],
    reference: NeighbourGraph,
    simpler: Sequence[int],
    criterion: Criterion = "selector",
    rows: Any = None,
) -> tuple[Choice, dict[int, Standing], Scores]:
    """The winner among candidates with replicas, their standings, and the criterion of each (higher is better).

    `simpler` are trial numbers, the simplest first, that the winner must beat by more than the spread of replicas; else
    the simplest of those that it does not beat is returned. They are compared by the criterion where each replica has a
    value of it, else by the stability score. Raises ValueError if no candidate can be registered.
    """
    able = [i for i, candidate in enumerate(candidates) if candidate.registrable]
    if not able:
        raise ValueError("expected at least one trial that finished with a model")
    standings = {candidate.number: standing(candidate, reference) for candidate in candidates}
    values = criteria(candidates, reference, [criterion], rows)[criterion]
    top = max(float(values[i]) for i in able if np.isfinite(values[i])) if np.isfinite(values[able]).any() else math.nan
    tied = [i for i in able if values[i] >= top - CHEAPER] or able
    best = candidates[min(tied, key=lambda i: (candidates[i].seconds, candidates[i].number))].number
    choice = Choice(best, best, 0)
    compared = {c.number: _compared(c, reference, criterion, standings[c.number]) for c in candidates}
    by = (
        f" by {criterion if criterion in SINGLE else 'the stability score'}"
        if criterion != "selector"
        else " over all replicas"
    )
    known = {candidates[i].number for i in able}
    models = [number for number in simpler if number in known]
    for number in models[: models.index(best)] if best in models else models:
        (ours, our_spread), (theirs, their_spread) = compared[best], compared[number]
        if ours - theirs <= (spread := math.hypot(our_spread, their_spread)):
            choice.notes.append(
                f"trial {best} scores {ours:.4f} and the simpler trial {number} {theirs:.4f}{by}: no more than the "
                f"replicas' spread ({spread:.4f}), so trial {number} is returned"
            )
            choice.number = number
            break
    for i, candidate in enumerate(candidates):
        if i not in able and compared[candidate.number][0] > compared[choice.number][0]:
            choice.notes.append(
                f"trial {candidate.number}, a shallow opponent that is no model and cannot be registered, scores "
                f"{compared[candidate.number][0]:.4f}, above {compared[choice.number][0]:.4f}{by}"
            )
    winner = next(candidate for candidate in candidates if candidate.number == choice.number)
    choice.medoid = stability.medoid(winner.labels)
    return choice, standings, values


def _compared(
    candidate: Candidate, reference: NeighbourGraph, criterion: Criterion, stability_score: Standing
) -> tuple[float, float]:
    """Score and spread over replicas, by which a winner is compared with simpler trials."""
    if criterion not in SINGLE:
        return stability_score.score, stability_score.spread
    own = [SINGLE[criterion](labels, reference) for labels in candidate.labels]
    return float(np.mean(own)), _spread(own)


def criteria(
    candidates: Sequence[Candidate], reference: NeighbourGraph, names: Sequence[Criterion], rows: Any = None
) -> dict[str, Scores]:
    """Each criterion of each candidate [M], higher is better (errors change their sign); NaN where it has no value.

    Those of stability need replicas, those in embeddings the candidates' features, raw ones the reference `rows`.
    """

    @cache
    def matrix() -> Scores:
        spaces = [candidate.features for candidate in candidates if candidate.features is not None]
        return internal.score_matrix(spaces, np.stack([candidate.labels[0] for candidate in candidates]))

    return {name: _criterion(name, candidates, reference, rows, matrix) for name in names}


def _criterion(
    name: Criterion,
    candidates: Sequence[Candidate],
    reference: NeighbourGraph,
    rows: Any,
    matrix: Callable[[], Scores],
) -> Scores:
    if name in SINGLE:
        return np.array([np.mean([SINGLE[name](labels, reference) for labels in c.labels]) for c in candidates])
    if name in ("selector", "stability ami", "stability ari", "stability rand", "fang wang", "prediction strength"):
        return np.array([_of_replicas(name, candidate, reference) for candidate in candidates])
    first = np.stack([candidate.labels[0] for candidate in candidates])
    if name == "consensus":
        weights = np.array([_of_replicas("stability ami", c, reference) for c in candidates]).clip(min=0)
        usable = np.isfinite(weights).all() and (weights > 0).sum() > 1
        return stability.weighted_consensus(first, weights) if usable else np.full(len(first), np.nan)
    if name.startswith("raw "):
        if rows is None:
            raise ValueError(f"the criterion {name} needs the reference rows")
        return internal.raw_scores(rows, first, name.removeprefix("raw "))  # type: ignore[arg-type]
    return _over_spaces(name, candidates, matrix)


def _of_replicas(name: str, candidate: Candidate, reference: NeighbourGraph) -> float:
    labels = candidate.labels
    if candidate.trainings < 2:
        return math.nan
    if name == "selector":
        return standing(candidate, reference).score
    worst = -1.0 if name == "fang wang" else 0.0
    share = candidate.sound_pairs
    return worst + share * (_of_pairs(name, labels) - worst) if share else worst


def _of_pairs(name: str, labels: Labels) -> float:
    pairs = [(labels[i], labels[j]) for i in range(len(labels)) for j in range(len(labels)) if i != j]
    if name == "fang wang":
        return -stability.fang_wang(pairs)
    if name == "prediction strength":
        return float(np.mean([stability.prediction_strength(a, b) for a, b in pairs]))
    return stability.stability(labels, name.removeprefix("stability "))  # type: ignore[arg-type]


def _over_spaces(name: str, candidates: Sequence[Candidate], matrix: Callable[[], Scores]) -> Scores:
    """Silhouettes of partitions in embeddings: NaN for candidates without one of their own."""
    spaces = [candidate.features for candidate in candidates if candidate.features is not None]
    found = np.full(len(candidates), np.nan)
    if len(spaces) < 2 or len(candidates) < 3:
        return found
    if name == "pooled silhouette":
        return internal.pooled_scores(matrix())
    if name == "ace":
        return internal.ace(matrix(), internal.multimodal(spaces)).scores
    own = [i for i, candidate in enumerate(candidates) if candidate.features is not None]
    found[own] = internal.paired_scores(matrix()[:, own])
    return found


@dataclass(frozen=True)
class Null:
    """Scores of k-means where there is nothing to find, as bands for one more such score."""

    columns: tuple[float, float]
    gaussian: tuple[float, float]

    def inside(self, score: float) -> bool:
        """Whether the score is what noise of one kind or the other reaches."""
        return score <= max(self.columns[1], self.gaussian[1])


def null(
    rows: Any, cluster: Callable[[Any, int], Any], *, neighbours: int, trials: int, repeats: int = 10, seed: int = 0
) -> Null:
    """Bands of the neighbour score of `cluster` on rows without clusters; one noise in 20 is above, over all trials."""
    level = 1 - 0.1 / max(trials, 2)
    drawn = [
        graph.null_band(
            graph.null_scores(rows, cluster, kind=kind, n_neighbours=neighbours, repeats=repeats, seed=seed), level
        )
        for kind in ("columns", "gaussian")
    ]
    return Null(*drawn)
