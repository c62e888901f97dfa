"""Shallow clusterings: planted groups, numbers of communities, rows that no graph holds."""

from collections.abc import Callable

import numpy as np
import pytest

from raydc.clustering import shallow
from raydc.clustering.metrics.external import ami, contingency
from raydc.clustering.metrics.graph import neighbour_graph
from raydc.clustering.shallow import at_number, communities, placed
from tests.support.searches import rows

ROWS, GROUPS = rows()
CLUSTERINGS: dict[str, Callable[[], np.ndarray]] = {
    "ward": lambda: shallow.ward(ROWS, 4),
    "leiden": lambda: communities(ROWS, 4, 8, 0),
    "spectral": lambda: shallow.spectral(ROWS, 4, 8, 0),
}


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_planted_groups_are_found(name: str) -> None:
    labels = CLUSTERINGS[name]()
    assert labels.shape == (240,) and ami(contingency(labels, GROUPS, 4, 4)) > 0.99
    assert (labels == CLUSTERINGS[name]()).all()


@pytest.mark.parametrize("n_clusters", [2, 3, 6, 9, 20])
def test_leiden_comes_to_the_number_that_is_asked_for(n_clusters: int) -> None:
    noise = neighbour_graph(np.random.default_rng(0).normal(size=(240, 4)), 8)
    assert abs(int(at_number(noise, n_clusters, 0).max()) + 1 - n_clusters) <= 1


def test_communities_are_never_more_than_asked_for() -> None:
    """Eight parts without an edge between them are eight communities at every resolution."""
    apart = np.repeat(1000.0 * np.eye(8, dtype=np.float32), 30, axis=0)
    noise = np.random.default_rng(0).standard_normal(apart.shape).astype(np.float32)
    labels = communities(apart + noise, 3, 5, 0)
    assert set(labels.tolist()) == {0, 1, 2} and communities(np.ones((5, 3), np.float32), 3, 5, 0).tolist() == [0] * 5


def test_rows_without_a_label_have_that_of_their_neighbours() -> None:
    labels = np.where(np.arange(240) % 10 != 0, GROUPS, -1)
    assert (placed(ROWS, labels) == GROUPS).all() and (placed(ROWS, GROUPS) == GROUPS).all()


def test_few_distinct_rows_are_a_cluster_each() -> None:
    pairs = np.repeat(np.array([[0.0, 1.0], [5.0, 5.0]], np.float32), 20, axis=0)
    assert communities(pairs, 2, 15, 0).tolist() == communities(pairs, 9, 15, 0).tolist() == [0] * 20 + [1] * 20
    assert communities(np.zeros((6, 2), np.float32), 2, 15, 0).tolist() == [0] * 6
    assert sorted(shallow.spectral(ROWS[:5], 5, 15, 0)) == [*range(5)]
