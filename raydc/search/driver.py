"""The search: Optuna suggests, Ray Tune runs, and files say what is finished.

Tune's own OptunaSearch does not take over the trials that a killed driver left at work, takes those stopped early for
complete, and begins its random numbers anew. So this is a Searcher of the same kind, over a study in
Optuna's storage and raydc's own records; nothing is ever read from what Tune pickles. Actors are reused, so Tune costs
some hundredths of a second a trial. No trial is ever killed to be stopped: it finds a file that asks it to end, saves,
and returns, so its workers' resources are free for certain.
"""

import gc
import itertools
import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ray.tune.search import Searcher

from raydc import methods
from raydc.core.settings import SettingsError, build
from raydc.core.storage import Store
from raydc.data import features_named
from raydc.distributed import ray_cluster
from raydc.distributed.watchdog import watch
from raydc.pipelines import embed
from raydc.search import selector
from raydc.search.cost import capped
from raydc.search.directory import open_study, unused
from raydc.search.errors import SearchError
from raydc.search.evaluation import Context, Task, baselines, kmeans_curve, prepare
from raydc.search.kinds import NAMED
from raydc.search.planner import (
    Finished,
    Planner,
    SearchInterrupted,
    SearchWatch,
    chosen_finalists,
    interrupted,
)
from raydc.search.settings import TuneSettings
from raydc.search.space import (
    Space,
    check_point,
    check_space,
    default_method,
    gives_clusters,
    load_space,
    method_choices,
    method_settings,
)
from raydc.search.trial import RUNGS, STOP, Record, run_task
from raydc.training.config import Training
from raydc.training.data_profiling import Profiler

PROCESS = 0.01
"""CPUs of the process that watches over a trial's several workers."""
FIXABLE = ("training.batch_size", "training.threads", "training.precision", "training.device")
"""Settings outside of the method that may be fixed."""


class TuneSearcher(Searcher):
    """The planner as Tune knows it.

    What goes wrong in it ends the search as an interruption does: trials save and return, and none is left at work.
    """

    def __init__(self, planner: Planner) -> None:
        super().__init__(metric="score", mode="max")
        self.planner = planner
        self.problem: BaseException | None = None

    def suggest(self, trial_id: str) -> Any:
        return self._unless_over(lambda: self.planner.suggest(trial_id), Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._unless_over(lambda: self.planner.on_trial_result(trial_id, result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._unless_over(lambda: self.planner.on_trial_complete(trial_id, error=error))

    def _unless_over(self, call: Callable[[], Any], otherwise: Any = None) -> Any:
        if self.problem is None:
            try:
                return call()
            except (Exception, KeyboardInterrupt) as problem:  # raised when the trials have ended
                self.problem = problem
                self.planner.interrupt()
        return otherwise

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune writes its searcher down; nothing is restored from that, and a space may hold what cannot pickle."""
        return Searcher, (self.metric, self.mode)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study and the records hold everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see `save`."""


@dataclass(frozen=True)
class Search:
    """A search that has been checked and may start."""

    context: Context
    space: Space
    default: str
    """The method whose default configuration is the first trial."""


def check(settings: TuneSettings, watch: SearchWatch | None = None) -> Search:
    """What can be wrong, found before any work: SettingsError, DataError or connection.NotPermitted say what.

    Raises SearchInterrupted when asked to stop while rows are read.
    """
    watch = watch or SearchWatch()

    def poll() -> None:
        if watch.stop is not None and watch.stop.is_set():
            raise SearchInterrupted("stopped while the rows were read; nothing was begun")

    unused(Store(settings.out).directory())
    _check_paths(settings.fixed)
    space = load_space(settings.space)
    check_space(space, settings.n_clusters, settings.settled)
    if "n_clusters" in settings.model_fields_set and gives_clusters(space):
        raise SettingsError(
            f"n_clusters: {settings.space} says method.n_clusters itself; leave it out of the space, or do not give it"
        )
    default = default_method(space)
    _check_fixed(settings, default)
    if settings.concurrent != 0:
        ray_cluster.check()
    data = embed.with_vectors(settings.data, settings.out, embedders(settings), watch.note, poll)
    settings = settings.model_copy(update={"data": data})
    context = prepare(settings, Profiler(Store(settings.out), settings.concurrent != 0, watch.note, poll))
    check_space(space, settings.n_clusters, settings.settled, context.about)
    default = default_method(space, context.about)
    context.check_method(default)
    for note in context.profile.notes:
        watch.note(f"note: {note}")
    watch.note(features_named(context.columns, context.shape))
    low, high = context.settings.n_clusters
    watch.note(f"numbers of clusters: {low}..{high}" if low < high else f"clusters: {low}")
    if tried := method_choices(space, context.about):
        watch.note(f"methods that fit {NAMED[context.kind]}: {', '.join(tried)}")
    return Search(context, space, default)


def search(checked: Search, watch: SearchWatch) -> Finished:
    """Run every training that is still to be run, in a directory that is this search's and held `alone` by the caller.

    SearchError says what is wrong.
    """
    context, settings = checked.context, checked.context.settings
    Profiler(context.store).keep(context.profile)
    context.store.write_text(STOP, "")  # what an interrupted search left there
    study = open_study(context)
    curve = kmeans_curve(context)
    first = capped(context, baselines(context, checked.default, curve))
    planner = Planner(context, checked.space, first, study, watch)
    _run(context, planner)
    if planner.stopped == "interrupted":
        raise interrupted(context.store)
    records = [planner.records[number] for number in sorted(planner.records)]
    _require_some(context, records, planner.stopped)
    replicas = {
        number: [r for i in range(1, settings.replicas + 1) if (r := Record.read(context.store, number, i))]
        for number in chosen_finalists(context, first, planner.records)
    }
    return Finished(context, first, records, replicas, curve, study)


def _run(context: Context, planner: Planner) -> None:
    """Run what the planner plans, and ask trials to end when it is time."""
    over = threading.Event()
    thread = threading.Thread(target=planner.ask_to_stop, args=(over,), name="raydc-search", daemon=True)
    thread.start()
    try:
        if context.settings.concurrent == 0:
            _in_process(context, planner)
        else:
            _on_ray(context, planner)
    except BaseException:
        planner.interrupt()
        raise
    finally:
        over.set()
        thread.join()


def _in_process(context: Context, planner: Planner) -> None:
    """One trial after the other, as Tune would with one at a time."""
    for trial_id in map(str, itertools.count()):
        config = planner.suggest(trial_id)
        if config == Searcher.FINISHED:
            return

        def report(rung: int, score: float, trial_id: str = trial_id) -> None:
            planner.on_trial_result(trial_id, {"rung": rung, "score": score})

        run_task(context, Task(config["number"], config["replica"], config["point"]), report)
        planner.on_trial_complete(trial_id)


def _on_ray(context: Context, planner: Planner) -> None:
    """Let Tune run it, in processes that take one trial after the other."""
    settings = context.settings
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
    }
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    with trial_cluster(settings), tempfile.TemporaryDirectory(prefix="raydc-") as scratch:
        import ray
        from ray import tune

        each, most = room(settings, ray.cluster_resources(), ray_cluster.joined())
        searcher = TuneSearcher(planner)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trainable, context=context), each),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=settings.concurrent or most,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch, verbose=0, failure_config=tune.FailureConfig(max_failures=1)
            ),
        )
        stopped: KeyboardInterrupt | None = None
        try:
            tuner.fit()
        except KeyboardInterrupt as problem:  # Tune clears nothing up: its trials live while its frames do
            stopped = problem.with_traceback(None)
        if stopped is not None:
            gc.collect()
            raise stopped
        if searcher.problem is not None:
            raise searcher.problem


def trial_cluster(settings: TuneSettings) -> AbstractContextManager[None]:
    """The Ray cluster that trials run on; none where they run in this process."""
    if settings.concurrent == 0:
        return nullcontext()
    return ray_cluster.connected(settings.workers_per_trial * fixed_training(settings).threads + 1)


def embedders(settings: TuneSettings) -> int:
    """How many workers encode rows, before the search knows its cluster; 0 is this process."""
    if settings.concurrent is None:
        return len(os.sched_getaffinity(0))
    return settings.concurrent * settings.workers_per_trial


def assigners(settings: TuneSettings) -> int:
    """How many of the cluster's workers assign all rows: as many as train at once; 0 is this process."""
    if settings.concurrent == 0:
        return 0
    import ray

    there = ray.cluster_resources()
    _, most = room(settings, there, ray_cluster.joined())
    return min((settings.concurrent or most) * settings.workers_per_trial, max(int(there.get("CPU", 1)), 1))


def room(settings: TuneSettings, there: Mapping[str, float], grows: bool) -> tuple[dict[str, float], int]:
    """What a trial's process reserves, and how many trials fit at once, on a cluster with these resources.

    SettingsError for what is asked for and not there, unless the cluster `grows`. Ray hides GPUs from a process
    that has reserved none. Trials of several workers reserve theirs through Ray Train.
    """
    training, share = fixed_training(settings), settings.gpus_per_trial
    workers, cpus, gpus = settings.workers_per_trial, there.get("CPU", 1.0), there.get("GPU", 0.0)
    if workers > 1:
        most = cpus / (workers * training.threads + PROCESS)
        if training.device == "cuda" or (training.device == "auto" and gpus >= workers):
            most = min(most, gpus / workers)
        if most < 1 and not grows:
            needs = f"{workers * training.threads + PROCESS:g} CPUs" + (
                f" and {workers} GPUs" if cpus >= workers else ""
            )
            raise SettingsError(
                f"workers_per_trial {workers}: a trial needs {needs}, and the cluster has {cpus:g} and {gpus:g}"
            )
        return {"CPU": PROCESS}, max(int(most), 1)
    most = max(int(cpus / training.threads), 1)
    each = {"CPU": float(training.threads)}
    if training.device == "cuda" and (not share or (gpus < share and not grows)):
        raise SettingsError(
            f"fixed: training.device cuda: a trial would have {share:g} GPUs (gpus_per_trial) of the cluster's {gpus:g}"
        )
    if training.device == "cpu" or not share or (gpus < share and training.device == "auto"):
        return each, most
    return each | {"GPU": share}, min(most, max(int(gpus / share + 1e-9), 1))


def _trainable(config: dict[str, Any], context: Context) -> None:
    """What a trial's process runs. It always returns, so the process can take the next trial."""
    from ray import tune

    watch()

    def report(rung: int, score: float) -> None:
        tune.report({"rung": rung, "score": score})

    record = run_task(context, Task(config["number"], config["replica"], config["point"]), report)
    score = selector.graph.WORST_SCORE if record is None else record.score
    tune.report({"rung": RUNGS, "score": score})


def fixed_training(settings: TuneSettings) -> Training:
    """How every trial is trained, as far as that is fixed. SettingsError for what cannot be."""
    fixed = {path: value for path, value in settings.fixed.items() if path in FIXABLE}
    return build(Training, {path.removeprefix("training."): value for path, value in fixed.items()}, at="training")


def _check_paths(fixed: Mapping[str, Any]) -> None:
    """SettingsError for what cannot be fixed, whatever its value."""
    for path in fixed:
        if path not in FIXABLE and (not path.startswith("method.") or path in ("method.n_clusters", "method.name")):
            raise SettingsError(
                f"fixed: {path}: expected method.* (but for n_clusters and name), or one of {', '.join(FIXABLE)}"
            )


def _check_fixed(settings: TuneSettings, default: str) -> None:
    """SettingsError for fixed settings that no method has, or that the default method or a baseline cannot take."""
    for name in dict.fromkeys([default, "kmeans", "ae_kmeans"]):
        check_point({"method.name": name} | _of_method(name, settings.fixed))
    fixed_training(settings)
    for path, value in settings.fixed.items():
        if path.startswith("method.") and not any(_of_method(name, {path: value}) for name in methods.available()):
            check_point({"method.name": default, path: value})


def _of_method(name: str, fixed: Mapping[str, Any]) -> dict[str, Any]:
    known = method_settings(methods.load(name), fixed)
    return {path: value for path, value in known.items() if path.startswith("method.")}


def _require_some(context: Context, records: list[Record], stopped: str) -> None:
    """SearchError where no trial has an answer."""
    settings = context.settings
    if any(record.has_model(context.store) for record in records):
        return
    kept = f"what is finished is kept in {settings.out}"
    if stopped:
        raise SearchError(
            f"the time budget of {settings.time_budget:g} s is too short for one trial; give more, or a smaller "
            f"network or shorter phases by fixed settings; {kept}"
        )
    again = "; the same command tries again what was lost" if any(not record.over for record in records) else ""
    raise SearchError("no trial succeeded:\n  " + "\n  ".join(_reasons(records)) + f"\n{kept}{again}")


def _reasons(records: list[Record]) -> list[str]:
    """Why trials have no answer: a line for each reason, the most frequent first; numbers make no other reason."""
    alike: dict[str, list[Record]] = {}
    for record in records:
        if record.problems:
            text = f"{record.status}: {'; '.join(record.problems)}"
            alike.setdefault(re.sub(r"\d[\d.]*", "#", text), []).append(record)
    lines = []
    for same in sorted(alike.values(), key=len, reverse=True):
        first, names = same[0], ", ".join(dict.fromkeys(record.method for record in same))
        what = f"trial {first.number}" if len(same) == 1 else f"{len(same)} trials"
        lines.append(f"{what} ({names}), {first.status}: {'; '.join(first.problems)}")
    return lines
