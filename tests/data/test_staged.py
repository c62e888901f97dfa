"""A large row group that several workers share is decoded once, not once by each."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydc.clustering.centroid_service import actors as over_ray
from raydc.core.settings import unflatten
from raydc.core.storage import Store
from raydc.data import DataError, DataSettings, open_source, profile_rows, read_group, staged, table
from raydc.data.staged import Staged, lay_out, shared_groups
from raydc.training.config import RunConfig
from raydc.training.trainer import check, train
from tests.support import runs

ROWS, WORKERS = 4000, 4


@pytest.fixture
def one_row_group(tmp_path: Path) -> DataSettings:
    """Rows in one row group of many pieces: with bad ones, weights, and ids that hold a NUL."""
    x = np.random.default_rng(0).normal(size=(ROWS, 3)).astype(np.float32)
    x[[3, 1000, 3999], 1] = np.nan
    table = {f"f{i}": x[:, i] for i in range(3)} | {"id": [f"{i}\0" for i in range(ROWS)], "w": np.arange(ROWS) % 5}
    pq.write_table(pa.table(table), tmp_path / "rows.parquet")
    return DataSettings(path=str(tmp_path / "rows.parquet"), weight_column="w", on_bad_row="drop")


def test_each_row_is_decoded_once_in_all_passes(one_row_group, tmp_path, monkeypatch):
    monkeypatch.setattr(staged, "LARGE", 1)
    monkeypatch.setattr(table, "CHUNK_VALUES", 1)  # a piece at a time
    decoded, take = [], table._Cursor.take

    def counted(cursor, first):
        before = cursor._at
        table = take(cursor, first)
        decoded.append(cursor._at - before)
        return table

    monkeypatch.setattr(table._Cursor, "take", counted)
    found = profile_rows(open_source(one_row_group))
    shares = over_ray.split(found.groups, WORKERS)

    def read(place: Staged | None) -> tuple[list, float]:
        """What the workers read in one pass, and how often each row was decoded for it."""
        decoded.clear()
        sources = [open_source(one_row_group) for _ in shares]
        blocks = [read_group(s, found, g, place) for s, share in zip(sources, shares, strict=True) for g in share]
        return blocks, sum(decoded) / ROWS

    apart, times = read(None)
    assert times == pytest.approx((WORKERS + 1) / 2, abs=0.1)
    (lot,) = shared_groups(open_source(one_row_group), found, shares)
    assert lot == list(found.groups)
    decoded.clear()
    lay_out(open_source(one_row_group), found, lot, Store(tmp_path / "staged"))
    assert sum(decoded) == ROWS
    place = Staged(Store(tmp_path / "staged"), frozenset(group.id for group in lot))
    together, times = read(place)
    assert times == 0
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_array_equal(one.x, other.x)
        assert one.x.dtype == other.x.dtype and one.ids.tolist() == other.ids.tolist()
        np.testing.assert_array_equal(one.weights, other.weights)
    decoded.clear()
    lay_out(open_source(one_row_group), found, lot, place.store)
    assert not decoded, "what is there is not made again"
    (tmp_path / "staged" / "00000002.arrow").unlink()
    assert read_group(open_source(one_row_group), found, lot[2], place).x.tolist() == apart[2].x.tolist()
    (tmp_path / "staged" / "00000001.arrow").write_bytes((tmp_path / "staged" / "00000000.arrow").read_bytes())
    with pytest.raises(DataError, match="have changed since they were checked"):
        read_group(open_source(one_row_group), found, lot[1], place)


def test_small_row_groups_and_those_of_one_worker_are_read_where_they_are(one_row_group, monkeypatch):
    source = open_source(one_row_group)
    found = profile_rows(source)
    assert shared_groups(source, found, over_ray.split(found.groups, WORKERS)) == []
    monkeypatch.setattr(staged, "LARGE", 1)
    assert shared_groups(source, found, over_ray.split(found.groups, 1)) == []


@pytest.mark.ray
def test_workers_that_share_a_row_group_end_as_one_process_does(one_row_group, tmp_path, monkeypatch):
    monkeypatch.setattr(staged, "LARGE", 1)
    asked, tasks = [], over_ray.tasks

    def told(function, *given, **options):
        asked.append(function.__name__)
        return tasks(function, *given, **options)

    monkeypatch.setattr(over_ray, "tasks", told)
    kmeans = {"method.name": "kmeans", "method.n_clusters": 3, "method.restarts": 1, "method.iterations": 3}
    data = {f"data.{name}": value for name, value in one_row_group.model_dump().items() if value is not None}
    for workers in (0, 2):
        out = {"output.out": str(tmp_path / f"run{workers}"), "training.workers": workers}
        train(check(RunConfig.of(unflatten(kmeans | data | out))))
    assert "_lay_out" in asked and not (tmp_path / "run2" / "checkpoints").exists()
    assert runs.weights(tmp_path / "run0") == runs.weights(tmp_path / "run2")
    alone, shared = (pq.read_table(tmp_path / name / "assignments").sort_by("row") for name in ("run0", "run2"))
    assert alone["cluster"].equals(shared["cluster"]) and alone["id"].equals(shared["id"])
