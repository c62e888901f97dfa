"""Choosing among finished trials: three stages, and the right to say no. Pure functions of records and label arrays.

The neighbour score scores every trial on one training. Stage two trains the best third anew, with new seeds and on new
subsamples. The stability score ranks them by modularity times the root of the stability of their labels; the winner is
registered as the replica nearest to all others. The exponents were found on trials whose classes were known (11
studies), so they are findings, not laws. Where neighbours in the reference space mean nothing, nothing here notices.

Instability between replicas is charged in the stability score, and nowhere else: whether a simpler trial does as well
is asked of what each training scores by itself.
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
    """Standard deviation over trainings of the stability score, as their modularities move it: what its stability does
    to the score stands in the score already."""


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
    q = [graph.modularity(labels, reference) for labels in candidate.labels]
    agreement = _of_replicas("stability ami", candidate, reference)
    mean = float(np.mean(q))
    spread = graph.stability_score(_spread(q), agreement)
    return Standing(candidate.number, mean, agreement, graph.stability_score(mean, agreement), spread)


def _spread(values: Sequence[float]) -> float:
    """Standard deviation over trainings; 0 for one of them."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def choose(
    candidates: Sequence[Candidate],
    reference: NeighbourGraph,
    simpler: Sequence[int],
    criterion: Criterion = "selector",
    rows: Any = None,
) -> tuple[Choice, dict[int, Standing], Scores]:
    """The winner among candidates with replicas, their standings, and the criterion of each (higher is better).

    `simpler` are trial numbers, the simplest first. The winner must beat each of them by more than the standard error;
    else the simplest of those that it does not beat is returned. They are compared by the criterion where each training
    has a value of it, else by the stability score. A simple trial that is `outdone` is never returned. Raises
    ValueError if no candidate can be registered.
    """
    able = [i for i, candidate in enumerate(candidates) if candidate.registrable]
    if not able:
        raise ValueError("expected at least one trial that finished with a model")
    standings = {candidate.number: standing(candidate, reference) for candidate in candidates}
    values = criteria(candidates, reference, [criterion], rows)[criterion]
    single = SINGLE.get(criterion, graph.neighbour_score)
    models = [candidates[i] for i in able]
    found = {n: outdone(n, models, reference, single) for n in simpler}
    lost = {n: other for n, other in found.items() if other is not None}
    first = _first(candidates, able, values)
    best = _first(candidates, [i for i in able if candidates[i].number not in lost], values)
    choice = Choice(best, best, 0)
    compared = {c.number: _compared(c, reference, criterion, standings[c.number]) for c in candidates}
    by = f" by {criterion if criterion in SINGLE else 'the stability score'}" if criterion != "selector" else ""
    if first != best:
        choice.notes.append(
            f"the simple trial {first} scores {compared[first][0]:.3f} and trial {best} {compared[best][0]:.3f}{by}, "
            f"but it comes again alike and is worse each time: each training of trial {lost[first]}, with as many "
            "clusters, follows the rows' neighbours better than each of its own"
        )
    rivals = [n for n in simpler if n not in lost and n in {one.number for one in models}]
    for number in rivals[: rivals.index(best)] if best in rivals else rivals:
        (ours, our_error), (theirs, their_error) = compared[best], compared[number]
        if ours - theirs <= (error := math.hypot(our_error, their_error)):
            choice.notes.append(
                f"trial {best} scores {ours:.3f} and the simpler trial {number} {theirs:.3f}{by}: not told apart "
                f"(standard error {error:.3f}), so trial {number} is returned, at a cost of {max(ours - theirs, 0):.3f}"
            )
            choice.number = number
            break
    for i, candidate in enumerate(candidates):
        if i not in able and compared[candidate.number][0] > compared[choice.number][0]:
            choice.notes.append(
                f"trial {candidate.number}, a shallow opponent that is no model and cannot be registered, scores "
                f"{compared[candidate.number][0]:.3f}, above {compared[choice.number][0]:.3f}{by}"
            )
    winner = next(candidate for candidate in candidates if candidate.number == choice.number)
    choice.medoid = stability.medoid(winner.labels)
    return choice, standings, values


def _first(candidates: Sequence[Candidate], able: Sequence[int], values: Scores) -> int:
    """The number of the trial, among those at `able`, with the highest criterion; of equals the cheapest."""
    top = max((float(values[i]) for i in able if np.isfinite(values[i])), default=math.nan)
    tied = [i for i in able if values[i] >= top - CHEAPER] or able
    return candidates[min(tied, key=lambda i: (candidates[i].seconds, candidates[i].number))].number


def outdone(
    number: int,
    candidates: Sequence[Candidate],
    reference: NeighbourGraph,
    single: Callable[[Labels, NeighbourGraph], float] = graph.neighbour_score,
) -> int | None:
    """The number of a candidate with as many clusters as trial `number` has, and better in each training; or None.

    Of one number of clusters, labels compare by `single` alone. Such a trial comes again alike and is worse each time,
    which is what raw k-means often does: being simple must be no merit then.
    """
    own = next((one for one in candidates if one.number == number), None)
    if own is None:
        return None
    most = max(single(labels, reference) for labels in own.labels)
    for other in candidates:
        alike = other.number != number and other.n_clusters == own.n_clusters and not other.guarded
        if alike and min(single(labels, reference) for labels in other.labels) > most:
            return other.number
    return None


def _compared(
    candidate: Candidate, reference: NeighbourGraph, criterion: Criterion, stability_score: Standing
) -> tuple[float, float]:
    """Score by which a winner is compared with simpler trials, and its standard error."""
    if criterion not in SINGLE:
        score, spread = stability_score.score, stability_score.spread
    else:
        own = [SINGLE[criterion](labels, reference) for labels in candidate.labels]
        score, spread = float(np.mean(own)), _spread(own)
    return score, spread / math.sqrt(len(candidate.labels))


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
