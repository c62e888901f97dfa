import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from raydc.clustering.metrics.monitors import (
    balance,
    cluster_monitors,
    cluster_sizes,
    clusters_alive,
    collapsed,
    effective_clusters,
    effective_rank,
    largest_share,
    regrouped_share,
    silhouette,
    silhouettes,
    smallest_share,
    splintered,
)


def test_sizes_by_hand():
    sizes = cluster_sizes([0, 2, 2, 0, 0], 4)
    assert sizes.tolist() == [3, 0, 2, 0]
    assert clusters_alive(sizes) == 2
    assert largest_share(sizes) == 0.6
    assert smallest_share(sizes) == 0
    assert balance(sizes) == pytest.approx(-(0.6 * math.log(0.6) + 0.4 * math.log(0.4)) / math.log(4))
    assert cluster_monitors(sizes) == {
        "clusters_alive": 2,
        "largest_share": 0.6,
        "smallest_share": 0,
        "balance": balance(sizes),
    }


def test_labels_out_of_range_and_no_rows_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 2\), got 4"):
        cluster_sizes([0, 4], 2)
    for counts in ([], [0, 0], [-1, 2], [[1, 2]], [math.nan, 1]):
        with pytest.raises(ValueError, match="expected the sizes"):
            balance(counts)


def test_balance_at_its_ends():
    assert balance([5, 5, 5]) == pytest.approx(1)
    assert balance([9, 0, 0]) == 0
    assert balance([4]) == 1
    assert effective_clusters([5, 5, 0, 0]) == pytest.approx(2)


@pytest.mark.parametrize(
    "labels, before, share",
    [
        ([2, 2, 0, 1], [0, 0, 1, 2], 0.0),  # other names alone
        ([0, 0, 0, 1, 1], [0, 0, 1, 2, 2], 0.2),  # one row joins two
        ([0, 0, 1, 2, 2], [1, 1, 1, 0, 0], 0.2),  # and leaves them
        ([0] * 10 + [0] * 3, [0] * 10 + [1] * 3, 3 / 13),  # the smaller of two that merge
        ([0, 1, 2, 2], [0, 1, 1, 2], 0.25),
        ([0, 0, 1, 1], [0, 1, 0, 1], 0.5),
    ],
)
def test_rows_that_changed_company_by_hand(labels, before, share):
    assert regrouped_share(labels, before) == pytest.approx(share)
    assert regrouped_share(before, labels) == pytest.approx(share)


def test_changes_of_other_rows_are_refused():
    with pytest.raises(ValueError, match="same rows twice"):
        regrouped_share([0, 1], [0])


def test_effective_rank_by_hand():
    square = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
    assert effective_rank(square) == pytest.approx(2)
    assert effective_rank(square + 100) == pytest.approx(2)
    assert effective_rank(square[:, :1] * [[1.0, 2.0, 3.0]]) == pytest.approx(1)
    assert effective_rank(np.full((5, 3), 0.1)) == 0
    # variances 4 : 1, so shares .8 and .2
    expected = math.exp(-(0.8 * math.log(0.8) + 0.2 * math.log(0.2)))
    assert effective_rank(square * [2, 1]) == pytest.approx(expected)


def test_effective_rank_ignores_rotation_and_scale():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 6)) * [5, 4, 3, 2, 1, 0.1]
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    assert effective_rank(rows @ rotation * 1e-200) == pytest.approx(effective_rank(rows))
    assert effective_rank(rows @ rotation * 1e200) == pytest.approx(effective_rank(rows))
    with pytest.raises(ValueError, match="finite"):
        effective_rank([[math.nan, 1.0]])


def test_silhouette_is_scikit_learns_on_all_rows_and_seeded_on_some():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    rows = rng.normal(size=(120, 2)) + 4 * labels[:, None]
    assert silhouette(rows, labels) == pytest.approx(silhouette_score(rows, labels))
    part = silhouette(rows, labels, size=50, seed=1)
    assert part == silhouette(rows, labels, size=50, seed=1)
    assert part != silhouette(rows, labels, size=50, seed=2)
    assert silhouette(rows, 7 - labels) == pytest.approx(silhouette(rows, labels))


@given(st.integers(0, 2**32 - 1), st.integers(3, 40), st.integers(1, 6))
def test_silhouettes_of_several_partitions_are_scikit_learns(seed, n, partitions):
    """Clusters of one row, equal rows and negative labels included."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 3)).astype(np.float32)
    rows[: n // 3] = rows[0]
    labels = rng.integers(-2, rng.integers(0, n), (partitions, n))
    labels[:, :2] = 0, 1
    for ids, found in zip(labels, silhouettes(rows, labels), strict=True):
        expected = silhouette_score(rows, ids) if len(np.unique(ids)) < n else 0
        assert found == pytest.approx(expected, abs=2e-4)


def test_silhouette_is_never_nan():
    rows = np.eye(4)
    assert silhouette(rows, [3, 3, 3, 3]) == -1
    assert silhouette(rows, [0, 1, 2, 3]) == 0
    with pytest.raises(ValueError, match="embeddings"):
        silhouette(rows, [0, 1])


def test_silhouette_of_the_own_embedding_rewards_shrinking():
    """Its known failure: the same labels, no better, in an embedding whose loss pulled rows towards their centroids."""
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(200, 2)), rng.integers(0, 4, 200)
    centroids = np.stack([rows[labels == k].mean(axis=0) for k in range(4)])
    shrunk = centroids[labels] + 0.01 * (rows - centroids[labels])
    assert silhouette(rows, labels) < 0 < 0.5 < silhouette(shrunk, labels)


def test_collapse_is_told_with_its_numbers():
    assert collapsed([10, 12, 8]) is None
    assert collapsed([7]) is None
    dead = collapsed([10, 0, 8, 0, 6])
    assert dead is not None and "2 of 5 clusters have no rows (1, 3)" in dead and "largest" not in dead
    shared = collapsed([980, 10, 10])
    assert shared is not None and "98.0% of 1000 rows" in shared and "0.10 of its maximum" in shared
    many = collapsed([1] + [0] * 30)
    assert many is not None and "30 of 31" in many and ", ..." in many


def test_splinters_are_told_with_their_numbers():
    assert splintered([5, 1, 1, 4]) is None and splintered([7]) is None and splintered([1]) is None
    assert splintered([6, 1, 1, 1, 0, 0]) == "clusters splintered: 3 of 4 clusters hold a single row"
