import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from raydc.clustering.metrics.dip import dip, dip_p_value


def dip_by_definition(values):
    """The least t such that a convex, then concave function lies within t of the distribution function: for each place
    of the mode a linear programme over the function at the values (before and after its jump at the mode) and t.
    """
    x = np.sort(values)
    n = len(x)
    least = 1.0
    for mode in range(n):
        place = [i if i <= mode else i + 1 for i in range(n)]
        rows, bounds = [], []

        def below(terms, bound, rows=rows, bounds=bounds):
            row = np.zeros(n + 2)
            for column, weight in terms:
                row[column] += weight
            rows.append(row)
            bounds.append(bound)

        for i in range(n):  # the function is flat after each value: its height there, and just before
            heights = {place[i]: [i / n, (i + 1) / n]} if i != mode else {i: [i / n], i + 1: [(i + 1) / n]}
            for column, levels in heights.items():
                for level in levels:
                    below([(column, 1), (n + 1, -1)], level)
                    below([(column, -1), (n + 1, -1)], -level)
        for i in range(n):
            below([(i, 1), (i + 1, -1)], 0)
        for middle in range(1, n + 1):
            if middle in (mode, mode + 1):
                continue
            at = [min(c, c - 1) if c > mode else c for c in (middle - 1, middle, middle + 1)]
            if at[2] >= n:
                continue
            before, after = x[at[1]] - x[at[0]], x[at[2]] - x[at[1]]
            sign = 1 if middle < mode else -1
            below(
                [(middle, sign * (1 / before + 1 / after)), (middle - 1, -sign / before), (middle + 1, -sign / after)],
                0,
            )
        solved = linprog(np.eye(n + 2)[n + 1], np.array(rows), bounds, bounds=[(0, 1)] * (n + 2))
        least = min(least, solved.fun)
    return least


@pytest.mark.parametrize("seed", range(12))
def test_dip_is_what_its_definition_says(seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=rng.integers(2, 12))
    assert dip(values) == pytest.approx(dip_by_definition(values), abs=1e-8)


def test_dip_by_hand():
    assert dip(np.arange(10)) == 1 / 20  # evenly spaced: the least that steps allow
    assert dip([3.0, 3.0, 3.0]) == 0
    assert dip([0.0] * 5 + [1.0] * 5) == 0.25
    with pytest.raises(ValueError, match="finite"):
        dip([0.0, np.nan])


@settings(max_examples=50)
@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30, unique=True))
def test_dip_ignores_shift_scale_and_mirror(values):
    moved = 3.0 - 2.0 * np.array(values)
    assert dip(moved) == pytest.approx(dip(values))
    assert 1 / (2 * len(values)) - 1e-12 <= dip(values) <= 0.25


def test_two_modes_are_significant_and_one_is_not():
    rng = np.random.default_rng(0)
    one = rng.normal(size=400)
    two = one + np.repeat([0, 5], 200)
    assert dip_p_value(two) == 1 / 2001
    assert dip_p_value(one) > 0.2
    assert dip_p_value(rng.permutation(two)) == dip_p_value(two)


def test_p_values_of_uniform_rows_are_uniform():
    rng = np.random.default_rng(1)
    p_values = [dip_p_value(rng.random(100)) for _ in range(300)]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.1
    assert 0.4 < np.mean(p_values) < 0.6
