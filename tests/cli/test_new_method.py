"""raydc new-method: a file and a test to begin with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raydc.cli import main as cli
from raydc.testing import check_method
from tests.support.stranger import ROOT, raydc

QUICK = ["method.network.hidden=16", "method.denoise.length=0", "method.pretrain.length=2", "method.cluster.length=2"]


def test_two_files_are_written_and_none_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "methods"
    assert cli.main(["new-method", "deep_pull", "--out", str(out)]) == 0
    assert f"next: pytest {out}/test_deep_pull.py" in capsys.readouterr().out
    code, test = (out / "deep_pull.py").read_text(), (out / "test_deep_pull.py").read_text()
    assert "class DeepPull(" in code and "deep_pull.py" in test and "my_method" not in (code + test).lower()
    assert cli.main(["new-method", "deep_pull", "--out", str(out)]) == cli.USAGE_ERROR
    assert "is there already" in capsys.readouterr().err and (out / "deep_pull.py").read_text() == code


@pytest.mark.parametrize(
    ("name", "said"), [("dec", "raydc has a method 'dec'"), ("2d", "letters"), ("class", "keyword")]
)
def test_names_that_cannot_be_are_refused(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["new-method", name, "--out", str(tmp_path / "out")]) == cli.USAGE_ERROR
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_test_passes_as_written_and_the_file_trains(tmp_path: Path) -> None:
    assert cli.main(["new-method", "deep_pull", "--out", str(tmp_path)]) == 0
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", str(tmp_path / "test_deep_pull.py")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout
    train = ["train", "--data", "digits", "--method", "../deep_pull.py", "--n-clusters", "10", "--workers", "0"]
    settings = [part for one in QUICK for part in (f"--{one}".split("="))]
    trained = raydc([*train, "--out", "run", *settings], tmp_path / "empty")
    assert trained.returncode == 0, trained.stderr


def test_the_skeleton_is_a_method() -> None:
    """The cheap rules, in every run of the tests; the rest in the test above."""
    from raydc.testing.skeleton.my_method import MyMethod

    heavy = ["two workers are one", "one row has one answer", "settings act", "recipes train"]
    check_method(MyMethod, leave=[*heavy, "settings that are not read are refused"])
