import numpy as np
import pytest
from sklearn.datasets import make_blobs

from raydc.clustering.communities import RESOLUTIONS, leiden
from raydc.clustering.metrics.graph import NeighbourGraph, neighbour_graph

ROWS, GROUPS = make_blobs(120, centers=4, n_features=5, cluster_std=0.4, random_state=0)


def test_groups_far_apart_are_the_communities():
    labels = leiden(neighbour_graph(ROWS, 25))
    assert len(np.unique(np.stack([labels, GROUPS]), axis=1).T) == 4
    assert np.bincount(labels).tolist() == sorted(np.bincount(GROUPS), reverse=True)


def test_rows_without_an_edge_are_in_none():
    pairs = NeighbourGraph(7, np.array([0, 0, 1, 4]), np.array([1, 2, 2, 5]))  # a triangle, a pair, rows 3 and 6 alone
    assert leiden(pairs).tolist() == [0, 0, 0, -1, 1, 1, -1]


def test_the_same_graph_and_seed_give_the_same_communities():
    graph = neighbour_graph(np.random.default_rng(0).normal(size=(300, 6)), 5)
    numbers = []
    for resolution in RESOLUTIONS[::6]:
        labels = leiden(graph, resolution, 3)
        assert (labels == leiden(graph, resolution, 3)).all()
        numbers.append(labels.max() + 1)
    assert numbers == sorted(numbers) and numbers[-1] > 3 * numbers[0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_units_do_not_matter(scale):
    assert (leiden(neighbour_graph(ROWS * scale, 5)) == leiden(neighbour_graph(ROWS, 5))).all()
