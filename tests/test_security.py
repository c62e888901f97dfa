"""No secret is written or shown, nothing is written outside the root, and no pickle is ever loaded."""

import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import safetensors.torch
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from raydc.cli import main as cli
from raydc.clustering.centroid_service.service import ServicePlan
from raydc.clustering.centroid_service.snapshots import Snapshots
from raydc.core.redact import holds_secret, redact
from raydc.core.registries import ALLOW_CODE
from raydc.core.settings import SettingsError, build
from raydc.core.storage import Store, sealed, unsealed
from raydc.data import DataError, DataSettings, open_source
from raydc.pipelines.assign import assign
from raydc.pipelines.report import report
from raydc.search.trial import Record, read_array
from raydc.tracking import mlflow_client, registry
from raydc.tracking.mlflow_client import RegistryError
from raydc.tracking.payloads import sha256_of
from raydc.tracking.tracker import flush
from raydc.training import checkpoint
from raydc.training.model import ClusteringModel
from raydc.training.model_files import ModelError
from raydc.training.worker_job import prepare
from tests.support import run_cases, runs
from tests.support.servers import free_port
from tests.support.waiting import run
from tests.training.test_trainer import loop_of

CANARY = "canary-7f3a9c51"
SECRETS = (
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://me:pw@host:5000/x failed", "at http://***@host:5000/x failed"),
        ("http://me:p@w@host", "http://***@host"),
        ("postgresql+psycopg2://me:pw@host/db?sslmode=on", "postgresql+psycopg2://***@host/db?sslmode=on"),
        ("s3://b/k?X-Amz-Signature=abc&region=eu", "s3://b/k?X-Amz-Signature=***&region=eu"),
        ("http://h/?access_token=abc", "http://h/?access_token=***"),
        ("s3://bucket/some@place, a@b", "s3://bucket/some@place, a@b"),
    ],
)
def test_secrets_are_taken_out_of_texts(text: str, shown: str) -> None:
    assert redact(text) == redact(shown) == shown and holds_secret(text) == (text != shown)


@pytest.mark.parametrize("setting", ["data.path", "output.out", "training.init_from"])
def test_a_password_in_a_setting_that_is_written_down_is_refused_without_showing_it(tmp_path, setting) -> None:
    changes = {setting.replace(".", "__"): f"s3://me:{CANARY}@bucket/x"}
    with pytest.raises(SettingsError, match=r"expected a URI without names and passwords") as problem:
        runs.config(tmp_path / "run", **changes)
    assert CANARY not in str(problem.value) and setting in str(problem.value)


def test_the_password_of_a_tracking_uri_is_not_written_down(tmp_path) -> None:
    config = runs.config(tmp_path / "run", output__tracking_uri=f"http://me:{CANARY}@host")
    assert CANARY not in config.yaml() and "http://***@host" in config.yaml()
    assert config.resolved()["output"]["tracking_uri"] == f"http://me:{CANARY}@host"


def found_in(folder: Path) -> list[str]:
    """Files with the canary in them."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path) for path in files if CANARY.encode() in path.read_bytes()]


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_loses_a_worker_and_its_registry_shows_no_secret_anywhere(tmp_path) -> None:
    """Output directory, what it prints, and the session logs of a Ray cluster that asks for a token."""
    data = run_cases.write(run_cases.table(), tmp_path / "rows.parquet")
    sessions = Path(tempfile.mkdtemp(prefix="rc-", dir="/tmp"))  # short: Ray's sockets lie in it
    environment = {**os.environ, **dict.fromkeys(SECRETS, CANARY), "RAY_AUTH_MODE": "token"}
    environment |= {"RAY_TMPDIR": str(sessions), "RAYDC_FAILPOINT": f"stream.part:{tmp_path / 'killed'}"}
    environment |= {"MLFLOW_TRACKING_URI": f"http://me:{CANARY}@127.0.0.1:{free_port()}"}
    command = [sys.executable, "-m", "raydc", "train", "--data", data, "--method", "kmeans", "--n-clusters", "3"]
    command += ["--workers", "1", "--out", str(tmp_path / "out"), "--register", "canary"]
    try:
        done = run(command, 300, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert done.returncode == cli.TRY_AGAIN, done.stderr
        assert (tmp_path / "killed").exists() and "registry flush" in done.stderr
        assert CANARY not in done.stdout + done.stderr
        assert found_in(tmp_path) == [] and list(sessions.rglob("*.log")), "Ray wrote its logs here"
        assert found_in(sessions) == []
    finally:
        shutil.rmtree(sessions, ignore_errors=True)


BAD_NAMES = [
    "", ".", "..", "...", "../x", "../../etc/passwd", "a/../../x", "/etc/x", "//x", "~/x/../..", "a/b", "a\\b", "..\\x",
    "a\0", "\0", "a\0/../x", "a\nb", "a\rb", "a\tb", " ", "a b", " a", "a ", "a:b", "a;b", "a|b", "a&b", "a$b", "`id`",
    "$(id)", "a'b", 'a"b', "a%2fb", "%2e%2e%2f", "..%2f..", "a?b", "a#b", "a*b", "a<b", "ä", "名前", "a\u202eb",
    "\u2215etc", "\uff0e\uff0e\uff0f", "🦆", "x" * 129, "x" * 300, "x" * 10_000, "file:///etc/x", "http://169.254.169.254/x",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_lead_elsewhere(tmp_path, name) -> None:
    """Fifty of them: as a registered model, a run of the service, and a file of an output directory."""
    for what in ("model name", "run key"):
        with pytest.raises(ValueError, match=f"expected a {what} of letters"):
            mlflow_client.check_name(name, what)
    with pytest.raises(SettingsError, match="run: "):
        build(ServicePlan, {"run": name, "n_clusters": 2, "dim": 2, "rows": [2]})
    store = Store(tmp_path / "deep" / "root")
    try:
        store.write_text(name, "x")
    except ValueError as problem:
        assert "expected a name inside" in str(problem)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all((tmp_path / "deep" / "root") in path.parents for path in files)
    assert not Path("/etc/x").exists()


def test_there_are_fifty() -> None:
    assert len(BAD_NAMES) == len(set(BAD_NAMES)) == 50


def test_a_planted_link_leads_nowhere(tmp_path) -> None:
    store, outside = Store(tmp_path / "root"), tmp_path / "outside"
    store.write_text("a", "mine")
    outside.mkdir()
    (outside / "precious").write_text("theirs")
    (tmp_path / "root" / "model").symlink_to(outside)
    for action in (lambda: store.write_text("model/precious", "x"), lambda: store.read_text("model/precious")):
        with pytest.raises(ValueError, match="expected a name inside"):
            action()
    assert (outside / "precious").read_text() == "theirs"


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """What a planted pickle would make; nobody may have made it when the test is over."""
    made = tmp_path / "exploded"
    with pytest.raises(FileExistsError):  # it does explode where somebody loads it
        (tmp_path / "exploded").mkdir()
        pickle.loads(pickle.dumps(Bomb(made)))
    made.rmdir()
    yield made
    assert not made.exists(), "a planted pickle was run"


def torch_bomb(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": Bomb(marker)}, buffer)
    return buffer.getvalue()


def array_bomb(marker: Path, archive: bool = False) -> bytes:
    buffer = io.BytesIO()
    values = np.array([Bomb(marker)], dtype=object)
    if archive:
        np.savez(buffer, X=values, ledger=values)
    else:
        np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("file", ["shared.pt", "rows"])
def test_a_pickle_in_a_checkpoint(tmp_path, marker, file) -> None:
    """Its manifest states the right checksum: whoever can write the one can write the other."""
    loop, store = loop_of(prepare(runs.config(tmp_path / "x")), 1, 0), Store(tmp_path / "run")
    next(iter(loop))
    checkpoint.save(store, loop, [])
    (manifest,) = (tmp_path / "run").rglob("manifest.json")
    about = unsealed(manifest.read_bytes())
    name = next(name for name in about["files"] if name.startswith(file))
    (manifest.parent / name).write_bytes(torch_bomb(marker))
    about["files"][name] = hashlib.sha256(torch_bomb(marker)).hexdigest()
    manifest.write_bytes(sealed(about))
    with pytest.raises(checkpoint.CheckpointError, match="holds more than tensors"):
        checkpoint.load(store, loop)


def plant_in_model(folder: Path, marker: Path) -> None:
    about = json.loads((folder / "model.json").read_text())
    about["sha256"]["state.safetensors"] = hashlib.sha256(torch_bomb(marker)).hexdigest()
    (folder / "model.json").write_text(json.dumps(about))
    (folder / "state.safetensors").write_bytes(torch_bomb(marker))


def test_a_pickle_in_a_model(tmp_path, marker, table_run) -> None:
    """Loaded, assigned with, and taken as pretrained."""
    shutil.copytree(table_run, tmp_path / "run")
    plant_in_model(tmp_path / "run" / "model", marker)
    data = run_cases.write(run_cases.table(), tmp_path / "rows.parquet")
    with pytest.raises(ModelError, match="is no safetensors file"):
        ClusteringModel.load(tmp_path / "run" / "model")
    with pytest.raises(ModelError, match="is no safetensors file"):
        assign(str(tmp_path / "run"), DataSettings(path=data), str(tmp_path / "out"))
    with pytest.raises(DataError, match="is no safetensors file"):
        prepare(runs.config(tmp_path / "new", training__init_from=str(tmp_path / "run")))


def test_a_pickle_in_a_snapshot(tmp_path, marker) -> None:
    store = Snapshots(tmp_path / "run")
    store.save({"ledger": np.zeros(2, bool)}, {"version": 0})
    (manifest,) = (tmp_path / "run").glob("snapshot-*.json")
    payload = array_bomb(marker, archive=True)
    manifest.with_suffix(".npz").write_bytes(payload)
    about = unsealed(manifest.read_bytes()) | {"sha256": hashlib.sha256(payload).hexdigest()}
    manifest.write_bytes(sealed(about))
    with pytest.raises(ValueError, match=r"no snapshot of this run can be read(.|\n)*allow_pickle"):
        Snapshots(tmp_path / "run").newest()


def test_a_pickle_among_the_rows_or_a_trials_files(tmp_path, marker) -> None:
    for name in ("x.npy", "x.npz"):
        (tmp_path / name).write_bytes(array_bomb(marker, archive=name.endswith("z")))
        with pytest.raises(ValueError):
            open_source(DataSettings(path=str(tmp_path / name)))
    store = Store(tmp_path / "search")
    store.write_bytes("trials/0000/labels.npy", array_bomb(marker))
    store.write_bytes("trials/0000/record.json", pickle.dumps(Bomb(marker)))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_array(store, "trials/0000/labels.npy")
    with pytest.raises(ValueError):
        Record.read(store, 0)


def test_a_pickle_in_an_assignment_directory_or_an_outbox(tmp_path, marker, table_run, mlflow_uri) -> None:
    data, out = run_cases.write(run_cases.table(), tmp_path / "rows.parquet"), tmp_path / "out"
    assign(table_run, DataSettings(path=data), str(out))
    (part,) = out.glob("part-*.parquet")
    whole = part.read_bytes()
    part.write_bytes(pickle.dumps(Bomb(marker)))
    assign(table_run, DataSettings(path=data), str(out))
    assert part.read_bytes() == whole, "it was made again"
    (out / "_assignment.json").write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(ValueError):
        assign(table_run, DataSettings(path=data), str(out))
    (tmp_path / ".raydc").mkdir()
    (tmp_path / ".raydc" / "outbox.jsonl").write_bytes(pickle.dumps(Bomb(marker)) + b"\n")
    assert flush(str(tmp_path), mlflow_uri) == ({}, {"tracking store": mlflow_uri})


@pytest.fixture
def planted(tmp_path, monkeypatch, table_run):
    """A run whose model names a method of its own, and the file that this method's module makes when it is imported."""
    run, made, package = tmp_path / "run", tmp_path / "imported", tmp_path / "planted_methods"
    shutil.copytree(table_run, run)
    about = json.loads((run / "model" / "model.json").read_text())
    (run / "model" / "model.json").write_text(json.dumps(about | {"method": "planted_methods.mine"}))
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(
        "from pathlib import Path\nfrom raydc.methods.kmeans import KMeans\n\n"
        f"Path({str(made)!r}).touch()\n\nclass Mine(KMeans):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(ALLOW_CODE, raising=False)
    yield run, made
    for name in [name for name in sys.modules if name.startswith("planted_methods")]:
        del sys.modules[name]


def test_a_model_has_no_code_imported_that_is_not_allowed_by_name(planted, tmp_path, monkeypatch, mlflow_uri) -> None:
    """Loaded, assigned with, reported, taken as pretrained, and served by MLflow."""
    run, made = planted
    data, frame = run_cases.write(run_cases.table(), tmp_path / "rows.parquet"), run_cases.table(9).to_pandas()
    refused = r"'planted_methods\.mine', which does not come with raydc: .* --allow-code planted_methods\.mine"
    run_id = mlflow_client.start_run("security", "x", "planted-code", {}, mlflow_uri)
    uri = mlflow_client.log_model(run / "model", run_id, mlflow_uri)
    location = MlflowClient(mlflow_uri).get_logged_model(uri.removeprefix("models:/")).artifact_location
    for load in (
        lambda: ClusteringModel.load(run / "model"),
        lambda: ClusteringModel.load(run / "model", allow_code=["planted_methods", "another.method"]),
        lambda: registry.load(str(run)),
        lambda: registry.load(uri, mlflow_uri),
        lambda: assign(str(run), DataSettings(path=data), str(tmp_path / "out")),
        lambda: report(str(run), str(tmp_path / "report")),
        lambda: prepare(runs.config(tmp_path / "new", training__init_from=str(run))),
        lambda: mlflow.pyfunc.load_model(location),
    ):
        with pytest.raises(ValueError, match=refused):
            load()
    command = ["assign", "--model", str(run), "--data", data, "--out", str(tmp_path / "assigned")]
    assert cli.main(command) == cli.DATA_ERROR
    assert not made.exists() and not (tmp_path / "assigned").exists()

    expected = ClusteringModel.load(run / "model", allow_code=["planted_methods.mine"]).predict(frame)
    assert made.exists()
    assert cli.main([*command, "--allow-code", "planted_methods.mine"]) == 0
    monkeypatch.setenv(ALLOW_CODE, "another.method,planted_methods.mine")
    assert registry.load(uri, mlflow_uri).predict(frame).tolist() == expected.tolist()
    assert mlflow.pyfunc.load_model(location).predict(frame)["cluster"].tolist() == expected.tolist()


@pytest.mark.parametrize(
    "damage", ["another shape", "another name", "a format before", "a format to come", "no object"]
)
def test_a_model_of_something_else_is_named(tmp_path, table_run, damage) -> None:
    folder = tmp_path / "model"
    shutil.copytree(Path(table_run, "model"), folder)
    about = json.loads((folder / "model.json").read_text())
    if damage in ("another shape", "another name"):
        name = "centroids" if damage == "another shape" else "centres"
        weights = safetensors.torch.save({name: torch.zeros(3, 7)})
        (folder / "state.safetensors").write_bytes(weights)
        about["sha256"]["state.safetensors"] = hashlib.sha256(weights).hexdigest()
    changed = {"a format before": about | {"format": 1}, "a format to come": about | {"format": 99}, "no object": []}
    (folder / "model.json").write_text(json.dumps(changed.get(damage, about)))
    said = {"a format before": "got 1: train the model anew", "a format to come": "got 99: update raydc"}
    otherwise = (
        "holds other weights than a kmeans has" if damage.startswith("another") else "expected a model of format"
    )
    with pytest.raises(ModelError, match=said.get(damage, otherwise)):
        ClusteringModel.load(folder)


class Pickled(mlflow.pyfunc.PythonModel):
    """A model of somebody else's, that MLflow would pickle."""

    def predict(self, context: Any, model_input: list[str]) -> list[str]:
        return model_input


def test_mlflow_models_with_a_pickle_are_refused(tmp_path, marker, table_run, mlflow_uri) -> None:
    client = MlflowClient(mlflow_uri)
    model = tmp_path / "model"
    shutil.copytree(Path(table_run, "model"), model)
    run_id = mlflow_client.start_run("security", "x", "planted", {}, mlflow_uri)
    uri = mlflow_client.log_model(model, run_id, mlflow_uri)
    location = Path(client.get_logged_model(uri.removeprefix("models:/")).artifact_location.removeprefix("file://"))
    (planted,) = location.rglob("artifacts/model")
    (planted / "python_model.pkl").write_bytes(pickle.dumps(Bomb(marker)))
    registry.register(uri, "planted", sha256_of(planted), run_id, None, mlflow_uri)
    with pytest.raises(ModelError, match=r"it also holds python_model\.pkl"):
        registry.load("models:/planted@champion", mlflow_uri)

    plain = tmp_path / "pickled"
    mlflow.pyfunc.save_model(str(plain), python_model=Pickled(), pip_requirements=[])
    (plain / "python_model.pkl").write_bytes(pickle.dumps(Bomb(marker)))
    client.create_registered_model("pickled")
    client.create_model_version("pickled", plain.as_uri(), tags={"raydc.sha256": "0" * 64})
    with mlflow_client.reading(mlflow_uri), pytest.raises(MlflowException, match=r"(?i)pickle"):
        mlflow.pyfunc.load_model(plain.as_uri())
    with pytest.raises(RegistryError):
        registry.load("models:/pickled/1", mlflow_uri)


@pytest.mark.parametrize("call", ["pickle.load", "cloudpickle", "weights_only=False", "allow_pickle=True", "torch.jit"])
def test_no_call_that_runs_code_from_files(call) -> None:
    for path in Path(mlflow_client.__file__).parents[1].rglob("*.py"):
        assert call not in path.read_text(encoding="utf-8"), path
