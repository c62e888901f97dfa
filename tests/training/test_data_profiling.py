"""The profile of a directory: the same bits whoever reads the rows, and read once."""

import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from scipy import sparse

from raydc.core.storage import Store
from raydc.data import ArraySource, DataError, DataSettings, open_source, profile_rows
from raydc.data.profile import DataProfile, recalled, written
from raydc.distributed.ray_cluster import connected
from raydc.search import SearchInterrupted, SearchWatch
from raydc.search.driver import check as check_search
from raydc.search.settings import TuneSettings
from raydc.training import data_profiling
from raydc.training.data_profiling import NAME, Profiler, parts_of
from raydc.training.trainer import Interrupted, Watch, check, train
from tests.support.run_cases import table, write
from tests.support.runs import config


def same(one: DataProfile, other: DataProfile) -> bool:
    arrays = ("dropped_rows", "lowest", "highest", "mean", "variance")
    bits = all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in arrays)
    plain = [{k: v for k, v in vars(each).items() if k not in arrays} for each in (one, other)]
    return bits and plain[0] == plain[1]


def source_of(folder, groups=7, rows=50, bad=(), **settings):
    """Parquet of many row groups, in two files."""
    x = np.random.default_rng(0).normal(3, 2, size=(groups * rows, 4)).astype(np.float32)
    x[list(bad), 1] = np.nan
    folder.mkdir(exist_ok=True)
    for name, part in (("a", x[:rows]), ("b", x[rows:])):
        columns = pa.table({f"f{j}": part[:, j] for j in range(4)})
        pq.write_table(columns, folder / f"{name}.parquet", row_group_size=rows)
    return open_source(DataSettings(path=str(folder), **settings))


@pytest.mark.parametrize("bad", [(), (3, 4, 120, *range(200, 250))])
def test_a_written_survey_is_recalled_to_the_bit(tmp_path, bad):
    source = source_of(tmp_path / "rows", bad=bad, on_bad_row="drop")
    found = profile_rows(source)
    back = recalled(written(found), source)
    assert back is not None and same(found, back)
    assert found.rows == 350 - len(bad)


def test_a_survey_of_other_rows_or_a_damaged_one_is_none(tmp_path):
    source, other = source_of(tmp_path / "rows"), source_of(tmp_path / "other", groups=6)
    data = written(profile_rows(source))
    assert recalled(data, other) is None
    assert recalled(b"", source) is None and recalled(data[: len(data) // 2], source) is None
    for at in range(0, len(data), 7):
        damaged = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        back = recalled(damaged, source)
        assert back is None or same(back, profile_rows(source))  # padding and dates of the archive matter to nobody


def test_parts_are_whole_row_groups_of_parquet_and_any_pieces_of_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(data_profiling, "PART", 2 * 50 * 16)
    parts = parts_of(source_of(tmp_path / "rows"))
    assert [sum(piece.rows for piece in part) for part in parts] == [100, 100, 100, 50]
    big = np.zeros((2**22 + 2**21, 4), np.float32)  # one row group, cut into pieces
    path = tmp_path / "big.parquet"
    columns = pa.table({f"f{j}": big[:, j] for j in range(4)})
    pq.write_table(columns, path, row_group_size=len(big))
    source = open_source(DataSettings(path=str(path)))
    assert len(source.pieces) > 1 and len(parts_of(source)) == 1
    assert len(parts_of(ArraySource(big))) == len(source.pieces)
    empty = sparse.csr_matrix((5, 3), dtype=np.float32)
    assert len(parts_of(ArraySource(empty))) == 1


def test_a_directory_is_surveyed_once(tmp_path, monkeypatch):
    data = write(table(), tmp_path / "rows.parquet")
    run = config(tmp_path / "run", **{"data.path": data, "data.label_column": "y"})
    first = check(run)
    assert not (tmp_path / "run").exists(), "nothing is written before the run begins"
    train(first)
    looks = []
    monkeypatch.setattr(data_profiling, "look", lambda *given: looks.append(given))
    again = check(run)
    assert again.finished and not looks and same(again.job.profile, first.job.profile)


def test_what_may_be_dropped_then_may_not_be_dropped_now(tmp_path):
    source = source_of(tmp_path / "rows", bad=(3,), on_bad_row="drop")
    profiler = Profiler(Store(tmp_path / "out"))
    profiler.keep(profiler(source, source.settings))
    assert profiler(source, source.settings).rows == 349
    with pytest.raises(DataError, match="1 of 350 rows cannot be used"):
        profiler(source, source.settings.model_copy(update={"on_bad_row": "error"}))


def test_a_damaged_survey_is_made_again_and_replaced(tmp_path):
    source, store = source_of(tmp_path / "rows"), Store(tmp_path / "out")
    profiler = Profiler(store)
    store.write_bytes(NAME, b"PK nonsense")
    found = profiler(source, source.settings)
    assert same(found, profile_rows(source))
    profiler.keep(found)
    assert recalled(store.read_bytes(NAME), source) is not None


def test_asked_to_stop_while_rows_are_read_nothing_is_begun(tmp_path):
    data, stop = write(table(), tmp_path / "rows.parquet"), threading.Event()
    stop.set()
    with pytest.raises(Interrupted, match="nothing was begun"):
        check(config(tmp_path / "run", **{"data.path": data, "data.label_column": "y"}), Watch(stop=stop))
    settings = TuneSettings(
        data=DataSettings(path=data, label_column="y"), space="dec", n_clusters=(3, 3),
        concurrent=0, out=str(tmp_path / "search"),
    )  # fmt: skip
    with pytest.raises(SearchInterrupted, match="nothing was begun"):
        check_search(settings, SearchWatch(stop=stop))
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]


@pytest.mark.ray
def test_workers_find_the_same_bits_and_the_same_faults(tmp_path, monkeypatch):
    monkeypatch.setattr(data_profiling, "MUCH", 1)
    monkeypatch.setattr(data_profiling, "PART", 2 * 50 * 16)
    notes, bad = [], (3, 170, 171, 172, 260, 261, 349)
    source = source_of(tmp_path / "rows", bad=bad, on_bad_row="drop")
    profiler = Profiler(Store(tmp_path / "out"), on_ray=True, note=notes.append)
    assert same(profiler(source, source.settings), profile_rows(source))
    assert "4 parts" in notes[0] and not ray.is_initialized()
    refuse = source.settings.model_copy(update={"on_bad_row": "error"})
    said = []
    with connected(2):
        for read in (profiler, profile_rows):
            with pytest.raises(DataError) as problem:
                read(source, refuse)
            said.append(str(problem.value))
    assert said[0] == said[1] and "and 2 more rows" in said[0]

    def stop() -> None:
        raise Interrupted("enough")

    with pytest.raises(Interrupted):
        Profiler(Store(tmp_path / "out"), on_ray=True, poll=stop)(source, source.settings)
    assert not ray.is_initialized()
