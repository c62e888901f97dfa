"""Arrow from strangers."""

import random

import numpy as np
import pyarrow as pa
import pytest

from raydc.data.source import DataError
from raydc.pipelines.serving.arrow import TooManyRows, table_in
from tests.pipelines.serving.asking import stream

ROWS = pa.table({"a": np.arange(4.0), "b": pa.array(["x", "y", "x", None]), "c": [[1.0]] * 4})
WORDS = pa.table({"a": pa.array(["word" * 100] * 1000).dictionary_encode()})


def test_the_columns_that_are_wanted_come_as_they_were_sent():
    assert table_in(stream(ROWS), (), 4, 10).equals(ROWS)
    assert table_in(stream(ROWS), ("b", "nowhere"), 4, 10).equals(ROWS.select(["b"]))
    assert table_in(stream(WORDS), (), 1000, 400_000).equals(WORDS)
    assert table_in(stream(ROWS.slice(0, 0)), (), 0, 0).num_rows == 0


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("table", [ROWS, WORDS], ids=["rows", "dictionary"])
def test_what_grows_when_it_is_read_is_refused(table, compression):
    with pytest.raises(DataError, match="without compression"):
        table_in(stream(table, compression=compression), (), 10**6, 10**6)


def test_more_rows_or_text_than_are_taken_are_refused():
    with pytest.raises(TooManyRows, match="3 rows at most"):
        table_in(stream(ROWS), (), 3, 10)
    with pytest.raises(TooManyRows, match="3 rows at most"):
        table_in(stream(pa.table({"a": pa.nulls(2**20)})), (), 3, 10)
    with pytest.raises(TooManyRows, match=r"column a.*399,999 bytes"):
        table_in(stream(WORDS), (), 1000, 399_999)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([{"a": 1}]),
        pa.array([["a"]]),
        pa.RunEndEncodedArray.from_arrays([2**30], [1.0]).slice(0, 1),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16))),
        pa.array([["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
    ],
    ids=lambda values: str(values.type),
)
def test_types_that_are_no_features_are_refused(values):
    with pytest.raises(DataError, match="column a: expected numbers"):
        table_in(stream(pa.table({"a": values})), (), 10, 10)
    assert table_in(stream(pa.table({"a": values, "b": [1]})), ("b",), 10, 10).column_names == ["b"]


def test_damaged_streams_are_refused_and_nothing_else():
    whole, draw, refused = stream(ROWS.drop_columns("c")), random.Random(0), 0
    for _ in range(300):
        damaged = bytearray(whole[: draw.choice([len(whole), draw.randint(1, len(whole))])])
        for _ in range(draw.randint(0, 3)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        try:
            table_in(bytes(damaged), (), 100, 1000)
        except DataError:
            refused += 1
    assert 100 < refused < 300
