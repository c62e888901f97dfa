import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from raydc import registry
from raydc.loop import Progress
from raydc.model import ClusteringModel, ModelError
from raydc.registry import RegistryError, Tracker
from raydc.report import report
from raydc.storage import Store
from tests import run_cases

PASSWORD = "hunter2"


@pytest.fixture(scope="module")
def run(table_run):
    return table_run


@pytest.fixture
def client(mlflow_uri):
    return MlflowClient(mlflow_uri)


@pytest.fixture
def tracker(tmp_path, mlflow_uri):
    made = Tracker(str(tmp_path / "out"), mlflow_uri, every=0.02)
    yield made
    made._stop.set()


@pytest.fixture
def key(request):
    return re.sub(r"\W", "-", request.node.name)


def epochs(*steps, phase="pretrain"):
    return [
        Progress(phase, i, 9, step, {"network": 1 / step}, None, None, None, False) for i, step in enumerate(steps, 1)
    ]


def history(client, run_id, name="loss.network"):
    return [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run_id, name)]


def refuse_metrics(monkeypatch, forever=True):
    """Make MLflow lose its server for metrics; returns how often it was asked."""
    asked, real = [], MlflowClient.log_batch

    def log_batch(self, run_id, metrics=(), params=(), tags=(), **rest):
        if not metrics:
            return real(self, run_id, metrics, params, tags, **rest)
        asked.append(len(metrics))
        if forever or len(asked) == 1:
            raise MlflowException("API request failed: http://me:hunter2@server")
        return real(self, run_id, metrics, params, tags, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    return asked


def test_a_run_is_found_again_by_its_key(tracker, client, key, tmp_path, mlflow_uri):
    config = {
        "method": {"name": "dec", "nu": 1.0},
        "data": {"path": f"s3://me:{PASSWORD}@bucket/x"},
        "long": "x" * 9000,
    }
    first = tracker.start("tests", "a name", key, config)
    assert Tracker(str(tmp_path / "other"), mlflow_uri).start("tests", "a name", key, config) == first
    assert Tracker(str(tmp_path / "third"), mlflow_uri).start("tests", "a name", key + "2", {}) != first
    found = client.get_run(first)
    assert found.info.run_name == "a name"
    assert found.data.params["method.nu"] == "1.0"
    assert found.data.params["data.path"] == "s3://***@bucket/x"
    assert len(found.data.params["long"]) <= 6000 and found.data.params["long"].endswith("(truncated)")
    versions = json.loads(Path(client.download_artifacts(first, "environment.json")).read_text())
    assert {"python", "torch", "mlflow"} <= set(versions)


def test_more_parameters_than_one_request_takes(tracker, client, key):
    config = {f"group{i}": {f"setting{j}": i * j for j in range(25)} for i in range(10)}
    assert len(client.get_run(tracker.start("tests", "x", key, config)).data.params) == 250


def test_a_doubled_run_is_marked_and_the_oldest_kept(tracker, client, key, monkeypatch):
    experiment = registry._experiment(client, tracker.uri, "tests")
    older = client.create_run(experiment, tags={"raydc.run_key": key}).info.run_id
    real, calls = registry._find_run, []

    def blind_once(*arguments):  # as if the older one had been made in between
        calls.append(arguments)
        return None if len(calls) == 1 else real(*arguments)

    monkeypatch.setattr(registry, "_find_run", blind_once)
    assert tracker.start("tests", "x", key, {}) == older
    assert Tracker(tracker.store, tracker.uri).start("tests", "x", key, {}) == older
    runs = client.search_runs([experiment], f"tags.`raydc.duplicate_of` = '{older}'")
    assert [run.info.status for run in runs] == ["KILLED"]


def test_metrics_by_step_and_none_twice(tracker, client, key, tmp_path, mlflow_uri):
    run_id = tracker.start("tests", "x", key, {})
    tracker.log(epochs(3, 6, 9))
    tracker.log([Progress("cluster", 1, 2, 12, {"clustering": 0.5}, 0.25, 3, 0.4, True)])
    assert tracker.finish("interrupted")
    assert client.get_run(run_id).info.status == "KILLED"
    again = Tracker(str(tmp_path / "out"), mlflow_uri, every=0.02)
    assert again.start("tests", "x", key, {}) == run_id
    assert client.get_run(run_id).info.status == "RUNNING"
    again.log([vars(line) for line in epochs(6, 9, 15)])  # as dictionaries too, such as a history's lines
    assert again.finish()
    assert [step for step, _, _ in history(client, run_id)] == [3, 6, 9, 15]
    metrics = client.get_run(run_id).data.metrics
    assert (metrics["changed"], metrics["alive"], metrics["largest"]) == (0.25, 3, 0.4)
    assert metrics["loss.clustering"] == 0.5
    assert client.get_run(run_id).info.status == "FINISHED"


def test_requests_are_few(tmp_path, mlflow_uri, key, monkeypatch):
    asked = refuse_metrics(monkeypatch, forever=False)
    asked.append(0)  # so that none is refused
    tracker = Tracker(str(tmp_path / "out"), mlflow_uri, every=0.2)
    tracker.start("tests", "x", key, {})
    start = time.monotonic()
    for step in range(1, 41):
        tracker.log(epochs(step))
        time.sleep(0.01)
    spent = time.monotonic() - start
    assert tracker.finish()
    assert len(asked) - 1 <= spent / 0.2 + 3


def test_training_never_waits_and_what_a_server_missed_is_sent_at_the_next_start(
    tracker, client, key, tmp_path, mlflow_uri, monkeypatch, caplog
):
    run_id = tracker.start("tests", "x", key, {})
    with monkeypatch.context() as patch:
        refuse_metrics(patch)
        start = time.monotonic()
        tracker.log(epochs(3, 6))
        assert time.monotonic() - start < 0.5
        assert not tracker.finish(seconds=1)
    assert "the same command sends it" in caplog.text and PASSWORD not in caplog.text
    kept = [json.loads(line) for line in (tmp_path / "out" / registry.OUTBOX).read_text().splitlines()]
    assert {line["step"] for line in kept} == {3, 6}
    assert history(client, run_id) == []
    again = Tracker(str(tmp_path / "out"), mlflow_uri, every=0.02)
    again.start("tests", "x", key, {})
    again.log(epochs(6, 9))  # 6 waits in the outbox already
    assert again.finish()
    assert [step for step, _, _ in history(client, run_id)] == [3, 6, 9]
    times = {line["step"]: line["timestamp"] for line in kept}
    assert [(step, when) for step, _, when in history(client, run_id)][:2] == sorted(times.items())
    assert (tmp_path / "out" / registry.OUTBOX).read_text() == ""


def test_a_request_whose_answer_was_lost_adds_nothing_when_sent_again(tracker, client, key, monkeypatch):
    real, asked = MlflowClient.log_batch, []

    def commit_then_fail(self, run_id, metrics=(), **rest):
        real(self, run_id, metrics=metrics, **rest)
        if metrics and not asked:
            asked.append(1)
            raise MlflowException("500 after the commit")

    run_id = tracker.start("tests", "x", key, {})
    monkeypatch.setattr(MlflowClient, "log_batch", commit_then_fail)
    tracker.log(epochs(3))
    assert tracker.flush(5) and asked
    assert len(history(client, run_id)) == 1


def test_an_unreachable_server_is_named_at_the_start_without_its_password(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tracker = Tracker(str(tmp_path), f"http://me:{PASSWORD}@127.0.0.1:{port}")
    start = time.monotonic()
    with pytest.raises(RegistryError, match=rf"MLflow at http://\*\*\*@127.0.0.1:{port}: .*--tracking-uri") as caught:
        tracker.start("tests", "x", "key", {})
    assert PASSWORD not in str(caught.value)
    assert time.monotonic() - start < 30


def test_the_tracking_uri_of_the_process_stays(tracker, key):
    before = mlflow.get_tracking_uri()
    tracker.start("tests", "x", key, {})
    assert mlflow.get_tracking_uri() == before


@pytest.fixture(scope="module")
def recorded(run, mlflow_uri):
    """A finished run put on record whole: (run id, model URI)."""
    tracker = Tracker(run, mlflow_uri)
    run_id = tracker.start("tests", "recorded", "recorded", {"method": {"name": "kmeans"}})
    summary = json.loads(Path(run, "summary.json").read_text())
    tracker.log_summary({**summary, "warnings": ["careful"]})
    tracker.log_files()
    uri = tracker.log_model(Path(run, "model"))
    assert tracker.log_model(Path(run, "model")) == uri  # not logged twice
    assert tracker.finish()
    return run_id, uri


@pytest.fixture
def served(recorded, mlflow_uri, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    mlflow.set_tracking_uri(mlflow_uri)
    yield mlflow.pyfunc.load_model(recorded[1])
    mlflow.set_tracking_uri(None)


def rows(count=20):
    return run_cases.table(count, seed=3).to_pandas()


def test_the_record_holds_scores_and_files(recorded, client):
    run_id, _ = recorded
    found = client.get_run(run_id).data
    assert {"final.score", "final.balance", "labels.acc", "rows", "found"} <= set(found.metrics)
    assert found.tags["raydc.warnings"] == "careful"
    assert {item.path for item in client.list_artifacts(run_id)} >= {"config.yaml", "summary.json", "assignments"}


def test_the_model_belongs_to_its_run_and_lies_beside_the_store(recorded, client, mlflow_uri):
    model = client.get_logged_model(recorded[1].removeprefix("models:/"))
    assert model.source_run_id == recorded[0] and str(model.status) == "READY"
    assert Path(mlflow_uri.removeprefix("sqlite:///")).parent.as_uri() in model.artifact_location


def test_predict_takes_frames_by_name_and_arrays_of_any_type(served, run):
    frame = rows()
    expected = ClusteringModel.load(Path(run, "model")).predict(frame)
    x = frame[[*run_cases.COLUMNS]].to_numpy()
    turned = frame[[*reversed(frame.columns)]].astype({"height": "float32"}).set_index("id")
    for given in (frame, turned, x, x.astype(np.float32)):
        found = served.predict(given)
        assert [*found.columns] == ["cluster", "confidence"]
        assert (found["cluster"].dtype, found["confidence"].dtype) == (np.int64, np.float32)
        np.testing.assert_array_equal(found["cluster"], expected)
    assert served.predict(turned).index.tolist() == turned.index.tolist()
    whole = np.clip(x.round(), 0, 99)
    for kind in (np.uint8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(served.predict(whole.astype(kind)), served.predict(whole))


def test_soft_predictions_are_memberships(served, run):
    frame = rows()
    found = served.predict(frame, params={"soft": True})
    expected = ClusteringModel.load(Path(run, "model")).memberships(frame)
    assert [*found.columns] == ["cluster", "confidence", "p0", "p1", "p2"]
    np.testing.assert_allclose(found[["p0", "p1", "p2"]], expected)
    assert found["p0"].dtype == np.float32
    assert len(served.predict(frame, params={"soft": False}).columns) == 2


def test_what_the_model_cannot_take_is_named(served):
    with pytest.raises(ValueError, match="width"):
        served.predict(rows().drop(columns=["width"]))
    with pytest.raises(ValueError, match=r"\(20, 3\)"):
        served.predict(np.zeros((20, 3)))


def test_signature_and_example(served):
    signature = served.metadata.signature
    assert signature.inputs is None  # MLflow's check would refuse float64 for float32, and arrays for columns
    assert signature.outputs.input_names() == ["cluster", "confidence", "p0", "p1", "p2"]
    assert [parameter.name for parameter in signature.params] == ["soft"]
    assert served.metadata.metadata["raydc"]["columns"] == [*run_cases.COLUMNS]
    example = served.input_example
    assert [*example.columns] == [*run_cases.COLUMNS]
    assert len(served.predict(example)) == len(example)


def test_nothing_in_the_model_is_pickled(recorded, mlflow_uri, tmp_path):
    with registry._asking(mlflow_uri):
        folder = mlflow.artifacts.download_artifacts(artifact_uri=recorded[1], dst_path=str(tmp_path))
    names = {path.name for path in Path(folder).rglob("*") if path.is_file()}
    assert not {name for name in names if name.endswith((".pkl", ".pickle", ".cloudpickle", ".joblib"))}
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_it_loads_where_raydc_is_not_installed(recorded, mlflow_uri, tmp_path, run):
    """In a process of its own that finds neither this checkout nor Ray nor Optuna, only what travels with the model."""
    np.save(tmp_path / "x.npy", rows()[[*run_cases.COLUMNS]].to_numpy())
    (tmp_path / "program.py").write_text(
        textwrap.dedent(
            """
            import importlib.abc, importlib.util, sys
            class Blocked(importlib.abc.MetaPathFinder):
                def find_spec(self, name, path=None, target=None):
                    if name.split(".")[0] in ("ray", "optuna", "numba", "matplotlib", "rich"):
                        raise ModuleNotFoundError(f"blocked: {name}")
            sys.meta_path.insert(0, Blocked())
            checkout = sys.argv[1]
            sys.path = [entry for entry in sys.path if entry not in ("", checkout)]
            sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
            assert importlib.util.find_spec("raydc") is None
            import mlflow, numpy as np
            mlflow.set_tracking_uri(sys.argv[2])
            model = mlflow.pyfunc.load_model(sys.argv[3])
            print("FOUND", model.predict(np.load("x.npy"))["cluster"].tolist())
            import raydc
            print("FROM", raydc.__file__)
            """
        )
    )
    checkout = str(Path(registry.__file__).parents[1])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "program.py", checkout, mlflow_uri, recorded[1]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    answer = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line.startswith(("FOUND", "FROM")))
    assert not answer["FROM"].startswith(checkout)
    assert json.loads(answer["FOUND"]) == ClusteringModel.load(Path(run, "model")).predict(rows()).tolist()


def test_versions_and_aliases(recorded, mlflow_uri, client, run):
    run_id, uri = recorded

    def aliases():
        return {name: int(version) for name, version in client.get_registered_model("shapes").aliases.items()}

    assert registry.champion("shapes", mlflow_uri) is None
    for _ in range(2):  # idempotent by checksum
        assert registry.register(uri, "shapes", "a" * 64, run_id, {"score": "1"}, mlflow_uri) == 1
        assert aliases() == {"champion": 1}
    assert registry.register(uri, "shapes", "b" * 64, run_id, None, mlflow_uri) == 2
    assert aliases() == {"champion": 1, "challenger": 2}
    assert registry.register(uri, "shapes", "c" * 64, run_id, None, mlflow_uri) == 3
    assert aliases() == {"champion": 1, "challenger": 3}
    assert registry.champion("shapes", mlflow_uri) == (1, {"score": "1", "raydc.sha256": "a" * 64})
    registry.promote("shapes", 3, mlflow_uri)
    assert aliases() == {"champion": 3}
    assert client.get_model_version("shapes", "1").run_id == run_id
    with pytest.raises(RegistryError, match="not found"):
        registry.promote("shapes", 9, mlflow_uri)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "a:b", "a b", "x" * 129, "a\0", "a\n", "a'b", "%2e"]
)
def test_names_that_are_none(name, mlflow_uri):
    with pytest.raises(ValueError, match="expected a model name"):
        registry.register("models:/m-0", name, "0", tracking_uri=mlflow_uri)


@pytest.mark.parametrize(
    "uri",
    ["models:/../../x/1", "models:/a", "models:/a/latest", "models:/a/b/c", "models:/a@", "runs:/x/model", "models:"],
)
def test_uris_that_are_none(uri, mlflow_uri):
    with pytest.raises(RegistryError, match="expected models:/NAME@ALIAS"):
        registry.load(uri, mlflow_uri)


def test_load_by_every_kind_of_name(recorded, mlflow_uri, run):
    run_id, uri = recorded
    expected = ClusteringModel.load(Path(run, "model")).weights_hash()
    version = registry.register(uri, "named", registry.sha256_of(Path(run, "model")), run_id, None, mlflow_uri)
    uris = ["models:/named@champion", f"models:/named/{version}", uri, f"runs:/{run_id}/model", run, f"{run}/model"]
    for name in uris:
        assert registry.load(name, mlflow_uri).weights_hash() == expected
    with pytest.raises(RegistryError, match="nobody"):
        registry.load("models:/named@nobody", mlflow_uri)
    with pytest.raises(ModelError, match="no model at"):
        registry.load(f"{run}/nowhere", mlflow_uri)


def test_a_changed_artifact_is_refused(mlflow_uri, recorded):
    run_id, uri = recorded
    registry.register(uri, "changed", "0" * 64, run_id, None, mlflow_uri)  # not the checksum of these files
    with pytest.raises(ModelError, match="damaged"):
        registry.load("models:/changed@champion", mlflow_uri)
    with registry._asking(mlflow_uri) as asking:
        asking.create_registered_model("foreign")
        asking.create_model_version("foreign", uri, run_id=run_id)
    with pytest.raises(RegistryError, match="not registered by raydc"):
        registry.load("models:/foreign/1", mlflow_uri)


def test_a_recorded_run_can_be_fetched_and_drawn(recorded, mlflow_uri, run, tmp_path):
    run_id, _ = recorded
    registry.fetch(run_id, tmp_path / "fetched", mlflow_uri)
    for name in ("config.yaml", "summary.json", "metrics.jsonl"):
        assert Path(tmp_path, "fetched", name).read_bytes() == Path(run, name).read_bytes()
    table = pq.read_table(tmp_path / "fetched" / "assignments")
    assert table.equals(pq.read_table(Path(run, "assignments")))
    drawn = report(run_id, str(tmp_path / "report"), mlflow_uri)
    assert "index.html" in drawn and Store(str(tmp_path / "report")).list() == sorted(drawn)
    with pytest.raises(RegistryError, match="MLflow run id"):
        registry.fetch("../x", tmp_path / "no", mlflow_uri)


def test_example_rows_are_what_the_model_takes(run):
    model = ClusteringModel.load(Path(run, "model"))
    assert isinstance(registry.example_rows(model), pd.DataFrame)
    for columns in ((), ("pixels",)):
        other = replace(model, columns=columns)
        assert len(other.predict(registry.example_rows(other))) == 2
