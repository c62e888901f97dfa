"""What sets a cluster apart."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from raydc.clustering.metrics.contrast import contrast, suggested


def test_effects_by_hand() -> None:
    rows = np.array([[1.0, 5, 0], [3, 5, 0], [6, 5, 0], [8, 5, 1]])
    found = contrast(rows, [4, 4, 7, 7])
    assert_array_equal(found.clusters, [4, 7])
    assert_allclose(found.mean, [[2, 5, 0], [7, 5, 0.5]])
    assert_allclose(found.rest, found.mean[::-1])
    # 5 units apart, and a deviation of sqrt((2 + 2) / 2) within
    assert_allclose(found.effect, [[-5 / 2**0.5, 0, -1], [5 / 2**0.5, 0, 1]])
    assert suggested(found, ["length", "width", "height"]) == {
        4: "low length, low height",
        7: "high length, high height",
    }
    shares = suggested(found, ["length", "width", "colour=red"], [2])
    assert shares == {4: "low length, rarely colour=red", 7: "high length, often colour=red"}
    assert suggested(contrast([[0.0], [0], [1], [1], [0], [1]], [0, 0, 1, 1, 1, 1]), ["a=b"], [0])[1] == "a=b"


def test_units_and_origin_change_nothing() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 300)
    rows = draw.normal(size=(300, 4)) + labels[:, None] * [2.0, 0, 0, 0]
    plain, far = contrast(rows, labels), contrast(rows * [1, 1e6, 1e-6, 1] + [1e6, 0, 0, -1e6], labels)
    assert_allclose(far.effect, plain.effect, atol=1e-6)
    assert suggested(plain, "abcd")[2].startswith("high a") and 1 not in {
        *suggested(contrast(rows, labels * 0), "abcd")
    }


def test_one_cluster_differs_from_nothing() -> None:
    found = contrast(np.eye(3), [0, 0, 0])
    assert_array_equal(found.effect, np.zeros((1, 3)))
    assert np.isnan(found.rest).all() and suggested(found, "abc") == {}


def test_missing_values_take_no_part() -> None:
    rows = np.array([[1.0, np.nan], [3, np.nan], [np.nan, 5], [6, 6], [8, 7]])
    found = contrast(rows, [4, 4, 4, 7, 7])
    assert_allclose(found.mean, [[2, 5], [7, 6.5]])
    assert_allclose(found.effect[:, 0], [-5 / 2**0.5, 5 / 2**0.5])
    nothing = contrast(rows[:, 1:], [0, 0, 1, 1, 1])  # no value in a whole cluster
    assert np.isnan(nothing.mean[0, 0]) and nothing.effect.tolist() == [[0], [0]]


def test_shares_are_exact() -> None:
    assert contrast([[0.0], [0], [0], [1], [1], [0]], [0, 0, 0, 1, 1, 1]).mean[0, 0] == 0


def test_of_the_values_of_a_column_one_is_named_and_rather_what_a_cluster_has() -> None:
    """Of a column of two values, both tell the same: "rarely news=false" was once said of those who take the news."""
    labels = np.arange(40) % 2
    rows = np.stack([labels == 0, labels == 1, labels == 1, labels == 0], 1).astype(float)
    names = ["news=false", "news=true", "high=a", "high=b"]
    assert suggested(contrast(rows, labels), names, {0, 1, 2, 3}) == {0: "news=false, high=b", 1: "news=true, high=a"}
