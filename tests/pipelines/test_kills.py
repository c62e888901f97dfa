"""What comes after a training, killed half way for real and repeated: nothing is there twice, or half."""

import json
import os
import subprocess
import sys

import pytest

from raydc.cli.main import main
from raydc.tracking import registry
from tests.support import run_cases


def files(out):
    """What is there, but for what tells times, and for notes of raydc to itself."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and ".raydc" not in path.parts and path.suffix in (".parquet", ".safetensors")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "options"),
    [
        ("assigned", ["sample", "--balanced", "--n=30"]),
        ("sampled", ["sample", "--balanced", "--n=30"]),
        ("sampled", ["sample", "--near-duplicates", "--workers=2"]),
    ],
)
def test_a_command_that_is_killed_ends_as_an_undisturbed_one(table_run, tmp_path, mlflow_uri, place, options):
    command, *options = options
    data = run_cases.write(run_cases.table(250, seed=3), tmp_path / "rows.parquet")
    given = [sys.executable, "-m", "raydc", command, f"--data={data}", f"--model={table_run}", *options]
    given += [f"--tracking-uri={mlflow_uri}"]
    mortal = {**os.environ, "RAYDC_FAILPOINT": f"{place}:{tmp_path / 'died'}"}
    killed = subprocess.run([*given, f"--out={tmp_path / 'killed'}"], env=mortal, capture_output=True, check=False)
    assert killed.returncode == -9 and (tmp_path / "died").exists(), killed.stderr.decode()
    for name in ("killed", "whole", "killed"):
        done = subprocess.run([*given, f"--out={tmp_path / name}"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


TRAIN = ["train", "--method=kmeans", "--n-clusters=4", "--method.restarts=1", "--label-column=y"]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A registry where version 2 is champion, whose clusters were mended by hand: options of what follows it."""
    folder = tmp_path_factory.mktemp("followed")
    rows, more = (run_cases.write(run_cases.table(n), folder / f"{n}.parquet") for n in (300, 330))
    store = f"--tracking-uri=sqlite:///{folder}/mlflow.db"
    options = [*TRAIN, "--workers=0", store]
    assert main([*options, "--n-clusters=3", f"--data={rows}", f"--out={folder / 'first'}", "--register=m"]) == 0
    edits = ["--rename", "2=tall", "--split", "1", "--rename", "0=wide"]
    assert main(["edit", "--model=models:/m/1", *edits, "--register=m", store]) == 0
    registry.promote("m", 2, store.partition("=")[2])
    return [f"--data={more}", store, "--align-to=models:/m@champion"]


def told(out):
    """What a finished run or search says of its clusters, and whose ids they have."""
    name = "summary.json" if (out / "summary.json").exists() else "search.json"
    found = json.loads((out / name).read_text())
    return {key: found.get(key) for key in ("aligned", "sizes", "clusters", "verdict")} | {
        "labels": json.loads((out / "model" / "labels.json").read_text()),
        "baseline": json.loads((out / "model" / "baseline.json").read_text()),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("place", "command"),
    [
        ("align.keep", [*TRAIN, "--workers=0"]),
        ("model.amended", [*TRAIN, "--workers=0"]),
        ("align.model", [*TRAIN, "--workers=0"]),
        ("align.assignments", [*TRAIN, "--workers=0"]),
        ("align.summary", [*TRAIN, "--workers=0"]),
    ],
)
def test_what_keeps_ids_and_is_killed_ends_with_the_ids_of_an_undisturbed_one(followed, tmp_path, place, command):
    uri, name = followed[1].partition("=")[2], f"n-{tmp_path.name}"
    given = [sys.executable, "-m", "raydc", *command, *followed]
    mortal = {**os.environ, "RAYDC_FAILPOINT": f"{place}:{tmp_path / 'died'}"}
    out, whole = tmp_path / "killed", tmp_path / "whole"
    wanted = [*given, f"--out={out}", f"--register={name}"]
    killed = subprocess.run(wanted, env=mortal, capture_output=True, check=False)
    assert killed.returncode == -9 and (tmp_path / "died").exists(), killed.stderr.decode()
    if place != "align.keep":  # whose ids they are is settled
        registry.promote("m", 1, uri)
    try:
        for _ in range(2):
            done = subprocess.run(wanted, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    finally:
        registry.promote("m", 2, uri)
    done = subprocess.run([*given, f"--out={whole}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert told(out) == told(whole) and told(out)["aligned"]["to"] == "models:/m/2"
    one, other = files(out), files(whole)
    assert one == other and {"model/state.safetensors", "model/baseline.safetensors"} <= one.keys()
    (version,) = registry.versions(name, uri)
    assert version.tags["raydc.aligned_to"] == "models:/m/2" and version.tags["raydc.kept"]
