"""Searches on Ray Tune: trials in reused processes, and trials whose workers are Ray Train's."""

from pathlib import Path

import pytest

from raydc.connection import ray_cluster
from raydc.search import tune
from raydc.search.context import Task, prepare
from raydc.search.trial import run_task
from tests.test_search import asked, data, states

__all__ = ["data"]


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
    with ray_cluster(3):
        record = run_task(context, task, lambda rung, score: seen.append([rung, score]))
    assert record is not None and (record.status, record.problems) == ("finished", [])
    assert record.history[:-1] == seen and len(seen) > 2 and record.history[-1] == [10, record.score]
    assert record.settings["training.workers"] == 2
