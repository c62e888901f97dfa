"""Comparisons of counts: how large, how likely by chance, and many at once."""

import numpy as np
import pytest
from scipy import stats

from raydc.clustering.metrics import drift
from raydc.clustering.metrics.drift import Check

DRAW = np.random.default_rng(0)


def test_the_stability_index_is_the_symmetric_divergence_of_shares():
    before, now = np.array([6000, 3000, 1000]), np.array([3000, 3000, 4000])
    p, q = before / 10000, now / 10000
    assert drift.stability_index(before, now) == pytest.approx(np.sum((q - p) * np.log(q / p)), rel=1e-3)
    assert drift.stability_index(before, before) == 0
    assert drift.stability_index(before, np.array([0, 3000, 7000])) > 3  # none left in a bin is no division by 0


def test_homogeneity_is_pearsons_test_where_bins_are_full():
    before, now = np.array([60, 30, 110]), np.array([50, 45, 90])
    assert drift.homogeneity(before, now) == pytest.approx(stats.chi2_contingency([before, now]).pvalue)
    assert drift.homogeneity(before, now, ordered=False) == pytest.approx(drift.homogeneity(before, now))


@pytest.mark.parametrize("ordered", [True, False])
def test_homogeneity_holds_its_level_where_bins_are_nearly_empty(ordered):
    shares = np.array([0.5, 0.3, 0.15, *[0.005] * 10])
    p = [drift.homogeneity(*(DRAW.multinomial(n, shares) for n in (900, 120)), ordered) for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) < 0.09
    assert drift.homogeneity(np.array([3, 0]), np.array([0, 1]), ordered) == 1.0  # too few to tell
    assert drift.homogeneity(np.array([0, 0]), np.array([0, 1]), ordered) == 1.0


def test_many_comparisons_are_held_by_holm():
    checks = [Check("input", str(i), 0, 0, 1.0, 0.1, p) for i, p in enumerate([0.02, 0.001, 0.5, 0.004])]
    found = drift.adjusted(checks)
    assert [each.adjusted for each in found] == pytest.approx([0.04, 0.004, 0.5, 0.012])
    assert [each.drifted for each in found] == [False, True, False, False]
    assert drift.adjusted([]) == []


def test_a_difference_that_is_small_is_no_drift_however_many_rows_there_are():
    before, now = np.array([5_000_000, 5_000_000]), np.array([5_100_000, 4_900_000])
    (check,) = drift.adjusted([drift.of_counts("input", "x", before, now)])
    assert check.adjusted < 1e-100 and not check.drifted
    share = drift.of_share("nowhere", "", (10_000, 1_000_000), (12_000, 1_000_000), 0.05)
    assert share.p < 1e-10 and not drift.adjusted([share])[0].drifted
    (large,) = drift.adjusted([drift.of_counts("input", "x", before, now[::-1] * [3, 1])])
    assert large.drifted


def test_repeats_are_those_among_as_many_rows():
    content = DRAW.integers(400, size=3000)
    expected = np.mean([1 - len(np.unique(DRAW.choice(content, 600, replace=False))) / 600 for _ in range(50)])
    counts = np.bincount(content)
    assert drift.repeated_share(counts[counts > 0], 0.2) == pytest.approx(expected, abs=0.02)
    assert (
        drift.repeated_share(np.ones(50, int), 1.0) == pytest.approx(0) and drift.repeated_share(counts[:0], 1.0) == 0
    )


def test_a_ball_finds_the_rows_that_lie_together():
    apart = DRAW.uniform(-100, 100, (60, 5)).astype(np.float32)
    together = (40 + DRAW.normal(size=(50, 5))).astype(np.float32)
    assert 45 <= drift.densest(np.concatenate([apart, together]), 5.0) <= 55
    assert drift.densest(apart, 5.0) < 6
