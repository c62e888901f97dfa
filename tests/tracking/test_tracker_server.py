"""The record against a real MLflow server that goes away, and a proxy that loses its answers."""

import json
import threading
import time

import pytest
from mlflow import MlflowClient

from raydc.tracking import mlflow_client, registry
from raydc.tracking.tracker import Tracker, flush
from tests.support import run_cases
from tests.support.servers import Fate, FirstAnswerLost, MLflowServer, Proxy
from tests.support.waiting import Patience
from tests.tracking.test_tracker import epochs, history

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = MLflowServer(tmp_path_factory.mktemp("server")).start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(server):
    return MlflowClient(server.url)


def record(out, url, key, steps=(3, 6, 9), **settings) -> dict[str, str]:
    """A whole record of a finished run."""
    tracker = Tracker(out, url, every=0.02)
    tracker.start("server", key, key, {"method": {"name": "kmeans"}})
    tracker.log(epochs(*steps))
    tracker.log_summary(json.loads((out / "summary.json").read_text()))
    tracker.log_files()
    tracker.log_model()
    tracker.register(key, {"raydc.method": "kmeans"})
    return tracker.finish(**settings)


@pytest.fixture
def finished(tmp_path):
    data = run_cases.write(run_cases.table(), tmp_path / "rows.parquet")
    run_cases.finished(tmp_path / "out", data, **run_cases.KMEANS)
    return tmp_path / "out"


def test_after_an_outage_all_points_are_there_once(server, client, tmp_path):
    tracker = Tracker(tmp_path, server.url, every=0.02)
    tracker.start("server", "outage", "outage", {})
    tracker.log(epochs(1, 2))
    server.stop()
    for step in range(3, 60):
        patience = Patience(0.5)
        tracker.log(epochs(step))
        assert not patience.over(), "training does not wait"
        time.sleep(0.05)
    assert tracker.problem is not None
    threading.Timer(1.0, server.start).start()
    run_id = tracker.finish(patience=150)["mlflow run"]
    assert [step for step, _, _ in history(client, run_id)] == [*range(1, 60)]
    assert client.get_run(run_id).info.status == "FINISHED"


def test_lost_answers_double_nothing(server, client, finished):
    """Every kind of request is applied once without its answer arriving, and repeated."""
    proxy = Proxy(server.url, FirstAnswerLost())
    paths = record(finished, proxy.url, "doubled", patience=60)
    lost = [path for _, path, fate in proxy.asked if fate == "answer lost"]
    for part in ("runs/create", "logged-models", "registered-models/create", "model-versions/create", "runs/log-batch"):
        assert any(part in path for path in lost), f"no answer of {part} was lost: {lost}"
    proxy.close()
    experiment = client.get_experiment_by_name("server").experiment_id
    runs = client.search_runs([experiment], "tags.`raydc.run_key` = 'doubled'")
    assert [run.info.run_id for run in runs] == [paths["mlflow run"]]
    assert [step for step, _, _ in history(client, paths["mlflow run"])] == [3, 6, 9]
    assert len(client.search_logged_models([experiment], f"source_run_id = '{paths['mlflow run']}'")) == 1
    assert len(client.search_model_versions("name = 'doubled'")) == 1
    assert registry.load("models:/doubled@champion", server.url).n_clusters == 3


def test_a_server_that_only_reads_leaves_everything_to_a_later_flush(server, client, finished):
    def only_reads(method: str, path: str) -> Fate:
        return "answered" if method == "GET" or path.endswith("/search") else "refused"

    proxy = Proxy(server.url, only_reads)
    with pytest.raises(RuntimeError, match="registry flush"):
        record(finished, proxy.url, "reads", patience=0.5)
    proxy.close()
    sent, paths = flush(str(finished), server.url)
    assert sent == {"run": 1, "status": 2, "epoch": 3, "summary": 1, "files": 1, "model": 1, "register": 1}
    assert paths["registered as"] == "models:/reads/1 (champion)"
    assert len(history(client, paths["mlflow run"])) == 3


def test_a_file_that_is_too_large_for_the_server_holds_up_nothing_else(server, client, finished, caplog):
    """413, as a proxy before MLflow answers; once it lets larger files through, a flush sends what was left out."""

    def small(method: str, path: str) -> Fate:
        return "too large" if method == "PUT" and path.endswith("summary.json") else "answered"

    proxy = Proxy(server.url, small)
    paths = record(finished, proxy.url, "large", patience=30)
    assert paths["registered as"] == "models:/large/1 (champion)" and "MLflow refuses a message (files)" in caplog.text
    run = client.get_run(paths["mlflow run"])
    assert run.info.status == "FINISHED" and "413" in run.data.tags["raydc.refused"]
    proxy.fate = lambda method, path: "answered"
    sent, _ = flush(str(finished), proxy.url)
    assert sent == {"files": 1}
    proxy.close()
    assert "summary.json" in {item.path for item in client.list_artifacts(paths["mlflow run"])}


@pytest.mark.parametrize("deleted", ["run", "experiment"])
def test_what_somebody_deleted_on_the_server_is_recorded_anew(server, client, finished, deleted):
    key = f"anew-{deleted}"
    tracker = Tracker(finished, server.url, every=0.02)
    tracker.start(key, key, key, {})
    tracker.log(epochs(3, 6))
    first = tracker.send(60)["mlflow run"]
    if deleted == "run":
        client.delete_run(first)
    else:
        client.delete_experiment(client.get_run(first).info.experiment_id)
    tracker.log(epochs(9))
    tracker.log_model()
    tracker.register(key, {})
    paths = tracker.finish(patience=60)
    assert paths["mlflow run"] != first and paths["registered as"] == f"models:/{key}/1 (champion)"
    assert [step for step, _, _ in history(client, paths["mlflow run"])] == [3, 6, 9]
    assert client.get_run(paths["mlflow run"]).data.tags["raydc.replaces"] == first


def test_a_request_is_made_once_whatever_the_environment_says(server, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    proxy = Proxy(server.url, lambda method, path: "refused")
    with pytest.raises(mlflow_client.RegistryAway):
        mlflow_client.start_run("server", "x", "once", {}, proxy.url)
    assert len(proxy.asked) == 1
    proxy.close()
