"""Which rows are taken, by hand."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from raydc.clustering.metrics.curation import balanced, even_shares, near_duplicates, prototypes


@pytest.mark.parametrize(
    ("sizes", "wanted", "expected"),
    [
        ([10, 10, 10], 9, [3, 3, 3]),
        ([1, 10, 10], 9, [1, 4, 4]),
        ([10, 10, 10], 11, [4, 4, 3]),
        ([1, 2, 3], 99, [1, 2, 3]),
        ([0, 5], 3, [0, 3]),
        ([], 3, []),
    ],
)
def test_even_shares(sizes: list[int], wanted: int, expected: list[int]) -> None:
    assert_array_equal(even_shares(np.array(sizes, np.int64), wanted), expected)


def test_a_sample_is_balanced_at_every_level() -> None:
    fine = np.repeat([0, 1, 2, 3], [1000, 100, 10, 500])
    coarse = np.where(fine == 3, 3, 0)
    chosen = balanced([coarse, fine], 100)
    assert_array_equal(np.bincount(fine[chosen]), [20, 20, 10, 50])
    assert len({*chosen.tolist()}) == 100 and (np.diff(chosen) > 0).all()
    assert_array_equal(chosen, balanced([coarse, fine], 100))
    assert not np.array_equal(chosen, balanced([coarse, fine], 100, seed=1))


def test_prototypes_are_near_and_sure() -> None:
    labels, distance = np.array([0, 0, 0, 1, 1]), np.array([0.5, 0.1, 0.1, 0.9, 0.2])
    assert_array_equal(prototypes(labels, distance, [1, 0.6, 0.9, 1, 1], 2), [2, 4])
    assert_array_equal(prototypes(labels, distance, [1, 0.6, 0.9, 1, 1], 4), [1, 2, 3, 4])
    assert len(prototypes(labels[:0], distance[:0], [], 4)) == 0


def test_near_duplicates_in_any_units() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(60, 5))
    twins = np.concatenate([rows, rows[:3] + 1e-3, rows[:1] - 1e-3])
    labels = np.arange(len(twins)) % 2
    labels[60:64] = labels[[0, 1, 2, 0]]
    for scale in (1, 1e6):
        found = near_duplicates(twins * scale + 7 * scale, labels)
        assert_array_equal(np.flatnonzero(found >= 0), [0, 1, 2, 60, 61, 62, 63])
        assert found[0] == found[60] == found[63] and found[1] == found[61] and found[2] == found[62]
        assert len({found[0], found[1], found[2]}) == 3
    labels[60:64] = 1 - labels[60:64]
    assert (near_duplicates(twins[:63], labels[:63]) == -1).all()  # of other clusters
