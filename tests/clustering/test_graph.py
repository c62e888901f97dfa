import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from raydc.clustering.collective import CollectiveClusters
from raydc.clustering.graph import (
    EdgeGraph,
    NearestRows,
    components,
    largest_laplacian_eigenvalue,
    mutual_neighbour_edges,
)
from raydc.clustering.subspace import affinity, keep_largest, spectral_labels
from raydc.data import Shard
from raydc.networks.losses.pairwise import confident_pairs, label_features, pairwise_cross_entropy, pairwise_squares
from raydc.networks.losses.robust_continuous import annealing_scales, geman_mcclure, linked_pairs
from raydc.networks.losses.self_expression import coefficient_energy, self_expression


def graph_of(x: torch.Tensor, k: int) -> EdgeGraph:
    shard = Shard.of(x)
    return EdgeGraph.mutual(x, k, CollectiveClusters(shard, 0))


def test_mutual_neighbours_and_the_forest_by_hand() -> None:
    # rows on a line at 0, 1, 3, 7: with one neighbour each, only 0 and 1 are mutual; the forest adds 1-2 and 2-3
    near, squared = np.array([[1], [0], [1], [2]]), np.array([[1.0], [1.0], [4.0], [16.0]])
    assert mutual_neighbour_edges(near, squared).tolist() == [[0, 1], [1, 2], [2, 3]]


def test_equal_rows_stay_connected() -> None:
    near, squared = np.array([[1], [2], [0]]), np.zeros((3, 1))
    edges = mutual_neighbour_edges(near, squared)
    assert components(3, edges).tolist() == [0, 0, 0]


def test_the_forest_connects_what_neighbours_connect() -> None:
    x = torch.randn(80, 4, generator=torch.Generator().manual_seed(0))
    graph = graph_of(x, 3)
    n, edges = len(x), graph.edges.numpy()
    near, _ = CollectiveClusters(Shard.of(x), 0).neighbours(torch.nn.functional.normalize(x, dim=1), 3)
    full: NDArray[np.float64] = np.zeros((n, n))
    full[np.repeat(np.arange(n), 3), near.numpy().ravel()] = 1
    assert connected_components(full, directed=False)[0] == len(np.unique(components(n, edges)))
    assert (edges[:, 0] < edges[:, 1]).all() and len(np.unique(edges, axis=0)) == len(edges)
    assert graph.degree.sum() == 2 * len(edges)
    torch.testing.assert_close(
        graph.weights[0], graph.degree.mean() / graph.degree[edges[0, 0]].mul(graph.degree[edges[0, 1]]).sqrt()
    )


def test_components_are_numbered_by_size() -> None:
    assert components(6, np.array([[4, 5], [1, 2], [2, 3]])).tolist() == [2, 0, 0, 0, 1, 1]
    assert components(3, np.zeros((0, 2), dtype=np.int64)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("n", [20, 150])
def test_laplacian_norm(n: int) -> None:
    path = np.stack([np.arange(n - 1), np.arange(1, n)], 1)
    weights = np.random.default_rng(0).uniform(0.5, 2, n - 1)
    dense = np.zeros((n, n))
    for (i, j), w in zip(path, weights, strict=True):
        dense[[i, j], [i, j]] += w
        dense[[i, j], [j, i]] -= w
    assert largest_laplacian_eigenvalue(n, path, weights) == pytest.approx(np.linalg.norm(dense, 2), rel=1e-6)


def test_batches_hold_every_edge_once_and_their_rows() -> None:
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    graph, shard = graph_of(x, 4), Shard.of(x)
    count, seen, shares = graph.steps(16), [], torch.zeros(40)
    for index in range(count):
        batch = graph.batch(shard, 5, index, count)
        assert torch.equal(batch.x, x[batch.row]) and batch.total == len(batch.row)
        own = (batch.row[batch.extra["ends"]][:, :, None] == batch.row).sum((0, 1))
        torch.testing.assert_close(batch.extra["share"], own / graph.degree[batch.row])
        shares[batch.row] += batch.extra["share"]
        seen.append(batch.row[batch.extra["ends"]])
    assert sorted(map(tuple, torch.cat(seen).tolist())) == list(map(tuple, graph.edges.tolist()))
    torch.testing.assert_close(shares, torch.ones(40))


def test_edges_joined_when_near() -> None:
    graph = EdgeGraph(
        torch.tensor([[0, 1], [1, 2]]), torch.tensor([1.0, 2.0, 1.0]), torch.empty(0, 2, dtype=torch.int64)
    )
    u = torch.tensor([[0.0], [1.0], [3.0]])
    assert graph.lengths(u).tolist() == [1, 2]
    labels = graph.components(u, torch.tensor(1.5))
    assert labels.tolist() == [0, 0, 1] and graph.within(labels).tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_are_one_component_however_far_apart_their_representatives(dtype) -> None:
    distinct = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.1, 0.0]], dtype=dtype)
    which = torch.randint(4, (60,), generator=torch.Generator().manual_seed(0))
    labels = graph_of(distinct[which], 5).components(torch.arange(60.0)[:, None], torch.tensor(0.5))
    assert len(labels.unique()) == 4 and len(torch.stack([labels, which]).unique(dim=1).T) == 4


def test_robust_penalty_by_hand_and_bounded() -> None:
    r = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e6, 0.0]])
    found = geman_mcclure(r, torch.tensor(25.0))
    assert found.tolist() == pytest.approx([12.5, 0, 25], rel=1e-5)
    ends, weight = torch.tensor([[0, 1]]), torch.tensor([2.0])
    assert linked_pairs(r, ends, weight, torch.tensor(25.0)).item() == pytest.approx(25)


def test_scales_by_hand() -> None:
    z = torch.tensor([[-10.0], [10.0]])
    lengths = torch.cat([torch.tensor([0.001]), torch.arange(1, 201).float()])  # the first is too short to count
    scales, delta = annealing_scales(z, lengths, shortest=0.01)
    assert delta.item() == pytest.approx(1.5)
    assert scales[1].tolist() == pytest.approx([100, 0.75]) and scales[0].tolist() == pytest.approx([2112, 120000])
    more, wider = annealing_scales(z, lengths, shortest=0.1)
    assert wider.item() == pytest.approx(10.5) and torch.equal(more, scales)


def test_largest_coefficients_by_hand() -> None:
    c = np.array([[0.5, 0.0], [-0.3, 1.0], [0.2, 0.0]])
    assert keep_largest(c, 0.6).tolist() == [[0.5, 0], [-0.3, 1], [0, 0]]
    assert keep_largest(c, 0.4).tolist() == [[0.5, 0], [0, 1], [0, 0]]
    assert np.array_equal(keep_largest(c, 1.0), c)


def test_spectral_step_finds_blocks() -> None:
    rng, y = np.random.default_rng(0), np.repeat(np.arange(3), 20)
    c = (y[:, None] == y) * rng.uniform(0.5, 1, (60, 60)) + 0.01 * rng.standard_normal((60, 60))
    alike = affinity(c, rank=4, power=4)
    assert np.array_equal(alike, alike.T) and 0 <= alike.min() and alike.max() == 1
    labels = spectral_labels(alike, 3, seed=0)
    assert len(np.unique(labels[y == 0])) == 1 and len(np.unique(labels)) == 3
    assert len({(a, b) for a, b in zip(y.tolist(), labels.tolist(), strict=True)}) == 3


def test_expression_losses_by_hand() -> None:
    z = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert self_expression(z, torch.zeros(2, 2)).tolist() == [2.5, 0]
    assert coefficient_energy(torch.tensor([[3.0, 4.0]])).tolist() == [25]


def test_pairs_by_hand() -> None:
    cosine = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.6], [0.1, 0.6, 1.0]])
    alike, apart = confident_pairs(cosine, 0.8, 0.3)
    assert alike.nonzero().tolist() == [[0, 1], [1, 0]] and apart.nonzero().tolist() == [[0, 2], [2, 0]]
    expected = -2 * (np.log(0.9) + np.log(0.9)) / 4
    assert pairwise_cross_entropy(cosine, alike, apart).item() == pytest.approx(expected, rel=1e-5)
    none = torch.zeros(3, 3, dtype=torch.bool)
    assert pairwise_cross_entropy(cosine, none, none).item() == 0
    squares = torch.where(cosine > 0.8, 1 - cosine, cosine).square().mean().item()
    assert pairwise_squares(cosine, cosine > 0.8).item() == pytest.approx(squares, rel=1e-5)


def test_label_features_have_length_one() -> None:
    features = label_features(torch.randn(5, 4))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(5))
    assert (features >= 0).all()


def test_nearest_rows_come_beside_every_row_once_an_epoch() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    shard, seen = Shard.of(x), []
    clusters = CollectiveClusters(shard, 0)
    graph = NearestRows.of(x, 4, 1.0, clusters)
    near, squared = clusters.neighbours(x, 4)
    for index in range(3):
        batch = graph.batch(shard, 7, index, 3)
        own, partners = batch.row[batch.extra["own"]], batch.row[batch.extra["partners"]]
        seen += own.tolist()
        assert torch.equal(partners, near[own]) and batch.total == len(own)
        torch.testing.assert_close(batch.extra["weight"], torch.exp(-squared[own] / squared.mean()))
        assert torch.equal(batch.x, x[batch.row])
    assert sorted(seen) == list(range(50))
    assert not torch.equal(graph.batch(shard, 8, 0, 3).row, graph.batch(shard, 7, 0, 3).row)


def test_few_rows_have_all_others_beside_them() -> None:
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert NearestRows.of(x, 10, 1.0, CollectiveClusters(Shard.of(x), 0)).near.shape == (3, 2)
