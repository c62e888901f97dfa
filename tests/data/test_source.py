"""Opening rows: every format gives the same values, columns are chosen by name, and bad input is named."""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits

from raydc.core.settings import SettingsError, build
from raydc.data import (
    ArraySource,
    DataError,
    DataSettings,
    Shard,
    Source,
    changes,
    open_source,
    profile_rows,
    read_labels,
    split,
)
from raydc.data.files import open_columns
from raydc.data.source import cut

X = np.arange(60, dtype=np.float32).reshape(10, 6)


def listed(x: np.ndarray = X, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(x.tolist(), kind or pa.list_(pa.float32()))


def open_at(path: Path | str, **settings: object) -> Source:
    return open_source(DataSettings(path=str(path), **settings))  # type: ignore[arg-type]


def values(source: Source) -> np.ndarray:
    parts = [source.read(piece).x for piece in source.pieces]
    return np.concatenate([part.toarray() if sparse.issparse(part) else part for part in parts])


def ids(source: Source) -> np.ndarray:
    return np.concatenate([source.read(piece).ids for piece in source.pieces])


def ray_tensor(x: np.ndarray, shape: bytes, name: bytes = b"ray.data.arrow_tensor_v2") -> pa.Table:
    """A table as Ray Data writes it, without Ray."""
    metadata = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": shape}
    field = pa.field("image", pa.large_list(pa.float32()), metadata=metadata)
    return pa.table([listed(x, pa.large_list(pa.float32()))], schema=pa.schema([field]))


TABLES = {
    "list": pa.table({"x": listed()}),
    "large list": pa.table({"x": listed(kind=pa.large_list(pa.float64()))}),
    "fixed-size list": pa.table({"x": listed(kind=pa.list_(pa.float32(), 6))}),
    "fixed-size list of bytes": pa.table({"x": listed(X.astype(int), pa.list_(pa.uint8(), 6))}),
    "half precision": pa.table({"x": listed(X.astype(np.float16), pa.list_(pa.float16(), 6))}),
    "columns": pa.table({f"f{j}": X[:, j] for j in range(6)}),
    "columns of many types": pa.table(
        {
            f"f{j}": pa.array(X[:, j].astype(int).tolist()).cast(kind)
            for j, kind in enumerate(
                [pa.int8(), pa.uint64(), pa.float64(), pa.decimal128(24, 2), pa.float32(), pa.int64()]
            )
        }
    ),
    "tensor": pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(X.reshape(10, 2, 3))}),
    "Ray tensor": ray_tensor(X, b"[2, 3]"),
}


@pytest.mark.parametrize("row_group_size", [1, 4, 10])
@pytest.mark.parametrize("name", TABLES)
def test_every_column_kind_gives_the_same_rows(name: str, row_group_size: int, tmp_path: Path) -> None:
    pq.write_table(TABLES[name], tmp_path / "rows.parquet", row_group_size=row_group_size)
    source = open_at(tmp_path / "rows.parquet")
    assert source.kind == "table"
    assert source.shape == ((1, 2, 3) if "tensor" in name else (6,))
    assert (source.n_rows, source.n_features) == (10, 6)
    np.testing.assert_array_equal(values(source), X)
    np.testing.assert_array_equal(ids(source), np.arange(10))


@pytest.mark.parametrize("writer", ["npy", "npz", "sparse", "csc", "fortran"])
def test_array_files_give_the_same_rows(writer: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.npy" if writer in ("npy", "fortran") else "x.npz")
    y = np.array(list("aabbccddee"))
    if writer == "npz":
        np.savez(path, X=X, y=y, ids=np.arange(10) + 5)
    elif writer in ("sparse", "csc"):
        sparse.save_npz(path, (sparse.csr_array if writer == "sparse" else sparse.csc_array)(X))
    else:
        np.save(path, np.asfortranarray(X) if writer == "fortran" else X)
    source = open_at(path)
    np.testing.assert_array_equal(values(source), X)
    labels = read_labels(source, profile_rows(source))
    if writer == "npz":
        np.testing.assert_array_equal(ids(source), np.arange(10) + 5)
        assert labels is not None and labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    else:
        assert labels is None


def test_digits_by_name() -> None:
    source = open_at("digits")
    assert (source.n_rows, source.shape) == (1797, (1, 8, 8))
    np.testing.assert_array_equal(values(source), load_digits().data)
    np.testing.assert_array_equal(read_labels(source, profile_rows(source)), load_digits().target)


def test_images_with_channels_last_are_turned() -> None:
    images = np.random.default_rng(0).normal(size=(5, 8, 7, 3))
    source = ArraySource(images)
    assert source.shape == (3, 8, 7)
    np.testing.assert_array_equal(values(source).reshape(5, 3, 8, 7), images.transpose(0, 3, 1, 2))
    assert ArraySource(images.transpose(0, 3, 1, 2)).shape == (3, 8, 7)


def test_permuted_tensors_are_read_in_their_logical_order(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(images.transpose(0, 2, 1))
    assert tensor.type.permutation == [1, 0]
    pq.write_table(pa.table({"x": tensor}), tmp_path / "x.parquet")
    source = open_at(tmp_path / "x.parquet")
    assert source.shape == (1, 6, 4)
    np.testing.assert_array_equal(values(source).reshape(5, 6, 4), images.transpose(0, 2, 1))


def test_lists_are_no_labels_of_arrays() -> None:
    y = np.empty(10, object)
    y[:] = [[row] for row in range(10)]
    with pytest.raises(DataError, match="array: y holds a list, expected one class in each row"):
        ArraySource(X, y)


def test_shape_by_setting(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    assert open_at(tmp_path / "x.npy", shape="2,3").shape == (1, 2, 3)
    assert open_at(tmp_path / "x.npy", shape="1,2,3").shape == (1, 2, 3)
    assert open_at(tmp_path / "x.npy", shape=(6,)).shape == (6,)
    with pytest.raises(DataError, match=r"data\.shape 3,3 holds 9 values, but rows of .* hold 6"):
        open_at(tmp_path / "x.npy", shape="3,3")


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(SettingsError) as caught:
        build(DataSettings, {"path": "x", "shape": "8,zero", "on_bad_row": "ignore", "colums": "a"}, at="data")
    for part in ("data.shape", "data.on_bad_row", "did you mean data.columns?"):
        assert part in str(caught.value)
    with pytest.raises(SettingsError, match="each named once"):
        build(DataSettings, {"path": "x", "columns": "a,a"})


def test_label_and_id_columns_are_not_features(tmp_path: Path) -> None:
    table = {"id": list("abcdefghij"), "customer_id": range(10), "Y": range(10), "a": X[:, 0], "b": X[:, 1]}
    pq.write_table(pa.table({k: pa.array(list(v)) for k, v in table.items()} | {"text": ["t"] * 10}), tmp_path / "t.pq")
    source = open_at(tmp_path / "t.pq")
    assert source.columns == ("a", "b")
    assert ids(source).tolist() == list("abcdefghij")
    notes = "\n".join(source.notes)
    assert "labels: Y" in notes and "ids: customer_id" in notes and "of one value in all rows: text" in notes
    assert open_at(tmp_path / "t.pq", columns="a,Y").columns == ("a", "Y")
    assert ids(open_at(tmp_path / "t.pq", id_column="customer_id")).tolist() == list(range(10))
    assert open_at(tmp_path / "t.pq", label_column="a").columns == ("b",)


def test_pieces_share_a_file_of_one_row_group(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": np.arange(1000.0)}), tmp_path / "a.parquet")
    source = open_at(tmp_path / "a.parquet")
    assert {piece.rows for piece in source.pieces[:-1]} == {63} and len(source.pieces) == 16
    backwards = np.concatenate([source.read(piece).x for piece in reversed(source.pieces)])
    np.testing.assert_array_equal(np.sort(backwards[:, 0]), np.arange(1000))
    np.testing.assert_array_equal(source.read(source.pieces[10]).x[:, 0], np.arange(630, 693))


@pytest.mark.parametrize(
    ("features", "total", "rows"),
    [(1, 10**6, 4096), (4096, 10**6, 4096), (8192, 10**6, 2048), (3 * 224 * 224, 10**6, 111), (2**25, 10**4, 1)],
)
def test_row_groups_hold_so_many_values_at_most(features: int, total: int, rows: int) -> None:
    assert len(split(total, n_features=features)[0]) == rows
    assert {piece.rows for piece in cut([("a", 0, total)], features)[:-1]} == {rows}


def test_pieces_of_wide_rows_in_every_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydc.data.shard.GROUP_VALUES", 18)
    write({"x": listed()})(tmp_path)
    for source in (open_at(tmp_path), ArraySource(X), ArraySource(sparse.csr_array(X))):
        assert [piece.rows for piece in source.pieces] == [3, 3, 3, 1]
        np.testing.assert_array_equal(values(source), X)
    seen: list[int] = []
    Shard.of(torch.from_numpy(X)).map(lambda x: seen.append(len(x)) or x)
    assert seen == [3, 3, 3, 1]


@pytest.mark.parametrize("whole", [0, 2**27])
@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 6)])
def test_many_chunks_of_a_row_group(
    kind: pa.DataType, whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydc.data.table.CHUNK_VALUES", 32 * 6 * 3)
    monkeypatch.setattr("raydc.data.parquet.WHOLE", whole)
    x = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    pq.write_table(pa.table({"x": listed(x, kind)}), tmp_path / "a.parquet", row_group_size=300)
    source = open_at(tmp_path / "a.parquet")
    np.testing.assert_array_equal(values(source), x)
    np.testing.assert_array_equal(source.read(source.pieces[7]).x, x[224:256])


def test_a_directory_is_read_in_order_without_strays(tmp_path: Path) -> None:
    for i in (2, 0, 1):
        pq.write_table(pa.table({"x": [float(i)] * 3}), tmp_path / f"part-{i}.parquet")
    pq.write_table(pa.table({"x": pa.array([], pa.float64())}), tmp_path / "part-3.parquet")
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_tmp.parquet", "notes.csv"):
        (tmp_path / name).write_bytes(b"")
    source = open_at(tmp_path)
    assert values(source)[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert "1 of 4 files hold no rows" in source.notes[-1]
    assert [piece.row for piece in source.pieces] == [0, 0, 0]
    uri = open_at(tmp_path.as_uri())
    np.testing.assert_array_equal(values(uri), values(source))


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    assert open_at("x.npy").settings.path == str(tmp_path / "x.npy")


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    for i in range(3):
        pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / f"{i}.parquet")
    before = open_at(tmp_path)
    assert open_at(tmp_path).fingerprint == before.fingerprint
    pq.write_table(pa.table({"x": [1.0, 3.0]}), tmp_path / "0.parquet")
    (tmp_path / "1.parquet").unlink()
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "9.parquet")
    after = open_at(tmp_path)
    assert after.fingerprint != before.fingerprint
    lines = changes(before.files, after.files).splitlines()
    assert [line.split()[0] for line in lines] == ["removed:", "added:", "changed:"]
    assert lines[0].endswith("1.parquet") and lines[1].endswith("9.parquet") and lines[2].endswith("0.parquet")
    assert ArraySource(X).fingerprint == ArraySource(X.copy()).fingerprint != ArraySource(X + 1).fingerprint


def test_a_file_replaced_after_opening_is_never_mixed_in(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "a.parquet")
    source = open_at(tmp_path)
    pq.write_table(pa.table({"x": [1.0, 5.0]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: has been replaced since it was opened"):
        values(source)


def test_a_flipped_bit_is_found_where_pages_carry_checksums(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": np.arange(1000.0)}), path, write_page_checksum=True, compression="none")
    source = open_at(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    mark = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(mark.st_atime_ns, mark.st_mtime_ns))
    with pytest.raises(DataError, match=r"a\.parquet, row group 0"):
        values(source)


def test_nothing_that_could_carry_code_is_read(tmp_path: Path) -> None:
    pq.write_table(ray_tensor(X, b"\x80\x04cos\nsystem\n"), tmp_path / "old.parquet")
    with pytest.raises(DataError, match="not written as JSON"):
        open_at(tmp_path / "old.parquet")
    pq.write_table(ray_tensor(X, b"[6]", b"arrow.py_extension_type"), tmp_path / "py.parquet")
    with pytest.raises(DataError, match=r"arrow\.py_extension_type, which is not read because its metadata may carry"):
        open_at(tmp_path / "py.parquet")
    np.savez(tmp_path / "o.npz", X=np.array([{}, {}], dtype=object))
    with pytest.raises(DataError, match="cannot be read as a NumPy file"):
        open_at(tmp_path / "o.npz")


@pytest.mark.slow
def test_ray_tensors_are_read_where_ray_is_loaded(tmp_path: Path) -> None:
    from ray.data.extensions import ArrowTensorArray

    column = ArrowTensorArray.from_numpy(X.reshape(10, 2, 3))
    pq.write_table(pa.table({"image": column}), tmp_path / "x.parquet")
    source = open_at(tmp_path / "x.parquet")
    assert source.shape == (1, 2, 3)
    np.testing.assert_array_equal(values(source), X)


def write(table: dict[str, object], name: str = "a.parquet"):  # type: ignore[no-untyped-def]
    return lambda folder: pq.write_table(pa.table(table), folder / name)


def both(*writers):  # type: ignore[no-untyped-def]
    return lambda folder: [writer(folder) for writer in writers]


def raw(name: str, data: bytes):  # type: ignore[no-untyped-def]
    return lambda folder: (folder / name).write_bytes(data)


def array(name: str, **arrays: np.ndarray):  # type: ignore[no-untyped-def]
    def save(folder: Path) -> None:
        np.savez(folder / name, **arrays) if name.endswith("z") else np.save(folder / name, arrays["X"])

    return save


BAD = {
    "missing": (lambda folder: None, {"path": "none.parquet"}, "nothing at .*none.parquet; expected a file"),
    "unknown scheme": (lambda folder: None, {"path": "nowhere://x"}, "cannot reach nowhere://x"),
    "empty folder": (lambda folder: None, {}, "no files of rows .* but nothing"),
    "other files": (raw("rows.txt", b"a,b"), {}, r"no files of rows .* such as .*rows\.txt"),
    "0 bytes": (raw("a.parquet", b""), {}, r"a\.parquet: 0 bytes, so not a Parquet file"),
    "not Parquet": (raw("a.parquet", b"x" * 100), {}, r"a\.parquet: cannot be decoded"),
    "no rows": (write({"x": pa.array([], pa.float64())}), {}, "no rows in 1 file"),
    "bytes named": (
        write({"x": [1.0], "t": [b"a"]}),
        {"columns": "x,t"},
        "columns: t in .* is binary; features must be",
    ),
    "unknown column": (write({"width": [1.0]}), {"columns": "widht"}, "no column widht; did you mean width"),
    "unknown label": (write({"x": [1.0]}), {"label_column": "q"}, "data.label_column: .* no column q; its columns: x"),
    "only labels": (write({"y": [1.0]}), {}, "no column to cluster; .* Columns: y .double"),
    "only text": (write({"t": ["a"]}), {}, "no column to cluster; .* t: of one value in all rows"),
    "label as feature": (write({"y": [1.0]}), {"columns": "y", "label_column": "y"}, "y is data.label_column too"),
    "two lists": (write({"a": [[1.0]], "b": [[1.0]]}), {}, "a, b each hold a list per row; choose one"),
    "list and number": (write({"a": [[1.0]], "b": [1.0]}), {"columns": "a,b"}, "a holds a list in each row, so it"),
    "list of text": (write({"a": [["p"]]}), {"columns": "a"}, "a in .* is list<.*string>; features must be numbers"),
    "float ids": (write({"x": [1.0], "k": [0.5]}), {"id_column": "k"}, "column k is double; ids are integers or text"),
    "lists for labels": (
        write({"x": [1.0], "c": [[1]]}),
        {"label_column": "c", "columns": "x"},
        "data.label_column: c in .* is list<.*int64>, expected one class in each row",
    ),
    "structs for labels": (write({"x": [1.0], "c": [{"a": 1}]}), {"label_column": "c"}, "label_column: c in .* struct"),
    "x and y": (write({"x": [1.0], "y": [2.0]}), {}, "y may be a coordinate beside x or the rows' class; name"),
    "lists of any length": (
        write({"x": [[1.0] * (row % 5 + 1) for row in range(100)]}),
        {"on_bad_row": "drop"},
        "x holds lists of 5 lengths, and the most frequent, 1, is that of 20 of 100 rows; write rows of one length",
    ),
    "empty lists": (write({"x": [[], []]} | {"x": pa.array([[], []], pa.list_(pa.float32()))}), {}, "holds no values"),
    "renamed column": (
        both(write({"x": [1.0]}), write({"z": [1.0]}, "b.parquet")),
        {},
        r"differ from those of .*a\.parquet in 1 file\(s\):\n.*b\.parquet: no x, z besides",
    ),
    "other type": (
        both(write({"x": [1.0]}), write({"x": ["a"]}, "b.parquet")),
        {},
        r"b\.parquet: x is string, not double",
    ),
    "other length": (
        both(
            write({"x": pa.array([[1.0]], pa.list_(pa.float32(), 1))}),
            write({"x": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))}, "b.parquet"),
        ),
        {},
        r"b\.parquet: x is fixed_size_list<.*>\[2\], not fixed_size_list<.*>\[1\]",
    ),
    "not an array file": (raw("a.npy", b"x" * 100), {"path": "a.npy"}, r"a\.npy: cannot be read as a NumPy file"),
    "npz without X": (array("a.npz", Z=X), {"path": "a.npz"}, r"a\.npz: has no array X; its arrays: Z"),
    "text array": (array("a.npy", X=np.array([["a"]])), {"path": "a.npy"}, "X holds <U1, expected numbers"),
    "complex array": (array("a.npy", X=X.astype(complex)), {"path": "a.npy"}, "X holds complex128, expected numbers"),
    "flat array": (array("a.npy", X=X[0]), {"path": "a.npy"}, r"X has shape \(6,\), expected rows x features"),
    "no array rows": (array("a.npy", X=X[:0]), {"path": "a.npy"}, r"X has shape \(0, 6\), so there is nothing"),
    "deep array": (array("a.npy", X=X.reshape(10, 1, 1, 2, 3)), {"path": "a.npy"}, r"rows have shape \(1, 1, 2, 3\)"),
    "short labels": (
        array("a.npz", X=X, y=X[0]),
        {"path": "a.npz"},
        r"y has shape \(6,\), expected one value for each",
    ),
    "named array columns": (array("a.npy", X=X), {"path": "a.npy", "columns": "a"}, "features have no names"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_opened_is_explained(case: str, tmp_path: Path) -> None:
    prepare, settings, message = BAD[case]
    prepare(tmp_path)
    path = str(settings.get("path", ""))
    place = path if "://" in path else tmp_path / path
    with pytest.raises(DataError, match=message):
        open_at(place, **{name: value for name, value in settings.items() if name != "path"})


def test_coordinates_and_classes_are_told_apart_by_settings(tmp_path: Path) -> None:
    write({"x": [1.0, 2.0], "y": [3.0, 4.0]})(tmp_path)
    assert open_at(tmp_path, columns="x,y").columns == ("x", "y")
    assert open_at(tmp_path, label_column="y").columns == ("x",)


@pytest.mark.parametrize("groups", [1, 10])
@pytest.mark.parametrize("first", [None, [1.0], []])
def test_the_first_lists_do_not_decide_the_length(first: list[float] | None, groups: int, tmp_path: Path) -> None:
    rows = pa.array([first] * 70 + X[:6].tolist() * 100, pa.list_(pa.float32()))
    pq.write_table(pa.table({"x": rows}), tmp_path / "a.parquet", row_group_size=-(-len(rows) // groups))
    source = open_at(tmp_path, on_bad_row="drop")
    assert source.n_features == 6 and profile_rows(source).dropped_rows.tolist() == list(range(70))


def test_a_null_in_a_file_whose_columns_come_in_another_order(tmp_path: Path) -> None:
    whole, gap = [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0], None]
    kind = pa.list_(pa.float32(), 2)
    write({"x": pa.array(whole, kind), "id": [0, 1]})(tmp_path)
    write({"id": [2, 3], "x": pa.array(gap, kind)}, "b.parquet")(tmp_path)
    source = open_at(tmp_path, on_bad_row="drop")
    assert profile_rows(source).dropped_rows.tolist() == [3] and ids(source)[:3].tolist() == [0, 1, 2]


def test_dictionaries_in_one_file_and_plain_values_in_another(tmp_path: Path) -> None:
    texts = pa.array(["b", "a"])
    write({"id": texts, "x": [1.0, 2.0], "c": texts.dictionary_encode()})(tmp_path)
    write({"id": texts.dictionary_encode(), "x": [1.0, 2.0], "c": texts}, "b.parquet")(tmp_path)
    source = open_at(tmp_path, label_column="c")
    labels = read_labels(source, profile_rows(source))
    assert labels is not None and labels.tolist() == [1, 0, 1, 0] and ids(source).tolist() == ["b", "a", "b", "a"]


def test_only_features_have_to_agree(tmp_path: Path) -> None:
    both(write({"x": [1.0], "z": [1.0]}), write({"x": [2.0]}, "b.parquet"))(tmp_path)
    with pytest.raises(DataError, match="no z"):
        open_at(tmp_path)
    assert values(open_at(tmp_path, columns="x"))[:, 0].tolist() == [1, 2]


def test_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"x": [1.0]})(tmp_path)

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("raydc.data.open.open_columns", refuse)
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read: .*Permission denied"):
        open_at(tmp_path)


def test_hesitating_storage_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"x": [1.0]})(tmp_path)
    calls = []

    def hesitate(*args: object) -> object:
        calls.append(args)
        if len(calls) < 3:
            raise OSError("connection reset")
        return open_columns(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("raydc.data.open.open_columns", hesitate)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert values(open_at(tmp_path)).tolist() == [[1.0]]


def test_an_archive_is_refused_by_size_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, header = tmp_path / "a.npz", io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 1000)}
    np.lib.format.write_array_header_1_0(header, about)  # type: ignore[no-untyped-call]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("X.npy", header.getvalue() + bytes(1000))
    with pytest.raises(DataError, match=r"X\.npy says that it has shape \(1000000000, 1000\) of float32, and holds 1,"):
        open_at(path)
    np.savez_compressed(path, X=np.zeros((1000, 1000)))
    monkeypatch.setattr("raydc.data.arrays.free_memory", lambda: 5e6)
    with pytest.raises(
        DataError, match=r"a\.npz: 0\.0 GB unpacked, and 0\.0 GB of memory are free; write X with np\.save"
    ):
        open_at(path)
