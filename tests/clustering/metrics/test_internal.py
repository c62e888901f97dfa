import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, silhouette_score

from raydc.clustering.metrics.internal import (
    _page_rank,
    ace,
    calinski_harabasz,
    davies_bouldin,
    holm,
    multimodal,
    paired_scores,
    pooled_scores,
    rank_me,
    raw_scores,
    score_matrix,
)

PAIRS = np.array([[0.0], [2.0], [10.0], [12.0]])
INDICES = ("silhouette", "calinski_harabasz", "davies_bouldin")


def test_indices_by_hand():
    labels = [0, 0, 1, 1]
    # between 4 * 25 over 1, within 4 * 1 over 2
    assert calinski_harabasz(PAIRS, labels) == pytest.approx(50)
    # widths 1 and 1, centroids 10 apart
    assert davies_bouldin(PAIRS, labels) == pytest.approx(0.2)


def test_indices_without_a_value_are_at_their_worst():
    for labels in ([0, 0, 0, 0], [0, 1, 2, 3]):
        assert calinski_harabasz(PAIRS, labels) == 0
        assert davies_bouldin(PAIRS, labels) == math.inf
    with pytest.raises(ValueError, match=r"\[4, 1\] and \[2\]"):
        davies_bouldin(PAIRS, [0, 1])


def test_rank_me_by_hand():
    assert rank_me(np.diag([3.0, 3.0, 3.0])) == pytest.approx(3)
    assert rank_me(np.ones((5, 4))) == pytest.approx(1)
    assert rank_me(np.zeros((5, 4))) == 0
    assert rank_me(np.diag([3.0, 1.0])) == pytest.approx(math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))


@pytest.mark.parametrize("index", INDICES)
def test_raw_scores_are_higher_for_better_partitions_and_always_finite(index):
    rows, classes = make_blobs(150, centers=4, random_state=0, cluster_std=0.7)
    worse = np.random.default_rng(0).permuted(classes)
    right, wrong, one = raw_scores(rows, [classes, worse, np.zeros(150, int)], index)
    assert right > wrong >= one
    assert np.isfinite(raw_scores(rows, [np.zeros(150, int)], index)).all()


def test_matrix_has_a_row_a_space():
    rng = np.random.default_rng(0)
    spaces, labels = [rng.normal(size=(40, 3)), rng.normal(size=(40, 5))], rng.integers(0, 3, (2, 40))
    matrix = score_matrix(spaces, labels)
    assert matrix[1, 0] == pytest.approx(silhouette_score(spaces[1], labels[0]))
    assert paired_scores(matrix).tolist() == [matrix[0, 0], matrix[1, 1]]
    assert pooled_scores([[1.0, 2.0], [3.0, 6.0]]).tolist() == [2.0, 4.0]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == [True, False, False, True]  # .005 .01 pass /4 /3; .03 > .05 / 2
    assert holm([0.01, 0.02]).all()
    assert not holm([0.06, 0.9]).any()
    assert holm([]).tolist() == []


def test_multimodal_spaces():
    rng = np.random.default_rng(0)
    blobs = make_blobs(300, centers=[[0, 0], [9, 0]], random_state=0)[0]
    spaces = [blobs, rng.normal(size=(300, 2)), np.ones((300, 2))]
    assert multimodal(spaces).tolist() == [True, False, False]


def test_page_rank_of_a_star_and_of_no_links():
    star = np.zeros((4, 4))
    star[0, 1:] = star[1:, 0] = 1
    rating = _page_rank(star)
    # r0 = .15 / 4 + .85 (r1 + r2 + r3), r1 = .15 / 4 + .85 r0 / 3
    assert rating[0] == pytest.approx((0.15 / 4 + 0.85 * 3 * 0.15 / 4) / (1 - 0.85**2))
    assert rating.sum() == pytest.approx(1)
    assert _page_rank(np.zeros((3, 3))).tolist() == pytest.approx([1 / 3] * 3)


@cache
def study(seed):
    """18 trials: partitions from right to random, each in a space of its own. A trial's space is sound but for every
    third, which has drawn the rows of each (bad) cluster together, as a strong clustering loss does.
    """
    rng = np.random.default_rng(seed)
    rows, classes = make_blobs(200, centers=5, n_features=6, cluster_std=1.5, random_state=seed)
    labels, spaces = [], []
    for trial in range(18):
        ids = np.where(rng.random(200) < trial / 18, rng.integers(0, 5, 200), classes)
        space = rows @ np.linalg.qr(rng.normal(size=(6, 6)))[0] + 0.3 * rng.normal(size=rows.shape)
        if trial % 3 == 2:
            means = np.stack([space[ids == k].mean(axis=0) for k in range(5)])
            space = means[ids] + 0.02 * rng.normal(size=rows.shape)
        labels.append(ids)
        spaces.append(space)
    return spaces, score_matrix(spaces, np.array(labels)), [adjusted_rand_score(classes, ids) for ids in labels]


@pytest.mark.parametrize("seed", range(2))
def test_pooled_and_ace_rank_trials_where_paired_scores_fail(seed):
    spaces, matrix, truth = study(seed)
    found = ace(matrix, multimodal(spaces))
    paired, pooled, adaptive = (
        spearmanr(scores, truth)[0] for scores in (paired_scores(matrix), pooled_scores(matrix), found.scores)
    )
    assert paired + 0.3 < pooled < adaptive
    assert adaptive > 0.9
    assert found.weights.sum() == pytest.approx(1)
    assert found.scores == pytest.approx(found.weights @ matrix)


def test_paired_scores_choose_a_wrong_shrunken_trial():
    _, matrix, truth = study(0)
    assert truth[int(paired_scores(matrix).argmax())] < 0.8 < truth[int(ace(matrix).scores.argmax())]


def test_ace_at_its_edges():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(6, 6))
    assert (ace(matrix, [False] * 6).scores == ace(matrix).scores).all()
    one = ace(matrix, [False, False, True, False, False, False])
    assert one.scores.tolist() == matrix[2].tolist() and one.weights.tolist() == [0, 0, 1, 0, 0, 0]
    alike = ace(np.tile(np.arange(5.0), (4, 1)))
    assert alike.scores == pytest.approx(np.arange(5.0))
    assert np.isfinite(ace(np.ones((5, 5))).scores).all()
    with pytest.raises(ValueError, match="at least 3 partitions"):
        ace(np.ones((2, 2)))
