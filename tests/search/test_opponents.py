"""Opponents: numbers that Leiden proposes, what clusters are worth among unseen rows, and that they win honestly."""

from pathlib import Path

import numpy as np
import pytest

from raydc.clustering.metrics.external import ami, contingency
from raydc.clustering.metrics.graph import neighbour_graph
from raydc.clustering.shallow import communities
from raydc.search import planner, tune
from raydc.search.evaluation import Context, baselines, plain_kmeans, prepare
from raydc.search.opponents import GRAPH_OPPONENTS, OPPONENTS, kept_unseen, proposals, within
from raydc.search.trial import Record
from raydc.training.model import ClusteringModel
from tests.support.searches import BASELINES, FIXED, asked, rows, written

ROWS, GROUPS = rows()
BUILT = neighbour_graph(ROWS, 8)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return prepare(asked(written(tmp_path), tmp_path / "out", n_clusters="2..9"))


def test_the_best_proposal_has_the_number_of_groups() -> None:
    best, *others = found = proposals(BUILT, (2, 30), 0)
    assert best.n_clusters == 4 and best.stability > 0.98 and best.modularity == pytest.approx(0.75, abs=0.01)
    assert {one.n_clusters for one in others} > {4} and best.score >= max(one.score for one in others)
    assert [one.score for one in found] == [one.score for one in proposals(BUILT, (2, 30), 0)]
    assert 4 not in {one.n_clusters for one in proposals(BUILT, (5, 30), 0)} and proposals(BUILT, (200, 240), 0) == []


def test_a_part_of_a_graph_has_its_edges_among_its_rows() -> None:
    inside = np.arange(240) % 10 != 0
    part = within(BUILT, inside)
    assert inside[part.left].all() and inside[part.right].all() and len(part.left) < len(BUILT.left)


def test_clusters_of_groups_are_kept_among_unseen_rows_and_those_of_noise_are_not() -> None:
    def leiden(points: np.ndarray, seed: int) -> np.ndarray:
        return communities(points, 4, 8, seed)

    assert kept_unseen(leiden, ROWS, BUILT, 0) > 0.98
    noise = np.random.default_rng(0).standard_normal((400, 20)).astype(np.float32)
    built = neighbour_graph(noise, 8)
    keeps, kmeans = (
        kept_unseen(leiden, noise, built, 0),
        kept_unseen(lambda x, s: plain_kmeans(x, 4, s), noise, built, 0),
    )
    assert keeps < kmeans < 0.7 and keeps == kept_unseen(leiden, noise, built, 0)
    assert kept_unseen(lambda points, seed: np.zeros(len(points), int), ROWS, BUILT, 0) == 0


def test_leiden_proposes_the_number_of_the_opponents_that_follow_the_graph(context: Context) -> None:
    points = baselines(context, "dec", {4: 0.5, 5: 0.6})
    assert [point["method.name"] for point in points] == ["dec", *BASELINES]
    assert [point["method.n_clusters"] for point in points] == [5, 5, 5, 5, 4, 4]
    assert {point["method.view"] for point in points[3:]} == {context.space.chosen.view.name}
    near = context.settings.neighbours
    assert [point.get("method.neighbours") for point in points[3:]] == [None, near, near]


def test_an_opponent_takes_no_others_place_among_the_finalists(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were they ranked together, three opponents would leave two of five places to others."""
    monkeypatch.setattr(Record, "has_model", lambda record, store: True)
    names = ["dec", *BASELINES, "idec", "dcn", "vade", "imsat"]
    first = [{"method.name": name} for name in names[:6]]
    records = {
        n: Record(n, 0, {"method.name": name}, "finished", 0.9 if name in OPPONENTS else 0.1 + n / 100)
        for n, name in enumerate(names)
    }
    assert planner.chosen_finalists(context, first, records) == [9, 8, 7, 6, 2, 1, 0, 3, 4, 5]


def test_an_opponent_that_is_best_is_returned_as_a_model_and_its_score_is_of_unseen_rows(tmp_path: Path) -> None:
    """Two rings, one in the other: nothing else in this search can tell them apart. It was said, and not returned."""
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(0, 2 * np.pi, 400), np.repeat([1.0, 6.0], 200)
    ring = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1) + 0.1 * rng.standard_normal((400, 2))
    np.save(tmp_path / "rings.npy", ring.astype(np.float32))
    settings = asked(str(tmp_path / "rings.npy"), tmp_path / "out", n_clusters=2, trials=1, replicas=2)
    short = FIXED | {"method.network.hidden": (64,), "method.cluster.length": "400 steps"}
    found = tune(settings.model_copy(update={"fixed": short}))
    winner = found["winner"]
    assert winner["method"] in GRAPH_OPPONENTS and "a network learnt its clusters" in " ".join(found["notes"])
    assert winner["score"] == pytest.approx(winner["unseen"] * winner["measures"]["neighbour_score"])
    model = ClusteringModel.load(tmp_path / "out" / "model")
    assert ami(contingency(model.predict(ring.astype(np.float32)), np.repeat([0, 1], 200), 2, 2)) > 0.95
