"""The profile: every unusable value is found where it is, and statistics are those of the rows that remain."""

import csv
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from raydc.data import (
    ArraySource,
    DataError,
    DataProfile,
    DataSettings,
    Source,
    dropped_table,
    load_shard,
    open_source,
    partition,
    profile_rows,
    require,
    require_same,
)
from raydc.data.profile import recalled
from raydc.data.profile import written as as_written
from raydc.data.scaling import Scaling
from raydc.training.config import RunConfig
from raydc.training.trainer import check, train

DROP = DataSettings(path="array", on_bad_row="drop")
UNUSABLE = {"null": None, "nan": np.nan, "inf": np.inf, "-inf": -np.inf, "1e+20 (beyond 1e+15)": 1e20}


def written(table: dict[str, object], folder: Path, rows: int = 1000, **options: object) -> Source:
    pq.write_table(pa.table(table), folder / "a.parquet", row_group_size=rows)
    return open_source(DataSettings(path=str(folder / "a.parquet"), **options))  # type: ignore[arg-type]


@st.composite
def wild(draw: st.DrawFn) -> tuple[np.ndarray, dict[tuple[int, int], str], str, int]:
    """Rows, what is wrong with some of their cells, how they are stored, and rows per row group."""
    rows, features = draw(st.integers(1, 70)), draw(st.integers(1, 4))
    x = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(rows, features)).astype(np.float32)
    cells = st.tuples(st.integers(0, rows - 1), st.integers(0, features - 1))
    wrong = draw(st.dictionaries(cells, st.sampled_from(sorted(UNUSABLE)), max_size=6))
    kind = draw(st.sampled_from(["columns", "list", "fixed-size list", "tensor"]))
    return x, wrong, kind, draw(st.integers(1, 80))


@settings(max_examples=40)
@given(wild())
def test_every_unusable_cell_is_found_and_its_row_alone_dropped(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[np.ndarray, dict[tuple[int, int], str], str, int]
) -> None:
    x, wrong, kind, group = case
    rows, features = x.shape
    cells: list[list[float | None]] = x.tolist()
    for (row, feature), name in wrong.items():
        cells[row][feature] = UNUSABLE[name]
    if kind == "columns":
        table = {f"f{j}": pa.array([row[j] for row in cells], pa.float32()) for j in range(features)}
    else:
        column = pa.array(cells, pa.list_(pa.float32(), *([] if kind == "list" else [features])))
        if kind == "tensor":
            column = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [features]), column)
        table = {"x": column}
    folder = tmp_path_factory.mktemp("wild")
    good = sorted(set(range(rows)) - {row for row, _ in wrong})
    source = written(table, folder, group, on_bad_row="drop")
    if not good:
        with pytest.raises(DataError, match="no usable rows"):
            profile_rows(source)
        return
    found = profile_rows(source)
    expected = {}
    for row, feature in sorted(wrong):
        expected.setdefault(row, (feature, wrong[row, feature]))
    name = "f{}" if kind == "columns" and features > 1 else ("f{}[0]" if kind == "columns" else "x[{}]")
    lines = list(csv.DictReader(io.StringIO(dropped_table(source, found.dropped_rows))))
    assert [(line["row"], line["row_group"], line["column"], line["value"]) for line in lines] == [
        (str(row), str(row // group), name.format(feature), value) for row, (feature, value) in expected.items()
    ]
    assert sum(int(line["cells"]) for line in lines) == len(wrong)
    assert [str(fault.row) for fault in found.dropped] == [line["row"] for line in lines[:5]]
    assert found.rows == len(good) and found.dropped_rows.tolist() == sorted(expected)
    kept = x[good].astype(np.float64)
    np.testing.assert_allclose(found.mean, kept.mean(0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.variance, kept.var(0), rtol=1e-9, atol=1e-9)
    assert (found.minimum, found.maximum) == (kept.min(), kept.max())
    none = Scaling.of("none", found)
    for workers in range(1, min(3, len(found.groups)) + 1):
        groups = partition(found.groups, workers)
        shards = [load_shard(source, found, none, groups, rank) for rank in range(workers)]
        np.testing.assert_array_equal(
            np.concatenate([s[slice(None)].reshape(len(s), features) for s in shards]), x[good]
        )
        assert np.concatenate([s.ids for s in shards]).tolist() == good
    if wrong:
        stops = written(table, folder, group)
        with pytest.raises(DataError, match=f"{len(expected)} of {rows} rows cannot be used") as caught:
            profile_rows(stops)
        lines = str(caught.value).splitlines()
        assert len(lines) == 2 + min(5, len(expected)) + (len(expected) > 5)
        assert (
            lines[1].strip().startswith(f"{folder}/a.parquet, row group {min(expected) // group}, row {min(expected)}")
        )


@pytest.mark.parametrize("size", [[], [3]])
def test_null_and_ragged_lists_are_rows_to_report(size: list[int], tmp_path: Path) -> None:
    rows = [[1.0, 2.0, 3.0], None, [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [4.0, np.nan, 6.0]]
    if not size:
        rows[2] = [1.0, 2.0]
    source = written({"x": pa.array(rows, pa.list_(pa.float32(), *size))}, tmp_path, 2, on_bad_row="drop")
    found = profile_rows(source)
    seen = [(fault.row_group, fault.row, fault.column, fault.value) for fault in found.dropped]
    ragged = [] if size else [(1, 2, "x", "2 values where 3 are expected")]
    assert seen == [(0, 1, "x", "null"), *ragged, (2, 4, "x[1]", "nan")]


def test_a_row_without_id_is_reported(tmp_path: Path) -> None:
    table = {"id": pa.array(["a", None, "c"]), "x": [1.0, 2.0, 3.0]}
    with pytest.raises(DataError, match=r"row group 0, row 1, column id: null"):
        profile_rows(written(table, tmp_path))
    found = profile_rows(written(table, tmp_path, on_bad_row="drop"))
    assert found.dropped_rows.tolist() == [1]


@pytest.mark.parametrize("words", [False, True])
def test_a_missing_number_of_a_table_may_be_imputed_and_the_message_says_so(words: bool, tmp_path: Path) -> None:
    table: dict[str, object] = {
        "x": [1.0, None, 3.0, 4.0],
        "z": ["a", "b", "a", "b"] if words else [1.0, 2.0, 3.0, 5.0],
    }
    with pytest.raises(DataError, match=r"row 1, column x: null\n.*--on-bad-row drop.*--data\.missing impute"):
        profile_rows(written(table, tmp_path))
    assert profile_rows(written(table, tmp_path, missing="impute")).dropped_rows.size == 0


def test_the_message_says_what_to_do_and_how_many_more(tmp_path: Path) -> None:
    x = np.ones(20)
    x[3:15] = np.inf
    with pytest.raises(DataError) as caught:
        profile_rows(written({"x": x}, tmp_path, 5))
    lines = str(caught.value).splitlines()
    assert "12 of 20 rows cannot be used" in lines[0]
    assert lines[1].endswith("a.parquet, row group 0, row 3, column x[0]: inf")
    assert lines[3].endswith("row group 1, row 5, column x[0]: inf")
    assert lines[-2].strip() == "and 7 more rows"
    assert lines[-1].endswith("leave such rows out with --on-bad-row drop.")


@pytest.mark.parametrize("value", [np.iinfo(np.int64).min, np.iinfo(np.int64).max])
def test_huge_integers_are_unusable(value: int) -> None:
    x = np.zeros((3, 2), np.int64)
    x[1, 1] = value
    assert profile_rows(ArraySource(x, settings=DROP)).dropped_rows.tolist() == [1]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_no_precision_hides_infinity(kind: type, value: float) -> None:
    x = np.zeros((3, 2), kind)
    x[1, 1] = value
    assert profile_rows(ArraySource(x, settings=DROP)).dropped_rows.tolist() == [1]


def test_sparse_rows_are_checked_without_being_made_dense() -> None:
    x = sparse.random_array((100, 30), density=0.1, rng=np.random.default_rng(0), format="csr")
    dense = x.toarray()
    found, expected = profile_rows(ArraySource(x)), profile_rows(ArraySource(dense))
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-12)
    np.testing.assert_allclose(found.variance, expected.variance, atol=1e-12)
    assert (found.minimum, found.maximum) == (expected.minimum, expected.maximum)
    x.data[7] = np.nan
    row, column = (int(place[7]) for place in x.nonzero())
    (fault,) = profile_rows(ArraySource(x, settings=DROP)).dropped
    assert (fault.row, fault.column, fault.value) == (row, f"X[{column}]", "nan")


@pytest.mark.parametrize("matrix", [np.asarray, sparse.csr_array])
def test_bad_weights_of_any_matrix_are_found(matrix) -> None:  # type: ignore[no-untyped-def]
    weights = [1.0, -1.0, 1.0, np.nan]
    with pytest.raises(DataError, match=r"2 of 4 rows cannot be used:\n.*row 1, column weights: -1, where a weight"):
        profile_rows(ArraySource(matrix(np.eye(4)), weights=weights))
    found = profile_rows(ArraySource(matrix(np.eye(4)), weights=weights, settings=DROP))
    assert found.dropped_rows.tolist() == [1, 3]


def test_rows_of_zeros_alone_can_be_surveyed() -> None:
    found = profile_rows(ArraySource(sparse.csr_array((40, 3))))
    assert (found.minimum, found.maximum, found.mean.any()) == (0, 0, False)


def test_statistics_do_not_depend_on_how_values_are_stored(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(3, 5, size=(900, 3)).astype(np.float32)
    whole = profile_rows(written({f"f{j}": x[:, j] for j in range(3)}, tmp_path))
    other = profile_rows(written({"x": pa.array(x.tolist(), pa.list_(pa.float32(), 3))}, tmp_path))
    np.testing.assert_array_equal(whole.mean, other.mean)
    np.testing.assert_array_equal(whole.variance, other.variance)


def test_variance_survives_a_large_offset() -> None:
    x = np.random.default_rng(1).normal(1e9, 1, size=(2000, 2))
    np.testing.assert_allclose(profile_rows(ArraySource(x)).variance, x.var(0), rtol=1e-6)


def test_notes_name_features_that_do_not_change_and_those_whose_digits_are_lost() -> None:
    x = np.random.default_rng(1).normal(size=(50, 3))
    x[:, 1] = 7
    x[:, 2] += 1e6
    (constant,) = profile_rows(ArraySource(x)).notes  # float64 has digits enough
    assert "1 of 3 features never change, such as X[1]" in constant
    coarse = profile_rows(ArraySource(x.astype(np.float32))).notes[1]
    assert "float32, as they are stored, keeps few digits of X[2]" in coarse
    x[:, 2] += 1e9
    assert profile_rows(ArraySource(x)).notes == (constant,)
    blurred = x.astype(np.float32)
    blurred[0, 2] = np.nextafter(blurred[0, 2], np.float32(0))
    assert "float32, as they are stored, loses the differences in X[2]" in profile_rows(ArraySource(blurred)).notes[1]
    assert profile_rows(ArraySource(np.ones((50, 3)))).notes == ("every row is the same: there is one cluster at most",)


def of_rows(rows: int) -> DataProfile:
    return profile_rows(ArraySource(np.random.default_rng(0).normal(size=(rows, 2))))


def test_too_few_rows_for_the_clusters_or_the_workers() -> None:
    require(of_rows(48), 48, 3)
    require(of_rows(48), None, 1)
    with pytest.raises(DataError, match=r"48 rows cannot form 49 clusters; lower method\.n_clusters"):
        require(of_rows(48), 49, 1)
    with pytest.raises(
        DataError, match=r"4 workers, but 48 rows in 3 row groups feed at most 3; set training\.workers"
    ):
        require(of_rows(48), 2, 4)


def test_changed_data_are_named(tmp_path: Path) -> None:
    source = written({"x": [1.0, 2.0]}, tmp_path)
    found = profile_rows(source)
    require_same(found.fingerprint, found.files, source)
    later = written({"x": [1.0, 3.0]}, tmp_path)
    with pytest.raises(DataError, match=r"the data have changed:\nchanged: .*a\.parquet"):
        require_same(found.fingerprint, found.files, later)
    with pytest.raises(DataError, match="have changed"):
        load_shard(later, found, Scaling.of("none", found), partition(found.groups, 1), 0)


def test_values_that_change_between_passes_are_noticed() -> None:
    x = np.ones((40, 2))
    source = ArraySource(x)
    found = profile_rows(source)
    x[20, 1] = 2
    with pytest.raises(DataError, match="values have changed since they were checked"):
        load_shard(source, found, Scaling.of("none", found), partition(found.groups, 1), 0)


def test_every_dropped_row_is_listed_in_the_file(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    x[4:24, 1] = np.nan
    found = profile_rows(ArraySource(x, settings=DROP))
    assert "dropped 20 of 60 rows" in found.notes[0] and "and 15 more" in found.notes[0]
    assert len(found.dropped) == 5 and found.dropped_rows.tolist() == list(range(4, 24))
    np.save(tmp_path / "x.npy", x)
    run = {"data": {"path": str(tmp_path / "x.npy"), "on_bad_row": "drop"}, "output": {"out": str(tmp_path / "out")}}
    method, training = {"name": "kmeans", "n_clusters": 2}, {"workers": 0}
    train(check(RunConfig.of({**run, "method": method, "training": training})))
    lines = list(csv.DictReader(io.StringIO((tmp_path / "out" / "dropped.csv").read_text())))
    assert [int(line["row"]) for line in lines] == list(range(4, 24))
    assert lines[0] == {
        "file": f"{tmp_path}/x.npy", "row_group": "0", "row": "4", "column": "X[1]", "value": "nan", "cells": "1"
    }  # fmt: skip


def weighed(folder: Path, weights: object, **options: object) -> Source:
    table = {"x": np.arange(6.0), "w": weights, "z": np.ones(6), "id": list("abcdef")}
    return written(table, folder, 4, weight_column="w", **options)


def test_weights_are_no_features_and_reach_the_shard(tmp_path: Path) -> None:
    source = weighed(tmp_path, pa.array([0, 1, 2, 3, 4, 5], pa.int8()))
    assert source.columns == ("x", "z") and source.weights == "w"
    found = profile_rows(source)
    shard = load_shard(source, found, Scaling.of("none", found), partition(found.groups, 2), 1)
    assert shard.weights is not None and shard.weights.tolist() == shard[:][:, 0].tolist()
    assert found.fingerprint != written({"x": np.arange(6.0), "w": np.ones(6)}, tmp_path).fingerprint


@pytest.mark.parametrize(
    ("bad", "text"), [(None, "null"), (np.nan, "nan"), (np.inf, "inf"), (-2.0, "-2"), (1e16, "1e+16")]
)
def test_a_bad_weight_is_a_bad_cell(tmp_path: Path, bad: float | None, text: str) -> None:
    weights = [0.0, 1.0, 2.0, 3.0, bad, 5.0]
    what = f"row group 1, row 4, column w: {text}, where a weight of 0 or more is expected".replace("+", r"\+")
    with pytest.raises(DataError, match=what):
        profile_rows(weighed(tmp_path, weights))
    source = weighed(tmp_path, weights, on_bad_row="drop")
    found = profile_rows(source)
    shard = load_shard(source, found, Scaling.of("none", found), partition(found.groups, 1), 0)
    assert shard.weights is not None and shard.weights.tolist() == [0, 1, 2, 3, 5]


def test_a_column_that_cannot_be_weights_is_refused(tmp_path: Path) -> None:
    table = {"x": [1.0, 2.0], "text": ["a", "b"], "list": [[1.0], [2.0]], "y": [0, 1]}
    for options, message in [
        ({"weight_column": "ww"}, "data.weight_column: .* has no column ww"),
        ({"weight_column": "text"}, "weight_column: text in .* is string, expected numbers"),
        ({"weight_column": "list"}, "weight_column: list in .* is list.*, expected numbers"),
        ({"weight_column": "x", "columns": ("x",)}, "x is data.weight_column too"),
        ({"weight_column": "y", "label_column": "y"}, "y is the label or id column too"),
    ]:
        with pytest.raises(DataError, match=message):
            written(table, tmp_path, **options)
    np.save(tmp_path / "x.npy", np.eye(3))
    for path, message in [(tmp_path / "x.npy", "holds no labels, ids or weights"), ("digits", "array without weights")]:
        with pytest.raises(DataError, match=message):
            open_source(DataSettings(path=str(path), weight_column="w"))


def test_weights_of_an_archive_and_of_memory(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", X=np.eye(3), w=[1, 2, 3])
    for source in (
        open_source(DataSettings(path=str(tmp_path / "rows.npz"), weight_column="w")),
        ArraySource(sparse.csr_array(np.eye(3)), weights=[1, 2, 3]),
    ):
        found = profile_rows(source)
        shard = load_shard(source, found, Scaling.of("none", found), partition(found.groups, 1), 0)
        assert shard.weights is not None and shard.weights.tolist() == [1, 2, 3]
    with pytest.raises(DataError, match=r"weights has shape \(2,\), expected one value for each of 3 rows"):
        ArraySource(np.eye(3), weights=[1, 2])


@pytest.mark.parametrize("mixed", [False, True])
def test_heavy_tails_and_columns_that_are_there_twice_are_noted(mixed: bool, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    table = {"a": draw.normal(size=3000), "amount": draw.normal(size=3000), "flag": (np.arange(3000) == 7).astype(int)}
    table["amount"][5] = 1e4
    table |= {"copy": table["a"], "other": draw.permutation(table["a"])}
    if mixed:
        table["plan"] = np.array(["free", "pro", "rare"])[np.where(np.arange(3000) == 9, 2, np.arange(3000) % 2)]
    source = written(table, tmp_path, 700)
    found = profile_rows(source)
    said = "\n".join(found.notes)
    assert "the same in all rows, and so counted twice: copy is a;" in said
    far = "amount, flag" if mixed else "amount"  # standard scores of a rare truth value are as far
    assert f"heavy tails: values of {far} lie up to 5" in said
    again = recalled(as_written(found), source)
    assert again is not None and again.notes == found.notes and again.same == found.same
