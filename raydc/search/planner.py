"""What a search trains next and what it knows already: an Optuna study, the records of trials, and their replicas.

Optuna suggests points, files say what is finished, and nothing here knows who trains.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raydc.data import DataError
from raydc.search import selector
from raydc.search.errors import SearchInterrupted
from raydc.search.evaluation import Context, Task
from raydc.search.opponents import OPPONENTS
from raydc.search.space import (
    Rows,
    Space,
    known_choices,
    suggest,
)
from raydc.search.trial import RUNGS, STOP, Record
from raydc.utils import compat
from raydc.utils.fault_injection import failpoint
from raydc.utils.storage import Store

SHARE_OF_TRIALS = 2 / 3
"""Of the time budget; the rest is for replicas."""


def interrupted(store: Store) -> SearchInterrupted:
    return SearchInterrupted(f"saved in {store.root}; the same command goes on from there")


@dataclass(frozen=True)
class SearchState:
    """Where a search stands, for those who watch it."""

    records: tuple[Record, ...]
    """Of the trials that are finished, in order of their numbers."""
    running: tuple[Task, ...]
    asked: int
    """Trials in all, baselines included."""
    replicas: tuple[int, int]
    """Trained, and planned so far."""
    seconds_left: float | None

    @property
    def best(self) -> Record | None:
        """By stage one."""
        return max(self.records, key=lambda record: record.score, default=None)


@dataclass
class SearchWatch:
    """What the caller wants to hear, and whether it wants the search to stop."""

    state: Callable[[SearchState], None] = lambda state: None
    note: Callable[[str], None] = lambda text: None
    found: Callable[[dict[str, Any]], None] = lambda summary: None
    """Called with the summary of a finished search, before that is recorded."""
    stop: threading.Event | None = None


@dataclass(frozen=True)
class Finished:
    """A search whose trainings are over."""

    context: Context
    first: list[dict[str, Any]]
    """The baselines."""
    records: list[Record]
    replicas: dict[int, list[Record]]
    """Of the finalists, by trial."""
    curve: dict[int, float]
    """Stage-one score of raw k-means by number of clusters."""
    study: optuna.Study


class Planner:
    """What is run next: trials of a killed driver, baselines, suggestions, and at last replicas of the best."""

    def __init__(
        self, context: Context, space: Space, first: list[dict[str, Any]], study: optuna.Study, watch: SearchWatch
    ) -> None:
        self.context, self.space, self.first, self.study, self.watch = context, space, first, study, watch
        self.tasks: dict[str, Task] = {}
        self.asked: dict[int, optuna.Trial] = {}
        self.queue: list[Task] | None = None
        self.planned = 0
        self.records: dict[int, Record] = {}
        self.cut: set[int] = set()
        """Numbers of the trials that were stopped early, or asked to."""
        self.began, self.stopped = time.monotonic(), ""
        self.left = self._take_over()
        self.n_asked = len(study.get_trials(deepcopy=False))

    @property
    def wanted(self) -> int:
        return len(self.first) + self.context.settings.trials

    def _take_over(self) -> list[int]:
        """Tell the study what a killed driver could not; the numbers of trials that are not over."""
        left = []
        for trial in self.study.get_trials(deepcopy=False):
            record = Record.read(self.context.store, trial.number)
            if record is not None:
                self.records[trial.number] = record
                self.cut |= {trial.number} if record.status == "stopped" else set()
            if not trial.state.is_finished():
                self.asked[trial.number] = compat.asked_before(self.study, trial)
                if record is None or not record.over:
                    left.append(trial.number)
                    self.context.store.write_text(f"{Task(trial.number, 0, {}).folder}/{STOP}", "")
                else:
                    self._tell(record)
        return left

    def suggest(self, trial_id: str) -> Any:
        """The next task; None to wait, FINISHED at the end."""
        self._look_up()
        if self.stopped == "interrupted":
            return Searcher.FINISHED
        task = self._next_trial() if not self.stopped else None
        if task is None:
            if any(not task.replica for task in self.tasks.values()):
                return None
            if self.queue is None:
                self.queue = self._replicas()
                self.planned = len(self.queue)
            if not self.queue or self._seconds_left() <= 0:
                return None if self.tasks else Searcher.FINISHED
            task = self.queue.pop(0)
        self.tasks[trial_id] = task
        self._tell_watch()
        return {"number": task.number, "replica": task.replica, "point": task.point}

    def _next_trial(self) -> Task | None:
        if self.left:
            number = self.left.pop(0)
        elif self.n_asked < self.wanted:
            number = self._ask()
            failpoint("search.asked")
        else:
            return None
        return Task(number, 0, self._point(number))

    def _ask(self) -> int:
        """A new trial of the study; its number."""
        trial = self.study.ask()
        self.n_asked += 1
        self.asked[trial.number] = trial
        return trial.number

    def _point(self, number: int) -> dict[str, Any]:
        """Settings of an asked trial; those it was given before its driver was killed, Optuna gives it again."""
        settings, rows = self.context.settings, Rows(self.context.profile.rows, self.context.shape)
        if number < len(self.first):
            point = self.first[number]
        else:
            settled, began = settings.settled, known_choices(self.study)
            point = suggest(self.space, self.asked[number], settings.n_clusters, rows, settled, began)
        self.asked[number].set_user_attr("method", point["method.name"])  # whose trials it is compared with
        return point

    def _replicas(self) -> list[Task]:
        """Trainings still to be done: of each trial one, then of each another; those that the best must beat first."""
        settings, store = self.context.settings, self.context.store
        chosen = chosen_finalists(self.context, self.first, self.records)
        opponents = [number for number in simpler(self.first) if number in chosen]
        order = dict.fromkeys(opponents + chosen)
        tasks = [Task(n, r, self.records[n].point) for r in range(1, settings.replicas + 1) for n in order]
        before = [Record.read(store, task.number, task.replica) for task in tasks]
        left = [task for task, record in zip(tasks, before, strict=True) if record is None or not record.over]
        for task in left:
            store.write_text(f"{task.folder}/{STOP}", "")
        return left

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A score on the way: to the study, which may stop the trial."""
        task = self.tasks[trial_id]
        if task.replica or "rung" not in result or result["rung"] >= RUNGS:
            return
        trial = self.asked[task.number]
        trial.report(result["score"], result["rung"])
        if self._may_be_cut(task.number) and trial.should_prune():
            reason = f"in its method's worse half at {result['rung'] / RUNGS:.0%} of its training"
            self.context.store.write_text(f"{task.folder}/{STOP}", reason)
            self.cut.add(task.number)

    def _may_be_cut(self, number: int) -> bool:
        """Whether early stopping may end the trial.

        A third of the suggestions is trained at full length, whatever they are compared with; so are the baselines,
        which take part in the comparison.
        """
        settings = self.context.settings
        more = len(self.cut) < 2 * settings.trials // 3
        return settings.early_stopping and more and number >= len(self.first) and number not in self.cut

    def on_trial_complete(self, trial_id: str, error: bool = False) -> None:
        """A training that is over, for good or ill; with `error` its process is gone.

        DataError where its rows were not those of the search.
        """
        task = self.tasks.pop(trial_id)
        store = self.context.store
        record = Record.read(store, task.number, task.replica)
        if error and (record is None or not record.over):
            record = Record(task.number, task.replica, task.point, "lost")
            record.problems = ["its process died, twice (out of memory?)"]
            record.write(store)
        if record is not None and record.status == "changed":
            raise DataError(f"{record.problems[0].partition(': ')[2]}\nPut the rows back, or name another --out.")
        if record is not None and not task.replica:
            self.records[task.number] = record
            failpoint("search.record")
            if record.over:
                self._tell(record)
            failpoint("search.told")
        self._tell_watch()

    def _tell(self, record: Record) -> None:
        trial = self.asked[record.number]
        trial.set_user_attr("status", record.status)
        if record.status == "failed":
            self.study.tell(trial, state=TrialState.FAIL)
        else:
            self.study.tell(trial, record.score)

    def _seconds_left(self) -> float:
        budget = self.context.settings.time_budget
        return float("inf") if budget is None else budget - (time.monotonic() - self.began)

    def _tell_watch(self) -> None:
        left = self._seconds_left()
        ordered = tuple(self.records[number] for number in sorted(self.records))
        running = tuple(self.tasks.values())
        done = self.planned - len(self.queue or []) - sum(task.replica > 0 for task in running)
        self.watch.state(
            SearchState(
                ordered, running, self.wanted, (done, self.planned), None if left == float("inf") else max(left, 0)
            )
        )

    def ask_to_stop(self, until: threading.Event) -> None:
        """In a thread: ask trials to end when the caller says so or their share of the budget is over."""
        told = set()
        while not until.wait(0.2):
            self._look_up()
            over = self._seconds_left() <= 0
            running = [task for task in list(self.tasks.values()) if over or not task.replica]
            names = [STOP] if self.stopped == "interrupted" else [f"{task.folder}/{STOP}" for task in running]
            for flag in ((name, self.stopped) for name in names if self.stopped):
                if flag not in told and self._flagged(*flag):
                    told.add(flag)

    def _look_up(self) -> None:
        """Whether trials are to end."""
        budget = self.context.settings.time_budget
        if self.watch.stop is not None and self.watch.stop.is_set():
            self.stopped = "interrupted"
        elif budget is not None and not self.stopped and time.monotonic() - self.began > SHARE_OF_TRIALS * budget:
            self.stopped = "out of time"

    def _flagged(self, name: str, reason: str) -> bool:
        """Whether the flag could be raised; a disk that is full may soon have room."""
        try:
            self.context.store.write_text(name, reason)
        except OSError:
            return False
        return True

    def interrupt(self) -> None:
        """Ask all trials to save and end: nobody is left to hear of them."""
        self.stopped = "interrupted"
        self._flagged(STOP, self.stopped)


def chosen_finalists(context: Context, first: list[dict[str, Any]], records: Mapping[int, Record]) -> list[int]:
    """Trials that get replicas: models worth it, the baselines that the winner must beat, and the shallow opponents.

    An opponent takes no model's place: it is cheap, and no model.
    """
    scores = {
        number: record.score
        for number, record in records.items()
        if record.status == "guarded" or record.has_model(context.store)
    }
    shallow = [n for n, record in sorted(records.items()) if record.method in OPPONENTS and record.status == "finished"]
    return [*selector.finalists(scores, simpler(first), context.settings.finalists), *shallow]


def simpler(first: list[dict[str, Any]]) -> list[int]:
    """Numbers of raw k-means and of the default configuration, the simplest first."""
    names = [point["method.name"] for point in first]
    return list(dict.fromkeys([names.index("kmeans"), 0]))
