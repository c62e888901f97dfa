"""Runs that are killed, repeated, moved to another number of workers, or asked for wrongly."""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from sklearn.datasets import load_digits

from raydc.cli import main as cli
from raydc.cli.console import Live
from raydc.core.settings import SettingsError, unflatten
from raydc.core.storage import Store
from raydc.data import DataError, Shard, load_shard, open_source, partition
from raydc.distributed.ray_cluster import connected
from raydc.pipelines.train import train_and_record
from raydc.training import checkpoint, trainer
from raydc.training.config import RunConfig
from raydc.training.loop import Loop, Progress
from raydc.training.model import ClusteringModel, Replica
from raydc.training.trainer import Interrupted, Watch, begin, check, train
from raydc.training.worker_job import prepare, work
from tests.support import waiting
from tests.support.ray_nodes import freed
from tests.support.runs import config, in_child, weights

PLACES = ["load", "epoch", "begin", "update", "epoch.clustering"]
CHECKPOINT = ["checkpoint.rows", "checkpoint.manifest", "checkpoint.after", "finish"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "whole"
    train(check(config(out)))
    return out


def test_an_output_directory_is_complete(undisturbed):
    names = set(Store(undisturbed).list())
    assert {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "summary.json",
        "model/model.json",
        "model/state.safetensors",
    } <= names
    table = pq.read_table(undisturbed / "assignments")
    assert table["row"].to_pylist() == list(range(1797))
    assert not any(name.startswith("checkpoints/") for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES + CHECKPOINT)
def test_killed_anywhere_it_ends_as_the_undisturbed_run(undisturbed, tmp_path, place):
    out = tmp_path / "run"
    assert in_child(out, place) == -signal.SIGKILL
    assert in_child(out) == 0
    assert weights(out) == weights(undisturbed)
    mine, theirs = (pq.read_table(o / "assignments")["cluster"].to_numpy() for o in (out, undisturbed))
    assert (mine == theirs).all()
    lines = [(o / "metrics.jsonl").read_text() for o in (out, undisturbed)]
    assert lines[0] == lines[1]


def test_a_death_before_the_configuration_is_written_keeps_the_directory_usable(undisturbed, tmp_path):
    out = tmp_path / "run"
    begin(check(config(out)))
    (out / "config.yaml").unlink()
    train(check(config(out)))
    assert (out / "config.yaml").exists() and weights(out) == weights(undisturbed)


def test_ten_rows_are_enough(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(10, 3)))
    tiny = config(
        tmp_path / "run", data__path=str(tmp_path / "rows.npy"), method__n_clusters=3, method__cluster__length=1
    )
    assert train(check(tiny))["rows"] == 10
    np.save(tmp_path / "row.npy", np.zeros((1, 3)))
    with pytest.raises(DataError, match="1 usable row cannot be clustered"):
        check(config(tmp_path / "one", data__path=str(tmp_path / "row.npy"), method__n_clusters=1))


def test_more_clusters_than_rows_are_refused_before_memory_is_set_aside_for_them(tmp_path, monkeypatch):
    monkeypatch.setattr("raydc.training.worker_job.Job.method", lambda job: pytest.fail("the method was built"))
    with pytest.raises(DataError, match="1797 rows cannot form 1000000000 clusters"):
        prepare(config(tmp_path / "x", method__n_clusters=10**9))


def test_memory_is_asked_for_where_the_rows_will_be(tmp_path, monkeypatch):
    """Of a cluster that is joined, this machine is not the one; its workers ask themselves before they train."""
    own, remote = (
        RunConfig.of(
            unflatten(
                {
                    "method.name": "jule",
                    "data.path": "digits",
                    "training.workers": workers,
                    "output.out": str(tmp_path / "x"),
                }
            )
        )
        for workers in (0, 2)
    )
    monkeypatch.setattr("raydc.data.memory.free_memory", lambda: 10_000)
    for alone in (own, remote):
        with pytest.raises(MemoryError, match=r"1797 rows .* GB are free"):
            prepare(alone)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(MemoryError, match="1797 rows"):
        prepare(own)
    job = prepare(remote)
    with pytest.raises(MemoryError, match="1797 rows"):
        work(job, store=Store(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_finished_run_is_not_run_again(undisturbed):
    def never(progress: Progress) -> None:
        raise AssertionError("it trained again")

    summary = train(check(config(undisturbed)), Watch(progress=never))
    assert summary == json.loads((undisturbed / "summary.json").read_text())


def test_another_run_is_refused_by_name(undisturbed):
    with pytest.raises(SettingsError, match=r"holds another run: method.nu was 1.0 and is 2.0"):
        check(config(undisturbed, method__nu=2.0))


def test_asked_to_stop_it_saves_and_goes_on(undisturbed, tmp_path):
    class AfterFour:
        seen = 0

        def is_set(self) -> bool:
            self.seen += 1
            return self.seen > 4

    with pytest.raises(Interrupted, match="the same command goes on"):
        train(check(config(tmp_path / "run", training__checkpoint_every=1000.0)), Watch(stop=AfterFour()))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    train(check(config(tmp_path / "run", training__checkpoint_every=1000.0)))
    assert weights(tmp_path / "run") == weights(undisturbed)


def test_epochs_that_a_killed_driver_had_not_told_come_before_those_that_follow(tmp_path, mlflow_uri):
    changes = {"training__checkpoint_every": 0, "output__tracking_uri": mlflow_uri}
    assert in_child(tmp_path / "run", "epoch.clustering", **changes) == -9
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    train_and_record(config(tmp_path / "run", **changes), Live())
    client = MlflowClient(mlflow_uri)
    (run,) = client.search_runs(
        [client.get_experiment_by_name("raydc").experiment_id], f"tags.`raydc.run_key` = '{record['id']}'"
    )
    told = [(point.step, point.timestamp) for point in client.get_metric_history(run.info.run_id, "epoch")]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert sorted(step for step, _ in told) == [json.loads(line)["step"] for line in lines]
    assert sorted(told) == sorted(told, key=lambda point: (point[1], point[0])), "time goes with the steps"


def loop_of(job, workers, rank):
    source = open_source(job.config.data)
    shard = load_shard(source, job.profile, job.scaling, partition(job.profile.groups, workers), rank)
    from raydc.clustering.collective import CollectiveClusters

    return Loop(job.method(), shard, CollectiveClusters(shard), 256, 0)


def test_no_denormal_number_slows_a_step_and_nothing_else_loses_them(tmp_path, monkeypatch):
    def smallest() -> float:
        return sys.float_info.min / 2

    loop, seen = loop_of(prepare(config(tmp_path / "x")), 1, 0), []
    view = loop.method.view
    monkeypatch.setattr(loop.method, "view", lambda batch: seen.append(smallest()) or view(batch))
    next(iter(loop))
    assert seen and not any(seen)
    assert smallest() > 0


def test_rows_find_their_state_on_another_number_of_workers(tmp_path, monkeypatch):
    job = prepare(config(tmp_path / "x"))
    loop = loop_of(job, 1, 0)
    for progress in loop:
        if progress.phase == "cluster":
            break
    store = Store(tmp_path / "run")
    checkpoint.save(store, loop, [])
    parts = []
    for rank in range(3):
        other = loop_of(job, 3, rank)
        # without a process group `start` is that of rank 0: place this shard by hand
        other.shard.sizes = (other.shard.groups[0].start, len(other.shard))
        start = other.shard.groups[0].start
        with monkeypatch.context() as patch:
            patch.setattr(Shard, "start", property(lambda self, start=start: start))
            checkpoint.load(store, other)
        parts.append(other.method.rows["target"])
    assert torch.equal(torch.cat(parts), loop.method.rows["target"])


def test_a_damaged_checkpoint_falls_back_and_three_end_it(tmp_path):
    job = prepare(config(tmp_path / "x"))
    loop, store = loop_of(job, 1, 0), Store(tmp_path / "run")
    for progress in loop:
        checkpoint.save(store, loop, [{"step": progress.step}])
        if progress.step >= 3 * loop.per_epoch:
            break
    names = sorted({name.split("/")[1] for name in store.list("checkpoints")})
    assert len(names) == checkpoint.KEEP
    flip(store, f"checkpoints/{names[-1]}/shared.pt")
    fresh = loop_of(job, 1, 0)
    assert checkpoint.load(store, fresh)[0]["step"] == fresh.step == 2 * loop.per_epoch
    flip(store, f"checkpoints/{names[0]}/shared.pt")
    with pytest.raises(checkpoint.CheckpointError, match=r"no checkpoint in .* is whole"):
        checkpoint.load(store, loop_of(job, 1, 0))


def flip(store: Store, name: str) -> None:
    data = bytearray(store.read_bytes(name))
    data[len(data) // 2] ^= 1
    store.write_bytes(name, bytes(data))


def test_pretraining_is_taken_from_another_run(undisturbed, tmp_path):
    heard: list[Progress] = []
    changed = config(tmp_path / "idec", method__name="idec", training__init_from=str(undisturbed))
    train(check(changed), Watch(progress=heard.append))
    assert {progress.phase for progress in heard} == {"cluster"}
    searched = tmp_path / "search"  # its model has replicas beside it
    model = ClusteringModel.load(undisturbed / "model")
    model.replicas = (Replica(model.method, np.arange(10)),) * 2
    model.save(searched / "model")
    check(config(tmp_path / "dec", training__init_from=str(searched)))
    with pytest.raises(DataError, match="holds no finished run"):
        check(config(tmp_path / "other", training__init_from=str(tmp_path)))
    with pytest.raises(DataError, match=r"output directory of a finished run, got models:/digits@champion: name that"):
        check(config(tmp_path / "other", training__init_from="models:/digits@champion"))
    with pytest.raises(DataError, match=r"scaled by power, here they are scaled by unit: use data\.scaling=power"):
        check(config(tmp_path / "other", training__init_from=str(undisturbed), data__scaling="unit"))
    with pytest.raises(DataError, match=r"use the same method\.network settings"):
        check(config(tmp_path / "other", training__init_from=str(undisturbed), method__network__latent=6))


@pytest.mark.slow
def test_labels_never_steer(undisturbed, tmp_path):
    """The whole command with permuted labels: the same weights."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    hashes = set()
    for name, labels in (("true", y), ("permuted", np.random.default_rng(0).permutation(y))):
        np.savez(tmp_path / f"{name}.npz", X=x, y=labels)
        out = tmp_path / name
        options = [f"--{key}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for key, v in tiny().items()]
        code = cli.main(
            ["train", *options, f"--data={tmp_path / name}.npz", f"--out={out}", "--register=permuted",
             f"--tracking-uri=sqlite:///{tmp_path}/mlflow.db"]
        )  # fmt: skip
        assert code == 0
        hashes.add(weights(out))
    assert len(hashes) == 1


def tiny() -> dict[str, object]:
    from tests.support.runs import TINY

    return {key: value for key, value in TINY.items() if key != "data.path"}


@pytest.mark.ray
def test_workers_find_what_is_named_relative_to_the_users_directory(undisturbed, tmp_path):
    """Ray's workers have working directories of their own."""
    (tmp_path / "rows").mkdir()
    np.save(tmp_path / "rows" / "digits.npy", load_digits().data)
    shutil.copytree(undisturbed, tmp_path / "runs" / "before")
    run = {"data": "rows/digits.npy", "out": "runs/after", "init-from": "runs/before", "tracking-uri": "sqlite:///m.db"}
    run |= {"method": "dec", "n-clusters": "10", "data.shape": "1,8,8", "method.cluster.length": "1 epochs"}
    run |= {"method.network.hidden": "32", "method.network.latent": "5"}
    command = [sys.executable, "-m", "raydc", "train", *(word for key in run for word in (f"--{key}", run[key]))]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert waiting.run(command, 280, cwd=tmp_path, env=env).returncode == 0
    assert pq.read_table(tmp_path / "runs" / "after" / "assignments")["row"].to_pylist() == list(range(1797))
    resolved = json.loads((tmp_path / "runs" / "after" / "run.json").read_text())["config"]
    assert resolved["data"]["path"] == str(tmp_path / "rows" / "digits.npy")
    assert resolved["training"]["init_from"] == str(tmp_path / "runs" / "before")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("method", ["dec", "kmeans"])
def test_rows_that_changed_meanwhile_end_it_with_the_workers_own_words(tmp_path, method):
    """Not as a lost worker, which would be replaced, and its loss reported."""
    values = load_digits().data
    np.save(tmp_path / "rows.npy", values)
    settings = {"method.name": method, "data.path": str(tmp_path / "rows.npy"), "training.workers": 2}
    run = check(RunConfig.of(unflatten(settings | {"output.out": str(tmp_path / "run")})))
    np.save(tmp_path / "rows.npy", values + 1)
    with pytest.raises(DataError, match="the data have changed"):
        train(run)


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_that_fails_leaves_no_worker_at_work(tmp_path):
    def fail(progress: Progress) -> None:
        raise RuntimeError("the screen is gone")

    run = check(config(tmp_path / "run", training__workers=2))
    with connected(3):
        with pytest.raises(RuntimeError, match="the screen is gone"):
            train(run, Watch(fail))
        assert Store(tmp_path / "run").list("checkpoints"), "they save and end before the driver does"
        assert freed(30)
        assert train(run)["seconds"] > 0, "it goes on"


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_reporter_costs_nothing_but_time(tmp_path, monkeypatch):
    """Ray ends any actor where memory is short: once a traceback."""
    import ray

    reporters, notes, began = [], [], trainer._reporter
    monkeypatch.setattr(trainer, "_reporter", lambda: reporters.append(began()) or reporters[-1])

    def heard(progress: Progress) -> None:
        if len(reporters) == 1:
            ray.kill(reporters[0])

    train(check(config(tmp_path / "killed", training__workers=2)), Watch(heard, note=notes.append))
    assert len(reporters) == 2 and any("workers were lost, 1 of" in note for note in notes)
    train(check(config(tmp_path / "whole", training__workers=2)))
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.ray
@pytest.mark.slow
def test_a_lost_worker_costs_nothing_but_time(tmp_path):
    """Two workers of Ray Train, one SIGKILLed in the clustering phase: the same weights as an undisturbed run."""
    assert in_child(tmp_path / "whole", training__workers=2) == 0
    assert in_child(tmp_path / "killed", "epoch.clustering", training__workers=2) == 0
    assert (tmp_path / "killed.killed").exists()
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole")
