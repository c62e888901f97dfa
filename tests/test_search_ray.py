"""Searches on Ray Tune: trials in reused processes, and trials whose workers are Ray Train's."""

from pathlib import Path

import pytest

from raydc.search import tune
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
    space = tmp_path / "space.py"
    space.write_text(
        "def space(trial):\n    trial.suggest_int('method.restarts', 2, 4)\n    return {'method.name': 'kmeans'}\n"
    )
    settings = asked(data, tmp_path / "out", space=str(space), trials=1, replicas=1, concurrent=1, workers_per_trial=2)
    summary = tune(settings)
    assert [entry["status"] for entry in summary["trials"]] == ["finished"] * 4
    assert summary["trials"][1]["history"][-1][0] == 10 and len(summary["trials"][1]["history"]) > 2
