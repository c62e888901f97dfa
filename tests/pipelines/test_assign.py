import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.dataset import dataset

from raydc.cli.main import NO_OUTPUT, USAGE_ERROR, main
from raydc.clustering.distances import FAR
from raydc.core.errors import WorkersLost
from raydc.data import DataError, DataSettings
from raydc.data.source import Piece
from raydc.distributed.ray_cluster import connected
from raydc.methods.kmeans import KMeans
from raydc.pipelines.assign import assign, for_model, read
from raydc.pipelines.chunks import cut
from raydc.tracking.registry import load
from raydc.training.labels import Asked
from raydc.training.model import TRUST
from tests.support import run_cases


@pytest.fixture(scope="module")
def model(table_run):
    return table_run


@pytest.fixture
def data(tmp_path):
    return run_cases.write(run_cases.table(500, seed=1), tmp_path / "new.parquet")


def everything(out):
    return pa.concat_tables(read(str(out))).sort_by("row")


def test_every_row_once_with_the_cluster_that_predict_gives(model, data, tmp_path):
    summary = assign(model, DataSettings(path=data), str(tmp_path / "out"), chunk_rows=120)
    found, rows = everything(tmp_path / "out"), pq.read_table(data)
    assert found["id"].to_pylist() == rows["id"].to_pylist()
    expected = load(model).memberships(rows.to_pandas())
    np.testing.assert_array_equal(found["cluster"], expected.argmax(1))
    np.testing.assert_allclose(found["membership"], expected.max(1), rtol=1e-6)
    assert found["cluster"].type == pa.int64() and {found[name].type for name in TRUST} == {pa.float32()}
    assert found["agreement"].null_count == 500 and summary["agreement"] is None  # a run has no replicas
    distance = load(model).assign(rows.to_pandas()).distance
    np.testing.assert_allclose(found["distance"], distance, atol=1e-6)
    assert summary["far"] == (distance > FAR).sum() and summary["membership"] == pytest.approx(expected.max(1).mean())
    assert summary["rows"] == 500 and summary["files"] == summary["written"] > 3
    assert summary["sizes"] == np.bincount(expected.argmax(1), minlength=3).tolist()


def test_rows_are_numbered_where_they_have_no_id(model, tmp_path):
    bare = run_cases.table(90).drop_columns(["id"])
    assign(model, DataSettings(path=run_cases.write(bare, tmp_path / "x.parquet")), str(tmp_path / "out"))
    assert everything(tmp_path / "out")["id"].to_pylist() == list(range(90))


def test_the_model_remembers_what_identified_its_rows(tmp_path):
    keyed = run_cases.table(120).drop_columns(["id"])
    keyed = keyed.append_column("key", pa.array([f"k{i}" for i in range(120)]))
    keyed = keyed.append_column("other", pa.array([f"o{i}" for i in range(120)]))
    data = run_cases.write(keyed, tmp_path / "rows.parquet")
    trained = run_cases.finished(tmp_path / "run", data, **run_cases.KMEANS, **{"data.id_column": "key"})
    assert load(trained).id_column == "key"
    said = assign(trained, DataSettings(path=data), str(tmp_path / "a"))["ids"]
    assert said == "column key, as in the model's training"
    assert everything(tmp_path / "a")["id"].to_pylist() == keyed["key"].to_pylist()
    assert json.loads((tmp_path / "a" / "_summary.json").read_text())["ids"] == said
    other = DataSettings(path=data, id_column="other")
    with pytest.raises(ValueError, match="holds assignments of ids of another column than"):
        assign(trained, other, str(tmp_path / "a"))
    assert assign(trained, other, str(tmp_path / "b"))["ids"] == "column other"
    assert everything(tmp_path / "b")["id"].to_pylist() == keyed["other"].to_pylist()
    bare = run_cases.write(keyed.drop_columns(["key"]), tmp_path / "bare.parquet")
    assert assign(trained, DataSettings(path=bare), str(tmp_path / "c"))["ids"] == "row numbers"


def test_a_model_in_a_folder_asks_no_mlflow(model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["assign", "--model", model, "--data", data, "--out", "out"]) == 0
    assert {path.name for path in tmp_path.iterdir()} - before == {"out"}


def test_columns_go_by_name(model, data, tmp_path):
    turned = pq.read_table(data)
    turned = turned.select(["y", *reversed(run_cases.COLUMNS), "id"])
    turned = turned.append_column("class", pa.array(np.zeros(500)))
    other = run_cases.write(turned, tmp_path / "turned.parquet")
    assign(model, DataSettings(path=data), str(tmp_path / "a"))
    assign(model, DataSettings(path=other), str(tmp_path / "b"))
    assert everything(tmp_path / "a").equals(everything(tmp_path / "b"))


def test_a_killed_run_goes_on_with_no_row_lost_and_none_twice(model, data, tmp_path, monkeypatch):
    out, settings = str(tmp_path / "out"), DataSettings(path=data)
    monkeypatch.setenv("RAYDC_FAILPOINT", f"assigned:{tmp_path / 'marker'}")
    child = os.fork()
    if child == 0:  # kills itself once its first file is there
        assign(model, settings, out, chunk_rows=60)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    stamps = {part: part.stat().st_mtime_ns for part in Path(out).glob("part-*.parquet")}
    assert len(stamps) == 1
    summary = assign(model, settings, out, chunk_rows=60)
    assert summary["written"] == summary["files"] - 1
    assert all(part.stat().st_mtime_ns == stamp for part, stamp in stamps.items())
    found = everything(out)
    assert found["id"].to_pylist() == pq.read_table(data)["id"].to_pylist()
    assign(model, settings, str(tmp_path / "whole"), chunk_rows=60)
    assert found.equals(everything(tmp_path / "whole"))


class _Broken:
    def __init__(self, *arguments):
        raise OSError("no disk here")

    def make(self, *arguments):
        pass


@pytest.mark.ray
@pytest.mark.parametrize("signal_name", ["SIGKILL", pytest.param("SIGSTOP", marks=pytest.mark.slow)])
def test_a_worker_that_dies_or_hangs_is_replaced_and_no_row_is_lost_or_doubled(
    model, data, tmp_path, monkeypatch, signal_name
):
    monkeypatch.setenv("RAYDC_FAILPOINT", f"assigned:{tmp_path / 'marker'}")
    monkeypatch.setenv("RAYDC_FAILSIGNAL", signal_name)
    monkeypatch.setattr("raydc.pipelines.chunks.HANG_AFTER", 3.0)
    with connected(2):
        summary = assign(model, DataSettings(path=data), str(tmp_path / "out"), workers=2, chunk_rows=60)
        assert (tmp_path / "marker").exists() and summary["rows"] == 500
        monkeypatch.setattr("raydc.pipelines.chunks._Actor", _Broken)
        with pytest.raises(WorkersLost, match=r"the same command(.|\n)*no disk here"):
            assign(model, DataSettings(path=data), str(tmp_path / "broken"), workers=1)
    found = everything(tmp_path / "out")
    assert found["id"].to_pylist() == pq.read_table(data)["id"].to_pylist()
    assign(model, DataSettings(path=data), str(tmp_path / "whole"), chunk_rows=60)
    assert found.equals(everything(tmp_path / "whole"))


def test_a_finished_run_makes_nothing_and_a_lost_or_damaged_file_is_made_again(model, data, tmp_path):
    out = str(tmp_path / "out")
    before = assign(model, DataSettings(path=data), out, chunk_rows=120)
    assert assign(model, DataSettings(path=data), out, chunk_rows=120)["written"] == 0
    whole, parts = everything(out), sorted(Path(out).glob("part-*"))
    parts[0].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-20])
    after = assign(model, DataSettings(path=data), out, chunk_rows=120)
    assert after["written"] == 2 and after["sizes"] == before["sizes"]
    assert everything(out).equals(whole)


def test_another_model_or_other_rows_are_refused(model, data, tmp_path):
    out = str(tmp_path / "out")
    assign(model, DataSettings(path=data), out)
    other = run_cases.write(run_cases.table(400, seed=5), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="other rows"):
        assign(model, DataSettings(path=other), out)
    settings = {**run_cases.KMEANS, "training.seed": 1, "method.n_clusters": 4}
    second = run_cases.finished(tmp_path / "second", data, **settings)
    with pytest.raises(ValueError, match="another model"):
        assign(second, DataSettings(path=data), out)
    with pytest.raises(ValueError, match="other files"):
        assign(model, DataSettings(path=data), str(tmp_path))


def test_bad_rows_stop_it_or_are_dropped_and_counted(model, tmp_path):
    rows = run_cases.table(200)
    values = rows["width"].to_numpy().copy()
    values[[3, 150]] = np.nan, np.inf
    rows = rows.set_column(rows.schema.get_field_index("width"), "width", pa.array(values))
    path, out = run_cases.write(rows, tmp_path / "bad.parquet"), str(tmp_path / "out")
    with pytest.raises(DataError, match=r"row 3, column width: nan(.|\n)*--on-bad-row drop"):
        assign(model, DataSettings(path=path), out, chunk_rows=60)
    summary = assign(model, DataSettings(path=path, on_bad_row="drop"), out, chunk_rows=60)
    assert (summary["rows"], summary["dropped"], summary["dropped_rows"]) == (198, 2, [3, 150])
    assert everything(out)["row"].to_pylist() == [i for i in range(200) if i not in (3, 150)]
    with pytest.raises(DataError, match="row 3"):
        assign(model, DataSettings(path=path), out, chunk_rows=60)


def test_what_does_not_fit_is_refused_before_anything_is_written(model, tmp_path, monkeypatch):
    narrow = run_cases.table().drop_columns(["width"])
    path = run_cases.write(narrow, tmp_path / "narrow.parquet")
    with pytest.raises(DataError, match="width"):
        assign(model, DataSettings(path=path), str(tmp_path / "out"))
    with pytest.raises(DataError, match="64 features, the model was trained on 4"):
        assign(model, DataSettings(path="digits"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="--workers"):
        assign(model, DataSettings(path=path), str(tmp_path / "out"), workers=-1)
    info = KMeans.info.__class__(**{**KMeans.info.__dict__, "refuses": "it sees only its own rows"})
    monkeypatch.setattr(KMeans, "info", info)
    with pytest.raises(ValueError, match="it sees only its own rows"):
        assign(model, DataSettings(path="digits"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["table_run", "image_run", "head"])
def test_a_share_of_outliers_is_that_of_the_training_rows(kind, request, tmp_path):
    """k-means, an autoencoder and a network with a head alike; what lies far off is among them."""
    head = {"method.name": "rim", "method.cluster.length": "1 epochs"}
    rows = run_cases.images() if kind == "image_run" else run_cases.table()
    run = request.getfixturevalue(kind) if kind != "head" else None
    data = run_cases.write(rows, tmp_path / "rows.parquet")
    run = run or run_cases.finished(tmp_path / "run", data, **head)
    before = assign(run, DataSettings(path=data, label_column="y"), str(tmp_path / "all"))
    assert before["nowhere"] == 0
    summary = assign(run, DataSettings(path=data, label_column="y"), str(tmp_path / "out"), asked=Asked(outliers=0.1))
    found, whole = everything(tmp_path / "out").to_pandas(), everything(tmp_path / "all").to_pandas()
    out = found["cluster"] == -1
    assert summary["nowhere"] == out.sum() and 24 <= out.sum() <= 36
    assert (found["cluster"][~out] == whole["cluster"][~out]).all() and sum(summary["sizes"]) == 300 - out.sum()
    assert found["distance"][out].min() > 0.9 >= found["distance"][~out].max()
    assert found.drop(columns="cluster").equals(whole.drop(columns="cluster"))


def test_a_level_joins_the_clusters_of_the_models_tree(model, data, tmp_path, capsys):
    joins = load(model).labels.joins
    assert len(joins) == 2
    wanted = ["assign", f"--model={model}", f"--data={data}", "--level=2"]
    assert main([*wanted, f"--out={tmp_path / 'two'}"]) == 0 and "500 rows in 2 clusters" in capsys.readouterr().out
    assign(model, DataSettings(path=data), str(tmp_path / "all"))
    whole, found = (everything(tmp_path / name)["cluster"].to_numpy() for name in ("all", "two"))
    first, second = sorted((joins[0].first, joins[0].second))
    np.testing.assert_array_equal(found, np.where(whole == second, first, whole))
    rows = pq.read_table(data).to_pandas()
    assert load(model).assign(rows, Asked(level=2)).memberships.shape == (500, 2)
    assert load(model).memberships(rows).shape == (500, 3)
    assert main([*wanted[:3], "--level=4", f"--out={tmp_path / 'none'}"]) == USAGE_ERROR
    assert "level: expected 1 to 3 clusters, got 4" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_assignments_with_and_without_outliers_are_not_mixed(model, data, tmp_path, capsys):
    wanted = ["assign", f"--model={model}", f"--data={data}", f"--out={tmp_path / 'out'}"]
    assert main([*wanted, "--outliers=.05"]) == 0 and "rows labelled -1" in capsys.readouterr().out
    assert main([*wanted, "--outliers=.1"]) == main(wanted) == USAGE_ERROR
    assert "assignments of another level or share of outliers" in capsys.readouterr().err
    for share in ("0", "1", "5"):
        assert main([*wanted[:3], f"--out={tmp_path / 'none'}", f"--outliers={share}"]) == USAGE_ERROR
        assert "share of the training rows above 0 and below 1" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_workers_tell_the_same_outliers(model, data, tmp_path):
    with connected(2):
        assign(model, DataSettings(path=data), str(tmp_path / "two"), workers=2, chunk_rows=120, asked=Asked(None, 0.2))
    assign(model, DataSettings(path=data), str(tmp_path / "one"), chunk_rows=120, asked=Asked(None, 0.2))
    assert everything(tmp_path / "two").equals(everything(tmp_path / "one"))


def test_images_keep_their_shape(image_run, tmp_path):
    data = run_cases.write(run_cases.images(), tmp_path / "images.parquet")
    assert for_model(DataSettings(path=data), load(image_run)).shape == (1, 4, 4)
    assign(image_run, DataSettings(path=data), str(tmp_path / "out"))
    trained = pq.read_table(Path(image_run, "assignments"))
    assert everything(tmp_path / "out")["cluster"].equals(trained.sort_by("row")["cluster"])


def test_chunks_hold_every_piece_once_in_order():
    pieces = [Piece("f", 0, at, at, at, 40) for at in range(0, 400, 40)]
    chunks = cut(pieces, 100)
    assert [piece for chunk in chunks for piece in chunk.pieces] == pieces
    assert [chunk.rows for chunk in chunks] == [80] * 5
    assert [chunk.rows for chunk in cut(pieces, 1)] == [40] * 10  # a piece is never cut


def test_the_manifest_names_no_place(model, data, tmp_path):
    assign(model, DataSettings(path=data), str(tmp_path / "out"))
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "out", moved)
    assert assign(model, DataSettings(path=data), str(moved))["written"] == 0
    assert str(tmp_path) not in json.dumps(json.loads((moved / "_assignment.json").read_text()))


@pytest.mark.parametrize("chunk_rows", [100, 10**6])
def test_after_a_correction_the_same_command_goes_on(model, data, tmp_path, chunk_rows):
    good, out = pq.read_table(data), str(tmp_path / "out")
    feature = next(name for name in good.column_names if pa.types.is_floating(good.schema.field(name).type))
    values = good[feature].to_pylist()
    values[-1] = None
    bad = good.set_column(good.column_names.index(feature), feature, pa.array(values, good.schema.field(feature).type))
    run_cases.write(bad, Path(data))
    with pytest.raises(DataError, match=r"1 of 500 rows cannot be used"):
        assign(model, DataSettings(path=data), out, chunk_rows=chunk_rows)
    run_cases.write(good, Path(data))
    assert assign(model, DataSettings(path=data), out, chunk_rows=chunk_rows)["rows"] == 500
    assert len(pd.read_parquet(out)) == len(dataset(out).to_table()) == 500


def test_a_file_where_a_directory_is_expected(model, data, tmp_path, capsys):
    (tmp_path / "afile").write_text("x")
    for out in (tmp_path / "afile", tmp_path / "afile" / "below"):
        for line in (
            ["assign", "--model", model, "--data", data, "--out", str(out)],
            ["train", "--data", data, "--method", "kmeans", "--workers", "0", "--out", str(out)],
            ["tune", "--data", data, "--space", "kmeans", "--concurrent", "0", "--out", str(out)],
            ["report", "--run", str(tmp_path), "--out", str(out)],
        ):
            assert main(line) == NO_OUTPUT
            assert f"{tmp_path}/afile is a file, where a directory is expected" in capsys.readouterr().err
