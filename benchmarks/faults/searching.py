"""Faults of `raydc tune`: drivers killed, trials that crash, a study whose database is locked."""

import json
import os
import resource
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.faults.lab import Lab, fault
from raydc.core.storage import Store
from raydc.search import TuneSettings, trial, tune
from raydc.search.evaluation import Context, Task
from raydc.search.trial import Record
from tests.support.searches import BASELINES, asked, rows, states, table

FIRST = 1 + len(BASELINES)
"""Trials of every search before those that the study suggests: the default configuration, and the baselines."""
SUGGESTED = 3
"""Trials after them, where a fault asks for no other number."""
PLACES = ("search.asked", "epoch.clustering", "search.record", "search.told")


def searched(settings: str) -> int:
    summary = tune(TuneSettings.model_validate_json(settings))
    assert summary["winner"]
    return 0


def settings_in(lab: Lab, **others: Any) -> TuneSettings:
    data = lab.root / "rows.npz"
    if not data.exists():
        x, y = rows()
        np.savez(data, X=x, y=y)
    return asked(str(data), lab.folder / "out", **{"space": "dec", "trials": SUGGESTED, **others})


def answer(settings: TuneSettings) -> str:
    """What must be the same: every trial but for its times."""
    summary = json.loads((Path(settings.out) / "search.json").read_text())
    return json.dumps([table(summary), summary["winner"]["weights"]], sort_keys=True)


def undisturbed(lab: Lab) -> str:
    def make() -> str:
        settings = settings_in(lab)
        lab.start(searched, settings.model_dump_json()).expect(0)
        return answer(settings)

    return str(lab.once("search", make))


def complete(settings: TuneSettings) -> None:
    found = states(settings)
    assert found == ["COMPLETE"] * (FIRST + SUGGESTED), f"trials were lost or are still running: {found}"


@fault("A14", "search driver SIGKILL, and the same search again")
def search_killed(lab: Lab, repeat: int) -> float:
    settings = settings_in(lab)
    place, marker = PLACES[repeat % len(PLACES)], lab.folder / "killed"
    killed = lab.start(searched, settings.model_dump_json(), RAYDC_FAILPOINT=f"{place}:{marker}")
    killed.expect(-signal.SIGKILL)
    written = {path: path.stat().st_mtime_ns for path in (Path(settings.out) / "trials").rglob("record.json")}
    began = time.time()
    lab.start(searched, settings.model_dump_json()).expect(0)
    assert {path: path.stat().st_mtime_ns for path in written} == written, "a finished trial was run again"
    complete(settings)
    return time.time() - began


def crashing(settings: str, share: float, seed: int) -> int:
    """A search some of whose trials raise."""
    dice, whole = np.random.default_rng(seed), trial._trained

    def sometimes(*arguments: Any) -> Any:
        if dice.random() < share:
            raise RuntimeError("the network has burnt down")
        return whole(*arguments)

    trial._trained = sometimes
    return searched(settings)


@fault("A12", "30 % of the trials crash: the others end, and so does the search")
def trials_crash(lab: Lab, repeat: int) -> float:
    settings, began = settings_in(lab, trials=6), time.time()
    lab.start(crashing, settings.model_dump_json(), 0.3, lab.dice.randrange(2**31)).expect(0)
    found = [Record.read(Store(settings.out), number) for number in range(FIRST + 6)]
    assert all(found), "a trial has no record"
    states_of = states(settings)
    assert len(states_of) == len(found) and set(states_of) <= {"COMPLETE", "FAIL"}, f"trials were left: {states_of}"
    return time.time() - began


def starving(settings: str, hungry: int) -> int:
    """A search one of whose trials wants more memory than the process may have."""
    whole = trial._trained

    def allocate(context: Context, task: Task, *rest: Any) -> Any:
        if task.number != hungry:
            return whole(context, task, *rest)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**28, limits[1]))
        try:
            kept = [np.ones(2**24) for _ in range(100)]
            raise AssertionError(f"{len(kept)} arrays of 128 MB found room")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)

    trial._trained = allocate
    return searched(settings)


@fault("A13", "a trial runs out of memory (RLIMIT_AS): it alone is lost, and says why")
def trial_starves(lab: Lab, repeat: int) -> float:
    undisturbed(lab)
    settings, whole = settings_in(lab), settings_in(lab).model_copy(update={"out": str(lab.root / "once/search/out")})
    began, hungry = time.time(), FIRST + lab.dice.randrange(SUGGESTED)
    lab.start(starving, settings.model_dump_json(), hungry).expect(0)
    for number in range(FIRST + SUGGESTED):
        mine, theirs = (Record.read(Store(one.out), number) for one in (settings, whole))
        assert mine and theirs, f"trial {number} has no record"
        if number == hungry:
            assert mine.status == "out of memory" and "MemoryError" in mine.problems[0], mine.problems
        elif number < hungry:  # later ones are drawn from what earlier ones scored
            assert (mine.point, mine.score, mine.weights) == (theirs.point, theirs.score, theirs.weights), "disturbed"
    assert sorted(states(settings)) == ["COMPLETE"] * (FIRST + SUGGESTED - 1) + ["RUNNING"]
    return time.time() - began


@fault("B10", "the study's database locked for 8 s")
def study_locked(lab: Lab, repeat: int) -> float:
    expected, settings = undisturbed(lab), settings_in(lab)
    process = lab.start(searched, settings.model_dump_json())
    database = Path(settings.out) / "study.db"
    wanted = lab.dice.randint(1, 4)
    while len([*(Path(settings.out) / "trials").glob("*/record.json")]) < wanted:
        assert process.process.exitcode is None, process.output[-300:]
        time.sleep(0.01)
    connection = sqlite3.connect(database, timeout=30, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    time.sleep(8)
    connection.rollback()
    connection.close()
    began = time.time()
    process.expect(os.EX_OK)
    complete(settings)
    assert answer(settings) == expected, "another result than the undisturbed search's"
    return time.time() - began
