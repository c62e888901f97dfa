"""Searches on Ray Tune: trials in reused processes, and trials whose workers are Ray Train's."""

from pathlib import Path

import optuna
import pytest

from raydc.distributed.ray_cluster import connected
from raydc.search import tune
from raydc.search.evaluation import Task, prepare
from raydc.search.trial import run_task
from tests.support.searches import FIXED, SPACES, asked, states, written


@pytest.fixture
def data(tmp_path: Path) -> str:
    return written(tmp_path)


@pytest.mark.ray
@pytest.mark.slow
def test_trials_in_reused_processes(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", concurrent=1)
    alone = tune(asked(data, tmp_path / "alone"))
    summary = tune(settings)
    assert states(settings) == ["COMPLETE"] * 6
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
def test_trials_of_two_workers_that_are_stopped_free_what_they_held(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster has room for one such trial: were its place kept, the replicas after it would never start."""
    import ray

    settings = asked(
        data, tmp_path / "out", space=str(SPACES / "ae_kmeans.py"), trials=1, concurrent=1, workers_per_trial=2,
        fixed={**FIXED, "method.pretrain.length": "200 epochs"}, replicas=1,
    )  # fmt: skip
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    with connected(3):
        summary = tune(settings)
        free, held = ray.available_resources().get("CPU", 0), ray.cluster_resources()["CPU"]
        assert free > held - 0.5  # but for what an idle actor keeps
        assert not [group for group in ray.util.placement_group_table().values() if group["state"] == "CREATED"]
    assert [entry["status"] for entry in summary["trials"]] == ["finished"] * 3 + ["stopped"]
    assert summary["trials"][3]["history"][-1][0] < 10 and len(summary["replicas"]) == 3
    assert states(settings) == ["COMPLETE"] * 4
