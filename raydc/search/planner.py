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

from raydc import methods
from raydc.core import compat
from raydc.core.fault_injection import failpoint
from raydc.core.storage import Store
from raydc.data import DataError
from raydc.search import scales, selector
from raydc.search.cost import work
from raydc.search.directory import DRAWN
from raydc.search.errors import SearchInterrupted
from raydc.search.evaluation import Context, Task
from raydc.search.opponents import OPPONENTS
from raydc.search.space import (
    Space,
    known_choices,
    method_choices,
    suggest,
    takes_clusters,
)
from raydc.search.trial import INTERRUPTED, OUT_OF_MEMORY, OUT_OF_TIME, RUNGS, STOP, Record

SHARE_OF_TRIALS = 2 / 3
"""Of the time budget; the rest is for replicas."""
FRUITLESS = ("failed", "lost", OUT_OF_MEMORY)
"""What may become of trials that then do not count as trained."""


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
    """What is run next: trials of a killed driver, baselines and the first suggestions, the cheap ones first; then
    further suggestions, and at last replicas of the best.
    """

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
        self.waiting = self._cheap_first(self._take_over())
        """Trials that are asked for and not over, in the order in which they are run."""
        self.n_asked = sum(trial.state != TrialState.WAITING for trial in study.get_trials(deepcopy=False))
        self.methods = self._methods()
        """Each of which one of the first suggestions takes; none where the space does not choose between methods."""

    @property
    def wanted(self) -> int:
        return len(self.first) + self.context.settings.trials

    @property
    def blind(self) -> int:
        """Trials, baselines included, that are asked for at once, as they are chosen without knowledge of others: as
        many as the sampler draws at random, and one of each method.
        """
        return min(self.wanted, len(self.first) + max(DRAWN, len(self.methods)))

    def _take_over(self) -> list[int]:
        """Tell the study what a killed driver could not; the numbers of trials that are not over.

        One that waits in the study was to be asked for when its driver was killed; the next to be asked for is this.
        """
        left = []
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.WAITING:
                continue
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
        if self.stopped == INTERRUPTED:
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
        if not self.waiting and self.n_asked < self.wanted:
            most = max(self.blind, self.n_asked + 1)
            self.waiting = self._cheap_first([self._ask() for _ in range(self.n_asked, most)])
        if not self.waiting:
            return None
        number = self.waiting.pop(0)
        return Task(number, 0, self._point(number))

    def _cheap_first(self, numbers: list[int]) -> list[int]:
        """So that a search is useful from its first minute, and what is left out for want of time is dear."""
        if len(numbers) < 2:
            return numbers
        return sorted(numbers, key=lambda number: (work(self.context, self._point(number)), number))

    def _methods(self) -> list[str]:
        """Methods that the space chooses between and the study knows, the cheap ones first by their own settings."""
        known = known_choices(self.study).get("method.name")
        found = [*known] if known else method_choices(self.space, self.context.about)
        if len(found) < 2:
            return []
        least = self.context.settings.n_clusters[0]

        def default(name: str) -> dict[str, Any]:
            point = {"method.name": methods.full_name(name)}
            return point | ({"method.n_clusters": least} if takes_clusters(point) else {})

        return sorted(found, key=lambda name: work(self.context, default(name)))

    def _ask(self) -> int:
        """A new trial of the study; its number."""
        waits = any(trial.state == TrialState.WAITING for trial in self.study.get_trials(deepcopy=False))
        if not waits and (prescribed := self._prescribed(self.n_asked - len(self.first))):
            self.study.enqueue_trial(prescribed)
        trial = self.study.ask()
        self.n_asked += 1
        self.asked[trial.number] = trial
        failpoint("search.asked")
        return trial.number

    def _prescribed(self, suggestion: int) -> dict[str, Any]:
        """What this suggestion, counted from 0, is to have by Optuna's names, whatever the sampler says.

        The first take one method each. Where the number of clusters is free, the last quarter tries the best
        suggestion's settings with the numbers next to its own: else some integer near the best may never be tried.
        """
        if 0 <= suggestion < len(self.methods):
            return {"method.name": self.methods[suggestion]}
        low, high = self.context.settings.n_clusters
        if low == high or suggestion < self.context.settings.trials - self.context.settings.trials // 4:
            return {}
        told = {n: r for n, r in self.records.items() if n >= len(self.first) and r.status == "finished"}
        if not told:
            return {}
        best = max(told.values(), key=lambda record: (record.score, -record.number))
        trials = self.study.get_trials(deepcopy=False)
        params, same = trials[best.number].params, [t for t in trials if t.user_attrs.get("method") == best.method]
        tried = {trial.params.get("method.n_clusters") for trial in same}
        left = [k for k in range(low, high + 1) if k not in tried]
        if "method.n_clusters" not in params or not left:
            return {}
        return params | {"method.n_clusters": min(left, key=lambda k: (abs(k - best.n_clusters), k))}

    def _point(self, number: int) -> dict[str, Any]:
        """Settings of an asked trial; those it was given before its driver was killed, Optuna gives it again."""
        settings, rows = self.context.settings, self.context.about
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

        A third of the suggestions is trained at full length, whatever they are compared with and however many fail; so
        are the baselines, which take part in the comparison.
        """
        settings = self.context.settings
        lost = {n for n, record in self.records.items() if n >= len(self.first) and record.status in FRUITLESS}
        more = len(self.cut | lost) < 2 * settings.trials // 3
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
            names = [STOP] if self.stopped == INTERRUPTED else [f"{task.folder}/{STOP}" for task in running]
            for flag in ((name, self.stopped) for name in names if self.stopped):
                if flag not in told and self._flagged(*flag):
                    told.add(flag)

    def _look_up(self) -> None:
        """Whether trials are to end."""
        budget = self.context.settings.time_budget
        if self.watch.stop is not None and self.watch.stop.is_set():
            self.stopped = INTERRUPTED
        elif budget is not None and not self.stopped and time.monotonic() - self.began > SHARE_OF_TRIALS * budget:
            self.stopped = OUT_OF_TIME

    def _flagged(self, name: str, reason: str) -> bool:
        """Whether the flag could be raised; a disk that is full may soon have room."""
        try:
            self.context.store.write_text(name, reason)
        except OSError:
            return False
        return True

    def interrupt(self) -> None:
        """Ask all trials to save and end: nobody is left to hear of them."""
        self.stopped = INTERRUPTED
        self._flagged(STOP, self.stopped)


def chosen_finalists(context: Context, first: list[dict[str, Any]], records: Mapping[int, Record]) -> list[int]:
    """Trials that get replicas: models worth it, the baselines that the winner must beat, where the number of clusters
    is free the best of each number on the short list, and the opponents.

    An opponent takes no other's place: it is cheap.
    """
    models = {
        number: record
        for number, record in records.items()
        if record.method not in OPPONENTS and (record.status == "guarded" or record.has_model(context.store))
    }
    scores, free = {number: record.score for number, record in models.items()}, len({*context.settings.n_clusters}) > 1
    always = dict.fromkeys(simpler(first) + (best_of_scales(models) if free else []))
    others = [n for n, r in sorted(records.items()) if r.method in OPPONENTS and r.has_model(context.store)]
    return [*selector.finalists(scores, [*always], context.settings.finalists), *others]


def best_of_scales(records: Mapping[int, Record]) -> list[int]:
    """The best trial of each number of clusters on the short list, by one training."""
    of_k: dict[int, int] = {}
    for number in sorted(records, key=lambda n: (-records[n].score, n)):
        if records[number].status == "finished":
            of_k.setdefault(records[number].n_clusters, number)
    return [of_k[k] for k in scales.short_list({k: records[n].score for k, n in of_k.items()})]


def simpler(first: list[dict[str, Any]]) -> list[int]:
    """Numbers of raw k-means and of the default configuration, the simplest first."""
    names = [point["method.name"] for point in first]
    return list(dict.fromkeys([names.index("kmeans"), 0]))
