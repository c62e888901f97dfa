"""Searches on Ray Tune: trials in reused processes, and trials whose workers are Ray Train's."""

import os
from pathlib import Path
from typing import Any

import optuna
import pytest

from raydc.distributed.ray_cluster import connected
from raydc.pipelines import assign
from raydc.search import tune
from raydc.search.evaluation import Task, prepare
from raydc.search.planner import Planner
from raydc.search.trial import RUNGS, run_task
from tests.support.ray_nodes import freed
from tests.support.searches import BASELINES, FIXED, asked, states, written


@pytest.fixture
def data(tmp_path: Path) -> str:
    return written(tmp_path)


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
