"""Searches that are killed, stopped, out of disk, or started twice, and go on."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from raydc.core.settings import SettingsError
from raydc.core.storage import Occupied, Store
from raydc.data import DataError, opened
from raydc.data.memory import refuse_beyond_memory
from raydc.search import SearchError, SearchInterrupted, SearchState, SearchWatch, trial, tune
from raydc.search.conclude import tune_alone
from raydc.search.directory import open_study, same_search
from raydc.search.driver import check
from raydc.search.evaluation import Context, Task, prepare
from raydc.search.planner import Planner
from raydc.search.space import Rows
from raydc.search.trial import Record
from tests.support.searches import asked, rows, states, written


@pytest.fixture
def data(tmp_path: Path) -> str:
    return written(tmp_path)


class Killed(BaseException):
    """As if the process were gone."""


@pytest.mark.parametrize(
    "moment", [pytest.param(1, marks=pytest.mark.slow), 6, pytest.param(9, marks=pytest.mark.slow)]
)
def test_a_killed_search_goes_on(data: str, tmp_path: Path, moment: int) -> None:
    settings = asked(data, tmp_path / "out")
    calls = []

    def die(state: SearchState) -> None:
        calls.append(state)
        if len(calls) == moment:
            raise Killed

    with pytest.raises(Killed):
        tune(settings, SearchWatch(die))
    records = [*(tmp_path / "out" / "trials").rglob("record.json")]
    written = {path: path.stat().st_mtime_ns for path in records}
    params = [t.params for t in open_study(prepare(settings)).get_trials()]
    summary = tune(settings)
    assert [entry["number"] for entry in summary["trials"]] == [*range(8)]
    assert states(settings) == ["COMPLETE"] * 8
    assert {path: path.stat().st_mtime_ns for path in records} == written
    after = [t.params for t in open_study(prepare(settings)).get_trials()]
    assert after[: len(params) - 1] == params[:-1] and after[len(params) - 1] | params[-1] == after[len(params) - 1]


@pytest.mark.slow
def test_a_search_that_was_asked_to_stop_goes_on(data: str, tmp_path: Path) -> None:
    settings, stop = asked(data, tmp_path / "out", space="dec"), threading.Event()

    def watch(state: SearchState) -> None:
        if len(state.records) == 2:
            stop.set()

    with pytest.raises(SearchInterrupted, match="same command goes on"):
        tune(settings, SearchWatch(watch, stop=stop))
    assert len(tune(settings)["trials"]) == 9
    assert states(settings) == ["COMPLETE"] * 9


@pytest.mark.slow
def test_new_points_after_a_restart(data: str, tmp_path: Path) -> None:
    space = "ae_kmeans"
    first = tune(asked(data, tmp_path / "out", trials=4, space=space))
    more = tune(asked(data, tmp_path / "out", trials=8, space=space))
    assert [e["point"] for e in more["trials"][:9]] == [e["point"] for e in first["trials"]]
    widths = [entry["point"]["method.network.latent"] for entry in more["trials"] if not entry["baseline"]]
    assert len(widths) == 8 and widths[4:] != widths[:4]


@pytest.mark.slow
def test_a_killed_search_without_time_to_go_on(data: str, tmp_path: Path) -> None:
    settings, calls = asked(data, tmp_path / "out"), []

    def die(state: SearchState) -> None:
        calls.append(state)
        if len(calls) == 9:  # the fifth trial has begun
            raise Killed

    with pytest.raises(Killed):
        tune(settings, SearchWatch(die))
    late = settings.model_copy(update={"time_budget": 1e-6})
    try:
        tune(late)
    except SearchError as problem:
        pytest.fail(f"four trials were finished: {problem}")
    left = states(settings)  # by number, while cheap trials run first
    assert left.count("COMPLETE") in (4, 5) and {*left} <= {"COMPLETE", "RUNNING"}
    assert len(tune(settings)["trials"]) == 8
    assert states(settings) == ["COMPLETE"] * 8


@pytest.mark.slow
@pytest.mark.parametrize("place", ["search.asked", "epoch.clustering", "search.record", "search.told"])
def test_sigkill(data: str, tmp_path: Path, place: str) -> None:
    settings = asked(data, tmp_path / "out", space="dec")
    code = (
        "import sys, torch\nfrom raydc.search import TuneSettings, tune\ntorch.set_num_threads(1)\n"
        "tune(TuneSettings.model_validate_json(sys.argv[1]))"
    )
    environment = os.environ | {"RAYDC_FAILPOINT": f"{place}:{tmp_path / 'marker'}"}
    command = [sys.executable, "-c", code, settings.model_dump_json()]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    records = [*(tmp_path / "out" / "trials").rglob("record.json")]
    written = {path: path.stat().st_mtime_ns for path in records}
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in records} == written
    assert states(settings) == ["COMPLETE"] * 9


@pytest.mark.slow
def test_a_driver_killed_at_three_moments_of_twenty_trials(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", trials=15, seed=1)
    code = (
        "import sys, torch\nfrom raydc.search import TuneSettings, tune\ntorch.set_num_threads(1)\n"
        "tune(TuneSettings.model_validate_json(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, settings.model_dump_json()]
    written: dict[Path, int] = {}
    for finished in (2, 8, 15):
        driver = subprocess.Popen(command)
        while driver.poll() is None and len([*(tmp_path / "out").glob("trials/*/record.json")]) < finished:
            time.sleep(0.05)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
        records = [*(tmp_path / "out").rglob("trials/*/record.json")]
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in written.items())
        written = {path: path.stat().st_mtime_ns for path in records}
    summary = tune(settings)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in written.items())
    assert [entry["number"] for entry in summary["trials"]] == [*range(20)]
    assert states(settings) == ["COMPLETE"] * 20


def test_time_is_kept_through_a_full_disk(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, tried = prepare(asked(data, tmp_path / "out", time_budget=0.1)), []
    planner = Planner(context, lambda trial, rows: {}, [], optuna.create_study(), SearchWatch())
    planner.tasks["a"] = Task(7, 0, {})

    def write(store: Store, name: str, text: str) -> None:
        tried.append((name, text))
        if len(tried) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "write_text", write)
    over = threading.Event()
    thread = threading.Thread(target=planner.ask_to_stop, args=(over,), daemon=True)
    thread.start()
    time.sleep(1.5)
    over.set()
    thread.join()
    assert tried == [("trials/0007/.raydc/stop", "out of time")] * 3


@pytest.mark.slow
def test_a_journal_keeps_the_study(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", study=str(tmp_path / "study.journal"))
    tune(settings)
    assert (tmp_path / "study.journal").exists() and states(settings) == ["COMPLETE"] * 8


def test_trials_lost_to_machines_are_tried_again(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, train = asked(data, tmp_path / "out"), trial._trained

    def lose(context: Context, task: Task, *others: Any) -> Any:
        if (task.number, task.replica) in ((0, 0), (1, 1)):
            raise MemoryError("no more")
        if task.number == 5:
            raise KeyError("a method's own mistake")
        return train(context, task, *others)

    monkeypatch.setattr(trial, "_trained", lose)
    summary = tune(settings)
    assert [entry["status"] for entry in summary["trials"]] == [
        "out of memory", *["finished"] * 4, "failed", *["finished"] * 2
    ]  # fmt: skip
    told = "trial 0 (kmeans) had too little memory, and is tried again by the same command: MemoryError: no more"
    assert told in summary["notes"]
    assert 'trial 5 (kmeans) failed: KeyError: "a method\'s own mistake"' in summary["notes"]
    assert (
        "the winner was not compared with the simpler trial 0 (out of memory: MemoryError: no more)" in summary["notes"]
    )
    assert states(settings) == ["RUNNING", *["COMPLETE"] * 4, "FAIL", *["COMPLETE"] * 2]
    monkeypatch.undo()
    again = tune(settings)
    assert [entry["status"] for entry in again["trials"]] == [*["finished"] * 5, "failed", *["finished"] * 2]
    assert not {"lost", "out of memory"} & {entry["status"] for entry in again["replicas"]}


@pytest.mark.parametrize(
    "want",
    [
        lambda: torch.empty(2**55),
        lambda: np.empty(2**55),
        lambda: refuse_beyond_memory("are merged on one machine", 2**40, 2**20, 1, "take fewer"),
    ],
    ids=["torch", "numpy", "guard"],
)
def test_want_of_memory_says_nothing_of_a_trial(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, want: Callable[[], Any]
) -> None:
    context = prepare(asked(data, tmp_path / "out"))
    monkeypatch.setattr(trial, "_trained", lambda *others: want())
    record = trial.run_task(context, Task(0, 0, {"method.name": "kmeans"}), lambda rung, score: None)
    assert record is not None and (record.status, record.over) == ("out of memory", False), record.problems


def test_a_search_goes_on_among_the_methods_that_it_began_with(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of them fit depends on the memory that is free, and Optuna takes no other choices than before."""
    context = prepare(asked(data, tmp_path / "out"))
    same_search(context, lambda trial, rows: {"method.name": "kmeans"})
    points = []
    for able in (["dec", "dsc"], ["dec"]):
        study = open_study(context)
        study.sampler = optuna.samplers.RandomSampler(seed=0)

        def space(trial: Any, rows: Rows, able: list[str] = able) -> dict[str, Any]:
            return {"method.name": trial.suggest_categorical("method.name", able)}

        planner = Planner(context, space, [], study, SearchWatch())
        planner.methods = []  # of which the first would take one each
        points.append([planner._point(planner._ask()) for _ in range(8)])
    assert {point["method.name"] for point in points[0]} == {"dec", "dsc"}
    assert points[0] == points[1]


def test_rows_that_change_meanwhile_end_it(data: str, tmp_path: Path) -> None:
    """Whichever trial notices; it is tried again when they are put back."""
    before = Path(data).read_bytes()
    checked = check(asked(data, tmp_path / "out", trials=1))
    x, y = rows()
    np.savez(data, X=x + 1, y=y)
    opened.cache_clear()  # as in a trial's own process
    with pytest.raises(DataError, match=r"have changed since they were checked(.|\n)*Put the rows back"):
        tune_alone(checked, SearchWatch())
    record = Record.read(checked.context.store, 0)
    assert record is not None and not record.over
    Path(data).write_bytes(before)


@pytest.mark.slow
def test_another_search_in_the_directory(data: str, tmp_path: Path) -> None:
    tune(asked(data, tmp_path / "out", trials=1))
    with pytest.raises(SettingsError, match=r"holds another search: seed was 0 and is 1"):
        tune(asked(data, tmp_path / "out", trials=1, seed=1))
    x, y = rows()
    np.savez(data, X=x + 1, y=y)
    with pytest.raises(DataError, match=r"holds a search over other rows:\nchanged: .*rows.npz\nPut them back"):
        tune(asked(data, tmp_path / "out", trials=1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(SettingsError, match="holds other files"):
        tune(asked(data, tmp_path / "other"))


@pytest.mark.slow
def test_two_drivers(data: str, tmp_path: Path) -> None:
    settings, second = asked(data, tmp_path / "out", trials=1), []

    def again(state: SearchState) -> None:
        if not second:
            with pytest.raises(Occupied, match=r"in use by process \d+ on .* since 20") as problem:
                tune(settings)
            second.append(problem)

    tune(settings, SearchWatch(again))
    assert second
