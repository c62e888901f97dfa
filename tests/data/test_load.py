"""Shards: the same rows on any number of workers and in any place; scaling; labels; rows for prediction."""

import errno
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import sparse
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from raydc.data import (
    ArraySource,
    DataError,
    DataSettings,
    DenseRows,
    Scaling,
    Shard,
    Source,
    SparseRows,
    load_shard,
    open_source,
    partition,
    profile_rows,
    read_labels,
    rows_of,
)
from raydc.data.load import free_memory

X = np.random.default_rng(0).normal(2, 3, size=(200, 6)).astype(np.float32)


def shards(source: Source, workers: int, kind: str = "standard", **options: object) -> list[Shard]:
    found = profile_rows(source)
    scaling = Scaling.of(kind, found)  # type: ignore[arg-type]
    groups = partition(found.groups, workers)
    return [load_shard(source, found, scaling, groups, rank, **options) for rank in range(workers)]  # type: ignore[arg-type]


def whole(parts: list[Shard]) -> torch.Tensor:
    return torch.cat([part[torch.arange(len(part))] for part in parts])


@pytest.mark.parametrize("storage", ["auto", "device", "memory", "disk"])
@pytest.mark.parametrize("matrix", [np.asarray, sparse.csr_array])
def test_rows_are_the_same_on_any_number_of_workers_and_in_any_place(matrix, storage: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    expected = whole(shards(ArraySource(X), 1))
    for workers in (1, 2, 3):
        parts = shards(ArraySource(matrix(X)), workers, storage=storage, scratch_dir=tmp_path)
        torch.testing.assert_close(whole(parts), expected, rtol=1e-5 if matrix is not np.asarray else 0, atol=1e-6)
        assert np.concatenate([part.ids for part in parts]).tolist() == list(range(200))
        assert all(part.sizes == tuple(map(len, parts)) for part in parts)
        assert all(
            type(p.rows) is (SparseRows if (storage, matrix) == ("memory", sparse.csr_array) else DenseRows)
            for p in parts
        )
        assert torch.equal(parts[0][slice(3, 9)], parts[0][torch.arange(3, 9)])
    assert list(tmp_path.iterdir()) == []  # the mapped file leaves with the process


def test_parquet_shards_are_bit_equal_on_any_number_of_workers(tmp_path: Path) -> None:
    pq.write_table(pa.table({f"f{j}": X[:, j] for j in range(6)}), tmp_path / "a.parquet", row_group_size=77)
    expected = None
    for workers in (1, 2, 3):
        rows = whole(shards(open_source(DataSettings(path=str(tmp_path))), workers))
        expected = rows if expected is None else expected
        assert torch.equal(rows, expected)


def test_images_come_with_channels_first() -> None:
    (shard,) = shards(ArraySource(X.reshape(200, 2, 3)), 1, "none")
    assert shard[slice(0, 4)].shape == (4, 1, 2, 3)
    (shard,) = shards(
        ArraySource(sparse.csr_array(X), settings=DataSettings(path="array", shape=(2, 3))), 1, "none", storage="memory"
    )
    np.testing.assert_array_equal(shard[slice(0, 4)].reshape(4, 6), X[:4])


def test_a_full_disk_is_said_before_writing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(DataError, match=r"data.storage disk: needs 4,800 bytes in .*, which has 100"):
        shards(ArraySource(X), 1, storage="disk", scratch_dir=tmp_path)


def test_a_disk_that_others_fill_meanwhile_is_an_error_and_no_signal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (shard,) = shards(ArraySource(X), 1, storage="disk")
    assert isinstance(shard.rows, DenseRows) and torch.equal(shard[slice(None)], whole(shards(ArraySource(X), 1)))

    def full(handle: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(DataError, match=rf"disk: 4,800 bytes cannot be had in {tmp_path}: .*No space left"):
        shards(ArraySource(X), 1, storage="disk")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_do_not_fit_in_memory_go_to_disk_and_sparse_ones_stay_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydc.data.load.free_memory", lambda: 5000)
    (dense,) = shards(ArraySource(X), 1)
    assert isinstance(dense.rows, DenseRows) and "raydc-rows-" in Path("/proc/self/maps").read_text()
    (kept,) = shards(ArraySource(sparse.csr_array(X)), 1)
    assert isinstance(kept.rows, SparseRows)


@pytest.mark.parametrize(
    ("limit", "used", "cache"),
    [
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_free_memory_heeds_the_control_group_but_not_its_file_cache(
    limit: str, used: str, cache: str, tmp_path: Path
) -> None:
    assert free_memory(tmp_path) > 10_000
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("10000\n")
    (tmp_path / used).write_text("9000\n")
    (tmp_path / limit).with_name("memory.stat").write_text(f"anon 1000\n{cache} 6000\n")
    assert free_memory(tmp_path) == 7000
    (tmp_path / used).write_text("19000\n")
    assert free_memory(tmp_path) == 0


def test_standard_scaling_is_that_of_scikit_learn_and_centres_constants() -> None:
    x = X.copy()
    x[:, 2] = 5
    (shard,) = shards(ArraySource(x), 1)
    np.testing.assert_allclose(shard[slice(None)], StandardScaler().fit_transform(x), atol=2e-6)
    assert (shard[slice(None)][:, 2] == 0).all()


@pytest.mark.parametrize(("kind", "low"), [("unit", 0), ("symmetric", -1)])
def test_range_scaling_is_over_all_features(kind: str, low: int) -> None:
    (shard,) = shards(ArraySource(X), 1, kind)
    expected = MinMaxScaler((low, 1)).fit_transform(X.reshape(-1, 1)).reshape(X.shape)
    np.testing.assert_allclose(shard[slice(None)], expected, atol=1e-6)


def test_power_scaling_gives_mean_square_one() -> None:
    (shard,) = shards(ArraySource(X), 1, "power")
    assert (shard[slice(None)] ** 2).mean().item() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(shard[slice(None)], X / np.sqrt((X.astype(float) ** 2).mean()), rtol=1e-6)


@pytest.mark.parametrize("kind", ["none", "power", "standard", "unit", "symmetric"])
def test_scaling_is_undone_stored_and_safe_for_constant_rows(kind: str) -> None:
    scaling = Scaling.of(kind, profile_rows(ArraySource(X)))  # type: ignore[arg-type]
    x = X.reshape(200, 1, 2, 3)
    torch.testing.assert_close(scaling.invert(scaling.apply(x)).float(), torch.from_numpy(x))
    again = Scaling.from_json(json.loads(json.dumps(scaling.to_json())))
    assert torch.equal(again.apply(x), scaling.apply(x))
    for value in (0.0, 4.0):
        flat = np.full((40, 3), value)
        assert Scaling.of(kind, profile_rows(ArraySource(flat))).apply(flat).isfinite().all()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["none", "power", "standard", "unit", "symmetric"])
@pytest.mark.parametrize("scale", [1e-20, 1e-37, 1e-38, 1e-42, 1e-60, 1e-200])
def test_tiny_features_stay_finite(scale: float, kind: str) -> None:
    tiny = X.astype(float) * scale
    for x in (tiny, np.column_stack([X, tiny[:, 0]])):
        scaling = Scaling.of(kind, profile_rows(ArraySource(x)))  # type: ignore[arg-type]
        assert np.isfinite(scaling.factor).all()
        (shard,) = shards(ArraySource(x), 1, kind)
        assert shard[slice(None)].isfinite().all()


def test_labels_of_any_type_follow_dropped_rows(tmp_path: Path) -> None:
    x = X[:6].copy()
    x[2] = np.nan
    drop = DataSettings(path="array", on_bad_row="drop")
    for y, expected in (
        (np.array(list("bbxaba")), [1, 1, 0, 1, 0]),
        (np.array([3, 3, 9, 1, 3, 1]), [1, 1, 0, 1, 0]),
        (np.array([3.0, np.nan, 9, 1, 3, 1]), [1, -1, 0, 1, 0]),
        (np.array(["b", None, "x", "a", "b", "a"], dtype=object), [1, -1, 0, 1, 0]),
    ):
        source = ArraySource(x, y, settings=drop)
        labels = read_labels(source, profile_rows(source))
        assert labels is not None and labels.dtype == np.int64 and labels.tolist() == expected
    texts, numbers = pa.array(["b", None, "x", "a", "b", "a"]), pa.array([3, None, 9, 1, 3, 1])
    for column in (
        texts,
        numbers,
        texts.dictionary_encode(),
        numbers.dictionary_encode(),
        numbers.cast(pa.timestamp("s")),
    ):
        pq.write_table(pa.table({"y": column, "x": x[:, 0]}), tmp_path / "a.parquet", row_group_size=4)
        named = open_source(DataSettings(path=str(tmp_path), label_column="y", on_bad_row="drop"))
        labels = read_labels(named, profile_rows(named))
        assert labels is not None and labels.tolist() == [1, -1, 0, 1, 0]
    unlabelled = ArraySource(X)
    assert read_labels(unlabelled, profile_rows(unlabelled)) is None


@pytest.mark.parametrize("ids", [np.arange(200) * 3, np.array([f"row {i}" for i in range(200)])])
def test_ids_travel(ids: np.ndarray, tmp_path: Path) -> None:
    pq.write_table(pa.table({"key": ids, "x": X[:, 0]}), tmp_path / "a.parquet", row_group_size=50)
    parquet = open_source(DataSettings(path=str(tmp_path), id_column="key"))
    for source in (ArraySource(X, ids=ids), parquet):
        travelled = np.concatenate([part.ids for part in shards(source, 3)])
        assert travelled.tolist() == ids.tolist() and travelled.dtype.kind in "iU"


@pytest.mark.parametrize("kind", [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.int8()])
def test_integer_ids_of_any_kind_with_and_without_nulls(kind: pa.DataType, tmp_path: Path) -> None:
    for ids in ([5, 7, 9], [5, None, 9]):
        pq.write_table(pa.table({"id": pa.array(ids, kind), "a": X[:3, 0]}), tmp_path / "a.parquet")
        (shard,) = shards(open_source(DataSettings(path=str(tmp_path), on_bad_row="drop")), 1)
        assert shard.ids.tolist() == [value for value in ids if value is not None]


def test_ids_beyond_int64_stay_what_they_are(tmp_path: Path) -> None:
    ids = np.array([1, 2**63 + 5, 2**64 - 1], np.uint64)
    pq.write_table(pa.table({"id": ids, "a": X[:3, 0]}), tmp_path / "a.parquet")
    for source in (open_source(DataSettings(path=str(tmp_path))), ArraySource(X[:3], ids=ids)):
        assert shards(source, 1)[0].ids.tolist() == ids.tolist()


def test_ids_from_dictionaries_that_differ_between_row_groups(tmp_path: Path) -> None:
    ids = pa.array([f"{row % 7 * (row // 50)}" for row in range(200)])
    table = pa.table({"id": ids.dictionary_encode(), "a": X[:, 0]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=50)
    (shard,) = shards(open_source(DataSettings(path=str(tmp_path))), 1)
    assert shard.ids.tolist() == ids.to_pylist()


def test_one_long_id_does_not_widen_all_others(tmp_path: Path) -> None:
    ids = np.array([f"row {row}" for row in range(199)] + ["x" * 2000], object)
    pq.write_table(pa.table({"id": ids, "a": X[:, 0]}), tmp_path / "a.parquet", row_group_size=50)
    for source in (ArraySource(X, ids=ids), open_source(DataSettings(path=str(tmp_path)))):
        travelled = np.concatenate([part.ids for part in shards(source, 2)])
        assert travelled.tolist() == ids.tolist() and travelled.nbytes < 100_000
        assert pa.array(travelled).type == pa.string()


def test_ids_that_are_integers_in_a_dictionary(tmp_path: Path) -> None:
    table = {"key": pa.array([7, 5, 7]).dictionary_encode(), "a": X[:3, 0]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    (shard,) = shards(open_source(DataSettings(path=str(tmp_path), id_column="key")), 1)
    assert shard.ids.tolist() == [7, 5, 7]


def test_text_that_is_no_unicode_is_named(tmp_path: Path) -> None:
    raw = pa.array([b"a", b"\xff"])
    text = pa.StringArray.from_buffers(2, *raw.buffers()[1:])
    pq.write_table(pa.table({"id": text, "a": [1.0, 2.0], "y": text}), tmp_path / "a.parquet")
    source = open_source(DataSettings(path=str(tmp_path), label_column="y"))
    with pytest.raises(DataError, match=r"a\.parquet, row group 0: cannot be decoded"):
        profile_rows(source)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be decoded"):
        source.labels()


NAMES = ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int8, np.uint8, np.int64, bool])
def test_predictions_take_arrays_of_any_number_type(kind: type) -> None:
    x = (X[:5] > 2).astype(kind)
    for rows in (x, torch.from_numpy(x), x.tolist(), sparse.csr_array(x) if kind is not np.float16 else x):
        got = rows_of(rows, NAMES, (6,))
        assert got.dtype == (kind if hasattr(rows, "dtype") else np.asarray(x.tolist()).dtype)  # in their own precision
        np.testing.assert_array_equal(got, x)
    assert rows_of(x, (), (1, 2, 3)).shape == (5, 1, 2, 3)
    assert rows_of(x[:0], (), (6,)).shape == (0, 6)


def test_predictions_take_frames_by_name() -> None:
    frame = pd.DataFrame(X[:5], columns=NAMES)[NAMES[::-1]].assign(extra="text")
    np.testing.assert_array_equal(rows_of(frame, NAMES, (6,)), X[:5])
    np.testing.assert_array_equal(rows_of(pd.DataFrame(X[:5]), (), (6,)), X[:5])
    np.testing.assert_array_equal(rows_of(frame.astype({"a": "Float64"}), NAMES, (6,)), X[:5])
    np.testing.assert_array_equal(rows_of(frame.astype({"a": object, "b": "Float32"}), NAMES, (6,)), X[:5])
    counted = pd.DataFrame((X[:5] > 0), columns=NAMES)
    for kinds in ("boolean", "Int64", "UInt8", "int16", "category", {"a": "boolean", "b": "Int32", "c": object}):
        np.testing.assert_array_equal(rows_of(counted.astype(kinds), NAMES, (6,)), X[:5] > 0)
    np.testing.assert_array_equal(rows_of(pd.DataFrame({"x": [Decimal("1.5"), 2]}), ["x"], (1,)), [[1.5], [2]])
    twice = pd.concat([frame, frame[["extra"]]], axis=1)
    np.testing.assert_array_equal(rows_of(twice, NAMES, (6,)), X[:5])
    for cells in (list(X[:5]), X[:5].tolist(), list(X[:5].reshape(5, 2, 3))):
        listed = pd.DataFrame({"x": cells, "other": 1.0})
        np.testing.assert_array_equal(rows_of(listed, ["x"], (1, 2, 3)).reshape(5, 6), X[:5])


def test_predictions_take_whatever_has_columns_by_name() -> None:
    frame = pd.DataFrame(X[:5], columns=NAMES)[NAMES[::-1]]
    tables = (frame.to_dict("list"), frame.to_dict("records"), {name: frame[name].to_numpy() for name in frame})
    for table in (*tables, tuple(frame.to_dict("records")), pa.Table.from_pandas(frame)):
        np.testing.assert_array_equal(rows_of(table, NAMES, (6,)), X[:5])
    for listed in ({"x": X[:5]}, {"x": X[:5].tolist()}, [{"x": row} for row in X[:5].tolist()]):
        np.testing.assert_array_equal(rows_of(listed, ["x"], (6,)), X[:5])


@pytest.mark.parametrize("kind", [object, "float64", "Int64", "boolean"])
def test_predictions_of_no_rows_are_none(kind: str) -> None:
    empty = pd.DataFrame(columns=NAMES).astype(kind)
    for rows in (empty, {name: [] for name in NAMES}, np.zeros((0, 6))):
        assert rows_of(rows, NAMES, (6,)).shape == (0, 6)
    assert rows_of(pd.DataFrame({"x": []}), ["x"], (6,)).shape == (0, 6)


def test_predictions_turn_images_as_training_did() -> None:
    images = np.random.default_rng(0).normal(size=(4, 5, 6, 3)).astype(np.float32)
    source = ArraySource(images)
    expected = shards(source, 1, "none")[0][slice(None)]
    np.testing.assert_array_equal(rows_of(images, (), source.shape), expected)
    np.testing.assert_array_equal(rows_of(images.transpose(0, 3, 1, 2), (), source.shape), expected)


FRAME = pd.DataFrame(X[:3], columns=NAMES)
BAD = {
    "missing column": (FRAME.rename(columns={"c": "cc"}), r"lacks 1 of 6 columns, such as c; did you mean cc\?"),
    "missing value": (FRAME.assign(c=[1, None, np.nan]), r"row 1, column c: nan; 2 row\(s\) cannot be used"),
    "huge value": (np.where(X[:3] > X[:3].min(), 0, 1e30), r"row \d, column \w: 1e\+30; 1 row\(s\)"),
    "half precision": (np.full((1, 6), np.inf, np.float16), "row 0, column a: inf"),
    "text": (FRAME.assign(c="red"), "column c: expected numbers"),
    "text array": (np.array([["a"] * 6]), "expected numbers, got text such as 'a'"),
    "complex": (X[:3].astype(complex), "expected numbers, got complex"),
    "width": (X[:3, :4], r"the rows have shape \(3, 4\), expected \[rows, 6\]$"),
    "one row": (X[0], r"the rows have shape \(6,\), expected \[rows, 6\]; give one row as \[row\]"),
    "text that spells numbers": (FRAME.astype(str), r"column a: expected numbers, got text such as '-?\d"),
    "text among objects": (
        FRAME.astype(object).replace({"c": {FRAME.c[1]: "1"}}),
        "column c: expected numbers, got te",
    ),
    "lists of text": ([["1.5"] * 6], "expected numbers, got text such as '1.5'"),
    "complex column": (FRAME.assign(c=1 + 2j), "column c: expected numbers, got complex128"),
    "times": (FRAME.assign(c=pd.Timestamp("2024-01-01")), "column c: expected numbers, got datetime64"),
    "a column twice": (pd.concat([FRAME, FRAME[["c"]]], axis=1), "has column c 2 times"),
    "Series": (FRAME.iloc[0], r"a Series, .*series\.to_frame\(\)\.T for one row"),
    "one row as a dictionary": (FRAME.iloc[0].to_dict(), "column a: expected the values of all rows"),
    "columns of unequal length": ({name: [1.0] * (1 + (name == "c")) for name in NAMES}, "as many values in every col"),
    "dictionaries without a column": ([{"a": 1.0}], "lacks 5 of 6 columns, such as b"),
    "a masked value": (np.ma.masked_equal(np.arange(12.0).reshape(2, 6), 8), "row 1, column c: nan; 1 row"),
    "ragged": ([[1.0, 2.0], [1.0]], "expected numbers in rows of equal length"),
}


@pytest.mark.parametrize("case", BAD)
def test_rows_that_cannot_be_predicted_are_explained(case: str) -> None:
    rows, message = BAD[case]
    with pytest.raises(DataError, match=message):
        rows_of(rows, NAMES, (6,))


def test_ragged_cells_are_named() -> None:
    with pytest.raises(DataError, match=r"row 1, column x: shape \(2,\), row 0 has \(6,\)"):
        rows_of(pd.DataFrame({"x": [[1.0] * 6, [1.0] * 2]}), ["x"], (6,))
