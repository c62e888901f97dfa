"""Faults of MLflow: away, losing its answers, refusing to write. A real server, and a proxy before it."""

import time
from pathlib import Path

from mlflow import MlflowClient

from benchmarks.faults.lab import Lab, fault
from raydc.tracking.tracker import RecordPending, Tracker, flush
from tests.support import run_cases
from tests.support.servers import Fate, FirstAnswerLost, MLflowServer, Proxy
from tests.tracking.test_tracker import epochs, history
from tests.tracking.test_tracker_server import record


def server(lab: Lab) -> str:
    def make() -> str:
        running = MLflowServer(lab.folder).start()
        lab.at_the_end(running.stop)
        return running.url

    return str(lab.once("server", make))


def finished(lab: Lab) -> Path:
    data = run_cases.write(run_cases.table(), lab.folder / "rows.parquet")
    return Path(run_cases.finished(lab.folder / "out", data, **run_cases.KMEANS))


@fault("B1", "MLflow away for 60 s while a run goes on", 60.0, slow=True)
def server_away(lab: Lab, repeat: int) -> float:
    away = [True]
    proxy = Proxy(server(lab), lambda method, path: "refused" if away[0] else "answered")
    tracker, slowest, began = Tracker(lab.folder / "out", proxy.url), 0.0, time.monotonic()
    tracker.start("faults", "away", f"away-{lab.mark}-{repeat}", {})
    step = 0
    while time.monotonic() - began < 60:
        step += 1
        start = time.perf_counter()
        tracker.log(epochs(step))
        slowest = max(slowest, time.perf_counter() - start)
        time.sleep(0.1)
    away[0] = False
    back = time.monotonic()
    run_id = tracker.finish(patience=60)["mlflow run"]
    drained = time.monotonic() - back
    proxy.close()
    assert slowest < 0.5, f"training waited {slowest:.2f} s"
    steps = [number for number, _, _ in history(MlflowClient(server(lab)), run_id)]
    assert steps == [*range(1, step + 1)], "points are missing or doubled"
    return drained


@fault("B2", "every first answer of MLflow lost after it was applied", 120.0, slow=True)
def answers_lost(lab: Lab, repeat: int) -> float:
    out, proxy, key = finished(lab), Proxy(server(lab), FirstAnswerLost()), f"lost-{lab.mark[:8]}-{repeat}"
    began = time.monotonic()
    paths = record(out, proxy.url, key, patience=60)
    seconds = time.monotonic() - began
    proxy.close()
    once_each(server(lab), key, paths["mlflow run"])
    return seconds


def once_each(url: str, key: str, run_id: str) -> None:
    """One run, one model, one version, every point once."""
    client = MlflowClient(url)
    experiment = client.get_run(run_id).info.experiment_id
    assert len(client.search_runs([experiment], f"tags.`raydc.run_key` = '{key}'")) == 1, "several runs"
    assert len(client.search_logged_models([experiment], f"source_run_id = '{run_id}'")) == 1, "several models"
    assert len(client.search_model_versions(f"name = '{key}'")) == 1, "several versions"
    assert [step for step, _, _ in history(client, run_id)] == [3, 6, 9], "points are missing or doubled"


@fault("B3", "MLflow only reads: the record waits, and flush sends it", 120.0, slow=True)
def server_only_reads(lab: Lab, repeat: int) -> float:
    def only_reads(method: str, path: str) -> Fate:
        return "answered" if method == "GET" or path.endswith("/search") else "refused"

    out, proxy, key = finished(lab), Proxy(server(lab), only_reads), f"reads-{lab.mark[:8]}-{repeat}"
    try:
        record(out, proxy.url, key, patience=0.5)
        raise AssertionError("nobody said that the record waits")
    except RecordPending as pending:
        assert "registry flush" in str(pending)
    proxy.close()
    began = time.monotonic()
    _, paths = flush(str(out), server(lab))
    once_each(server(lab), key, paths["mlflow run"])
    return time.monotonic() - began
