import json
import logging
import re
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from raydc.cli import main as cli
from raydc.core.storage import Store
from raydc.data import Scaling
from raydc.methods.kmeans import KMeans
from raydc.tracking import registry
from raydc.tracking.mlflow_client import RegistryError
from raydc.tracking.outbox import OUTBOX, PART, Message, Outbox
from raydc.tracking.tracker import RecordPending, Tracker, flush
from raydc.training.loop import Progress
from raydc.training.model import ClusteringModel
from tests.support import run_cases
from tests.support.servers import free_port
from tests.support.waiting import Patience

PASSWORD = "hunter2"


class ObjectStore(Store):
    """A directory whose files can only be put whole, as objects are; `written` holds the sizes of what was put."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.local = False
        self.written: list[int] = []

    def write_bytes(self, name: str, data: bytes | memoryview) -> None:
        self.written.append(len(data))
        super().write_bytes(name, data)


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


def write_model(store: Store) -> None:
    """A model in the output directory's model/."""
    method = KMeans(KMeans.Config(n_clusters=2), (2,))
    plain = Scaling("none", np.zeros((), np.float32), np.ones((), np.float32))
    ClusteringModel("kmeans", method, plain, (2,)).save(Path(store.path) / "model")


def history(client, run_id, name="loss.network"):
    return [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run_id, name)]


def refuse_metrics(monkeypatch):
    """Make MLflow lose its server for metrics; returns how often it was asked."""
    asked, real = [], MlflowClient.log_batch

    def log_batch(self, run_id, metrics=(), params=(), tags=(), **rest):
        if not metrics:
            return real(self, run_id, metrics, params, tags, **rest)
        asked.append(len(metrics))
        raise MlflowException("API request failed: http://me:hunter2@server")

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    return asked


def test_an_outbox_keeps_messages_once_and_says_what_each_server_has(tmp_path):
    outbox = Outbox(Store(tmp_path))
    first, second = Message.of("epoch", {"step": 1}, "1"), Message.of("epoch", {"step": 2}, "2")
    outbox.add([first, second, first])
    outbox.sent([first], "here", "an answer")
    again = Message.of("epoch", {"step": 1, "loss": 3.0}, "1")
    assert again in outbox and again.id == first.id
    for reader in (outbox, Outbox(Store(tmp_path))):
        reader.add([again])
        assert [*reader.messages.values()] == [first, second]
        assert reader.pending("here") == [second] and reader.pending("there") == [first, second]
        assert reader.answer("epoch", "here") == "an answer" and reader.answer("epoch", "there") is None
    assert len((tmp_path / OUTBOX).read_text().splitlines()) == 3


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_cut_off_by_a_kill_is_no_message_and_harms_no_other(tmp_path, cut):
    messages = [Message.of("epoch", {"step": step}) for step in range(3)]
    Outbox(Store(tmp_path)).add(messages[:2])
    path = tmp_path / OUTBOX
    path.write_bytes(path.read_bytes()[:-cut])
    outbox = Outbox(Store(tmp_path))
    kept = messages[: 1 if cut > 1 else 2]  # a line that lacks its end alone is whole
    assert outbox.pending("here") == kept
    outbox.add(messages)
    assert {m.id for m in Outbox(Store(tmp_path)).pending("here")} == {m.id for m in messages}


def test_an_outbox_in_an_object_store_is_written_in_parts(tmp_path):
    """Appending to an object rewrites it: a thousand messages write a few megabytes, not half a gigabyte."""
    store = ObjectStore(tmp_path)
    outbox = Outbox(store)
    messages = [Message.of("epoch", {"step": step, "metrics": {"loss": 0.5}}, str(step)) for step in range(1000)]
    for message in messages:
        outbox.add([message])
        outbox.sent([message], "here")
    kept = sum(path.stat().st_size for path in (tmp_path / ".raydc").iterdir())
    assert len(store.written) == 2000 and max(store.written) <= PART + 500
    assert sum(store.written) < 2000 * PART < 0.2 * 2000 * kept / 2, "what rewriting the whole each time takes"
    again = Outbox(store)
    assert [*again.messages.values()] == messages and again.pending("here") == []
    again.add([Message.of("status", {"status": "finished"})])
    assert len(Outbox(store).pending("here")) == 1 and len(Outbox(store).messages) == 1001


def test_metrics_by_step_and_none_twice(tracker, client, key, tmp_path, mlflow_uri):
    tracker.start("tests", "x", key, {})
    tracker.log(epochs(3, 6, 9))
    tracker.log([Progress("cluster", 1, 2, 12, {"clustering": 0.5}, 0.25, 3, 0.4, True)])
    run_id = tracker.finish("interrupted")["mlflow run"]
    assert client.get_run(run_id).info.status == "KILLED"
    again = Tracker(str(tmp_path / "out"), mlflow_uri, every=0.02)
    again.start("tests", "x", key, {})
    again.log([vars(line) for line in epochs(6, 9, 15)])  # as dictionaries too, such as a history's lines
    assert again.send()["mlflow run"] == run_id
    assert client.get_run(run_id).info.status == "RUNNING"
    again.finish()
    assert [step for step, _, _ in history(client, run_id)] == [3, 6, 9, 15]
    metrics = client.get_run(run_id).data.metrics
    assert (metrics["changed"], metrics["alive"], metrics["largest"]) == (0.25, 3, 0.4)
    assert metrics["loss.clustering"] == 0.5
    assert client.get_run(run_id).info.status == "FINISHED"


def test_requests_are_few(tmp_path, mlflow_uri, key, monkeypatch):
    asked, real = [], MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *a, **k: (asked.append(k), real(*a, **k)))
    tracker = Tracker(str(tmp_path / "out"), mlflow_uri, every=0.2)
    start = time.monotonic()
    tracker.start("tests", "x", key, {})
    for step in range(1, 41):
        tracker.log(epochs(step))
        time.sleep(0.01)
    tracker.finish()
    assert len(asked) <= (time.monotonic() - start) / 0.2 + 3


def test_training_never_waits_and_what_a_server_missed_is_sent_by_flush(
    tracker, client, key, tmp_path, mlflow_uri, monkeypatch, caplog
):
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        refuse_metrics(patch)
        patience = Patience(0.5)
        tracker.start("tests", "x", key, {})
        tracker.log(epochs(3, 6))
        assert not patience.over()
        with pytest.raises(RecordPending, match=rf"3 messages .* `raydc registry flush --out {tmp_path}/out`") as told:
            tracker.finish(patience=0.5)
    assert "its record waits in" in caplog.text and PASSWORD not in caplog.text + str(told.value)
    times = {m.body["step"]: m.time for m in Outbox(tracker.store).messages.values() if m.kind == "epoch"}
    run_id = tracker.paths()["mlflow run"]
    assert history(client, run_id) == []
    assert cli.main(["registry", "flush", "--out", str(tmp_path / "out"), "--tracking-uri", mlflow_uri]) == 0
    assert [(step, when) for step, _, when in history(client, run_id)] == sorted(times.items()), "when they arose"
    paths = {"tracking store": mlflow_uri, "mlflow run": run_id}
    assert flush(str(tmp_path / "out"), mlflow_uri) == ({}, paths), "nothing was left"
    assert len(history(client, run_id)) == 2


@pytest.mark.parametrize("settings_say", [True, False])
def test_flush_finds_the_server_that_a_search_had(tmp_path, mlflow_uri, key, monkeypatch, settings_say):
    """A search writes no config.yaml; a directory without one stands for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere" if settings_say else mlflow_uri)
    with monkeypatch.context() as patch:
        refuse_metrics(patch)
        tracker = Tracker(str(tmp_path / "out"), mlflow_uri if settings_say else None, every=0.02)
        tracker.start("tests", "x", f"{key[:40]}-{settings_say}", {})
        tracker.log(epochs(3))
        with pytest.raises(RecordPending, match=re.escape(f"sends them to {mlflow_uri}")):
            tracker.finish(patience=0.1)
    if not settings_say:
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert flush(str(tmp_path / "out"))[1] == tracker.paths()
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "no store of MLflow's in this directory"


def test_flush_asks_again_for_a_password_that_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracker = Tracker(str(tmp_path), f"http://me:{PASSWORD}@127.0.0.1:{free_port()}", every=0.02)
    tracker.start("tests", "x", "k", {})
    with pytest.raises(RecordPending, match=r"sends them once MLFLOW_TRACKING_URI, or --tracking-uri, says the passw"):
        tracker.finish(patience=0.1)
    assert PASSWORD not in (tmp_path / OUTBOX).read_text()
    with pytest.raises(RegistryError, match=r"give it again by --tracking-uri"):
        flush(str(tmp_path))


def test_a_message_that_mlflow_refuses_holds_up_nothing_else(tracker, client, key, tmp_path, mlflow_uri, caplog):
    """It is named on the console and on the run; `flush` offers it once more."""
    write_model(tracker.store)
    tracker.start("tests", "x", key, {})
    bad = Progress("pretrain", 9, 9, 6, {"not\na name": 1.0}, None, None, None, False)
    tracker.log([*epochs(3), bad, *epochs(9)])
    tracker.log_model()
    tracker.register("refusals", {})
    with caplog.at_level(logging.WARNING):
        paths = tracker.finish()
    assert "MLflow refuses a message (epoch), which its record will lack" in caplog.text
    assert paths["registered as"] == "models:/refusals/1 (champion)"
    run = client.get_run(paths["mlflow run"])
    assert [step for step, _, _ in history(client, run.info.run_id)] == [3, 9]
    assert run.info.status == "FINISHED" and run.data.tags["raydc.refused"].startswith("epoch: MLflow at sqlite:")
    caplog.clear()
    assert flush(str(tmp_path / "out"), mlflow_uri) == ({}, paths)
    assert "MLflow refuses a message (epoch)" in caplog.text


def test_a_damaged_model_holds_up_nothing_else(tracker, client, key, caplog):
    write_model(tracker.store)
    (Path(tracker.store.path) / "model" / "state.safetensors").write_bytes(b"")
    tracker.start("tests", "x", key, {})
    tracker.log_model()
    tracker.register("damaged", {})
    with caplog.at_level(logging.WARNING):
        paths = tracker.finish()
    assert "state.safetensors is damaged" in caplog.text and "MLflow refused the model" in caplog.text
    assert client.get_run(paths["mlflow run"]).info.status == "FINISHED" and "model" not in paths


@pytest.mark.parametrize("deleted", ["run", "experiment"])
def test_what_somebody_deleted_is_recorded_anew(tmp_path, client, mlflow_uri, key, caplog, deleted):
    key = key.replace("[", "-").replace("]", "-")
    out = str(tmp_path / "out")
    tracker = Tracker(out, mlflow_uri, every=0.02)
    tracker.start(key, "x", key, {"a": 1})
    tracker.log(epochs(3, 6))
    first = tracker.send()["mlflow run"]
    run = client.get_run(first)
    if deleted == "run":
        client.delete_run(first)
    else:
        client.delete_experiment(run.info.experiment_id)
    write_model(tracker.store)
    tracker.log(epochs(9))
    tracker.log_model()
    tracker.register(key, {})
    with caplog.at_level(logging.WARNING):
        paths = tracker.finish()
    assert f"MLflow's run {first} was deleted: it is recorded anew" in caplog.text
    found = client.get_run(paths["mlflow run"])
    assert found.info.run_id != first and found.info.status == "FINISHED"
    assert found.data.tags["raydc.replaces"] == first and found.data.params["a"] == "1"
    assert [step for step, _, _ in history(client, found.info.run_id)] == [3, 6, 9]
    assert paths["registered as"] == f"models:/{key}/1 (champion)"
    experiment = client.get_experiment(found.info.experiment_id).name
    assert experiment == (key if deleted == "run" else f"{key} (2)")
    assert Tracker(out, mlflow_uri).send() == paths, "nothing is left, also for who reads the outbox anew"


@pytest.mark.parametrize("name", ["run_2024-01-01T00%3A00", "a b#c?ä%2F名"])
def test_directories_whose_names_mlflow_would_decode_are_recorded(tmp_path, name, mlflow_uri):
    data = run_cases.write(run_cases.table(), tmp_path / "rows.parquet")
    command = ["train", "--data", data, "--method", "kmeans", "--n-clusters", "3", "--method.restarts", "2"]
    command += ["--workers", "0", "--out", str(tmp_path / name), "--register", "odd-directory"]
    assert cli.main([*command, "--tracking-uri", mlflow_uri]) == 0
    run_id = Outbox(Store(tmp_path / name)).answer("run", mlflow_uri)
    held = {item.path for item in MlflowClient(mlflow_uri).list_artifacts(run_id)}
    assert {"config.yaml", "summary.json", "assignments", "report"} <= held
    assert registry.load(f"runs:/{run_id}/model", mlflow_uri).n_clusters == 3
    assert cli.main(["registry", "flush", "--out", str(tmp_path / name)]) == 0


@pytest.mark.slow
def test_another_server_gets_everything(tracker, key, tmp_path, client):
    tracker.start("tests", "x", key, {})
    tracker.log(epochs(3, 6))
    tracker.finish()
    other = f"sqlite:///{tmp_path}/other.db"
    sent, paths = flush(str(tmp_path / "out"), other)
    assert sent == {"run": 1, "status": 2, "epoch": 2}
    assert len(history(MlflowClient(other), paths["mlflow run"])) == 2


def test_a_request_whose_answer_was_lost_adds_nothing_when_sent_again(tracker, client, key, monkeypatch):
    real, asked = MlflowClient.log_batch, []

    def commit_then_fail(self, run_id, metrics=(), **rest):
        real(self, run_id, metrics=metrics, **rest)
        if metrics and not asked:
            asked.append(1)
            raise MlflowException("500 after the commit")

    monkeypatch.setattr(MlflowClient, "log_batch", commit_then_fail)
    tracker.start("tests", "x", key, {})
    tracker.log(epochs(3))
    run_id = tracker.finish(patience=5)["mlflow run"]
    assert asked and len(history(client, run_id)) == 1


def test_without_a_server_a_run_is_finished_and_the_exit_code_says_that_its_record_waits(
    tmp_path, monkeypatch, capsys, caplog, mlflow_uri
):
    """The whole command: the result is kept, the message names what to do, and doing it records the run."""
    monkeypatch.setattr("raydc.tracking.tracker.Tracker.finish.__defaults__", ("finished", 0.2))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{PASSWORD}@127.0.0.1:{free_port()}")
    data, out = run_cases.write(run_cases.table(), tmp_path / "rows.parquet"), tmp_path / "out"
    command = ["train", "--data", data, "--method", "kmeans", "--n-clusters", "3", "--method.restarts", "2"]
    command += ["--workers", "0", "--out", str(out), "--register", "pending"]
    assert cli.main(command) == cli.TRY_AGAIN == 75
    assert json.loads((out / "run.json").read_text())["status"] == "finished"
    shown = capsys.readouterr()
    message = " ".join((shown.out + shown.err).split())
    assert f"`raydc registry flush --out {out}` sends them" in message
    assert PASSWORD not in message + caplog.text + "".join(
        path.read_text(errors="replace") for path in Path(out).rglob("*") if path.is_file()
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    assert cli.main(["registry", "flush", "--out", str(out)]) == 0
    assert "1 register" in " ".join(capsys.readouterr().out.split())
    assert registry.load("models:/pending@champion", mlflow_uri).n_clusters == 3
    with pytest.raises(ValueError, match="holds no record for MLflow"):
        flush(str(tmp_path), mlflow_uri)
