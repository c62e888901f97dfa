import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, rand_score

from raydc.clustering.metrics.stability import (
    align,
    ben_hur,
    cluster_jaccard,
    co_membership,
    consensus_matrix,
    disagreement,
    fang_wang,
    lange,
    medoid,
    nearest_centroid,
    nearest_neighbours,
    pac,
    perturbation_stability,
    prediction_strength,
    row_agreement,
    similarities,
    stability,
    weighted_consensus,
)

HALVES = np.array([0, 0, 0, 1, 1, 1])
SHIFTED = np.array([0, 0, 1, 1, 1, 1])
REPLICAS = np.array([HALVES, HALVES, SHIFTED])
replicas = st.integers(2, 4).flatmap(
    lambda r: st.lists(st.lists(st.integers(0, 3), min_size=8, max_size=8), min_size=r)
)


def test_similarities_are_scikit_learns():
    labels = np.random.default_rng(0).integers(0, 4, (3, 50))
    for index, reference in (
        ("ami", adjusted_mutual_info_score),
        ("ari", adjusted_rand_score),
        ("rand", rand_score),
    ):
        found = similarities(labels, index)
        assert (found == found.T).all() and (np.diag(found) == 1).all()
        assert found[0, 2] == pytest.approx(reference(labels[0], labels[2]))
        assert stability(labels, index) == pytest.approx((found[0, 1] + found[0, 2] + found[1, 2]) / 3)


@settings(max_examples=30)
@given(replicas, st.permutations(range(4)))
def test_stability_ignores_the_names_of_clusters(labels, names):
    renamed = [[names[k] for k in labels[0]], *labels[1:]]
    for index in ("ami", "ari", "rand"):
        assert stability(renamed, index) == pytest.approx(stability(labels, index))
    assert fang_wang([(renamed[0], labels[1])]) == pytest.approx(fang_wang([(labels[0], labels[1])]))
    assert row_agreement(renamed, 4, 1).mean() == pytest.approx(row_agreement(labels, 4, 1).mean())


def test_collapsed_replicas_are_perfectly_stable():
    """The known failure that makes the guards run before any stability."""
    assert stability(np.zeros((3, 20), int)) == 1


def test_rand_based_stability_rises_with_clusters_and_ami_does_not():
    rng = np.random.default_rng(0)
    few, many = rng.integers(0, 2, (3, 300)), rng.integers(0, 30, (3, 300))
    assert stability(few, "rand") < 0.6 < 0.9 < stability(many, "rand")
    assert fang_wang([(many[0], many[1])]) < 0.1 < 0.4 < fang_wang([(few[0], few[1])])
    assert abs(stability(few)) < 0.02 and abs(stability(many)) < 0.05


def test_too_few_replicas_are_refused():
    with pytest.raises(ValueError, match=r"at least 2 replicas, got \[1, 6\]"):
        stability([HALVES])
    with pytest.raises(ValueError, match="at least 2 replicas"):
        row_agreement([HALVES], 2)


def test_perturbation():
    assert perturbation_stability(HALVES, [HALVES, 1 - HALVES]) == 1
    expected = (1 + adjusted_rand_score(HALVES, SHIFTED)) / 2
    assert perturbation_stability(HALVES, [HALVES, SHIFTED], "ari") == pytest.approx(expected)


def test_co_membership_by_hand():
    # HALVES puts 3 + 3 pairs together, SHIFTED 1 + 6, both of them 1 + 3
    table = [[2, 1], [0, 3]]
    assert co_membership(table) == pytest.approx(4 / (6 + 7 - 4))
    assert co_membership(table, "cosine") == pytest.approx(4 / (6 * 7) ** 0.5)
    assert co_membership(np.eye(3, dtype=int)) == 1
    assert co_membership([[1, 1]]) == co_membership([[1, 1]], "cosine") == 0


def test_co_membership_takes_two_huge_clusters_for_agreement():
    rng = np.random.default_rng(0)
    first, second = (rng.random((2, 500)) < 0.05).astype(int)
    table = np.histogram2d(first, second, bins=2)[0].astype(int)
    assert co_membership(table, "cosine") > 0.85
    assert abs(stability([first, second])) < 0.05


def test_ben_hur_compares_common_rows_only():
    first = ([5, 0, 1, 2, 3], [1, 0, 0, 0, 1])
    second = ([0, 1, 2, 3, 4], [0, 0, 1, 1, 9])
    third = ([3, 2, 1, 0], [1, 0, 0, 0])
    # rows 0 1 2 3: {0 1 2}{3} against {0 1}{2 3}: 3 and 2 pairs, 1 in both; the third is as the first
    assert ben_hur([first, second, third]).tolist() == pytest.approx([1 / 4, 1, 1 / 4])
    with pytest.raises(ValueError, match="share none"):
        ben_hur([([0, 1], [0, 1]), ([2, 3], [0, 1])])


def test_disagreement_by_hand():
    assert disagreement(HALVES, 1 - HALVES) == 0
    assert disagreement(HALVES, SHIFTED) == pytest.approx(1 / 6)
    assert disagreement([0, 1, 2], [0, 0, 0]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("transfer", [nearest_centroid, nearest_neighbours])
def test_transfers(transfer):
    rows = np.array([[0.0], [0.1], [0.2], [5.0], [5.1], [5.2]] * 2)
    labels = np.array([7, 7, 7, 2, 2, 2] * 2)
    assert list(transfer(rows, labels, np.array([[4.8], [0.3]]))) == [2, 7]
    assert list(transfer(rows, np.full(12, 3), rows[:2])) == [3, 3]


def test_lange_is_least_at_the_true_number_of_clusters():
    rows, _ = make_blobs(600, centers=[[0, 0], [9, 0], [0, 9], [9, 9]], cluster_std=0.8, random_state=0)
    halves = rows[:300], rows[300:]

    def measured(k):
        parts = [(half, KMeans(k, n_init=1, random_state=i).fit_predict(half)) for i, half in enumerate(halves)]
        return lange(*parts, k)

    assert measured(4) == 0
    assert measured(7) > 0.15
    with pytest.raises(ValueError, match="2 clusters or more"):
        lange((rows, [0] * 600), (rows, [0] * 600), 1)


def test_lange_of_random_labels_is_one():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(400, 3)), rng.integers(0, 4, (2, 400))
    assert lange((rows, labels[0]), (rows, labels[1]), 4, nearest_neighbours) == pytest.approx(1, abs=0.05)


def test_prediction_strength_by_hand():
    # cluster 0: 3 pairs, of which the other half holds 1; cluster 1: all 3
    assert prediction_strength(HALVES, SHIFTED) == pytest.approx(1 / 3)
    assert prediction_strength(HALVES, 1 - HALVES) == 1
    assert prediction_strength([0, 1, 2], [0, 0, 0]) == 1


def test_one_small_cluster_vetoes_prediction_strength():
    labels = np.repeat([0, 1, 2], [100, 100, 2])
    other = labels.copy()
    other[-1] = 0
    assert prediction_strength(labels, other) == 0
    assert stability([labels, other]) > 0.95


def test_fang_wang_by_hand():
    # of 15 pairs 6 + 7 - 2 * 4 = 5 are treated differently; of the 36 ordered pairs, twice that
    assert fang_wang([(HALVES, SHIFTED)]) == pytest.approx(10 / 36)
    assert fang_wang([(HALVES, SHIFTED), (HALVES, HALVES)]) == pytest.approx(5 / 36)


def test_cluster_jaccard_by_hand():
    assert cluster_jaccard(HALVES, [SHIFTED], 3).tolist() == pytest.approx([2 / 3, 3 / 4, 0])
    assert cluster_jaccard(HALVES, [SHIFTED, 1 - HALVES], 2).tolist() == pytest.approx([5 / 6, 7 / 8])


def test_consensus_by_hand():
    matrix = consensus_matrix(REPLICAS)
    assert matrix[0].tolist() == pytest.approx([1, 1, 2 / 3, 0, 0, 0])
    assert matrix[2].tolist() == pytest.approx([2 / 3, 2 / 3, 1, 1 / 3, 1 / 3, 1 / 3])
    assert (matrix == matrix.T).all()
    assert pac(matrix) == pytest.approx(5 / 15)  # row 2 with all others
    assert pac(consensus_matrix([HALVES, HALVES])) == 0
    assert consensus_matrix(REPLICAS, [0.5, 0.5, 0])[2, 3] == 0
    with pytest.raises(ValueError, match="3 weights"):
        consensus_matrix(REPLICAS, [1, 1])


def test_pac_bounds_are_exclusive():
    """1 of 10 replicas is the lower bound itself, and no ambiguity."""
    assert pac(consensus_matrix([HALVES] * 9 + [SHIFTED])) == 0


def test_weighted_consensus_and_medoid():
    near = adjusted_mutual_info_score(HALVES, SHIFTED)
    found = weighted_consensus(REPLICAS, [1, 2, 1])
    assert found.tolist() == pytest.approx([(2 + near) / 3, (1 + near) / 2, near])
    assert medoid(REPLICAS) == 0
    assert medoid([SHIFTED, HALVES, HALVES]) == 1
    with pytest.raises(ValueError, match="two above 0"):
        weighted_consensus(REPLICAS, [1, 0, 0])


def test_a_majority_of_duplicates_wins_the_consensus():
    truth, wrong = np.repeat([0, 1, 2], 10), np.arange(30) % 3
    assert weighted_consensus([truth, wrong, wrong], [1, 1, 1]).argmax() == 1


def test_align_by_hand():
    assert align(1 - HALVES, HALVES, 2).tolist() == HALVES.tolist()
    assert align([2, 2, 0, 0, 1], [1, 1, 0, 0, 0], 3, 2).tolist() == [1, 1, 0, 0, 2]  # the surplus cluster is new
    assert align([0, 0, 1, 1], [3, 3, 0, 0], 2, 4).tolist() == [3, 3, 0, 0]


@settings(max_examples=30)
@given(replicas, st.permutations(range(4)))
def test_align_undoes_any_renaming(labels, names):
    reference = np.array(labels[0])
    assert align(np.array(names)[reference], reference, 4).tolist() == reference.tolist()
    renamed = align(labels[1], reference, 4)
    assert disagreement(renamed, labels[1]) == 0 and set(renamed.tolist()) <= {0, 1, 2, 3}


def test_row_agreement_by_hand():
    assert row_agreement(REPLICAS, 2).tolist() == [1, 1, 0.5, 1, 1, 1]
    assert row_agreement([HALVES, 1 - HALVES], 2).tolist() == [1] * 6
    assert row_agreement(REPLICAS, 2, reference=2).tolist() == [1, 1, 0, 1, 1, 1]
