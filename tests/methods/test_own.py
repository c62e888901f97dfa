"""Methods of one's own: named by a file, which travels to the workers and into the model, or by a module."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from raydc import methods
from raydc.cli import main as cli
from raydc.core import source_file
from raydc.core.registries import ALLOW_CODE
from raydc.core.settings import SettingsError, unflatten
from raydc.training.config import RunConfig, read_yaml
from raydc.training.model import ClusteringModel
from raydc.training.model_files import ModelError
from tests.support import run_cases
from tests.support.waiting import run

ONE = '''"""k-means from the origin's view: a method in a file of its own."""

from pydantic import Field

from raydc.methods.kmeans import KMeans


class Mine(KMeans):
    class Config(KMeans.Config):
        mark: int = Field(0, ge=0)
        """Does nothing, in a file of one's own."""
'''
TWO = ONE + "\n\nclass Other(Mine):\n    pass\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "my_method.py"
    path.parent.mkdir()
    path.write_text(ONE)
    return path


def test_a_file_and_a_class_of_it(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = methods.full_name(str(file))
    assert name == f"my_method.py@{source_file.read(str(file)).digest}"
    assert methods.load(str(file)) is methods.load(name) and methods.load(name).__name__ == "Mine"
    monkeypatch.chdir(file.parent)
    for here in ("my_method.py", "my_method", "my_method:Mine", "my_method.py:Mine"):
        assert methods.load(here) is methods.load(name), here
    file.write_text(TWO)
    with pytest.raises(SettingsError, match=r"must define one Method, it defines Mine, Other; name one .*:Mine"):
        methods.load(str(file))
    assert methods.load(f"{file}:Other").__name__ == "Other"
    assert methods.full_name(f"{file}:Other") == f"my_method.py@{source_file.read(str(file)).digest}:Other"
    assert methods.load("raydc.methods.kmeans:KMeans") is methods.load("kmeans")


@pytest.mark.parametrize(
    ("text", "named", "said"),
    [
        (None, "my_method.py", r"my_method\.py cannot be read: .*No such file"),
        ("def", "my_method.py", r"my_method\.py cannot be run: SyntaxError"),
        ("import no_such_package", "my_method.py", r"ModuleNotFoundError.* \(a file travels alone: it may import"),
        ("x = 1", "my_method.py", r"must define one Method, it defines none; derive a class from it"),
        (ONE, "my_method.py:Yours", r"has no Method 'Yours'; it defines Mine"),
        (ONE, f"my_method.py@{'0' * 32}", r"my_method\.py has changed: its hash was 0+ and is "),
        (None, "kmean", r"no method 'kmean'; did you mean kmeans\? .*path/to/my_method\.py"),
        (None, "no_such.module:Mine", r"cannot import 'no_such\.module' .* install it on every node, or name its file"),
    ],
)
def test_what_is_no_method_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, named: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "my_method.py").write_text(text)
    with pytest.raises(SettingsError, match=said):
        methods.load(named)
    assert cli.main(["train", "--data", "digits", "--method", named, "--out", str(tmp_path / "out")]) == cli.USAGE_ERROR


@pytest.fixture
def own_run(file: Path, tmp_path: Path) -> Path:
    data = run_cases.write(run_cases.table(), tmp_path / "rows.parquet")
    return Path(run_cases.finished(tmp_path / "run", data, **{"method.name": str(file), "method.mark": 3}))


def elsewhere(arguments: list[str], at: Path) -> "subprocess.CompletedProcess[str]":
    """The command line in another process, in an empty folder."""
    at.mkdir(exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "raydc", *arguments]
    return run(command, 280, cwd=at, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_code_lies_in_the_model_and_needs_leave(
    own_run: Path, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the file is not: refused by name, then run from the model's own copy, if its hash is the name's."""
    name, model = methods.full_name(str(file)), own_run / "model"
    assert (model / "method.py").read_text() == ONE
    assert json.loads((model / "model.json").read_text())["method"] == name
    shutil.rmtree(file.parent)
    monkeypatch.setenv(ALLOW_CODE, "my_method.py,my_method")
    out, data = tmp_path / "assigned", str(tmp_path / "rows.parquet")
    assign = ["assign", "--model", str(own_run), "--data", data, "--out", str(out)]
    with pytest.raises(ModelError, match=rf"to have its code imported and run, name it by --allow-code {name}"):
        ClusteringModel.load(model)
    assert cli.main(assign) == cli.DATA_ERROR and not out.exists()
    done = elsewhere([*assign, "--allow-code", name], tmp_path / "empty")
    assert done.returncode == 0, done.stderr


def test_other_code_than_the_models_name_says_is_not_run(own_run: Path, file: Path, tmp_path: Path) -> None:
    name, made = methods.full_name(str(file)), tmp_path / "made"
    planted = f"from pathlib import Path\nPath({str(made)!r}).touch()\n" + ONE
    about = json.loads((own_run / "model" / "model.json").read_text())
    (own_run / "model" / "method.py").write_text(planted)
    with pytest.raises(ModelError, match=r"method\.py is damaged"):
        ClusteringModel.load(own_run / "model", [name])
    about["sha256"]["method.py"] = hashlib.sha256(planted.encode()).hexdigest()
    (own_run / "model" / "model.json").write_text(json.dumps(about))
    with pytest.raises(ModelError, match="the code beside it has the hash"):
        ClusteringModel.load(own_run / "model", [name])
    assert not made.exists()


def test_the_runs_configuration_repeats_it_and_notices_another_file(own_run: Path, file: Path, tmp_path: Path) -> None:
    values = read_yaml(str(own_run / "config.yaml"))
    again = RunConfig.of(values)
    assert again.method_name == methods.full_name(str(file)) and again.flat()["method.mark"] == 3
    file.write_text(ONE.replace("ge=0", "ge=4"))
    del sys.modules[source_file.PREFIX + source_file.read(str(own_run / "model" / "method.py")).digest]
    with pytest.raises(SettingsError, match=r"my_method\.py has changed"):
        RunConfig.of(values)
    settings = {"method": {"name": str(file), "mark": 3}, "data": {"path": "digits"}, "output": {"out": "x"}}
    with pytest.raises(SettingsError, match=r"method\.mark: .*got 3"):
        RunConfig.of(unflatten(settings))


SMALL = ["network.hidden=16", "network.latent=4", "denoise.length=1 epochs", "pretrain.length=2 epochs"]
NETWORK = ONE.replace("kmeans import KMeans", "ae_kmeans import AEKMeans as KMeans")


@pytest.mark.ray
@pytest.mark.slow
def test_the_file_travels_to_workers(file: Path, tmp_path: Path) -> None:
    """By the command line, from an empty folder: no worker can import the file."""
    file.write_text(NETWORK)
    data, out = run_cases.write(run_cases.table(), tmp_path / "rows.parquet"), tmp_path / "run"
    train = ["train", "--data", data, "--method", str(file), "--n-clusters", "3", "--out", str(out), "--workers", "2"]
    done = elsewhere([*train, *(f"--method.{one}" for one in SMALL)], tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    assert (out / "model" / "method.py").read_text() == NETWORK


@pytest.mark.ray
@pytest.mark.slow
def test_the_file_travels_to_trials_and_the_winner_has_it(file: Path, tmp_path: Path) -> None:
    file.write_text(NETWORK)
    data, out, space = (
        run_cases.write(run_cases.table(), tmp_path / "rows.parquet"),
        tmp_path / "out",
        tmp_path / "s.py",
    )
    space.write_text(
        "def space(trial, rows):\n"
        "    trial.suggest_float('method.pretrain.optimizer.lr', 1e-4, 1e-2, log=True)\n"
        f"    return {{'method.name': {str(file)!r}}}\n"
    )
    tune = ["tune", "--data", data, "--space", str(space), "--trials", "1", "--replicas", "2", "--n-clusters", "3"]
    sets = [part for one in SMALL for part in ("--set", f"method.{one}")]
    done = elsewhere([*tune, "--out", str(out), *sets], tmp_path / "empty")
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in out.glob("trials/*/record.json")]
    own = [record for record in records if record["point"]["method.name"] == methods.full_name(str(file))]
    assert own and {record["status"] for record in own} == {"finished"}
