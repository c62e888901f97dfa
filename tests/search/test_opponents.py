"""Shallow opponents: clusters of the neighbour graph, numbers that Leiden proposes, and that none is returned."""

from pathlib import Path

import numpy as np
import pytest

from raydc.clustering.metrics.external import ami, contingency
from raydc.clustering.metrics.graph import neighbour_graph
from raydc.search import planner
from raydc.search.evaluation import Context, baselines, prepare
from raydc.search.opponents import OPPONENTS, at_number, placed, proposals, within
from raydc.search.trial import Record
from tests.support.searches import BASELINES, asked, rows, written

ROWS, GROUPS = rows()
BUILT = neighbour_graph(ROWS, 8)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return prepare(asked(written(tmp_path), tmp_path / "out", n_clusters="2..9"))


@pytest.mark.parametrize("name", OPPONENTS)
def test_an_opponent_finds_planted_groups(name: str) -> None:
    labels = OPPONENTS[name](ROWS, 4, 8, 0)
    assert labels.shape == (240,) and ami(contingency(labels, GROUPS, int(labels.max()) + 1, 4)) > 0.99
    assert (labels == OPPONENTS[name](ROWS, 4, 8, 0)).all()


@pytest.mark.parametrize("n_clusters", [2, 3, 6, 9, 20])
def test_leiden_comes_to_the_number_that_is_asked_for(n_clusters: int) -> None:
    noise = neighbour_graph(np.random.default_rng(0).normal(size=(240, 4)), 8)
    assert abs(int(at_number(noise, n_clusters, 0).max()) + 1 - n_clusters) <= 1


def test_the_best_proposal_has_the_number_of_groups() -> None:
    best, *others = found = proposals(BUILT, (2, 30), 0)
    assert best.n_clusters == 4 and best.stability > 0.98 and best.modularity == pytest.approx(0.75, abs=0.01)
    assert {one.n_clusters for one in others} > {4} and best.score >= max(one.score for one in others)
    assert [one.score for one in found] == [one.score for one in proposals(BUILT, (2, 30), 0)]
    assert 4 not in {one.n_clusters for one in proposals(BUILT, (5, 30), 0)} and proposals(BUILT, (200, 240), 0) == []


def test_rows_out_of_the_graph_are_placed_with_their_neighbours() -> None:
    inside = np.arange(240) % 10 != 0
    part = within(BUILT, inside)
    assert inside[part.left].all() and inside[part.right].all() and len(part.left) < len(BUILT.left)
    labels = np.where(inside, GROUPS, -1)
    assert (placed(ROWS, labels) == GROUPS).all() and (placed(ROWS, GROUPS) == GROUPS).all()


def test_leiden_proposes_the_number_of_the_opponents_that_follow_the_graph(context: Context) -> None:
    points = baselines(context, "dec", {4: 0.5, 5: 0.6})
    assert [point["method.name"] for point in points] == ["dec", *BASELINES]
    assert [point["method.n_clusters"] for point in points] == [5, 5, 5, 5, 4, 4]


def test_an_opponent_takes_no_models_place_among_the_finalists(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were they ranked together, three opponents would leave two of five places to models."""
    monkeypatch.setattr(Record, "has_model", lambda record, store: record.method not in OPPONENTS)
    names = ["dec", *BASELINES, "idec", "dcn", "vade", "imsat"]
    first = [{"method.name": name} for name in names[:6]]
    records = {
        n: Record(n, 0, {"method.name": name}, "finished", 0.9 if name in OPPONENTS else 0.1 + n / 100)
        for n, name in enumerate(names)
    }
    assert planner.chosen_finalists(context, first, records) == [9, 8, 7, 6, 2, 1, 0, 3, 4, 5]
