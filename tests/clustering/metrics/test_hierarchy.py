"""Trees of clusters: who is joined first, and whether other rows would say the same."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from raydc.clustering.metrics import hierarchy
from raydc.clustering.metrics.graph import NeighbourGraph, neighbour_graph

LABELS = np.array([0, 0, 1, 1, 2, 2])
CHAIN = NeighbourGraph(6, np.array([0, 1, 2, 3, 4]), np.array([1, 2, 3, 4, 5]))
"""Rows in a line: an edge within each cluster, one between 0 and 1, one between 1 and 2."""


def test_evidence_by_hand() -> None:
    expected = np.array([[2, 1, 0], [1, 2, 1], [0, 1, 2]]) / 10
    assert_allclose(hierarchy.of_neighbours(LABELS, CHAIN, 3), expected)
    # 0 and half of 1 are one cluster of the replica: a partner of a row of 0 is of 1 in a third of all cases
    found = hierarchy.of_replica(LABELS, [0, 0, 0, 1, 1, 1], 3)
    assert_allclose(found * 18, [[4, 2, 0], [2, 2, 2], [0, 2, 4]])
    assert not hierarchy.of_neighbours([0, 0, 0, 0, 0, 0], NeighbourGraph(6, LABELS[:0], LABELS[:0]), 3).any()


def test_a_tree_by_hand() -> None:
    pairs = np.array([[4, 1, 0, 0], [1, 4, 0, 0], [0, 0, 4, 2], [0, 0, 2, 2]]) / 20
    (first, second, last) = hierarchy.tree([pairs])
    assert first[:2] == (2, 3) and first[2] == pytest.approx(0.1 / (0.3 * 0.2))
    assert second[:2] == (0, 1) and second[2] == pytest.approx(0.05 / 0.25**2)
    assert last == (0, 2, 0.0)
    assert [hierarchy.cut([first, second, last], level).tolist() for level in (4, 3, 2, 1)] == [
        [0, 1, 2, 3],
        [0, 1, 2, 2],
        [0, 0, 2, 2],
        [0, 0, 0, 0],
    ]


def test_joins_are_those_of_looking_at_every_pair_in_every_step() -> None:
    draw = np.random.default_rng(0)
    pairs = draw.random((12, 12)) ** 4
    pairs = (pairs + pairs.T) / (2 * pairs.sum())
    left, expected, now = list(range(12)), [], pairs.copy()
    while len(left) > 1:
        ties = now / np.outer(now.sum(1), now.sum(1))
        np.fill_diagonal(ties, -1)
        one, other = sorted(divmod(int(ties.argmax()), len(left)))
        expected.append((left[one], left[other]))
        now[one] += now[other]
        now[:, one] += now[:, other]
        now = np.delete(np.delete(now, other, 0), other, 1)
        del left[other]
    found = hierarchy.tree([pairs])
    assert [join[:2] for join in found] == expected
    strengths = [join[2] for join in found]
    assert strengths == sorted(strengths, reverse=True)


def test_a_level_that_the_rows_show_is_stable_and_others_are_not() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 6, 1500)
    centres = np.array(
        [[0, 0], [3, 0], [1.5, 2.6], [30, 0], [33, 0], [31.5, 2.6]]
    )  # two groups of three at one distance
    rows = centres[labels] + draw.normal(size=(1500, 2))
    graph = neighbour_graph(rows)
    joins = hierarchy.tree([hierarchy.of_neighbours(labels, graph, 6)])
    assert_array_equal(hierarchy.cut(joins, 2), [0, 0, 0, 3, 3, 3])
    found = hierarchy.stability(labels, graph, joins)
    assert [*found] == ["2", "3", "4", "5"] and found["2"] == 1
    assert min(found["3"], found["4"], found["5"]) < 0.9
