"""The record against a real MLflow server that goes away, and a proxy that loses its answers."""

import json
import threading
import time

import pytest
from mlflow import MlflowClient

from raydc.tracking import mlflow_client
from raydc.tracking.tracker import Tracker, flush
from tests.support import run_cases
from tests.support.servers import Fate, FirstAnswerLost, MLflowServer, Proxy
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
    slowest = 0.0
    for step in range(3, 60):
        start = time.perf_counter()
        tracker.log(epochs(step))
        slowest = max(slowest, time.perf_counter() - start)
        time.sleep(0.05)
    assert slowest < 0.5, "training does not wait"
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
    assert mlflow_client.load("models:/doubled@champion", server.url).n_clusters == 3


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
