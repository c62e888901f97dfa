"""Clusters that are the same, by overlap."""

import numpy as np
import pytest

from raydc.clustering.metrics.alignment import align


def test_clusters_by_hand() -> None:
    table = np.array([[0, 90, 0, 0], [80, 0, 0, 0], [0, 0, 45, 0], [0, 0, 40, 5], [0, 0, 0, 3]])
    found = align(table, [0, 20, 0, 0, 30])
    assert found.kept == ((0, 1, 1.0), (1, 0, 0.8), (2, 2, pytest.approx(45 / 85)))
    assert found.new == (3, 4) and found.died == (3,)
    assert found.split == {2: (2, 3)} and found.merged == {}


def test_what_came_together() -> None:
    found = align(np.array([[30, 30, 0], [0, 2, 40]]), [0, 0])
    assert found.kept == ((0, 0, 0.5), (1, 2, pytest.approx(40 / 42))) and found.died == (1,)
    assert found.merged == {0: (0, 1)} and found.split == {}


def test_an_empty_cluster_is_nobody() -> None:
    found = align(np.array([[0, 0], [0, 10]]), [0, 0])
    assert found.kept == ((1, 1, 1.0),) and found.new == (0,) and found.died == (0,)


def test_numbers_and_order_decide_nothing() -> None:
    draw = np.random.default_rng(0)
    table = draw.integers(0, 5, (6, 6)) + 100 * np.eye(6, dtype=np.int64)
    rows, columns = draw.permutation(6), draw.permutation(6)
    plain, moved = align(table, [0] * 6), align(table[rows][:, columns], [0] * 6)
    assert {(rows[i], columns[j], overlap) for i, j, overlap in moved.kept} == {*plain.kept}
    assert len(plain.kept) == 6
