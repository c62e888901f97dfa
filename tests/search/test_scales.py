"""Numbers of clusters as scales: the short list, relations, and the tree of merges by hand."""

import numpy as np
import pytest

from raydc.clustering.metrics import hierarchy
from raydc.clustering.metrics.graph import NeighbourGraph
from raydc.search import scales
from raydc.search.planner import best_of_scales
from raydc.search.trial import Record


def test_the_short_list_takes_the_best_and_those_a_fifth_apart() -> None:
    values = {10: 0.9, 11: 0.89, 9: 0.88, 12: 0.8, 8: 0.7, 20: 0.1}
    assert scales.short_list(values) == [10, 12, 8]
    assert scales.short_list(values, 9) == [9, 11, 20]
    assert scales.short_list({4: 0.5}) == [4] and scales.short_list({}) == []


@pytest.mark.parametrize(
    "k, bounds, said",
    [(12, (4, 12), True), (4, (4, 12), True), (2, (2, 12), False), (7, (4, 12), False), (5, (5, 5), False)],
)
def test_an_answer_at_the_edge_of_the_range(k: int, bounds: tuple[int, int], said: bool) -> None:
    assert scales.at_edge(k, bounds) == said


def test_each_number_on_the_short_list_gets_replicas() -> None:
    """Else the second and third would be told by one training alone."""
    scores = {0: (10, 0.9), 1: (10, 0.95), 2: (11, 0.94), 3: (5, 0.4), 4: (30, 0.3), 5: (20, 0.99)}
    records = {n: Record(n, 0, {}, "finished", score, n_clusters=k) for n, (k, score) in scores.items()}
    records[5].status = "guarded"
    assert best_of_scales(records) == [1, 3, 4]


def test_what_becomes_of_clusters_at_another_number() -> None:
    own = np.repeat([0, 1, 2, 3], 10)
    coarse = np.repeat([1, 1, 0, 2], 10)
    assert scales.relation(own, coarse) == {"merged": [[0, 1]], "split": []}
    fine = np.concatenate([np.repeat([0, 1, 2], 10), np.repeat([3, 4, 5], [4, 3, 3])])
    assert scales.relation(own, fine) == {"merged": [], "split": [[3, 3]]}


PAIRS = [(0, 1, 3), (2, 3, 2), (4, 5, 2), (1, 2, 1)]
"""Clusters {0, 1}, {2, 3}, {4, 5}: one edge of 8 between the first two, none to the third."""


def test_nodes_of_a_tree_and_how_firm_they_are() -> None:
    ends = np.array([(a, b) for a, b, often in PAIRS for _ in range(often)])
    reference, labels = NeighbourGraph(6, ends[:, 0], ends[:, 1]), np.repeat([0, 1, 2], 2)
    joins = hierarchy.tree([hierarchy.of_neighbours(labels, reference, 3)])
    assert [(one, other) for one, other, _ in joins] == [(0, 1), (0, 2)]
    assert scales.children(joins) == [(0, 1), (3, 2)] and scales.leaves(joins) == [0, 1, 2]
    coarse = scales.tree(labels, [np.array([0, 0, 0, 0, 1, 1])], reference, joins)
    assert coarse["jaccard"] == pytest.approx([0.5, 0.5, 1, 1, 1])
    renamed = scales.tree(labels, [np.repeat([1, 2, 0], 2)] * 2, reference, joins)
    assert renamed["jaccard"] == pytest.approx([1] * 5)
    assert scales.tree(labels, [], reference, joins) == {"joins": [[*join] for join in joins], "jaccard": None}


def test_no_two_joins_of_a_tree_cross() -> None:
    joins = [(1, 4, 3.0), (0, 3, 2.0), (1, 2, 1.0), (0, 1, 0.5)]
    assert scales.leaves(joins) == [0, 3, 1, 4, 2]
    assert scales.children(joins) == [(1, 4), (0, 3), (5, 2), (6, 7)]
