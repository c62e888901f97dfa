"""Searches on Ray Tune: trials in reused processes, and trials whose workers are Ray Train's."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pyarrow as pa
import pytest
import yaml

from raydc import methods
from raydc.cli.main import main
from raydc.distributed.ray_cluster import connected
from raydc.pipelines import assign
from raydc.search import spaces, tune
from raydc.search.evaluation import Task, prepare
from raydc.search.planner import Planner
from raydc.search.trial import RUNGS, run_task
from raydc.testing.cases import blobs
from raydc.training.model import ClusteringModel
from tests.support.ray_nodes import freed
from tests.support.searches import BASELINES, FIXED, asked, own_space, states, written


@pytest.fixture
def data(tmp_path: Path) -> str:
    return written(tmp_path)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected(2):
        yield


def searched(space: str | Path, folder: Path, mlflow_uri: str) -> dict[str, Any]:
    """What `raydc tune` makes of two trials of this space, each as short as its method can be."""
    x, y = blobs(methods.load("dac"), 120)
    np.savez(folder / "images.npz", X=x.numpy(), y=y.numpy())
    name = Path(space).stem
    quick = methods.load(name).quick if name in methods.available() else {}
    phases = ("adversarial", "cluster", "denoise", "layerwise", "pretrain", "start")
    fixed = {f"method.{key}": [*v] if isinstance(v, tuple) else v for key, v in quick.items()}
    fixed |= {f"method.{phase}.length": "1 epochs" for phase in phases}
    if name == "infogan":  # else nothing that its space suggests is left
        del fixed["method.adversarial.alpha"]
    (folder / "search.yaml").write_text(yaml.safe_dump({"fixed": fixed, "data": {"label_column": "y"}}))
    options = {
        "--config": folder / "search.yaml", "--data": folder / "images.npz", "--space": space, "--n-clusters": 4,
        "--trials": 2, "--replicas": 1, "--finalists": 0.1, "--concurrent": 2, "--out": folder / "out",
        "--tracking-uri": mlflow_uri, "--register": f"searched-{name}",
    }  # fmt: skip
    assert main(["tune", *(str(each) for option in options.items() for each in option)]) == 0
    assert (folder / "out" / "report" / "run-sizes.png").exists(), "the page holds no report of the winner's run"
    return json.loads((folder / "out" / "search.json").read_text())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("space", spaces.names())
def test_every_space_is_searched(cluster: None, tmp_path: Path, mlflow_uri: str, space: str) -> None:
    found = searched(space, tmp_path, mlflow_uri)
    statuses = [entry["status"] for entry in found["trials"] if not entry["baseline"]]
    assert len(statuses) == 2 and set(statuses) <= {"finished", "guarded", "stopped"}, found["notes"]


@pytest.mark.ray
def test_a_space_of_several_files_is_searched_and_all_say_the_same_of_a_row(
    cluster: None, tmp_path: Path, mlflow_uri: str
) -> None:
    found = searched(own_space(tmp_path), tmp_path, mlflow_uri)
    points = [entry["point"] for entry in found["trials"] if not entry["baseline"]]
    assert len(points) == 2 and {point["method.name"] for point in points} == {"dec"}
    assert all(point["method.network.hidden"] in ([16], [16, 16]) for point in points)

    x, winner = np.load(tmp_path / "images.npz")["X"], found["winner"]
    folder = Task(winner["number"], winner["replica"], {}).folder
    searched_labels = np.load(tmp_path / "out" / folder / "labels.npy").tolist()
    assigned = pa.concat_tables(assign.read(str(tmp_path / "out" / "assignments"))).sort_by("row")
    mlflow.set_tracking_uri(mlflow_uri)
    served = mlflow.pyfunc.load_model("models:/searched-space@champion").predict(x)
    mlflow.set_tracking_uri(None)
    assert ClusteringModel.load(tmp_path / "out" / "model").predict(x).tolist() == searched_labels
    assert assigned["cluster"].to_pylist() == served["cluster"].tolist() == searched_labels


@pytest.mark.ray
@pytest.mark.slow
def test_trials_in_reused_processes(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", concurrent=1)
    alone = tune(asked(data, tmp_path / "alone"))
    summary = tune(settings)
    assert states(settings) == ["COMPLETE"] * 8
    assert [entry["point"] for entry in summary["trials"]] == [entry["point"] for entry in alone["trials"]]
    assert [entry["score"] for entry in summary["trials"]] == [entry["score"] for entry in alone["trials"]]
    assert summary["winner"]["weights"] == alone["winner"]["weights"]


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_of_two_workers(data: str, tmp_path: Path) -> None:
    context = prepare(asked(data, tmp_path / "out", concurrent=1, workers_per_trial=2))
    task, seen = Task(0, 0, {"method.name": "ae_kmeans", "method.n_clusters": 4}), []
    with connected(3):
        record = run_task(context, task, lambda rung, score: seen.append([rung, score]))
    assert record is not None and (record.status, record.problems) == ("finished", [])
    assert record.history[:-1] == seen and len(seen) > 2 and record.history[-1] == [10, record.score]
    assert record.settings["training.workers"] == 2


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)  # some twenty trainings, each of which starts Ray Train's processes
def test_trials_of_two_workers_that_are_stopped_free_what_they_held(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster has room for one such trial: were its place kept, the replicas after it would never start."""
    import ray

    settings = asked(
        data, tmp_path / "out", space="ae_kmeans", trials=2, concurrent=1, workers_per_trial=2,
        fixed={**FIXED, "method.pretrain.length": "200 epochs"}, replicas=1,
    )  # fmt: skip
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    with connected(3):
        summary = tune(settings)
        free, held = ray.available_resources().get("CPU", 0), ray.cluster_resources()["CPU"]
        assert free > held - 0.5  # but for what an idle actor keeps
        assert not [group for group in ray.util.placement_group_table().values() if group["state"] == "CREATED"]
    baselines = len(BASELINES)  # among them the default
    assert [entry["status"] for entry in summary["trials"]] == [*["finished"] * baselines, "stopped", "finished"]
    assert summary["trials"][baselines]["history"][-1][0] < 10
    assert {entry["status"] for entry in summary["replicas"]} == {"finished"}
    assert states(settings) == ["COMPLETE"] * (baselines + 2)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("problem", [RuntimeError("the screen is gone"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_driver_that_fails_leaves_no_trial_at_work(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException, workers: int
) -> None:
    long = FIXED | {"method.cluster.length": "10000 epochs"}
    settings = asked(data, tmp_path / "out", space="dec", concurrent=2, workers_per_trial=workers, fixed=long)

    begun: list[int] = []

    def fail(planner: Planner, trial_id: str, result: dict[str, Any]) -> None:
        """When a trial, which is long, has told that a tenth is done."""
        if result.get("rung", RUNGS) < RUNGS:
            begun.append(planner.tasks[trial_id].number)
            raise problem

    monkeypatch.setattr(Planner, "on_trial_result", fail)
    with connected(5):
        with pytest.raises(type(problem)):
            tune(settings)
        assert freed(120)
    assert not (tmp_path / "out" / "trials" / f"{begun[0]:04d}" / "record.json").exists(), "it goes on"


@pytest.mark.ray
@pytest.mark.slow
def test_the_winner_assigns_all_rows_by_workers(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune(asked(data, tmp_path / "alone"))
    driver = os.getpid()

    def write(*others: Any) -> None:
        assert os.getpid() != driver, "the driver assigned rows itself"
        raise NotImplementedError

    monkeypatch.setattr(assign, "_write", write)
    for workers in (1, 2):
        tune(asked(data, tmp_path / str(workers), concurrent=workers))
    folders = [tmp_path / name / "assignments" for name in ("alone", "1", "2")]
    files = [{file.name: file.read_bytes() for file in folder.glob("part-*")} for folder in folders]
    assert files[0] and files[0] == files[1] == files[2]
