"""Pieces that a process keeps as they were decoded: which, how many, and that a run decodes no row twice."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raydc.data import DataSettings, decoded, open_source
from raydc.data.images import ImageSource
from raydc.data.table import TableSource
from raydc.training.trainer import check, train
from tests.support import runs

EACH = 20 * (3 * 4 + 8)
"""Bytes of a piece of `table`: 20 rows of three values and an id."""


def table(path, rows=320, width=3):
    x = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    pq.write_table(pa.table({f"f{i}": x[:, i] for i in range(width)}), path, row_group_size=100)
    return x


def counted(monkeypatch, kind):
    """How often pieces of this kind of source are decoded, by their first row."""
    times, decode = Counter[int](), kind.decode

    def noted(self, piece):
        times[piece.start] += 1
        return decode(self, piece)

    monkeypatch.setattr(kind, "decode", noted)
    return times


@pytest.mark.parametrize(("storage", "free", "kept"), [("auto", 3, 3), ("memory", 3, 3), ("disk", 1000, 0)])
def test_the_first_pieces_that_fit_are_kept_and_the_others_decoded_each_time(
    tmp_path, monkeypatch, storage, free, kept
):
    monkeypatch.setattr(decoded, "free_memory", lambda: free * EACH / decoded.SHARE)
    x, times = table(tmp_path / "rows.parquet"), counted(monkeypatch, TableSource)
    source = open_source(DataSettings(path=str(tmp_path / "rows.parquet"), storage=storage))
    source.keep_decoded()
    for _ in range(2):
        assert np.array_equal(np.concatenate([source.read(piece).x for piece in source.pieces]), x)
    assert Counter(times.values()) == Counter({1: kept, 2: len(source.pieces) - kept})


def test_who_does_not_ask_keeps_nothing(tmp_path, monkeypatch):
    table(tmp_path / "rows.parquet")
    times = counted(monkeypatch, TableSource)
    source = open_source(DataSettings(path=str(tmp_path / "rows.parquet")))
    for _ in range(2):
        source.read(source.pieces[0])
    assert times[0] == 2


def test_ids_that_are_objects_are_counted_with_what_they_point_to():
    assert decoded.bytes_of(np.array(["x" * 1000] * 10, object)) > 10_000


@pytest.mark.parametrize("method", ["kmeans", "dec"])
@pytest.mark.parametrize("kind", [TableSource, ImageSource])
def test_a_run_in_this_process_decodes_no_row_twice(tmp_path, monkeypatch, kind, method):
    if kind is TableSource:
        table(tmp_path / "rows.parquet")
    else:
        (tmp_path / "photos").mkdir()
        for at, x in enumerate(np.random.default_rng(0).integers(256, size=(40, 8, 8), dtype=np.uint8)):
            Image.fromarray(x).save(tmp_path / "photos" / f"{at}.png")
    changes = {"data__path": str(tmp_path / ("rows.parquet" if kind is TableSource else "photos"))}
    if kind is ImageSource:
        changes["data__shape"] = (8, 8)
    config = runs.config(tmp_path / "run", method__n_clusters=3, **changes)
    if method == "kmeans":
        short = {"data": config.data.model_dump(), "method": {"name": "kmeans", "n_clusters": 3}}
        config = type(config).of(short | {"training": {"workers": 0}, "output": {"out": str(tmp_path / "run")}})
    times = counted(monkeypatch, kind)
    train(check(config))
    assert times and set(times.values()) == {1}
