"""Clusters mended by hand: what becomes of rows, of versions, and of what was killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raydc.cli.main import DATA_ERROR, TRY_AGAIN, UNAVAILABLE, USAGE_ERROR, main
from raydc.data import DataSettings
from raydc.pipelines.assign import assign, read
from raydc.pipelines.edit import Decisions, SplitInto, edit, split
from raydc.tracking import registry
from raydc.training.labels import Drop, Merge, Rename, Split
from raydc.training.model import ClusteringModel
from tests.support import run_cases


@pytest.fixture(scope="module")
def frame():
    return run_cases.table(200, seed=5).to_pandas()


def test_rows_follow_the_edits_and_come_back(table_run, frame, tmp_path):
    model, out = registry.load(table_run), str(tmp_path / "edited")
    wanted = (Merge(clusters=(2, 0)), Rename(cluster=2, name="both"), SplitInto(cluster=1))
    found = edit(table_run, Decisions(edits=wanted), out=out)
    edited, before = registry.load(out), model.predict(frame)
    after = edited.assign(frame)
    assert edited.clusters == (1, 2, 3) and edited.labels.cells.names == {2: "both"}
    np.testing.assert_array_equal(after.clusters == 2, before != 1)
    assert set(after.clusters[before == 1]) == {1, 3} and (after.clusters == 1).sum() > (after.clusters == 3).sum()
    assert after.memberships.shape == (200, 3)
    np.testing.assert_allclose(after.memberships.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(after.membership, after.memberships[np.arange(200), after.clusters - 1])
    assert edited.weights_hash() == model.weights_hash()
    (revision,) = edited.labels.revisions
    assert revision.of.startswith("sha256:") and isinstance(revision.edits[2], Split)
    assert edit(table_run, Decisions(edits=wanted), out=out).model.labels == found.model.labels  # once more
    undone = edit(out, None, out=str(tmp_path / "undone")).model
    assert undone.files() == model.files()


def test_what_was_merged_counts_as_agreed_and_what_was_dropped_belongs_nowhere(table_run, frame, tmp_path):
    wanted = Decisions(edits=(Drop(cluster=1),))
    edited = edit(table_run, wanted, out=str(tmp_path / "edited")).model
    before, after = registry.load(table_run).assign(frame), edited.assign(frame)
    np.testing.assert_array_equal(after.clusters, np.where(before.clusters == 1, -1, before.clusters))
    np.testing.assert_array_equal(after.membership, before.membership)
    np.testing.assert_array_equal(after.memberships, before.memberships[:, [0, 2]])
    data = run_cases.write(run_cases.table(200, seed=5), tmp_path / "rows.parquet")
    summary = assign(str(tmp_path / "edited"), DataSettings(path=data), str(tmp_path / "out"))
    assert summary["nowhere"] == (after.clusters == -1).sum() == summary["rows"] - sum(summary["sizes"])
    (part,) = read(str(tmp_path / "out"))
    np.testing.assert_array_equal(part["cluster"], after.clusters)


@pytest.mark.slow
def test_a_command_gives_a_version_with_its_lineage_once(table_run, frame, tmp_path, mlflow_uri, capsys):
    store = f"--tracking-uri={mlflow_uri}"
    file = tmp_path / "decisions.json"
    file.write_text(json.dumps({"edits": [{"kind": "rename", "cluster": 0, "name": "boots"}]}))
    assert main(["edit", f"--model={table_run}", f"--decisions={file}", "--register=mended", store]) == 0
    wanted = ["edit", "--model=models:/mended/1", "--split=2:3", "--drop=3", "--register=mended", store]
    assert main(wanted) == main(wanted) == 0
    assert "registered as: models:/mended/2 (challenger" in capsys.readouterr().out
    first, second = registry.versions("mended", mlflow_uri)
    assert second.tags["raydc.edited_from"] == "models:/mended/1"
    assert second.tags["raydc.edits"] == "split 2 into 3; drop 3" and json.loads(first.tags["raydc.names"]) == {
        "0": "boots"
    }
    assert main(["edit", "--model=models:/mended/2", "--undo", "--register=mended", store]) == 0
    assert "models:/mended/1" in capsys.readouterr().out.splitlines()[-2]  # as the first, so it is the first
    now = registry.load("models:/mended/2", mlflow_uri)
    assert now.clusters == (0, 1, 2, 4) and now.labels.cells.names == {0: "boots"}
    assert {*now.predict(frame)} <= {-1, 0, 1, 2, 4}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--merge=0,9"], DATA_ERROR, "merge: there is no cluster 9; there are 0, 1, 2"),
        (["--merge=0"], USAGE_ERROR, "--merge: expected A,B[,C...], with clusters by their ids, got '0'"),
        (["--rename=0="], USAGE_ERROR, "--rename: expected A=NAME, with clusters by their ids, got '0='"),
        (["--rename=0"], USAGE_ERROR, "--rename: expected A=NAME, with clusters by their ids, got '0'"),
        (["--decisions=nowhere.json"], USAGE_ERROR, "nowhere.json cannot be read (No such file or directory)"),
        (["--split=zero"], USAGE_ERROR, "--split: expected A[:PARTS], with clusters by their ids, got 'zero'"),
        (["--merge=0,1", "--split=1"], DATA_ERROR, "split: there is no cluster 1; there are 0, 2"),
        (["--split=0:250"], DATA_ERROR, "too few different ones for 250 parts"),
        (["--undo"], DATA_ERROR, "never edited"),
        (["--undo", "--drop=1"], USAGE_ERROR, "one of the three"),
        ([], USAGE_ERROR, "one of the three"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(table_run, tmp_path, capsys, arguments, code, said):
    assert main(["edit", f"--model={table_run}", *arguments, f"--out={tmp_path / 'out'}"]) == code
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_edit_that_was_killed_is_made_whole_by_the_same_command(table_run, tmp_path):
    wanted, whole, half = Decisions(edits=(Merge(clusters=(0, 1)),)), tmp_path / "whole", tmp_path / "half"
    edit(table_run, wanted, out=str(whole))
    (half / "model").mkdir(parents=True)
    for name in ("state.safetensors", "labels.json"):  # as it was killed before the others
        (half / "model" / name).write_bytes((whole / "model" / name).read_bytes())
    edit(table_run, wanted, out=str(half))
    made, meant = ({file.name: file.read_bytes() for file in (at / "model").iterdir()} for at in (half, whole))
    assert made == meant
    with pytest.raises(ValueError, match="holds other files"):
        edit(table_run, Decisions(edits=(Drop(cluster=0),)), out=str(half))


def test_parts_are_found_in_the_embedding(image_run):
    model = ClusteringModel.load(Path(image_run, "model"))
    rows = np.stack(run_cases.images()["x"].to_numpy())
    cluster = int(np.bincount(model.predict(rows)).argmax())
    found = split(model, rows, SplitInto(cluster=cluster, parts=2))
    own = model.transform(rows[model.predict(rows) == cluster])
    assert np.array(found.centroids).shape == (2, own.shape[1])
    nearest = np.linalg.norm(own[:, None] - np.array(found.centroids, np.float32), axis=2).argmin(1)
    for part, centroid in enumerate(np.array(found.centroids)):
        np.testing.assert_allclose(own[nearest == part].mean(0), centroid, atol=1e-5)


def test_a_split_without_rows_asks_for_them(table_run, tmp_path, capsys):
    model, data = registry.load(table_run), run_cases.write(run_cases.table(), tmp_path / "rows.parquet")
    model.save(tmp_path / "alone" / "model")
    wanted = ["edit", f"--model={tmp_path / 'alone' / 'model'}", "--split=0", f"--out={tmp_path / 'out'}"]
    assert main(wanted) == DATA_ERROR and "name rows by --data" in capsys.readouterr().err
    assert main([*wanted, f"--data={data}"]) == 0


@pytest.mark.slow
def test_an_edit_waits_for_mlflow_and_is_registered_once(table_run, tmp_path, mlflow_uri, capsys):
    out, away = tmp_path / "out", "--tracking-uri=http://127.0.0.1:9"
    wanted = ["edit", f"--model={table_run}", "--rename=0=late", "--register=waited"]
    assert main([*wanted, f"--out={out}", away]) == TRY_AGAIN
    assert f"raydc registry flush --out {out}" in capsys.readouterr().err
    assert registry.load(str(out)).labels.cells.names == {0: "late"}
    for _ in range(2):
        assert main(["registry", "flush", f"--out={out}", f"--tracking-uri={mlflow_uri}"]) == 0
    assert main([*wanted, f"--out={out}", f"--tracking-uri={mlflow_uri}"]) == 0
    (version,) = registry.versions("waited", mlflow_uri)
    assert version.tags["raydc.edits"] == "rename 0 = late"
    assert main([*wanted, away]) == UNAVAILABLE  # nowhere to wait
    assert "with --out DIR the edited model and its record wait there" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("place", ["edit", "edited"])
def test_an_edit_is_killed_anywhere_and_ended_by_the_same_command(table_run, tmp_path, mlflow_uri, place):
    name = f"killed-{place}"
    given = [f"--model={table_run}", "--merge=0,1", f"--register={name}", f"--out={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "raydc", "edit", *given, f"--tracking-uri={mlflow_uri}"]
    mortal = {**os.environ, "RAYDC_FAILPOINT": f"{place}:{tmp_path / 'died'}"}
    assert subprocess.run(command, env=mortal, capture_output=True, check=False).returncode == -9
    for _ in range(2):
        done = subprocess.run(command, env=mortal, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(registry.versions(name, mlflow_uri)) == 1
    assert registry.load(f"models:/{name}/1", mlflow_uri).clusters == (0, 2)
