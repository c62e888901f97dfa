import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors

from raydc.clustering.linkage import Agglomeration, draw_rows, join_stray, merge_rows, nearest_chains, row_affinity
from raydc.networks.losses.agglomerative import agglomerative_triplets

Reals = NDArray[np.float64]


def nearest(x: Reals, k: int) -> tuple[NDArray[np.int64], Reals]:
    distance, index = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x)
    return index[:, 1:].astype(np.int64), distance[:, 1:] ** 2


def reference(w: Reals, labels: NDArray[np.int64], count: int, others: int = 5) -> NDArray[np.int64]:
    """The greedy merging of the paper, written with dense matrices and no bookkeeping."""
    labels = labels.copy()
    while len(names := np.unique(labels)) > count:
        affinity = np.zeros((len(names), len(names)))
        for a, name in enumerate(names):
            for i, other in enumerate(names):
                if a != i:
                    out, back = w[np.ix_(labels == name, labels == other)], w[np.ix_(labels == other, labels == name)]
                    size, its = (labels == name).sum(), (labels == other).sum()
                    affinity[a, i] = (out @ back).sum() / size**2 + (back @ out).sum() / its**2
        ordered = -np.sort(-affinity, axis=1)[:, :others]
        score = ordered[:, 0] + ((others - 1) * ordered[:, 0] - ordered[:, 1:].sum(1)) / (others - 1)
        a = int(score.argmax())
        labels[labels == names[affinity[a].argmax()]] = names[a]
    return labels


@pytest.mark.parametrize("seed", range(4))
def test_merges_as_the_dense_reference(seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(50, 3))
    near, squared = nearest(x, 6)
    w, first = row_affinity(near, squared), nearest_chains(near[:, 0])
    tree = Agglomeration(w, first)
    tree.merge_until(3)
    assert adjusted_rand_score(reference(w.toarray(), first, 3), tree.result()) == 1


def test_affinity_of_two_rows_by_hand() -> None:
    w = row_affinity(np.array([[1], [0], [1]]), np.array([[1.0], [1.0], [4.0]]))
    sigma = 2.0  # mean of 1, 1, 4
    assert w.toarray()[0, 1] == pytest.approx(np.exp(-1 / sigma)) and w.toarray()[2, 1] == pytest.approx(np.exp(-2))
    tree = Agglomeration(w, np.arange(3))
    assert tree.between(0, 1) == pytest.approx(2 * np.exp(-1 / sigma) ** 2)
    assert 2 not in tree.sums[1] or tree.between(1, 2) == 0, "row 1 does not give row 2 anything"


def test_equal_rows_are_fully_affine() -> None:
    assert (row_affinity(np.array([[1], [0]]), np.zeros((2, 1))).data == 1).all()


def test_chains_follow_nearest_rows_and_join_older_ones() -> None:
    #        0 -> 1 -> 2 -> 1, then 3 -> 2 joins, 4 <-> 5 are on their own
    assert nearest_chains(np.array([1, 2, 1, 2, 5, 4])).tolist() == [0, 0, 0, 0, 1, 1]
    assert nearest_chains(np.array([1, 2, 3, 2]), longest=2).tolist() == [0, 0, 1, 1]


def test_what_no_neighbour_links_is_merged_by_means() -> None:
    x = np.array([[0.0], [0.1], [1.0], [1.1], [9.0], [9.1]])
    near, squared = nearest(x, 1)
    found = merge_rows(*map(torch.from_numpy, (near, squared, x)), None, 0.0, 2, 3)
    assert adjusted_rand_score([0, 0, 0, 0, 1, 1], found) == 1


def test_rows_that_stand_out_are_no_clusters() -> None:
    """Pairs that only each other has for neighbours would be two of the three clusters, and both groups the third."""
    rng = np.random.default_rng(0)
    groups = np.concatenate([rng.normal(size=(60, 3)), rng.normal(size=(60, 3)) + np.array([4, 0, 0])])
    pairs = np.array([[-9.0, 0, 0], [-9.1, 0, 0], [13.0, 0, 0], [13.1, 0, 0]])
    x = np.concatenate([groups, pairs])
    near, squared = nearest(x, 8)
    labels = merge_rows(torch.from_numpy(near), torch.from_numpy(squared), torch.from_numpy(x), None, 0.0, 2, 5)
    assert adjusted_rand_score(np.repeat([0, 1], 60), labels[:120]) > 0.9
    assert labels[120] == labels[121] == labels[:60].mode().values
    assert labels[122] == labels[123] == labels[60:120].mode().values


def test_joining_by_hand() -> None:
    """Row 4 has neighbours that do not have it; row 5 has row 4 nearest, and joins where that joined."""
    near = np.array([[1, 2], [0, 2], [0, 1], [0, 1], [3, 1], [4, 3]])
    squared = np.array([[1.0, 2.0]] * 3 + [[1.0, 2.0], [3.0, 9.0], [1.0, 16.0]])
    labels = np.array([0, 0, 0, 1, 2, 3])
    assert join_stray(labels, near, squared).tolist() == [0, 0, 0, 0, 0, 0]
    assert join_stray(labels[:3], near[:3], squared[:3]).tolist() == [0, 0, 0]


def test_no_more_than_k_are_joined() -> None:
    """Six rows in pairs that have nobody else: three clusters are asked for, so three are kept."""
    near, squared = np.array([[1], [0], [3], [2], [5], [4]]), np.ones((6, 1))
    x = torch.arange(6.0)[:, None]
    found = merge_rows(torch.from_numpy(near), torch.from_numpy(squared), x, None, 0.0, 3, 2)
    assert found.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_share_of_the_clusters_is_left() -> None:
    x = np.random.default_rng(0).normal(size=(200, 4))
    parts = [torch.from_numpy(part) for part in (*nearest(x, 10), x)]
    first = merge_rows(*parts, None, 1.0, 2, 5)
    clusters = int(first.max()) + 1
    later = merge_rows(*parts, first, 0.5, 2, 5)
    assert int(later.max()) + 1 == round(clusters / 2)
    pairs = set(zip(first.tolist(), later.tolist(), strict=True))
    assert len(pairs) == clusters, "clusters are only ever merged"


def test_drawn_rows_have_company_of_their_cluster_and_of_others() -> None:
    labels = torch.arange(1000) // 2  # of 100 rows drawn alone, about ten would have their mate with them
    drawn = draw_rows(labels, 100, torch.Generator().manual_seed(0))
    again = draw_rows(labels, 100, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again) and (drawn.diff() > 0).all() and 70 < len(drawn) <= 96
    found = labels[drawn].bincount()
    assert (found == 2).sum() >= 8 and (found == 1).sum() > 40


def test_triplets_by_hand() -> None:
    z = torch.tensor([[1.0, 0], [0, 1.0], [-1.0, 0]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1])
    # rows 0 and 1 are alike at distance 2, row 2 is at 4 from row 0 and at 2 from row 1; it has no second row
    assert agglomerative_triplets(z, labels, margin=0.2).item() == pytest.approx((0 + 0.2) / 2)
    assert agglomerative_triplets(z, labels, margin=0.2, weight=2).item() == pytest.approx((0.2 + 2.2) / 2)
    assert agglomerative_triplets(z[:1], labels[:1], margin=0.2).item() == 0
    assert agglomerative_triplets(z[:2], labels[:2], margin=0.2).item() == 0
