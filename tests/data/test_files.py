"""Files of rows in other formats than Parquet give the same rows, and what is wrong with them is said by place."""

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.orc
import pytest

from raydc.data import DataError, DataSettings, Source, open_source, opened, profile_rows, read_labels

N = 700
RNG = np.random.default_rng(0)
FRAME = pd.DataFrame(
    {
        "width": RNG.normal(size=N).round(3),
        "height": RNG.integers(-9, 9, N),
        "note": [f'he said "{i}",\nthen left' for i in range(N)],
        "kind": np.array(["a", "b;c", "é"])[RNG.integers(3, size=N)],
    }
)
FEATURES = FRAME[["width", "height"]].to_numpy(np.float64)


def _json(frame: pd.DataFrame) -> bytes:
    return frame.to_json(orient="records", lines=True).encode()


def _arrow(frame: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=99)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "a.csv": lambda frame, path: frame.to_csv(path, index=False),
    "b.csv": lambda frame, path: frame.to_csv(path, index=False, sep=";", encoding="utf-8-sig"),
    "a.tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "a.csv.gz": lambda frame, path: frame.to_csv(path, index=False),
    "a.csv.bz2": lambda frame, path: path.write_bytes(bz2.compress(frame.to_csv(index=False).encode())),
    "a.jsonl": lambda frame, path: path.write_bytes(_json(frame)),
    "a.ndjson.gz": lambda frame, path: path.write_bytes(gzip.compress(_json(frame))),
    "a.feather": lambda frame, path: pyarrow.feather.write_feather(frame, str(path)),
    "a.arrow": _arrow,
    "a.orc": lambda frame, path: pyarrow.orc.write_table(pa.Table.from_pandas(frame), str(path)),
}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydc.data.delimited.STRETCH", 5000)


def at(path: Path, **settings: object) -> Source:
    return open_source(DataSettings(path=str(path), columns=("width", "height"), **settings))  # type: ignore[arg-type]


def rows(source: Source) -> np.ndarray:
    return np.concatenate([source.read(piece).x for piece in source.pieces])


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITERS[name](FRAME, tmp_path / name)
    for path in (tmp_path, tmp_path / name):
        source = at(path, label_column="kind")
        np.testing.assert_array_equal(rows(source), FEATURES)
        labels = read_labels(source, profile_rows(source))
        assert labels is not None
        np.testing.assert_array_equal(labels, np.unique(FRAME["kind"], return_inverse=True)[1])
    apart = opened(source.settings, source.fingerprint)
    for piece in [*source.pieces[::-3], source.pieces[0]]:
        np.testing.assert_array_equal(apart.read(piece).x, FEATURES[piece.start : piece.start + piece.rows])


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.arrow", "a.orc"])
def test_a_file_that_is_replaced_or_cut_is_noticed(name: str, tmp_path: Path) -> None:
    WRITERS[name](FRAME, tmp_path / name)
    before = at(tmp_path / name)
    assert at(tmp_path / name).fingerprint == before.fingerprint
    WRITERS[name](FRAME.iloc[:-1], tmp_path / name)
    assert at(tmp_path / name).fingerprint != before.fingerprint
    with pytest.raises(DataError, match="start again"):
        before.read(before.pieces[0])
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-10])
    with pytest.raises(DataError, match=r"cannot be|row 69\d: [3J]"):
        at(tmp_path / name)


BAD = {
    "latin.csv": ("width,height\n1,2\n3,4é\n".encode("latin-1"), {}, r"byte 20 is not UTF-8, after '3,4'"),
    "windows.csv": ("width,height\n1,2\n".encode("utf-16"), {}, "is UTF-16; write it again as UTF-8: iconv -f UTF-16"),
    "ragged.csv": (b"width,height\n1,2\n3,4\n5,6,7\n", {}, r"row 2: 3 cells where 2 are expected \('5,6,7'\)"),
    "numbers.csv": (b"1,2\n3,4\n", {}, r"first line holds numbers \(1,2\), where names"),
    "twice.csv": (b"width,height,width\n1,2,3\n", {}, "several columns are called width"),
    "open.csv": (b'width,height\n1,"2\n' + b"3,4\n" * 20000, {}, "no row ends within 9,999 bytes"),
    "empty.csv": (b"", {}, "no rows in 1 file"),
    "names.csv": (b"width,height\n", {}, "no rows in 1 file"),
    "array.jsonl": (b'[{"width": 1, "height": 2}]', {}, "is one JSON array, where an object a line"),
    "cut.jsonl": (b'{"width": 1, "height": 2}\n{"width": 1, "hei', {}, "row 1: JSON parse error"),
    "mixed.jsonl": (b'{"width": 1, "height": 2}\n{"width": "a"}\n', {}, "row 1: .*changed from number to string"),
    "stream.arrow": (b"\xff\xff\xff\xff" * 20, {}, "is not of Arrow's file format"),
    "not.orc": (b"x" * 100, {}, r"not\.orc: cannot be"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_by_place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydc.data.delimited.LONGEST", 9_999)
    data, options, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        at(tmp_path / name, **options)


def test_types_are_those_of_all_stretches(tmp_path: Path) -> None:
    numbers = "".join(f"{i},{i}\n" for i in range(2000))
    (tmp_path / "a.csv").write_text(f"width,height\n{numbers}0.5,\n")
    source = at(tmp_path / "a.csv", on_bad_row="drop")
    assert rows(source)[-1, 0] == 0.5 and np.isnan(rows(source)[-1, 1])
    (tmp_path / "b.csv").write_text(f"width,height\n{numbers}?,?\n")
    assert at(tmp_path / "b.csv").encoding is not None
    source = at(tmp_path / "b.csv", null_values=("?",), on_bad_row="drop")
    assert profile_rows(source).rows == 2000


def test_files_that_tell_a_column_differently_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("width,height\n1,2\n")
    (tmp_path / "b.csv").write_text("width,height\n1,many\n")
    with pytest.raises(DataError, match=r"b\.csv: height is string, not int64"):
        at(tmp_path)


def test_a_folder_of_two_formats_is_refused_unless_one_is_parquet(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.jsonl").write_bytes(_json(FRAME))
    with pytest.raises(DataError, match="files of CSV and JSON Lines; put rows of one format"):
        at(tmp_path)
    FRAME[:5].to_parquet(tmp_path / "c.parquet")
    source = at(tmp_path)
    assert source.n_rows == 5 and "as Parquet files alone are read here: 2 files" in source.notes[0]
