"""Faults of `raydc train`: drivers and workers killed, hung and told to stop; disks full, damaged and read-only."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from mlflow import MlflowClient

from benchmarks.faults.lab import Lab, Process, fault, mtime
from raydc.cli import main as cli
from raydc.core.storage import Store
from raydc.training import checkpoint
from raydc.training.config import RunConfig
from raydc.training.loop import Progress
from raydc.training.trainer import Watch, check, train
from raydc.training.worker_job import prepare
from tests.support import runs
from tests.support.runs import TINY
from tests.training.test_trainer import CHECKPOINT, PLACES, loop_of

EPOCH, LOST = "epoch", "workers were lost"
WORKER_PLACES = ("load", "epoch", "update", "checkpoint.manifest", "epoch.clustering")


def trained(settings: dict[str, Any]) -> int:
    """A run without its record. What it hears is written beside its directory, with the time."""
    config = RunConfig.of(settings)
    with open(f"{config.output.out}.heard", "a", buffering=1) as heard:

        def note(text: str) -> None:
            print(text)
            heard.write(f"{time.time()} {text}\n")

        def progress(epoch: Progress) -> None:
            heard.write(f"{time.time()} {EPOCH} {epoch.epoch} of {epoch.phase}\n")

        train(check(config), Watch(note=note, progress=progress))
    return 0


def until_it_went_on(out: Path, since: float) -> float:
    """Seconds until the first epoch was over that came after `since`, and after any loss of workers was noticed.

    Until the run was finished, where no epoch was left.
    """
    heard = [line.split(" ", 1) for line in Path(f"{out}.heard").read_text().splitlines()]
    noticed = max([since, *(float(at) for at, what in heard if LOST in what)])
    epochs = [float(at) for at, what in heard if float(at) > noticed and what.startswith(EPOCH)]
    return min(epochs, default=mtime(out / "run.json")) - since


def start(lab: Lab, out: Path, failpoint: str = "", signal_name: str = "SIGKILL", **changes: Any) -> Process:
    env = {"RAYDC_FAILPOINT": f"{failpoint}:{out}.killed", "RAYDC_FAILSIGNAL": signal_name} if failpoint else {}
    return lab.start(trained, runs.config(out, **changes).resolved(), **env)


def result(out: Path) -> tuple[str, str, str]:
    """What must be the same: weights, labels, and the history of every epoch."""
    labels = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((out / "assignments").iterdir())))
    return runs.weights(out), labels.hexdigest(), (out / "metrics.jsonl").read_text()


def undisturbed(lab: Lab, name: str, **changes: Any) -> tuple[str, str, str]:
    def make() -> tuple[str, str, str]:
        start(lab, lab.folder / "run", **changes).expect(0)
        return result(lab.folder / "run")

    found: tuple[str, str, str] = lab.once(name, make)
    return found


def again(lab: Lab, expected: tuple[str, str, str], **changes: Any) -> None:
    """The same run once more: it ends as the undisturbed one."""
    start(lab, lab.folder / "run", **changes).expect(0)
    assert result(lab.folder / "run") == expected, "another result than the undisturbed run's"


@fault("A1", "Ray Train worker SIGKILL: load, epoch, update, checkpoint, clustering", slow=True)
def train_worker_killed(lab: Lab, repeat: int) -> float:
    expected, out = undisturbed(lab, "two-workers", training__workers=2), lab.folder / "run"
    process = start(lab, out, WORKER_PLACES[repeat % len(WORKER_PLACES)], training__workers=2)
    process.expect(0)
    assert result(out) == expected, "another result than the undisturbed run's"
    return until_it_went_on(out, mtime(Path(f"{out}.killed")))


@fault("A1", "k-means worker SIGKILL: read, push, pushed (it waits for the others), labels", slow=True)
def kmeans_worker_killed(lab: Lab, repeat: int) -> float:
    expected, out = kmeans_alone(lab), lab.folder / "run"
    place = ("push", "pushed", "stream", "stream.part")[repeat % 4]
    process = lab.start(trained, kmeans(out, 2), RAYDC_FAILPOINT=f"{place}:{out}.killed")
    process.expect(0)
    assert runs.weights(out) == expected, "another result than the undisturbed run's"
    return time.time() - mtime(Path(f"{out}.killed"))


@fault("A2", "driver SIGKILL right after a checkpoint is committed")
def killed_after_commit(lab: Lab, repeat: int) -> float:
    expected, out = undisturbed(lab, "alone"), lab.folder / "run"
    start(lab, out, "checkpoint.after").expect(-signal.SIGKILL)
    (committed,) = {path.parent.name for path in (out / "checkpoints").rglob("manifest.json")}
    job = prepare(runs.config(out))
    loop = loop_of(job, 1, 0)
    assert checkpoint.load(Store(out), loop) and f"{loop.step:010d}" in committed, "a committed step was lost"
    began = time.time()
    again(lab, expected)
    return time.time() - began


@fault("A3", "Ray Train worker hangs (SIGSTOP)", within=60.0, slow=True)
def train_worker_hangs(lab: Lab, repeat: int) -> float:
    expected, out = undisturbed(lab, "two-workers", training__workers=2), lab.folder / "run"
    process = start(lab, out, ("epoch", "epoch.clustering")[repeat % 2], "SIGSTOP", training__workers=2)
    process.expect(0)
    lost = r"1 of 3 times: .*rank [01]: its process died, or gave no sign of life for 20 s and was killed"
    assert re.search(lost, process.output), f"not named: {process.output}"
    assert result(out) == expected, "another result than the undisturbed run's"
    return until_it_went_on(out, mtime(Path(f"{out}.killed")))


def store_of(lab: Lab) -> str:
    """An MLflow store; its first use takes seconds."""

    def make() -> str:
        uri = f"sqlite:///{lab.folder}/mlflow.db"
        MlflowClient(uri).search_experiments()
        return uri

    return str(lab.once("mlflow", make))


def command(lab: Lab, out: Path, uri: str, **changes: Any) -> list[str]:
    """`raydc train` of the tiny run, as somebody would type it."""
    settings = {**TINY, **changes, "output.out": str(out), "output.tracking_uri": uri}
    text = {key: ",".join(map(str, value)) if isinstance(value, tuple) else value for key, value in settings.items()}
    return ["train", *(f"--{key}={value}" for key, value in text.items())]


@fault("A10", "driver SIGKILL anywhere, and the same command again")
def driver_killed(lab: Lab, repeat: int) -> float:
    expected, out, uri = undisturbed(lab, "alone"), lab.folder / "run", store_of(lab)
    place = lab.dice.choice(PLACES + CHECKPOINT)
    line = command(lab, out, uri)
    lab.start(cli.main, line, RAYDC_FAILPOINT=f"{place}:{out}.killed").expect(-signal.SIGKILL)
    began = time.time()
    lab.start(cli.main, line).expect(0)
    recovery = time.time() - began
    assert result(out) == expected, f"{place}: another result than the undisturbed run's"
    client, key = MlflowClient(uri), json.loads((out / "run.json").read_text())["id"]
    experiment = client.get_experiment_by_name("raydc")
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`raydc.run_key` = '{key}'")  # type: ignore[union-attr]
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "epoch")]
    assert steps == [json.loads(line)["step"] for line in expected[2].splitlines()], "points are missing or doubled"
    return recovery


@fault("A11", "driver SIGTERM, and the same command again")
def driver_told_to_stop(lab: Lab, repeat: int) -> float:
    longer = {"method__cluster__length": "60 epochs"}
    expected, out = undisturbed(lab, "longer", **longer), lab.folder / "run"
    line = command(lab, out, store_of(lab), **{key.replace("__", "."): value for key, value in longer.items()})
    process = lab.start(cli.main, line)
    wanted = lab.dice.randrange(8, 240)
    while not any(int(path.name.split("-")[0]) >= wanted for path in (out / "checkpoints").glob("*")):
        assert process.process.exitcode is None, f"it ended before it was stopped: {process.output[-300:]}"
        time.sleep(0.005)
    began = time.time()
    os.kill(process.pid, signal.SIGTERM)
    process.expect(cli.TRY_AGAIN, 30.0)
    recovery = time.time() - began
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    again(lab, expected, **longer)
    return recovery


KMEANS = {"method.name": "kmeans", "method.n_clusters": 10, "method.restarts": 2, "data.path": "digits"}


def kmeans(out: Path, workers: int, max_failures: int = 3) -> dict[str, Any]:
    """`raydc train --method kmeans`, which streams rows past the centroid service."""
    where = {"training.workers": workers, "training.max_failures": max_failures, "output.out": str(out)}
    return RunConfig.of(runs.unflatten({**KMEANS, **where})).resolved()


def kmeans_alone(lab: Lab) -> str:
    def make() -> str:
        lab.start(trained, kmeans(lab.folder / "run", 0)).expect(0)
        return runs.weights(lab.folder / "run")

    return str(lab.once("kmeans", make))


@fault("A15", "k-means: a worker SIGKILLed, and on with 1, 3 or no workers instead of 2", slow=True)
def kmeans_other_workers(lab: Lab, repeat: int) -> float:
    expected, out = kmeans_alone(lab), lab.folder / "run"
    place = ("stream", "stream.part")[lab.dice.randrange(2)]
    killed = lab.start(trained, kmeans(out, 2, max_failures=0), RAYDC_FAILPOINT=f"{place}:{out}.killed")
    assert killed.wait() != 0 and Path(f"{out}.killed").exists(), f"no worker was killed: {killed.output[-300:]}"
    began, workers = time.time(), (1, 3, 0)[repeat % 3]
    lab.start(trained, kmeans(out, workers)).expect(0)
    assert runs.weights(out) == expected, f"another result on {workers} workers"
    return time.time() - began


@fault("A15", "DEC: a Ray Train worker SIGKILLed, and on with 1, 3 or no workers instead of 2", slow=True)
def train_other_workers(lab: Lab, repeat: int) -> float:
    (_, _, history), out = undisturbed(lab, "alone"), lab.folder / "run"
    place = ("epoch", "epoch.clustering")[lab.dice.randrange(2)]
    killed = start(lab, out, place, training__workers=2, training__max_failures=0)
    assert killed.wait() != 0 and Path(f"{out}.killed").exists(), f"no worker was killed: {killed.output[-300:]}"
    began, workers = time.time(), (1, 3, 0)[repeat % 3]
    start(lab, out, training__workers=workers).expect(0)
    rows = pq.read_table(out / "assignments")["row"].to_pylist()
    assert rows == list(range(1797)), f"rows were lost or assigned twice on {workers} workers"
    # batches are cut otherwise by other numbers of workers: the same epochs, not the same bits
    mine, theirs = (
        [json.loads(line)["step"] for line in text.splitlines()]
        for text in ((out / "metrics.jsonl").read_text(), history)
    )
    assert mine == theirs, "epochs are missing or doubled"
    return until_it_went_on(out, began)


@fault("B4", "disk full while a checkpoint is written (a tmpfs), then space again")
def disk_full(lab: Lab, repeat: int) -> float:
    expected, out = undisturbed(lab, "alone"), lab.folder / "disk" / "run"
    disk = lab.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "raydc", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise AssertionError("a tmpfs cannot be mounted here (it needs root)")
    try:
        (disk / "ballast").write_bytes(b"\0" * lab.dice.randrange(500_000, 800_000))
        line = command(lab, out, store_of(lab))
        process = lab.start(cli.main, line)
        process.expect(cli.IO_ERROR)
        assert "No space left" in process.output, process.output[-300:]
        assert not list(disk.rglob("*.tmp")), "an unfinished file was left"
        began = time.time()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        lab.start(cli.main, line).expect(0)
        assert result(out) == expected, "another result than the undisturbed run's"
        return time.time() - began
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def two_checkpoints(lab: Lab) -> Path:
    """A run that was killed late, with two checkpoints."""

    def make() -> Path:
        start(lab, lab.folder / "run", "finish").expect(-signal.SIGKILL)
        return lab.folder / "run"

    shutil.copytree(lab.once("killed-late", make), lab.folder / "run")
    return lab.folder / "run"


def newest_files(out: Path) -> list[Path]:
    return sorted(max((out / "checkpoints").iterdir()).iterdir())


@fault("B5", "the newest checkpoint truncated, and the same run again")
def checkpoint_truncated(lab: Lab, repeat: int) -> float:
    expected, out = undisturbed(lab, "alone"), two_checkpoints(lab)
    path = lab.dice.choice(newest_files(out))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * (0, 0.3, 0.9, 0.999)[repeat % 4])])
    began = time.time()
    again(lab, expected)
    return time.time() - began


@fault("B6", "a bit of the newest checkpoint flipped (5 bits a repeat), and the same run again")
def checkpoint_flipped(lab: Lab, repeat: int) -> float:
    expected, out = undisturbed(lab, "alone"), two_checkpoints(lab)
    older = min((out / "checkpoints").iterdir()).name
    job = prepare(runs.config(out))
    for flip in range(5):
        path = lab.dice.choice(newest_files(out))
        whole = path.read_bytes()
        data = bytearray(whole)
        data[lab.dice.randrange(len(data))] ^= 1 << lab.dice.randrange(8)
        path.write_bytes(data)
        loop = loop_of(job, 1, 0)
        checkpoint.load(Store(out), loop)
        assert older.startswith(f"{loop.step:010d}"), f"a flipped bit of {path.name} was not noticed"
        if flip < 4:
            path.write_bytes(whole)
    began = time.time()
    again(lab, expected)
    return time.time() - began


@fault("B7", "driver SIGKILL, and what Ray Train wrote down truncated: the same run again", slow=True)
def ray_index_truncated(lab: Lab, repeat: int) -> float:
    expected, out = undisturbed(lab, "two-workers", training__workers=2), lab.folder / "run"
    process = start(lab, out, "epoch.clustering", "SIGSTOP", training__workers=2)
    while not Path(f"{out}.killed").exists():
        assert process.process.exitcode is None, process.output[-300:]
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.expect(-signal.SIGKILL)
    index = [path for path in (out / "ray").rglob("*") if path.is_file()]
    for path in index or [out / "ray" / "checkpoint_manager_snapshot.json"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if path.exists() else b'{"latest')
    began = time.time()
    again(lab, expected, training__workers=2)
    return until_it_went_on(out, began)


@fault("B8", "an output directory that can only be read", within=10.0)
def storage_read_only(lab: Lab, repeat: int) -> float:
    disk = lab.folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,ro", "raydc", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise AssertionError("a tmpfs cannot be mounted here (it needs root)")
    try:
        began = time.time()
        process = lab.start(cli.main, command(lab, disk / "run", store_of(lab)))
        process.expect(cli.NO_OUTPUT)
        assert "Read-only file system" in process.output, process.output[-300:]
        return time.time() - began
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@fault("B9", "the same command started twice at once: the second is refused", within=10.0)
def started_twice(lab: Lab, repeat: int) -> float:
    expected, out = undisturbed(lab, "alone"), lab.folder / "run"
    line = command(lab, out, store_of(lab))
    marker = Path(f"{out}.killed")
    first = lab.start(cli.main, line, RAYDC_FAILPOINT=f"epoch:{marker}", RAYDC_FAILSIGNAL="SIGSTOP")
    while not marker.exists():
        assert first.process.exitcode is None, first.output[-300:]
        time.sleep(0.01)
    began = time.time()
    second = lab.start(cli.main, line)
    second.expect(cli.TRY_AGAIN)
    refusal = time.time() - began
    assert f"in use by process {first.pid}" in " ".join(second.output.split()), second.output[-300:]
    os.kill(first.pid, signal.SIGCONT)
    first.expect(0)
    assert result(out) == expected, "another result than the undisturbed run's"
    return refusal
