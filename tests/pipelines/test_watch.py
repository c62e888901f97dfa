"""New rows against training rows, on the command line: what alarms, what does not, and what is left after a kill."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raydc
from raydc.cli.main import DATA_ERROR, DRIFTED, TRY_AGAIN, USAGE_ERROR, main
from raydc.core.settings import build
from raydc.core.storage import Store
from raydc.pipelines.assign import identity
from raydc.pipelines.drift import Group, groups_of
from raydc.pipelines.edit import Decisions, edit
from raydc.tracking import mlflow_client
from raydc.tracking.registry import load
from raydc.training.labels import Drop, Join, LabelMap, Merge, Revision, Split
from raydc.training.model import ClusteringModel
from tests.support import run_cases


@pytest.fixture(scope="module")
def places(tmp_path_factory, mlflow_uri):
    """A model of a table with categories and an amount; MLflow's store; a folder."""
    folder = tmp_path_factory.mktemp("watch")
    settings = run_cases.KMEANS | {"data.label_column": None}
    run_cases.finished(folder / "run", rows(folder / "train.parquet", 600, 0), **settings)
    return folder, mlflow_uri


def table(many, seed):
    draw = np.random.default_rng(seed)
    kind = draw.choice(3, many, p=[0.5, 0.3, 0.2])
    return {
        "amount": np.array([100.0, 300.0, 500.0])[kind] + 20 * draw.normal(size=many),
        "age": np.array([20.0, 60.0, 40.0])[kind] + 4 * draw.normal(size=many),
        "plan": np.array(["basic", "plus", "pro"], object)[np.where(draw.random(many) < 0.9, kind, 0)],
    }


def rows(path, many, seed, **changes):
    values = table(many, seed)
    pq.write_table(pa.table(values | {name: change(values) for name, change in changes.items()}), path)
    return str(path)


def look(places, name, *options, model=None, **changes):
    """The exit code, and what watch.json holds."""
    folder, uri = places
    data = rows(folder / f"{name}.parquet", 300, 7, **changes)
    out = folder / f"watched {name}"
    given = [f"--model={model or folder / 'run'}", f"--data={data}", f"--out={out}", f"--tracking-uri={uri}"]
    code = main(["watch", *given, *options])
    return code, json.loads((out / "watch.json").read_text())


def kinds(found):
    return {(check["kind"], check["name"]) for check in found["checks"] if check["drifted"]}


CHANGES = {
    "shift": ({"age": lambda v: v["age"] + 30}, ("input", "age")),
    "units": ({"amount": lambda v: v["amount"] * 1000}, ("input", "amount")),
    "nulls": (
        {"age": lambda v: pa.array(v["age"], mask=np.arange(300) % 9 == 0)},
        ("unusable", "age"),
    ),
    "category": (
        {"plan": lambda v: np.where(np.arange(300) % 12 == 0, "trial", v["plan"])},
        ("category", "plan"),
    ),
    "missing": (
        {"plan": lambda v: pa.array(v["plan"].tolist(), mask=np.arange(300) % 12 == 0)},
        ("missing", "plan"),
    ),
    "cluster": ({"plan": lambda v: np.full(300, "pro", object)}, ("category", "plan")),
}


def test_rows_like_those_trained_on_do_not_alarm(places, capsys):
    code, found = look(places, "plain")
    assert code == 0 and not found["drifted"] and found["rows"] == 300 and found["trained_on"] == 600
    said = capsys.readouterr().out
    assert "no drift: " in said and "share now" in said and "next: nothing" in said
    page = (places[0] / "watched plain" / "index.html").read_text()
    assert "no drift" in page and "All comparisons" in page


@pytest.mark.parametrize("name", CHANGES)
def test_a_planted_change_alarms_and_is_named(places, name, capsys):
    changes, expected = CHANGES[name]
    code, found = look(places, name, **changes)
    assert code == DRIFTED and expected in kinds(found)
    said = capsys.readouterr().out
    assert f"drift: {len(kinds(found))} of" in said and expected[1] in said and "train anew" in said


def test_looks_are_told_by_time_once_each_in_one_run_a_model(places):
    look(places, "plain"), look(places, "plain"), look(places, "other")  # the second repeats the first
    folder, uri = places
    with mlflow_client.asking(uri) as client:
        experiment = client.get_experiment_by_name("raydc").experiment_id
        runs = [run for run in client.search_runs([experiment]) if run.info.run_name.startswith("watch-")]
        key = hashlib.sha256(f"watch {identity(load(str(folder / 'run')))}".encode()).hexdigest()
        (run,) = [run for run in runs if run.data.tags["raydc.run_key"] == key]
        shares = client.get_metric_history(run.info.run_id, "share/cluster_0")
        assert len(shares) == len({(each.timestamp, each.step) for each in shares})
        looks = [json.loads(path.read_text()) for path in folder.glob("watched */watch.json")]
        told = client.get_metric_history(run.info.run_id, "drifted")
        assert len(told) == sum(found["model"] == str(folder / "run") for found in looks)


@pytest.mark.slow
def test_without_mlflow_the_verdict_stands_and_the_numbers_wait(places, tmp_path, capsys):
    folder, _ = places
    out, data = tmp_path / "out", rows(tmp_path / "x.parquet", 300, 9)
    given = [f"--model={folder / 'run'}", f"--data={data}", f"--out={out}"]
    away = "http://127.0.0.1:9"
    assert main(["watch", *given, f"--tracking-uri={away}"]) == TRY_AGAIN
    told = capsys.readouterr()
    assert "no drift: " in told.out and "raydc registry flush" in told.err
    shifted = rows(tmp_path / "y.parquet", 300, 9, age=lambda v: v["age"] + 30)
    given = [f"--model={folder / 'run'}", f"--data={shifted}", f"--out={tmp_path / 'other'}"]
    assert main(["watch", *given, f"--tracking-uri={away}"]) == DRIFTED


@pytest.mark.parametrize("many", [1, 40])
def test_few_rows_tell_little(places, many):
    folder, uri = places
    data = rows(folder / f"few{many}.parquet", many, 3)
    found = raydc.watch(folder / "run", data, folder / f"watched few{many}", tracking_uri=uri)
    assert not found["drifted"] and "so few rows tell little" in found["said"]


def test_what_cannot_be_watched_is_refused_before_any_work(places, tmp_path, capsys):
    folder, uri = places
    old = tmp_path / "old"
    model = ClusteringModel.stored(Store(folder / "run" / "model"))
    model.baseline = None
    model.save(old)
    data = rows(tmp_path / "x.parquet", 30, 3)
    wanted = ["watch", f"--data={data}", f"--tracking-uri={uri}"]
    assert main([*wanted, f"--model={old}", f"--out={tmp_path / 'a'}"]) == DATA_ERROR
    assert "does not say what its training rows were like" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine").write_text("x")
    assert main([*wanted, f"--model={folder / 'run'}", f"--out={tmp_path / 'b'}"]) == USAGE_ERROR
    assert "holds other files (mine)" in capsys.readouterr().err
    empty = rows(tmp_path / "n.parquet", 30, 3, age=lambda v: np.full(30, np.nan))
    assert main(["watch", f"--data={empty}", f"--model={folder / 'run'}", f"--out={tmp_path / 'c'}"]) == DATA_ERROR
    assert "no usable rows; all 30" in capsys.readouterr().err


def test_edits_are_no_drift(places):
    """Merging, splitting and dropping change what rows are called, not what they are."""
    folder, uri = places
    edits = [{"kind": "merge", "clusters": [0, 1]}, {"kind": "split", "cluster": 2, "parts": 2}]
    edit(str(folder / "run"), build(Decisions, {"edits": edits}), out=str(folder / "edited"), tracking_uri=uri)
    code, found = look(places, "edited rows", model=folder / "edited")
    assert code == 0 and [each["cluster"] for each in found["clusters"]] == ["0", "2, 3"]
    assert sum(each["now"] for each in found["clusters"]) == pytest.approx(1)


def test_clusters_that_edits_tie_together_are_compared_as_one():
    split = Split(cluster=1, centroids=((0.0,), (1.0,)))
    labels = LabelMap(given=(0, 1, 2, 3), free=4, joins=(Join(first=0, second=1, strength=1.0),))
    edits = (Merge(clusters=(0, 3)), split, Drop(cluster=2))
    assert groups_of(labels) == [Group((k,), (k,)) for k in range(4)]
    after = labels.edited(Revision(of="x", edits=edits))
    assert groups_of(after) == [Group((2,), (-1,)), Group((0, 3), (0,)), Group((1,), (1, 4))]


@pytest.mark.ray
@pytest.mark.slow
def test_over_ray_the_same_and_after_a_kill_too(places, tmp_path):
    """A look that is killed, once rows are assigned or once it is written down, is ended by the same command."""
    folder, uri = places
    values = table(3000, 11)
    (tmp_path / "new").mkdir()
    for part in range(3):
        pq.write_table(pa.table(values).slice(1000 * part, 1000), tmp_path / "new" / f"{part}.parquet")
    results = []
    for name, options in (("plain", []), ("ray", ["--workers=2"])):
        given = [f"--model={folder / 'run'}", f"--data={tmp_path / 'new'}", f"--tracking-uri={uri}"]
        command = [sys.executable, "-m", "raydc", "watch", *given, f"--out={tmp_path / name}", *options]
        place = {**os.environ, "RAYDC_FAILPOINT": f"{'assigned' if not options else 'watched'}:{tmp_path / name}.died"}
        killed = subprocess.run(command, env=place, capture_output=True, text=True, check=False)
        assert killed.returncode == -9 and (tmp_path / f"{name}.died").exists(), killed.stderr
        again = subprocess.run(command, env=place, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        results.append(json.loads((tmp_path / name / "watch.json").read_text()))
    assert results[0] == results[1]
