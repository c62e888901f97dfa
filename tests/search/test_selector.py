"""The selector by hand: finalists, the stability score, the right to say no, null bands."""

import math

import numpy as np
import pytest

from raydc.clustering.metrics import graph
from raydc.clustering.shallow import communities
from raydc.search import criteria, selector
from raydc.search.candidate import Candidate
from raydc.search.conclude import noise_families
from raydc.search.criteria import Comparison
from raydc.search.evaluation import plain_kmeans
from raydc.search.reference import of_embedding, of_rows

GROUPS = np.repeat(np.arange(4), 25)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return 6 * rng.standard_normal((4, 5))[GROUPS] + rng.standard_normal((100, 5))


@pytest.fixture(scope="module")
def reference(rows: np.ndarray) -> graph.NeighbourGraph:
    return graph.neighbour_graph(rows, 8)


def noisy(share: float, seed: int) -> np.ndarray:
    """The groups, with a share of the rows put anywhere."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(100) < share, rng.integers(0, 4, 100), GROUPS)


def of(number: int, share: float, replicas: int = 3, seconds: float = 1.0, unseen: float = 1.0) -> Candidate:
    labels = np.stack([noisy(share, 10 * number + r) for r in range(replicas)])
    return Candidate(number, 4, seconds, labels, unseen=unseen)


def test_finalists_are_the_best_third_and_five_at_least() -> None:
    scores = {n: n / 100 for n in range(30)}
    assert selector.finalists(scores, [], 1 / 3) == [*range(29, 19, -1)]
    assert selector.finalists({n: scores[n] for n in range(9)}, [0], 1 / 3) == [8, 7, 6, 5, 4, 0]


def test_a_trial_that_a_guard_stopped_is_no_finalist() -> None:
    assert selector.finalists({0: graph.WORST_SCORE, 1: 0.2, 2: -0.5}, [0, 2], 1.0) == [1, 2]


def test_stage_three_by_hand(reference: graph.NeighbourGraph) -> None:
    same = Candidate(7, 4, 1.0, np.stack([GROUPS, 3 - GROUPS, GROUPS]))
    found = selector.standing(same, reference)
    assert found.stability == pytest.approx(1)
    assert found.score == pytest.approx(graph.modularity(GROUPS, reference)) and found.spread == pytest.approx(0)
    worse = selector.standing(of(1, 0.5), reference)
    assert worse.score == pytest.approx(worse.modularity * math.sqrt(worse.stability))
    assert worse.score < found.score and worse.spread > 0


def test_the_better_trial_wins_and_its_medoid_is_the_replica_nearest_to_all(reference: graph.NeighbourGraph) -> None:
    good = Candidate(5, 4, 1.0, np.stack([noisy(0.4, 1), GROUPS, noisy(0.1, 2)]))
    choice, standings, values = selector.choose([of(0, 0.9), of(1, 0.8), good], reference, [1, 0])
    assert (choice.number, choice.best, choice.medoid, choice.notes) == (5, 5, 1, [])
    assert standings[5].score == pytest.approx(values[2])


def test_a_winner_that_is_not_told_apart_gives_way_to_the_simplest_and_the_cost_is_said(
    reference: graph.NeighbourGraph,
) -> None:
    plain = of(1, 0.15)
    slightly = plain.labels.copy()
    for labels in slightly:
        wrong = np.flatnonzero(labels != GROUPS)[:1]
        labels[wrong] = GROUPS[wrong]
    choice, standings, _ = selector.choose([of(0, 0.6), plain, Candidate(5, 4, 1.0, slightly)], reference, [1, 0])
    lead = standings[5].score - standings[1].score
    assert choice.best == 5 and lead > 0 and choice.number == 1
    (note,) = choice.notes
    assert "the simpler trial 1" in note and note.endswith(f"trial 1 is returned, at a cost of {lead:.3f}")


def stubborn(share: float) -> Candidate:
    """Raw k-means as it often is: the same rows are wrong in each training."""
    return Candidate(1, 4, 1.0, np.stack([noisy(share, 3)] * 3))


def test_each_training_of_a_trial_beats_each_of_k_means_which_comes_again_alike(
    reference: graph.NeighbourGraph,
) -> None:
    """As on digits: k-means has .811 each time, IMSAT .849 and other rows wrong each time."""
    kmeans, imsat = stubborn(0.14), of(5, 0.07)
    scores = [[graph.neighbour_score(labels, reference) for labels in one.labels] for one in (kmeans, imsat)]
    assert max(scores[0]) < min(scores[1])
    choice, standings, _ = selector.choose([of(0, 0.6), kmeans, imsat], reference, [1, 0])
    assert standings[1].score > standings[5].score and standings[1].stability == 1
    assert (choice.number, choice.best) == (5, 5)
    assert any("the simple trial 1" in note and "worse each time" in note for note in choice.notes)


def test_only_trials_of_as_many_clusters_outdo_each_other(reference: graph.NeighbourGraph) -> None:
    """More clusters follow neighbours less for being more: there stability has a say."""
    kmeans, imsat = stubborn(0.14), of(5, 0.07)
    assert selector.outdone(1, [kmeans, imsat], reference) == 5
    assert selector.outdone(5, [kmeans, imsat], reference) is None
    assert selector.outdone(7, [kmeans, imsat], reference) is None
    for other in (Candidate(5, 5, 1.0, imsat.labels), Candidate(5, 4, 1.0, imsat.labels, guarded=1)):
        assert selector.outdone(1, [kmeans, other], reference) is None


def test_instability_is_charged_once() -> None:
    """Halves of a ring of rows: each training cuts elsewhere, and all cuts are equally good."""
    ring = graph.NeighbourGraph(24, np.arange(24), (np.arange(24) + 1) % 24)
    cuts = np.stack([np.roll(np.repeat([0, 1], 12), by) for by in (0, 1, 4)])
    found = selector.standing(Candidate(1, 2, 1.0, cuts), ring)
    assert 0.2 < found.stability < 0.9 and found.score < found.modularity
    assert found.spread == pytest.approx(0, abs=1e-12)


def test_a_simpler_trial_that_is_clearly_worse_is_not_returned(reference: graph.NeighbourGraph) -> None:
    choice, _, _ = selector.choose([of(0, 0.9), of(1, 0.7), of(5, 0.02)], reference, [1, 0])
    assert choice.number == 5 and not choice.notes


def test_the_simplest_that_the_winner_does_not_beat_is_returned(reference: graph.NeighbourGraph) -> None:
    """k-means, clearly worse than the winner, is not returned for being near to the default, which is not."""
    winner, kmeans = of(5, 0.09), of(1, 0.5)
    default = Candidate(0, 4, 1.0, winner.labels.copy())
    for labels in default.labels:
        right = np.flatnonzero(labels == GROUPS)[:1]
        labels[right] = (labels[right] + 1) % 4
    choice, standings, _ = selector.choose([default, kmeans, winner], reference, [1, 0])
    assert standings[5].score > standings[0].score
    assert (choice.number, choice.best, len(choice.notes)) == (0, 5, 1)


def test_simpler_trials_are_compared_by_the_criterion_that_chose(reference: graph.NeighbourGraph) -> None:
    """The one is coarse and stable, the other better and less stable: which gives way depends on what is asked."""
    pair = [Candidate(1, 2, 1.0, np.stack([GROUPS // 2] * 3)), of(5, 0.08)]
    chosen = {name: selector.choose(pair, reference, [1], name)[0] for name in ("selector", "modularity", "fang wang")}
    assert {name: (choice.best, choice.number) for name, choice in chosen.items()} == {
        "selector": (5, 1), "modularity": (5, 5), "fang wang": (1, 1)
    }  # fmt: skip
    (note,) = selector.choose([of(1, 0.1), of(5, 0.08)], reference, [1], "prediction strength")[0].notes
    assert "by the stability score" in note  # a replica has no such value of its own


def test_guarded_replicas_are_no_medoid_and_agree_with_nothing(reference: graph.NeighbourGraph) -> None:
    labels = np.stack([GROUPS, GROUPS])
    whole, part = Candidate(1, 4, 1.0, labels), Candidate(2, 4, 1.0, labels, guarded=1)
    alone = Candidate(3, 4, 1.0, labels[:1], guarded=2)
    found = {one.number: selector.standing(one, reference) for one in (whole, part, alone)}
    assert [found[n].stability for n in (1, 2, 3)] == pytest.approx([1, 1 / 3, 0])
    assert found[2].score == pytest.approx(found[1].score / math.sqrt(3)) and found[3].score == found[3].spread == 0
    names = ("selector", "stability ari", "fang wang", "prediction strength")
    for name, values in criteria.values_of(Comparison([whole, part, alone], reference), names).items():
        assert values[0] > values[1] > values[2] and np.isfinite(values).all(), name
    assert selector.choose([whole, part, alone], reference, [])[0].number == 1


def test_the_simplest_gives_way_to_nothing_that_is_less_simple(reference: graph.NeighbourGraph) -> None:
    choice, standings, _ = selector.choose([of(0, 0.25), of(1, 0.17)], reference, [1, 0])
    default, kmeans = standings[0], standings[1]
    assert 0 < kmeans.score - default.score < np.hypot(kmeans.spread, default.spread)
    assert (choice.number, choice.best, choice.notes) == (1, 1, [])


def test_ties_go_to_the_cheaper(reference: graph.NeighbourGraph) -> None:
    labels = np.stack([GROUPS, GROUPS])
    pair = [Candidate(3, 4, 9.0, labels), Candidate(4, 4, 2.0, labels)]
    assert selector.choose(pair, reference, [])[0].number == 4


def test_what_maximises_the_score_is_rated_by_what_it_keeps_among_unseen_rows(reference: graph.NeighbourGraph) -> None:
    """Leiden was once kept from winning altogether, and before that it would have won by the score it maximises."""
    better, worse = of(2, 0.0), of(5, 0.1)
    assert selector.choose([better, worse], reference, [])[0].number == 2
    rated = of(2, 0.0, unseen=0.5)
    choice, standings, values = selector.choose([rated, worse], reference, [])
    assert choice.number == 5 and standings[2].score == values[0]
    assert standings[2].modularity == pytest.approx(0.5 * graph.modularity(GROUPS, reference))
    one = criteria.values_of(Comparison([better, rated], reference), ["neighbour_score"])["neighbour_score"]
    assert one[1] == pytest.approx(one[0] / 2)
    assert (
        selector.outdone(5, [better, worse], reference) == 2 and selector.outdone(5, [rated, worse], reference) is None
    )
    with pytest.raises(ValueError, match="expected at least one trial"):
        selector.choose([], reference, [])


def test_every_criterion_prefers_the_clean_trial(reference: graph.NeighbourGraph, rows: np.ndarray) -> None:
    features = rows.astype(np.float32)
    pair = [Candidate(c.number, 4, 1.0, c.labels, features) for c in (of(1, 0.02), of(2, 0.6), of(3, 0.1))]
    found = criteria.values_of(Comparison(pair, reference, rows), criteria.OWN)
    for name, values in found.items():
        assert values[0] > values[1], name


def test_criteria_without_replicas_have_no_value(reference: graph.NeighbourGraph, rows: np.ndarray) -> None:
    found = criteria.values_of(
        Comparison([of(1, 0.1, 1), of(2, 0.2, 1)], reference), ["stability ami", "consensus", "neighbour_score"]
    )
    assert np.isnan(found["stability ami"]).all() and np.isnan(found["consensus"]).all()
    assert np.isfinite(found["neighbour_score"]).all()


def test_the_null_band_tells_groups_from_noise() -> None:
    def cluster(points: np.ndarray, seed: int) -> np.ndarray:
        return plain_kmeans(points, 4, seed)

    centres = 4 * np.random.default_rng(3).standard_normal((4, 10))
    groups = centres[np.repeat(np.arange(4), 60)] + np.random.default_rng(4).standard_normal((240, 10))
    space = of_embedding(groups.astype(np.float32), "groups", 8, 0)
    band = selector.null(space, [cluster], trials=12)
    assert not band.inside(graph.neighbour_score(cluster(space.rows, 0), space.graph))
    noise = np.random.default_rng(1).standard_normal((100, 5))
    space = of_embedding(noise.astype(np.float32), "noise", 8, 0)
    band = selector.null(space, [cluster], trials=12)
    assert band.inside(graph.neighbour_score(cluster(space.rows, 0), space.graph))


def test_what_follows_the_graph_finds_no_structure_in_noise() -> None:
    """Once called structure, as k-means alone was asked what noise reaches: Leiden reaches more."""
    space = of_embedding(np.random.default_rng(1).standard_normal((500, 20)).astype(np.float32), "noise", 8, 0)
    score = graph.neighbour_score(communities(space.rows, 10, 8, 0), space.graph)
    kmeans, leiden = noise_families(10, 8)
    assert not selector.null(space, [kmeans], trials=12).inside(score)
    assert selector.null(space, [leiden], trials=12) == (both := selector.null(space, [kmeans, leiden], trials=12))
    assert both.inside(score)


def test_segments_of_encoded_categories_are_structure() -> None:
    """Once called noise: rows that repeat, and columns of one category permuted apart, cluster well by themselves."""
    rng = np.random.default_rng(0)
    segments = np.arange(400) % 4
    likely = rng.permuted(np.tile(np.arange(8), (6, 1)), axis=1)[:, :4]
    value = np.where(rng.random((6, 400)) < 0.75, likely[:, segments], rng.integers(0, 8, (6, 400)))
    rows = np.concatenate([np.eye(8)[own] for own in value], axis=1).astype(np.float32)
    space = of_rows(rows, rows, "none", 8, 0)
    assert [block.tolist() for block in space.blocks] == [[*range(8 * i, 8 * i + 8)] for i in range(6)]

    def cluster(points: np.ndarray, seed: int) -> np.ndarray:
        return plain_kmeans(points, 4, seed)

    score = graph.neighbour_score(cluster(space.rows, 0), space.graph)
    assert not selector.null(space, [cluster], trials=12).inside(score)
