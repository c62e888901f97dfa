"""A row is the same row everywhere: its position in the data names it, and its values tell whether it has changed."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydc import DataWarning, DeepClustering
from raydc.cli import main as cli
from raydc.core.storage import Store
from raydc.data import DataError, DataProfile, DataSettings, open_source, profile_rows
from raydc.pipelines.assign import assign
from raydc.pipelines.report import facts
from raydc.search.evaluation import prepare as context_of
from raydc.search.settings import TuneSettings
from raydc.training import data_profiling
from raydc.training.model import ClusteringModel
from raydc.training.trainer import check, train
from tests.support import run_cases, runs

BAD = [0, 5, 50, 299]


def assignments(folder: str) -> pa.Table:
    return pq.read_table(sorted(Path(folder).glob("part-*.parquet"))).sort_by("row")


@pytest.fixture
def holed(tmp_path: Path) -> str:
    """Rows of which some cannot be used."""
    rows = run_cases.table().drop_columns(["id"])
    widths = rows["width"].to_numpy().copy()
    widths[BAD] = np.nan
    rows = rows.set_column(rows.schema.get_field_index("width"), "width", pa.array(widths))
    return run_cases.write(rows, tmp_path / "holed.parquet")


@pytest.mark.parametrize("settings", [run_cases.KMEANS, run_cases.SHORT_DEC], ids=["kmeans", "dec"])
def test_a_row_is_its_position_in_the_data_also_where_some_are_dropped(tmp_path, holed, settings):
    run = run_cases.finished(tmp_path / "run", holed, **settings, **{"data.on_bad_row": "drop"})
    kept = np.setdiff1d(np.arange(300), BAD)
    mine = assignments(f"{run}/assignments")
    assert mine["row"].to_pylist() == mine["id"].to_pylist() == kept.tolist()
    assign(run, DataSettings(path=holed, on_bad_row="drop"), str(tmp_path / "assigned"))
    assert mine.select(["row", "cluster"]).equals(assignments(tmp_path / "assigned").select(["row", "cluster"]))
    dropped = list(csv.DictReader((tmp_path / "run" / "dropped.csv").open()))
    assert [int(line["row"]) for line in dropped] == BAD
    # scores against classes are those of the rows themselves
    classes, clusters = pq.read_table(holed)["y"].to_numpy()[kept], mine["cluster"].to_numpy()
    table = np.array(json.loads((tmp_path / "run" / "summary.json").read_text())["table"])
    assert table[: clusters.max() + 1].tolist() == [
        np.bincount(classes[clusters == cluster], minlength=3).tolist() for cluster in range(clusters.max() + 1)
    ]
    sample = facts.draw(
        open_source(DataSettings(path=holed, on_bad_row="drop")), Store(run), ClusteringModel.load(f"{run}/model")
    )
    assert sample.ids.tolist() == kept.tolist() and sample.labels.tolist() == clusters.tolist()


def test_dropped_rows_of_several_files_are_told_by_their_positions(tmp_path, holed):
    (tmp_path / "rows").mkdir()
    for name in "ab":
        shutil.copy(holed, tmp_path / "rows" / f"{name}.parquet")
    run = run_cases.finished(
        tmp_path / "run", str(tmp_path / "rows"), **run_cases.KMEANS, **{"data.on_bad_row": "drop"}
    )
    dropped = list(csv.DictReader((tmp_path / "run" / "dropped.csv").open()))
    assert [int(line["row"]) for line in dropped] == [*BAD, *(300 + row for row in BAD)]
    found = profile_rows(open_source(DataSettings(path=str(tmp_path / "rows"), on_bad_row="drop")))
    assert "b.parquet, row group 0, row 0," in str(found.dropped[4]) and found.dropped[4].row == 300
    assert (
        assignments(f"{run}/assignments")["row"].to_pylist()
        == np.setdiff1d(np.arange(600), found.dropped_rows).tolist()
    )


def test_a_search_names_rows_by_their_positions(tmp_path, holed):
    settings = TuneSettings(
        data=DataSettings(path=holed, label_column="y", on_bad_row="drop"), space="dec",
        n_clusters=(3, 3), out=str(tmp_path / "search"),
    )  # fmt: skip
    assert context_of(settings).numbers.tolist() == np.setdiff1d(np.arange(300), BAD).tolist()


def test_ids_that_repeat_do_not_mix_up_the_rows_of_a_report(tmp_path):
    rows = run_cases.table()
    rows = rows.set_column(0, "id", pa.array([f"session {i % 9}" for i in range(300)]))
    data = run_cases.write(rows, tmp_path / "rows.parquet")
    run = run_cases.finished(tmp_path / "run", data, **run_cases.KMEANS)
    sample = facts.draw(
        open_source(DataSettings(path=data, label_column="y")), Store(run), ClusteringModel.load(f"{run}/model")
    )
    assert sample.labels.tolist() == assignments(f"{run}/assignments")["cluster"].to_pylist()


@pytest.mark.parametrize("name", ["rows.parquet", "rows.npy"])
def test_the_same_rows_written_anew_are_the_same_and_changed_ones_are_not(tmp_path, name):
    x = run_cases.table().select([*run_cases.COLUMNS]).to_pandas().to_numpy(np.float32)
    path = tmp_path / name

    def put(values: np.ndarray) -> None:
        if name.endswith("npy"):
            np.save(path, values)
        else:  # without statistics and compression the footer does not tell the values
            columns = pa.table({f"f{i}": values[:, i] for i in range(4)})
            pq.write_table(columns, path, write_statistics=False, use_dictionary=False, compression="none")

    def of(data: Path):
        return runs.config(tmp_path / "run", **{"data.path": str(data), "method.network.hidden": (8,)})

    put(x)
    first = check(of(path))
    train(first)
    os.utime(path, (1, 1))
    again = check(of(path))
    assert again.finished and again.job.key == first.job.key
    copy = tmp_path / "elsewhere" / f"other {name}"
    copy.parent.mkdir()
    shutil.copyfile(path, copy)
    assert check(of(copy)).finished
    x[150, 2] += 1
    put(x)
    with pytest.raises(DataError, match=f"holds a run of other rows:\nchanged: .*{name}"):
        check(of(path))


def test_rows_are_not_read_again_while_their_files_are_untouched(tmp_path, monkeypatch):
    data = run_cases.write(run_cases.table(), tmp_path / "rows.parquet")
    source, profiler = (
        open_source(DataSettings(path=data, label_column="y")),
        data_profiling.Profiler(Store(tmp_path / "out")),
    )
    profiler.keep(profiler(source, source.settings))
    monkeypatch.setattr(data_profiling, "look", lambda *given: pytest.fail("read again"))
    same = open_source(source.settings)
    assert isinstance(profiler(same, same.settings), DataProfile)


def test_an_assignment_goes_on_with_rows_written_anew_and_refuses_changed_ones(table_run, tmp_path):
    data, out = Path(run_cases.write(run_cases.table(200, seed=3), tmp_path / "rows.parquet")), str(tmp_path / "out")
    assign(table_run, DataSettings(path=str(data)), out, chunk_rows=60)
    before = assignments(out)
    os.utime(data, (1, 1))
    assert assign(table_run, DataSettings(path=str(data)), out, chunk_rows=60)["written"] == 0
    copy = tmp_path / "copy.parquet"
    shutil.copyfile(data, copy)
    sorted(Path(out).glob("part-*"))[1].unlink()
    assert assign(table_run, DataSettings(path=str(copy)), out, chunk_rows=60)["written"] == 1
    assert assignments(out).equals(before)
    table = pq.read_table(data)
    for change in (0.0, 1.0):
        width = table["width"].to_numpy().copy()
        width[150] += change
        table = table.set_column(table.schema.get_field_index("width"), "width", pa.array(width))
        pq.write_table(table, data, write_statistics=False, use_dictionary=False, compression="none")
        settings, other = DataSettings(path=str(data)), str(tmp_path / "plain")
        if not change:
            assign(table_run, settings, other)
            continue
        with pytest.raises(DataError, match="rows whose values have changed since; name another --out"):
            assign(table_run, settings, other)


def test_the_estimator_warns_of_what_the_survey_notes():
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[:, 1] = 7
    with pytest.warns(DataWarning, match=r"1 of 3 features never change, such as X\[1\]") as caught:
        DeepClustering("kmeans", 3).fit(x)
    assert len([each for each in caught if each.category is DataWarning]) == 1


def test_a_dry_run_names_the_features_and_what_was_left_out(tmp_path, capsys):
    table = {f"feature {i}": np.random.default_rng(i).normal(size=120) for i in range(12)}
    pq.write_table(pa.table(table | {"uid": np.arange(120), "number": np.arange(120)}), tmp_path / "rows.parquet")
    line = ["train", "--method=kmeans", "--n-clusters=3", "--workers=0", "--dry-run", f"--out={tmp_path / 'out'}"]
    assert cli.main([*line, f"--data={tmp_path / 'rows.parquet'}"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "features: 12: feature 0, feature 1," in said and "feature 7 and 4 more" in said
    assert "left out as ids: uid" in said and "another integer in each row, as keys have: number" in said
    assert cli.main([*line, f"--data={tmp_path / 'rows.parquet'}", '--columns="feature 1",number']) == 0
    assert "features: 2: feature 1, number" in " ".join(capsys.readouterr().out.split())
