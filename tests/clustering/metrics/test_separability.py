import numpy as np

from raydc.clustering.metrics.separability import linear_separability


def test_halves_are_separable_and_labels_at_random_are_not() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 3))
    assert linear_separability(rows, rows[:, 0] > 0) > 0.95
    assert linear_separability(rows, rng.integers(2, size=200)) < 0.65


def test_what_cannot_be_asked_scores_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=(30, 2))
    assert linear_separability(rows, np.zeros(30)) == 0.0
    assert linear_separability(rows, np.arange(30) == 7) == 0.0, "a fold learns from rows of one cluster alone"
    assert linear_separability(rows[:9], np.arange(9) % 2) == 0.0
