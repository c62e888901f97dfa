"""The rows that were meant: which columns are features, which files are rows, and which row an id belongs to."""

import datetime
import decimal
import os
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raydc.core.settings import build
from raydc.data import DataError, DataSettings, Source, open_source, profile_rows, read_labels
from raydc.data.columns import is_key
from raydc.data.kinds import numpy_type, unified
from raydc.data.sketch import KEPT, Ids

N = 120
X = np.random.default_rng(0).normal(size=(N, 3))
BASE = {f"f{i}": X[:, i] for i in range(3)}


def put(path: Path, columns: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def at(path: Path, **options: Any) -> Source:
    return open_source(build(DataSettings, {"path": str(path), **options}, at="data"))


def ids(source: Source) -> list[Any]:
    return np.concatenate([source.read(piece).ids for piece in source.pieces]).tolist()


def rows(source: Source) -> np.ndarray:
    return np.concatenate([source.read(piece).x for piece in source.pieces])


@pytest.mark.parametrize("index", [["customer"], ["store", "week"], [None]])
def test_the_index_that_pandas_stored_is_no_feature(tmp_path: Path, index: list[str | None]) -> None:
    frame, path = pd.DataFrame(BASE), tmp_path / "a.parquet"
    places = [np.random.default_rng(i).permutation(N) / 7 for i, _ in enumerate(index)]  # floats, so no key by values
    frame.index = (
        pd.MultiIndex.from_arrays(places, names=index) if len(index) > 1 else pd.Index(places[0], name=index[0])
    )
    frame.to_parquet(path)
    source = at(path)
    names = [name or "__index_level_0__" for name in index]
    assert source.columns == ("f0", "f1", "f2")
    assert f"left out, pandas' index: {', '.join(names)}" in source.notes[0]
    assert at(path, columns=f"f0,{names[0]}").columns == ("f0", names[0])


@pytest.mark.parametrize(
    "name",
    ["Unnamed: 0", "customer_id", "uid", "rowid", "row_number", "userId", "level_0", "session_uuid", "order_key"],
)
def test_columns_that_identify_by_name_are_no_features(tmp_path: Path, name: str) -> None:
    source = at(put(tmp_path / "a.parquet", {**BASE, name: np.arange(N) % 7}))
    assert source.columns == ("f0", "f1", "f2") and f"left out as ids: {name}" in source.notes[0]


@pytest.mark.parametrize("name", ["grid", "humid", "row", "width", "rapid", "valid"])
def test_names_that_end_alike_are_features(tmp_path: Path, name: str) -> None:
    assert at(put(tmp_path / "a.parquet", {**BASE, name: np.arange(N) % 7})).columns == ("f0", "f1", "f2", name)


RNG = np.random.default_rng(3)
KEYS = {
    "numbers": np.arange(5000),
    "backwards": np.arange(5000)[::-1],
    "shuffled": RNG.permutation(5000),
    "with a stride": RNG.permutation(5000) * 7919 + 13,
    "with gaps": np.cumsum(RNG.integers(1, 50, 5000)),
    "hashed": RNG.integers(-(2**62), 2**62, 5000),
    "few": RNG.permutation(N) * 7919 + 13,
}
VALUES = {
    "ages": RNG.integers(18, 90, 5000),
    "amounts": np.exp(RNG.normal(10, 1, 5000)).astype(int),
    "distinct amounts": np.unique(np.exp(RNG.normal(10, 1, 200)).astype(int))[np.argsort(RNG.random(150))],
    "distinct counts": RNG.permutation(np.unique(RNG.normal(1e6, 1e5, 300).astype(int))),
    "bytes": RNG.integers(0, 256, 5000),
    "very few": np.arange(20),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_column_of_integers_that_all_differ_is_a_key(tmp_path: Path, name: str) -> None:
    key = KEYS[name]
    assert is_key(key, len(key))
    floats = np.random.default_rng(0).normal(size=len(key))
    source = at(put(tmp_path / "a.parquet", {"f0": floats, "number": key}))
    assert source.columns == ("f0",) and "another integer in each row, as keys have: number" in source.notes[0]
    assert at(tmp_path / "a.parquet", columns="f0,number").columns == ("f0", "number")
    assert at(put(tmp_path / "b.parquet", {"f0": floats, "number": key * 1.0})).columns == ("f0", "number")
    assert at(put(tmp_path / "c.parquet", {"number": key})).columns == ("number",)


@pytest.mark.parametrize("name", VALUES)
def test_counts_and_amounts_are_features(tmp_path: Path, name: str) -> None:
    values = VALUES[name]
    columns = {"f0": np.random.default_rng(0).normal(size=len(values)), "number": values}
    assert at(put(tmp_path / "a.parquet", columns)).columns == ("f0", "number")


def test_a_key_is_found_by_a_few_rows_of_many_row_groups(tmp_path: Path) -> None:
    columns = {"f0": np.zeros(10_000), "number": np.random.default_rng(0).permutation(10_000)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=500)
    assert at(tmp_path / "a.parquet").columns == ("f0",)


LIST = X.astype(np.float32).tolist()
ALIKE: dict[str, tuple[pa.Array, pa.Array]] = {
    "int and double": (pa.array(range(N)), pa.array(np.arange(N) * 1.0)),
    "float and double": (pa.array(X[:, 0], pa.float32()), pa.array(X[:, 0])),
    "small and large integers": (pa.array([1] * N, pa.int8()), pa.array(X[:, 0].astype(int), pa.int64())),
    "decimal and double": (pa.array([decimal.Decimal("1.5")] * N), pa.array(X[:, 0])),
    "truth and integer": (pa.array([True] * N), pa.array([1] * N)),
    "list and fixed list": (pa.array(LIST, pa.list_(pa.float32())), pa.array(LIST, pa.list_(pa.float32(), 3))),
    "list and large list": (pa.array(LIST, pa.list_(pa.float64())), pa.array(LIST, pa.large_list(pa.float32()))),
    "list and tensor": (
        pa.array(LIST, pa.list_(pa.float32())),
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.float32(), [3]), pa.array(LIST, pa.list_(pa.float32(), 3))
        ),
    ),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", ALIKE)
def test_files_whose_types_differ_in_width_are_one_set(tmp_path: Path, name: str, turned: bool) -> None:
    parts = ALIKE[name][::-1] if turned else ALIKE[name]
    for file, part in zip("ab", parts, strict=True):
        put(tmp_path / f"{file}.parquet", {"x": part})
    source = at(tmp_path)
    each = [rows(at(tmp_path / f"{file}.parquet", columns="x")) for file in "ab"]
    np.testing.assert_array_equal(rows(source), np.concatenate(each))
    assert source.n_rows == 2 * N and {source.read(piece).x.dtype for piece in source.pieces} == {source.dtype}


def test_files_that_differ_in_what_is_no_feature_are_one_set(tmp_path: Path) -> None:
    frame = pd.DataFrame(BASE)
    frame[:60].to_parquet(tmp_path / "a.parquet")
    frame[60:].sample(frac=0.5, random_state=1).to_parquet(tmp_path / "b.parquet")  # __index_level_0__
    put(tmp_path / "c.parquet", {**BASE, "note": ["x"] * N, "y": np.arange(N) % 3, "id": np.arange(N)})
    put(tmp_path / "d.parquet", {**BASE, "note": pa.nulls(N), "y": ["one"] * N})
    source = at(tmp_path)
    assert source.columns == ("f0", "f1", "f2") and source.n_rows == 90 + 2 * N and source.identified is None
    with pytest.raises(DataError, match=r"c\.parquet: id besides"):
        at(tmp_path, id_column="id")


NUMBERS = [pa.int8(), pa.uint16(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_(), pa.null()]


@given(st.lists(st.sampled_from(NUMBERS), min_size=1, max_size=5))
def test_the_type_of_all_files_holds_the_numbers_of_each(kinds: list[pa.DataType]) -> None:
    whole = unified(pa.schema([pa.field("x", kind)]) for kind in kinds).field("x").type
    for kind in kinds:
        assert pa.types.is_null(kind) or numpy_type([whole, kind]) == numpy_type([whole])


TIMES = [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=i) for i in range(N)]
UUIDS = [uuid.UUID(int=i) for i in range(N)]
IDS: dict[str, tuple[pa.Array, list[Any]]] = {
    "NUL": (pa.array([f"a\0{i}" for i in range(N)]), [f"a\0{i}" for i in range(N)]),
    "NUL at the end": (pa.array(["a" + "\0" * i for i in range(N)]), ["a" + "\0" * i for i in range(N)]),
    "uuid": (
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([each.bytes for each in UUIDS], pa.binary(16))),
        [*map(str, UUIDS)],
    ),
    "bytes": (pa.array([bytes([i, 0, 255]) for i in range(N)]), [f"{i:02x}00ff" for i in range(N)]),
    "time": (pa.array(TIMES), [f"{time:%Y-%m-%d %H:%M:%S}.000000" for time in TIMES]),
    "zoned time": (pa.array(TIMES, pa.timestamp("s", "UTC")), [f"{time:%Y-%m-%d %H:%M:%S}.000Z" for time in TIMES]),
    "date": (pa.array([time.date() for time in TIMES], pa.date32()), [f"{time:%Y-%m-%d}" for time in TIMES]),
    "decimal": (
        pa.array([decimal.Decimal(i) / 4 for i in range(N)], pa.decimal128(9, 2)),
        [f"{i / 4:.2f}" for i in range(N)],
    ),
    "large text": (pa.array([f"k{i}" for i in range(N)], pa.large_string()), [f"k{i}" for i in range(N)]),
    "dictionary": (pa.array([f"k{i % 9}" for i in range(N)]).dictionary_encode(), [f"k{i % 9}" for i in range(N)]),
    "unsigned": (pa.array([2**63 + i for i in range(N)], pa.uint64()), [2**63 + i for i in range(N)]),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_of_any_kind_are_kept_whole(tmp_path: Path, name: str) -> None:
    column, expected = IDS[name]
    source = at(put(tmp_path / "a.parquet", {**BASE, "id": column}))
    assert ids(source) == expected
    assert source.columns == ("f0", "f1", "f2") and source.identified == "id"


def test_ids_whose_width_differs_between_files(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", {**BASE, "id": pa.array(range(N), pa.int16())})
    put(tmp_path / "b.parquet", {**BASE, "id": pa.array(range(N, 2 * N), pa.int64())})
    assert ids(at(tmp_path)) == [*range(2 * N)]
    put(tmp_path / "c.parquet", {**BASE, "id": pa.array([2**64 - 1 - i for i in range(N)], pa.uint64())})
    assert ids(at(tmp_path)) == [*map(str, range(2 * N)), *(str(2**64 - 1 - i) for i in range(N))]


def test_repeated_ids_are_remarked(tmp_path: Path) -> None:
    found = profile_rows(at(put(tmp_path / "a.parquet", {**BASE, "id": [f"s{i % 100}" for i in range(N)]})))
    assert any("ids repeat: 20 of 100 ids name several rows" in note for note in found.notes)
    found = profile_rows(at(put(tmp_path / "b.parquet", {**BASE, "id": np.arange(N)})))
    assert not any("repeat" in note for note in found.notes)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=200), st.integers(1, 7))
def test_a_sketch_of_ids_counts_those_it_holds(values: list[int], parts: int) -> None:
    whole = Ids.of(np.array(values, np.int64))
    joined = Ids.of(np.zeros(0, np.int64))
    for at_ in reversed(range(parts)):
        joined = joined.merged(Ids.of(np.array(values[at_::parts], np.int64)))
    np.testing.assert_array_equal(whole.hashes, joined.hashes)
    np.testing.assert_array_equal(whole.counts, joined.counts)
    assert whole.repeated == sum(values.count(value) > 1 for value in set(values))


def test_a_sketch_of_many_ids_is_of_fixed_size() -> None:
    whole = Ids.of(np.arange(4 * KEPT)).merged(Ids.of(np.arange(4 * KEPT, 5 * KEPT)))
    assert len(whole.hashes) == KEPT and whole.repeated == 0
    assert whole.merged(Ids.of(np.arange(5 * KEPT))).repeated == KEPT


LOGS = {"_delta_log": "a Delta table", ".hoodie": "a Hudi table", "_spark_metadata": "the output of a Spark stream"}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("below", ["", "tables/one/"])
def test_a_table_with_a_log_is_refused(tmp_path: Path, log: str, below: str) -> None:
    part = put(tmp_path / f"{below}part.parquet", BASE)
    (part.parent / log).mkdir()
    with pytest.raises(DataError, match=f"is {LOGS[log]}, whose log .*write the rows that count as plain Parquet"):
        at(tmp_path)
    put(part.parent / "region=1" / "part.parquet", BASE)
    with pytest.raises(DataError, match=f"is {LOGS[log]}"):
        at(part.parent / "region=1")
    assert at(part).n_rows == N


def test_an_iceberg_table_is_refused(tmp_path: Path) -> None:
    part = put(tmp_path / "data" / "part.parquet", BASE)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "v1.metadata.json").write_text("{}")
    for path in (tmp_path, tmp_path / "data"):
        with pytest.raises(DataError, match="is an Iceberg table"):
            at(path)
    assert at(part).n_rows == N


def test_each_file_is_read_once_whatever_leads_to_it(tmp_path: Path) -> None:
    put(tmp_path / "rows" / "b" / "a.parquet", BASE)
    for link in ("latest", "again", "b/up"):
        (tmp_path / "rows" / link).symlink_to(tmp_path / "rows", target_is_directory=True)
    (tmp_path / "rows" / "a.parquet").symlink_to("b/a.parquet")
    os.link(tmp_path / "rows" / "b" / "a.parquet", tmp_path / "rows" / "c.parquet")
    put(tmp_path / "elsewhere" / "z.parquet", BASE)
    (tmp_path / "rows" / "more").symlink_to("../elsewhere")
    source = at(tmp_path / "rows")
    assert source.n_rows == 2 * N and len(source.files) == 2
    assert "read once" in source.notes[0] and "5 paths in all" in source.notes[0]
    (tmp_path / "rows" / "gone.parquet").symlink_to("nowhere.parquet")
    with pytest.raises(DataError, match=r"gone\.parquet: is a link to .*nowhere\.parquet, where nothing is"):
        at(tmp_path / "rows")


def test_a_folder_called_digits_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_source(DataSettings(path="digits")).notes == ()
    put(tmp_path / "digits" / "a.parquet", BASE)
    assert "is spelled ./digits" in open_source(DataSettings(path="digits")).notes[0]
    assert open_source(DataSettings(path="./digits")).n_rows == N


def test_names_of_folders_can_be_classes_ids_or_features(tmp_path: Path) -> None:
    for region, year, place in (("r 0", 2000, "a/b"), ("r1", 2001, "c"), (None, 2002, "ü")):
        folder = f"region={'__HIVE_DEFAULT_PARTITION__' if region is None else region.replace(' ', '%20')}"
        put(tmp_path / folder / f"year={year}" / f"place={place.replace('/', '%2F')}" / "a.parquet", BASE)
    source = at(tmp_path)
    assert source.columns == ("f0", "f1", "f2") and "names of folders: region, year, place" in source.notes[0]
    source = at(tmp_path, label_column="region", id_column="place", columns="f0,year")
    places = [path.split("place=")[1].split("/")[0].replace("%2F", "/") for path in source.files]
    assert ids(source) == [place for place in places for _ in range(N)]
    np.testing.assert_array_equal(rows(source)[:, 0], np.tile(X[:, 0], 3))
    assert sorted(set(rows(source)[:, 1])) == [2000, 2001, 2002]
    labels = read_labels(source, profile_rows(source))
    assert labels is not None and np.bincount(labels + 1).tolist() == [N, N, N]
    assert np.unique(rows(at(tmp_path, columns="year"))).tolist() == [2000, 2001, 2002]
    with pytest.raises(DataError, match="column region: null"):
        profile_rows(at(tmp_path, id_column="region"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("rows.txt", "pandas.read_csv"), ("rows.json", "lines=True"), ("rows.pt", "torch.load"),
        ("rows.pkl", "never opened"), ("rows.joblib", "never opened"), ("rows.xlsx", "read_excel"),
        ("rows", "write the rows as such"), ("rows.dat", "write the rows as such"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("folder", [False, True])
def test_other_files_are_told_what_is_read(tmp_path: Path, name: str, told: str, folder: bool) -> None:
    (tmp_path / name).write_bytes(b"a,b\n1,2\n" * 10)
    with pytest.raises(DataError, match="raydc reads Parquet") as caught:
        at(tmp_path if folder else tmp_path / name)
    assert told in str(caught.value) and "remove" not in str(caught.value)


def test_a_parquet_file_of_any_name_is_read(tmp_path: Path) -> None:
    put(tmp_path / "rows.dat", BASE)
    assert at(tmp_path / "rows.dat").n_rows == N


def test_other_files_beside_rows_are_noted(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", BASE)
    (tmp_path / "more.csv").write_text("a")
    (tmp_path / "_SUCCESS").write_text("")
    assert "1 file, such as" in at(tmp_path).notes[0] and "more.csv" in at(tmp_path).notes[0]


def test_the_one_array_without_a_name_is_the_rows(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X)
    source = at(tmp_path / "a.npz")
    np.testing.assert_array_equal(rows(source), X)
    assert "rows are arr_0" in source.notes[0]
    np.savez(tmp_path / "b.npz", X, X[:, 0])
    with pytest.raises(DataError, match=r"arr_0, arr_1; write numpy\.savez"):
        at(tmp_path / "b.npz")


def test_a_name_with_a_comma_is_given_in_quotes(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", {"a,b": X[:, 0], 'say "c"': X[:, 1], "d": X[:, 2]})
    assert at(tmp_path, columns='"a,b", "say ""c""",d').columns == ("a,b", 'say "c"', "d")
    assert at(tmp_path, columns=["a,b", "d"]).columns == ("a,b", "d")


def test_a_column_without_values_is_named_with_its_file(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", BASE)
    put(tmp_path / "b.parquet", {**BASE, "f1": pa.nulls(N, pa.float64())})
    with pytest.raises(
        DataError, match=r"b\.parquet: no usable value in any of its 120 rows: f1; to leave a column out"
    ):
        profile_rows(at(tmp_path))
    with pytest.raises(DataError, match=r"all 120 were dropped(.|\n)*b\.parquet: no usable value in any .*: f1"):
        profile_rows(at(tmp_path / "b.parquet", on_bad_row="drop"))
    put(tmp_path / "c.parquet", {**BASE, "id": pa.nulls(N, pa.string())})
    with pytest.raises(DataError, match=r"c\.parquet: no usable value in any of its 120 rows: id;"):
        profile_rows(at(tmp_path / "c.parquet"))


def test_weights_that_count_for_nothing_are_named(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", {**BASE, "w": np.zeros(N), "v": np.full(N, 1e-50), "u": [1.0, *[1e-50] * (N - 1)]})
    with pytest.raises(DataError, match=r"a\.parquet, column w: every weight is 0"):
        profile_rows(at(tmp_path / "a.parquet", weight_column="w"))
    with pytest.raises(DataError, match=r"a\.parquet, column v: weights underflow: the largest is 1e-50"):
        profile_rows(at(tmp_path / "a.parquet", weight_column="v"))
    assert profile_rows(at(tmp_path / "a.parquet", weight_column="u")).rows == N


def test_positions_in_the_data_and_places_among_the_rows_used(tmp_path: Path) -> None:
    x = X.copy()
    gone = [0, 1, 5, 50, 119]
    x[gone, 1] = np.nan
    found = profile_rows(at(put(tmp_path / "a.parquet", {"x": x.tolist()}), on_bad_row="drop"))
    kept = np.setdiff1d(np.arange(N), gone)
    np.testing.assert_array_equal(found.positions(np.arange(found.rows)), kept)
    np.testing.assert_array_equal(found.places(kept), np.arange(found.rows))


def test_a_copy_is_the_same_rows_and_other_values_are_not(tmp_path: Path) -> None:
    first = profile_rows(at(put(tmp_path / "a" / "a.parquet", BASE)))
    put(tmp_path / "b" / "other name.parquet", BASE)
    os.utime(tmp_path / "b" / "other name.parquet", (1, 1))
    assert profile_rows(at(tmp_path / "b")).identity == first.identity
    pq.write_table(
        pa.table(BASE), tmp_path / "plain.parquet", write_statistics=False, use_dictionary=False, compression="none"
    )
    before = at(tmp_path / "plain.parquet")
    data = bytearray((tmp_path / "plain.parquet").read_bytes())
    place = data.find(np.float64(X[7, 1]).tobytes())
    data[place : place + 8] = np.float64(X[7, 1] + 1).tobytes()  # the footer stays as it is
    (tmp_path / "plain.parquet").write_bytes(data)
    after = at(tmp_path / "plain.parquet")
    assert before.fingerprint == after.fingerprint and rows(after)[7, 1] == X[7, 1] + 1
    put(tmp_path / "c.parquet", BASE)
    pq.write_table(
        pa.table(BASE), tmp_path / "d.parquet", write_statistics=False, use_dictionary=False, compression="none"
    )
    assert profile_rows(after).identity != profile_rows(at(tmp_path / "d.parquet")).identity


def test_read_only_rows_are_taken_without_a_warning() -> None:
    from raydc.data import rows_of

    x = X.astype(np.float32)
    x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rows_of(x, (), (3,)).shape == (N, 3)
