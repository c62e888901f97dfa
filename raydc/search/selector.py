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
from typing import Any, get_args

import numpy as np

from raydc.clustering.metrics import graph, stability
from raydc.clustering.metrics.graph import NeighbourGraph
from raydc.search import criteria
from raydc.search.candidate import Candidate, Standing, spread_of, standing
from raydc.search.criteria import Comparison, Criterion, OfOne, Scores
from raydc.search.reference import Reference

LEAST_FINALISTS = 5
CHEAPER = 1e-9
"""Scores nearer than this are equal; the cheaper configuration then wins."""


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


def choose(
    candidates: Sequence[Candidate],
    reference: NeighbourGraph,
    simpler: Sequence[int],
    criterion: str = "selector",
    rows: Any = None,
) -> tuple[Choice, dict[int, Standing], Scores]:
    """The winner among candidates with replicas, their standings, and the criterion of each (higher is better).

    `simpler` are trial numbers, the simplest first. The winner must beat each of them by more than the standard error;
    else the simplest of those that it does not beat is returned. They are compared by the criterion where each training
    has a value of it, else by the stability score. A simple trial that is `outdone` is never returned. Raises
    ValueError if there is no candidate.
    """
    if not candidates:
        raise ValueError("expected at least one trial that finished with replicas")
    standings = {candidate.number: standing(candidate, reference) for candidate in candidates}
    values = criteria.values_of(Comparison(candidates, reference, rows), [criterion])[criterion]
    asked = criteria.load(criterion)
    single = asked.of_one or graph.neighbour_score
    found = {n: outdone(n, candidates, reference, single) for n in simpler}
    lost = {n: other for n, other in found.items() if other is not None}
    every = range(len(candidates))
    first = _first(candidates, every, values)
    best = _first(candidates, [i for i in every if candidates[i].number not in lost], values)
    choice = Choice(best, best, 0)
    compared = {c.number: _compared(c, reference, asked, standings[c.number]) for c in candidates}
    by = f" by {criterion if asked.of_one else 'the stability score'}" if criterion != "selector" else ""
    if first != best:
        choice.notes.append(
            f"the simple trial {first} scores {compared[first][0]:.3f} and trial {best} {compared[best][0]:.3f}{by}, "
            f"but it comes again alike and is worse each time: each training of trial {lost[first]}, with as many "
            "clusters, follows the rows' neighbours better than each of its own"
        )
    rivals = [n for n in simpler if n not in lost and n in {one.number for one in candidates}]
    for number in rivals[: rivals.index(best)] if best in rivals else rivals:
        (ours, our_error), (theirs, their_error) = compared[best], compared[number]
        if ours - theirs <= (error := math.hypot(our_error, their_error)):
            choice.notes.append(
                f"trial {best} scores {ours:.3f} and the simpler trial {number} {theirs:.3f}{by}: not told apart "
                f"(standard error {error:.3f}), so trial {number} is returned, at a cost of {max(ours - theirs, 0):.3f}"
            )
            choice.number = number
            break
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
    single: OfOne = graph.neighbour_score,
) -> int | None:
    """The number of a candidate with as many clusters as trial `number` has, and better in each training; or None.

    Of one number of clusters, labels compare by `single` alone. Such a trial comes again alike and is worse each time,
    which is what raw k-means often does: being simple must be no merit then.
    """
    own = next((one for one in candidates if one.number == number), None)
    if own is None:
        return None
    most = max(own.of_each(single, reference))
    for other in candidates:
        alike = other.number != number and other.n_clusters == own.n_clusters and not other.guarded
        if alike and min(other.of_each(single, reference)) > most:
            return other.number
    return None


def _compared(
    candidate: Candidate, reference: NeighbourGraph, criterion: Criterion, stability_score: Standing
) -> tuple[float, float]:
    """Score by which a winner is compared with simpler trials, and its standard error."""
    if criterion.of_one is None:
        score, spread = stability_score.score, stability_score.spread
    else:
        own = candidate.of_each(criterion.of_one, reference)
        score, spread = float(np.mean(own)), spread_of(own)
    return score, spread / math.sqrt(len(candidate.labels))


@dataclass(frozen=True)
class Null:
    """Scores where there is nothing to find, as bands for one more such score."""

    columns: tuple[float, float]
    gaussian: tuple[float, float]

    def inside(self, score: float) -> bool:
        """Whether the score is what noise of one kind or the other reaches."""
        return score <= max(self.columns[1], self.gaussian[1])


def null(
    space: Reference,
    families: Sequence[Callable[[Any, int], Any]],
    *,
    trials: int,
    repeats: int = 10,
    seed: int = 0,
) -> Null:
    """Bands of the neighbour score on rows without clusters, seen as those of the reference `space` are.

    Each of `families` clusters them: (rows, seed) -> labels. The band is that of the family that reaches the highest.
    Of noise, one search in 20 has a score above, over all its trials.
    """
    level = 1 - 0.1 / max(trials, 2)

    def band(kind: graph.NullKind) -> tuple[float, float]:
        scores = graph.null_scores(
            space.plain,
            families,
            kind=kind,
            blocks=space.blocks,
            view=space.chosen.view.apply,
            n_neighbours=space.neighbours,
            repeats=repeats,
            seed=seed,
        )
        return max((graph.null_band(own, level) for own in scores), key=lambda found: found[1])

    return Null(*map(band, get_args(graph.NullKind)))
