"""How the inputs of rows are spread: bins, counts and what repeats."""

from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse

from raydc.data import ArraySource, DataSettings, open_source, profile_rows, recalled, written
from raydc.data.faults import bad_cells
from raydc.data.marginals import BINS, Inputs, binned, edges_of, repeats_of


def inputs_of(x):
    return profile_rows(ArraySource(x)).inputs


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e9])
def test_bins_hold_about_as_many_rows_each_wherever_they_lie(offset):
    values = np.random.default_rng(0).normal(size=5000) + offset
    edges = edges_of(values, np.ones(5000), (values.min(), values.max()))
    counts = binned(values, edges)
    assert counts[0] == counts[-1] == 0 and counts.sum() == 5000
    assert len(counts) == BINS + 2 and np.ptp(counts[1:-1]) <= 1
    beyond = np.array([values.min() - 1e3, values.max() + 1e3])
    assert binned(beyond, edges)[[0, -1]].tolist() == [1, 1]
    if offset == 0:
        assert np.abs(binned(values.astype(np.float32), edges) - counts).max() <= 1  # rounding moves hardly any


def test_frequent_values_have_bins_of_their_own():
    values = np.repeat([0.0, 1.0, 2.0, 3.0, 7.0], [600, 10, 300, 5, 85])
    counts = binned(values, edges_of(values, np.ones(1000), (0, 7)))
    assert {600, 300} <= {*counts} and counts.sum() == 1000
    weighed = edges_of(np.array([0.0, 1.0, 2.0, 3.0, 7.0]), np.array([600, 10, 300, 5, 85]), (0, 7))
    assert (weighed == edges_of(values, np.ones(1000), (0, 7))).all()
    assert binned(np.full(9, 4.0), edges_of(np.full(9, 4.0), np.ones(9), (4, 4))).tolist() == [0, 9, 0]


@pytest.mark.parametrize("kind", ["plain", "small", "sparse", "outlier", "wide"])
def test_inputs_of_parts_add_up_to_those_of_all_rows_and_come_back_from_files(kind):
    x = np.random.default_rng(1).integers(0, 9, (700, 2000 if kind == "wide" else 5))
    x = sparse.csr_array(x.astype(np.float32)) if kind == "sparse" else x.astype(np.uint8 if kind == "small" else float)
    if kind == "outlier":
        x[3, 2] = 1e14
    source = ArraySource(x)
    found = profile_rows(source)
    counted = [found.inputs.of(block, bad_cells(block)) for block in (source.read(piece) for piece in source.pieces)]
    whole = reduce(Inputs.merged, counted)
    assert whole.rows == 700 and len(whole.marginals) == (1024 if kind == "wide" else 5)
    for one, same in zip(whole.marginals, found.inputs.marginals, strict=True):
        assert one.counts.tolist() == same.counts.tolist()  # of so few rows, all are drawn
    again = reduce(Inputs.merged, reversed(counted))
    assert (again.repeats.hashes == whole.repeats.hashes).all() and (again.repeats.counts == whole.repeats.counts).all()
    kept = recalled(written(found), source)
    assert kept is not None and kept.inputs == found.inputs


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, "sparse"])
def test_rows_that_come_again_are_counted(dtype):
    x = np.random.default_rng(2).integers(0, 200, (300, 6))
    x = np.concatenate([x, x[:40], x[:20]])
    repeats = repeats_of(sparse.csr_array(x.astype(np.float32)) if dtype == "sparse" else x.astype(dtype))
    assert len(repeats.hashes) == 300 and repeats.repeated == 40 and repeats.counts.sum() == 360


def test_columns_of_a_table_count_what_is_missing_and_of_no_category_of_their_own(tmp_path):
    colour = pa.array(["red", "blue", None, "red"] * 30)
    size = pa.array([1.0, 2.0, 3.0, None] * 30)
    pq.write_table(pa.table({"colour": colour, "size": size}), tmp_path / "x.parquet")
    drop = profile_rows(open_source(DataSettings(path=f"{tmp_path}/x.parquet", on_bad_row="drop"))).inputs
    assert drop.columns == ("colour", "size") and drop.rows == 120
    assert drop.unusable.tolist() == [0, 30] and drop.missing.tolist() == [30, 0]
    source = open_source(DataSettings(path=f"{tmp_path}/x.parquet", missing="impute"))
    filled = profile_rows(source).inputs
    assert filled.unusable.tolist() == [0, 0] and filled.missing.tolist() == [30, 30]
    (of_colour, of_size) = filled.marginals
    assert dict(zip(of_colour.variable.levels, of_colour.counts.tolist(), strict=True)) == {
        "blue": 30, "red": 60, "(other)": 0, "(missing)": 30
    }  # fmt: skip
    assert of_size.variable.told(float(of_size.edges[0])) == pytest.approx(1.0, abs=1e-5)
