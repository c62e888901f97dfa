import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from raydc.clustering.metrics.external import (
    accuracy,
    ami,
    ari,
    contingency,
    entropy,
    external_scores,
    match,
    mutual_information,
    neighbour_accuracy,
    nmi,
    purity,
    rand,
)

partitions = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 5), min_size=n, max_size=n), st.lists(st.integers(0, 7), min_size=n, max_size=n)
    )
)


def test_contingency_by_hand():
    table = contingency([0, 0, 1, 2, 2], [1, 1, 0, 0, 1], 4, 2)
    assert table.dtype == np.int64
    assert table.tolist() == [[0, 2], [1, 0], [1, 1], [0, 0]]


@given(partitions, st.integers(0, 40))
def test_contingency_adds_up_over_workers(pair, cut):
    labels, classes = pair
    parts = contingency(labels[:cut], classes[:cut], 6, 8) + contingency(labels[cut:], classes[cut:], 6, 8)
    assert (parts == contingency(labels, classes, 6, 8)).all()


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, 3], [0, 0], r"labels in \[0, 3\), got 3 in row 1"),
        ([0, 1], [0, -1], r"classes in \[0, 2\), got -1 in row 1"),
        ([0, 1], [0], "as many labels as classes, got 2 and 1"),
        ([0.0, 1.0], [0, 1], "integers"),
        (["a", "b"], [0, 1], "numpy.unique"),
        ([[0], [1]], [0, 1], "integers"),
    ],
)
def test_contingency_refuses(labels, classes, message):
    with pytest.raises(ValueError, match=message):
        contingency(labels, classes, 3, 2)


@pytest.mark.parametrize("table", [[], [1, 2], [[0, 0]], [[1, -1]], [[0.5, 0.5]]])
@pytest.mark.parametrize("score", [accuracy, purity, nmi, ami, ari, match])
def test_scores_refuse_what_is_no_table(score, table):
    with pytest.raises(ValueError, match="expected"):
        score(np.array(table))


def test_scores_by_hand():
    table = np.array([[5, 1], [1, 3]])
    assert match(table).tolist() == [0, 1]
    assert accuracy(table) == purity(table) == 0.8
    # pairs: together 10 + 3 = 13, by cluster 15 + 6 = 21, by class 21, of 45; chance 21 * 21 / 45 = 9.8
    assert ari(table) == pytest.approx((13 - 9.8) / (21 - 9.8))
    assert entropy([1, 1, 0, 2]) == pytest.approx(1.5 * np.log(2))
    assert mutual_information([[2, 0], [0, 2]]) == pytest.approx(np.log(2))


def test_more_clusters_than_classes_and_fewer():
    assert match([[4, 0], [0, 3], [2, 1]]).tolist() == [0, 1, -1]
    assert accuracy([[4, 0], [0, 3], [2, 1]]) == 0.7
    assert purity([[4, 0], [0, 3], [2, 1]]) == 0.9
    assert match([[4, 0, 5], [0, 3, 0]]).tolist() == [2, 1]
    assert accuracy([[4, 0, 5], [0, 3, 0]]) == 8 / 12


def test_greedy_matching_would_be_wrong():
    assert accuracy([[10, 9], [9, 0]]) == 18 / 28


@settings(max_examples=30)
@given(partitions)
def test_equal_to_scikit_learn(pair):
    labels, classes = pair
    table = contingency(labels, classes, 6, 8)
    if len(labels) > 1:
        assert rand(table) == pytest.approx(sk.rand_score(classes, labels), abs=1e-12)
    assert ari(table) == pytest.approx(sk.adjusted_rand_score(classes, labels), abs=1e-12)
    assert mutual_information(table) == pytest.approx(sk.mutual_info_score(classes, labels), abs=1e-12)
    for average in ("arithmetic", "geometric", "max", "min"):
        expected = sk.normalized_mutual_info_score(classes, labels, average_method=average)
        assert nmi(table, average) == pytest.approx(expected, abs=1e-9)
        if average == "min" and expected > 1 - 1e-9:
            continue  # where one partition refines the other AMI by the minimum may be 0 / 0, of which rounding decides
        expected = sk.adjusted_mutual_info_score(classes, labels, average_method=average)
        assert ami(table, average) == pytest.approx(expected, abs=1e-7)


@given(partitions, st.permutations(range(6)), st.permutations(range(8)))
def test_renaming_clusters_or_classes_changes_nothing(pair, clusters, classes):
    table = contingency(*pair, 6, 8)
    renamed = external_scores(table[clusters][:, classes])
    assert renamed == pytest.approx(external_scores(table), abs=1e-9)


@given(partitions)
def test_ranges(pair):
    table = contingency(*pair, 6, 8)
    assert 0 < accuracy(table) <= purity(table) <= 1
    assert 0 <= nmi(table) <= 1
    assert -0.5 <= ari(table) <= 1
    assert ami(table) <= 1


def test_trivial_partitions():
    both, clusters_only, classes_only = [[5]], [[3, 2]], [[3], [2]]
    assert (nmi(both), ami(both), ari(both), accuracy(both)) == (1, 1, 1, 1)
    for one in (clusters_only, classes_only):
        assert (nmi(one), ami(one), ari(one), accuracy(one)) == (0, 0, 0, 0.6)
    one_row_each = np.eye(4, dtype=int)
    assert (nmi(one_row_each), ami(one_row_each), ari(one_row_each)) == (1, 1, 1)


def test_empty_clusters_and_classes_change_nothing_but_the_shape():
    table = np.array([[5, 1], [1, 3]])
    padded = np.pad(table, ((1, 2), (0, 3)))
    assert external_scores(padded) == pytest.approx(external_scores(table))


def test_billions_of_rows_do_not_overflow():
    table = np.array([[3_000_000_000, 10_000_000], [10_000_000, 2_000_000_000]])
    assert ari(table) == pytest.approx(ari(table // 10_000_000), abs=1e-3)
    assert 0.9 < ari(table) < 1


def test_rand_rises_with_the_number_of_clusters_whatever_the_labels():
    rng = np.random.default_rng(0)
    few, many = (contingency(*rng.integers(0, k, (2, 500)), k, k) for k in (2, 50))
    assert rand(few) < 0.55 < 0.95 < rand(many)
    assert abs(ari(few)) < 0.02 and abs(ari(many)) < 0.02


def test_purity_rises_when_clusters_are_split_and_accuracy_does_not():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 4, 400)
    coarse, fine = rng.integers(0, 4, 400), rng.integers(0, 100, 400)
    few, many = contingency(coarse, classes, 4, 4), contingency(fine, classes, 100, 4)
    assert purity(many) > purity(few) + 0.1
    assert nmi(many) > nmi(few) + 0.1  # not adjusted for chance
    assert accuracy(many) < accuracy(few)
    assert abs(ami(many)) < 0.05 and abs(ari(many)) < 0.05


def test_neighbour_accuracy_by_hand():
    x = [[0.0], [0.1], [0.25], [5.0], [5.1], [5.25]]
    assert neighbour_accuracy(x, [0, 0, 0, 1, 1, 1], 2) == 1
    assert neighbour_accuracy(x, [0, 0, 1, 1, 1, 1], 2) == 5 / 6  # the third has two of the other class beside it
    assert neighbour_accuracy(x, [0, 1, 0, 1, 0, 1], 1) == 0
    with pytest.raises(ValueError, match="more than n_neighbours=6 rows"):
        neighbour_accuracy(x, [0] * 6, 6)
