"""The verdict on clusters: by one rule, from labels and rows alone."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from raydc.clustering.metrics import clarity, graph


def test_the_rule_by_hand():
    found = clarity.judge([0.75, 0.74, np.nan, 1.0], [1.0, 0.5, 0.49, 0.0])
    assert (found.clear, found.doubtful, found.nowhere, found.bar) == ((0, 3), (1,), 0.5, clarity.CLEAR)
    with pytest.raises(ValueError, match=r"expected strengths \[K\] and shares \[N\], got \[1\] and \[0\]"):
        clarity.judge([1.0], [])


def test_shares_of_neighbours_by_hand():
    edges = graph.NeighbourGraph(5, np.array([0, 0, 1, 2, 3]), np.array([1, 2, 2, 3, 4]))
    shares = clarity.neighbour_shares([0, 0, 0, 7, 7], edges)
    np.testing.assert_allclose(shares, [1, 1, 1, 1, 1])  # each holds as many neighbours of its own as there can be
    np.testing.assert_allclose(clarity.neighbour_shares([0, 0, 1, 1, 2], edges), [1, 1, 1, 1, 0])
    strengths = clarity.strengths([0, 0, 0, 2, 2], [1, 1, 1, 0.4, 0.4], 3)
    np.testing.assert_allclose(strengths, [1, np.nan, 0.0], atol=1e-12)
    np.testing.assert_allclose(clarity.strengths([0, 0], [1, 1], 1), [0])  # one cluster tells nothing apart


@pytest.mark.parametrize("features", [1, 2, 8, 64])
@pytest.mark.parametrize("drawn", ["uniform", "normal"])
def test_cells_of_one_cloud_are_not_clear(features, drawn):
    rng = np.random.default_rng(features)
    rows = rng.random((600, features)) if drawn == "uniform" else rng.standard_normal((600, features))
    found, _, _ = clarity.of_one_training(rows, KMeans(5, n_init=1, random_state=1).fit_predict(rows), 5)
    assert len(found.clear) <= 1


@pytest.mark.parametrize("features", [2, 8, 64])
def test_clusters_that_lie_apart_are_clear_and_halves_of_them_are_not(features):
    centres = np.eye(3, features) * 20 if features > 2 else 20 * np.array([[0, 0], [1, 0], [0, 1]])
    rows, groups = make_blobs(600, centers=centres, random_state=0)
    found, asked, noise = clarity.of_one_training(rows, groups, 3)
    assert found.clear == (0, 1, 2) and found.nowhere == 0 and asked == 600 and noise < 1
    halved = np.where((groups == 0) & (rows[:, -1] > np.median(rows[groups == 0, -1])), 3, groups)
    assert clarity.of_one_training(rows, halved, 4)[0].clear == (1, 2)


def test_rows_that_are_labelled_at_random_belong_nowhere():
    rows, groups = make_blobs(600, centers=3, n_features=8, random_state=0)
    groups[:60] = (groups[:60] + 1) % 3
    assert clarity.of_one_training(rows, groups, 3)[0].nowhere == pytest.approx(0.1)


@pytest.mark.parametrize(("clusters", "said"), [([3, 7], "3, 7"), (range(9), "0, 1, 2, 3, 4 and 4 more")])
def test_few_clusters_are_named(clusters, said):
    assert clarity.named(clusters) == said


def test_clusters_of_periodic_rows_are_all_asked_about():
    groups = np.arange(3997) % 4
    rows = 8 * np.eye(4)[groups] + np.random.default_rng(0).normal(size=(3997, 4))
    assert clarity.of_one_training(rows, groups, 4)[0].clear == (0, 1, 2, 3)
