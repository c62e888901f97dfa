"""What comes after a training, killed half way for real and repeated: nothing is there twice, or half."""

import os
import subprocess
import sys

import pytest

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
