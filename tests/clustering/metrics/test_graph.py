import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from raydc.clustering.metrics.graph import (
    WORST_SCORE,
    NeighbourGraph,
    agreement,
    distinct,
    drawn_rows,
    encoded,
    guards,
    kappa,
    modularity,
    nearest,
    neighbour_graph,
    neighbour_score,
    null_band,
    null_rows,
    null_scores,
    of_neighbours,
    remarks,
    stability_score,
)

LINE = np.array([[0.0], [1.0], [2.1], [10.0], [11.0], [12.1]])
BARBELL = NeighbourGraph(4, np.array([0, 1, 2]), np.array([1, 2, 3]))  # 0 - 1 - 2 - 3


def test_graph_is_the_symmetric_union():
    graph = neighbour_graph(LINE, 1)
    # Row 2 names row 1, whose nearest is row 0: the edge is there all the same, and 0 - 1 only once.
    assert list(zip(graph.left.tolist(), graph.right.tolist(), strict=True)) == [(0, 1), (1, 2), (3, 4), (4, 5)]


def test_graph_equals_sorted_distances():
    rows = np.random.default_rng(0).normal(size=(60, 5))
    graph = neighbour_graph(rows, 7)
    distances = ((rows[:, None] - rows) ** 2).sum(-1) + np.diag([np.inf] * 60)
    near = np.argsort(distances, axis=1)[:, :7]
    expected = {(min(i, j), max(i, j)) for i in range(60) for j in near[i].tolist()}
    assert set(zip(graph.left.tolist(), graph.right.tolist(), strict=True)) == expected
    assert len(graph.left) == len(expected)


def test_equal_rows_are_no_neighbours_of_themselves():
    graph = neighbour_graph(np.zeros((5, 2)), 2)
    assert (graph.left < graph.right).all()


def test_a_mutual_graph_has_the_edges_that_both_ends_name():
    near = nearest(LINE, 1)
    assert near.ravel().tolist() == [1, 0, 1, 4, 3, 4]
    graph = of_neighbours(near, mutual=True)
    assert list(zip(graph.left.tolist(), graph.right.tolist(), strict=True)) == [(0, 1), (3, 4)]


def test_rows_that_are_drawn_do_not_alias():
    """Every fourth row is of one class: of 3997 rows, 1000 evenly spaced ones are all of that class."""
    drawn = drawn_rows(3997, 1000, 7)
    assert np.bincount(drawn % 4).min() > 200 and len(np.unique(drawn)) == 1000
    assert (drawn == drawn_rows(3997, 1000, 7)).all() and (drawn != drawn_rows(3997, 1000, 8)).any()
    assert drawn_rows(50, 2000).tolist() == [*range(50)]


def test_distinct_rows_are_the_first_of_equal_ones_and_not_zero():
    rows = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, -0.0], [1.0, 2.0], [-0.0, 3.0], [0.0, 3.0]])
    assert distinct(rows).tolist() == [1, 4]


def test_rows_that_are_not_kept_have_no_edge_and_do_not_count():
    kept = np.array([0, 1, 2, 4, 5])
    graph = neighbour_graph(LINE, 1, kept)
    assert list(zip(graph.left.tolist(), graph.right.tolist(), strict=True)) == [(0, 1), (1, 2), (4, 5)]
    for label in (0, 1, 7):
        assert modularity([0, 0, 0, label, 1, 1], graph) == pytest.approx(1 - (0.6**2 + 0.4**2))


def test_graph_refuses_too_few_rows():
    with pytest.raises(ValueError, match=r"more than n_neighbours=6 rows, got \[6, 1\]"):
        neighbour_graph(LINE, 6)
    with pytest.raises(ValueError, match="each of the graph's 4 rows"):
        modularity([0, 1], BARBELL)


def test_scores_by_hand():
    halves = [0, 0, 1, 1]  # 2 of 3 edges inside, shares 1/2 and 1/2
    assert agreement(halves, BARBELL) == pytest.approx(2 / 3)
    assert modularity(halves, BARBELL) == pytest.approx(2 / 3 - 1 / 2)
    assert kappa(halves, BARBELL) == pytest.approx((2 / 3 - 1 / 2) / (1 / 2))
    assert neighbour_score(halves, BARBELL) == pytest.approx((2 / 3 - 1 / 2) / 0.5**0.25)
    uneven = [0, 1, 1, 1]  # 2 of 3 edges inside, shares 1/4 and 3/4
    assert modularity(uneven, BARBELL) == pytest.approx(2 / 3 - 10 / 16)
    assert kappa(uneven, BARBELL) == pytest.approx((2 / 3 - 10 / 16) / (6 / 16))


def test_one_cluster_agrees_entirely_and_scores_nothing():
    one = [3, 3, 3, 3]
    assert agreement(one, BARBELL) == 1
    assert modularity(one, BARBELL) == kappa(one, BARBELL) == neighbour_score(one, BARBELL) == 0


@given(st.lists(st.integers(0, 5), min_size=6, max_size=6), st.permutations(range(6)))
def test_names_of_clusters_do_not_matter(labels, names):
    graph = neighbour_graph(LINE, 2)
    renamed = [names[k] for k in labels]
    for score in (agreement, modularity, kappa, neighbour_score):
        assert score(renamed, graph) == pytest.approx(score(labels, graph))
    assert WORST_SCORE < neighbour_score(labels, graph) <= 1


def test_true_clusters_beat_coarser_finer_and_random_ones():
    rows, classes = make_blobs(400, centers=6, n_features=4, cluster_std=0.5, random_state=0)
    graph = neighbour_graph(rows)
    rng = np.random.default_rng(0)
    right = neighbour_score(classes, graph)
    assert right > neighbour_score(classes // 2, graph)
    assert right > neighbour_score(classes * 2 + rng.integers(0, 2, 400), graph)
    assert abs(neighbour_score(rng.integers(0, 6, 400), graph)) < 0.05


def test_kappa_rewards_one_tiny_cluster_that_is_cut_off():
    """Its known failure, and why it is tempered by the fourth root."""
    rows = np.concatenate([make_blobs(300, centers=3, cluster_std=0.9, random_state=1)[0], np.full((16, 2), 90.0)])
    graph = neighbour_graph(rows)
    tiny = np.repeat([0, 1], [300, 16])
    three = np.concatenate([KMeans(3, n_init=5, random_state=0).fit_predict(rows[:300]), [0] * 16])
    assert kappa(tiny, graph) == 1 > kappa(three, graph)
    assert neighbour_score(tiny, graph) < neighbour_score(three, graph)


def test_final_score():
    assert stability_score(0.8, 0.25) == pytest.approx(0.4)
    assert stability_score(0.8, -0.1) == 0


def test_guards_and_remarks_pass_what_is_sound():
    labels = np.arange(300) % 3
    rows = np.random.default_rng(0).normal(size=(300, 4))
    assert guards(labels, loss=0.1, embeddings=rows) == remarks(labels, 3, rows) == []


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((600, 150, 100, 51, 40, 30, 20, 9), ["the sizes are those of 3.8 equal clusters"]),
        ((50,) * 19 + (0,), ["1 of 20 clusters have no rows"]),
        ((150, 146, 4), []),
    ],
    ids=["unbalanced classes", "one empty cluster of 20", "a small cluster"],
)
def test_sizes_are_told_and_forbid_nothing(sizes, said):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    assert guards(labels, loss=0.1) == [] and remarks(labels, len(sizes)) == said


def test_an_empty_cluster_costs_what_it_costs():
    """Of 20 groups two in one cluster: above k-means's own errors, and below the groups."""
    rows, groups = make_blobs(1000, centers=20, n_features=8, cluster_std=1.5, random_state=0)
    graph = neighbour_graph(rows)
    merged = np.where(groups == 19, 18, groups)
    halves = np.arange(1000) % 2
    mixed = np.where(groups >= 14, 14 + halves, groups)
    assert neighbour_score(groups, graph) > neighbour_score(merged, graph) > neighbour_score(mixed, graph)


def test_guards_refuse_what_is_no_clustering():
    labels, rows = np.arange(90) % 3, np.random.default_rng(0).normal(size=(90, 2))
    assert guards(labels, loss=math.nan) == ["the loss is nan"]
    assert guards(np.full(90, 2)) == ["all rows are in one cluster"]
    rows[4, 1] = np.inf
    assert guards(labels, embeddings=rows) == ["1 rows have embeddings that are not finite"]


def test_remarks_on_embeddings():
    labels = np.arange(90) % 3
    line = np.linspace(0, 1, 90)[:, None] * [[1.0, 2.0]]
    assert remarks(labels, 3, line) == ["the embeddings have an effective rank of 1.00"]
    assert remarks(labels, 3, np.ones((90, 2))) == ["the embeddings have an effective rank of 0.00"]
    assert remarks(labels % 2, 2, line) == []  # two clusters may lie on a line
    assert remarks(labels, 3, line[:, :1]) == []


def test_null_rows_keep_what_they_promise():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 1)) * [[1.0, 2.0, -1.0]] + rng.normal(size=(500, 3)) * 0.1
    columns = null_rows(rows, 3)
    assert (np.sort(columns, axis=0) == np.sort(rows, axis=0)).all()
    assert abs(np.corrcoef(columns.T)[0, 1]) < 0.15 < 0.9 < np.corrcoef(rows.T)[0, 1]
    assert (columns == null_rows(rows, 3)).all() and not (columns == null_rows(rows, 4)).all()
    gaussian = null_rows(rows, 3, "gaussian")
    assert np.cov(gaussian.T) == pytest.approx(np.cov(rows.T), rel=0.25)


def test_encoded_categories_are_found_and_stay_whole():
    rng = np.random.default_rng(0)
    colour, size = np.eye(3)[rng.integers(0, 3, 200)], np.eye(2)[rng.integers(0, 2, 200)]
    flag = rng.random((200, 1)) < 0.5
    rows = np.concatenate([rng.normal(size=(200, 2)), 2 * colour, rng.normal(size=(200, 1)), size, flag], axis=1)
    blocks = encoded(rows)
    assert [block.tolist() for block in blocks] == [[2, 3, 4], [6, 7]]
    null = null_rows(rows, 0, "columns", blocks)
    assert [block.tolist() for block in encoded(null)] == [[2, 3, 4], [6, 7]]
    assert (np.sort(null, axis=0) == np.sort(rows, axis=0)).all() and (null != rows).any(axis=0).all()
    assert encoded(null_rows(rows, 0)) == [] == encoded(rng.normal(size=(50, 4))) == encoded(np.ones((5, 3)))


def above(rows, n_clusters):
    """Whether k-means of the rows scores above each of the two null bands."""

    def kmeans(points, seed):
        return KMeans(n_clusters, n_init=1, random_state=seed).fit_predict(points)

    score = neighbour_score(kmeans(rows, 0), neighbour_graph(rows))
    return {kind: score > null_band(null_scores(rows, [kmeans], kind=kind)[0])[1] for kind in ("columns", "gaussian")}


def test_clusters_are_above_both_null_bands_and_noise_inside():
    blobs = make_blobs(300, centers=6, n_features=6, cluster_std=2, random_state=0)[0]
    assert above(blobs, 6) == {"columns": True, "gaussian": True}
    noise = np.random.default_rng(5).normal(size=(300, 6))
    assert above(noise, 6) == {"columns": False, "gaussian": False}


def test_each_null_has_its_known_failure_and_the_other_corrects_it():
    rng = np.random.default_rng(0)
    correlated = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 10)) + 0.1 * rng.normal(size=(300, 10))
    assert above(correlated, 6) == {"columns": True, "gaussian": False}
    skewed = rng.exponential(size=(600, 8))
    assert above(skewed, 10) == {"columns": False, "gaussian": True}


def test_null_band_by_hand():
    # mean 2, standard deviation 1, one more draw: sqrt(4 / 3); t at .975 with 2 degrees of freedom is 4.3027
    low, high = null_band([1.0, 2.0, 3.0], level=0.95)
    assert (low, high) == pytest.approx((2 - 4.3027 * math.sqrt(4 / 3), 2 + 4.3027 * math.sqrt(4 / 3)), abs=1e-3)
    with pytest.raises(ValueError, match="at least two"):
        null_band([1.0])
