"""Words that set clusters of texts apart."""

import math

import numpy as np
from numpy.testing import assert_allclose

from raydc.clustering.metrics.terms import class_tf_idf


def test_weights_by_hand() -> None:
    found = class_tf_idf([[3, 1, 0], [0, 1, 1]])  # clusters of 4 and 2 words: 3 on average
    third, whole = math.log(1 + 3 / 2), math.log(1 + 3 / 1)
    assert_allclose(found, [[3 / 4 * math.log(2), 1 / 4 * third, 0], [0, 1 / 2 * third, 1 / 2 * whole]])


def test_clusters_without_words_have_no_weights() -> None:
    assert not class_tf_idf(np.zeros((2, 3))).any() and class_tf_idf(np.zeros((2, 0))).shape == (2, 0)
