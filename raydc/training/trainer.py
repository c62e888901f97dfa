"""A run: checked, trained data-parallel by Ray Train, saved so that the same command goes on after any kill.

What its workers do stands in `worker.py`. Checkpoints are raydc's own (`checkpoints.py`).
"""

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raydc.core.settings import SettingsError, differences, flatten
from raydc.core.storage import VECTORS, Store
from raydc.data import DataError, changes, dropped_table
from raydc.distributed import ray_cluster
from raydc.training import alignment, profiles, streaming_kmeans, worker_job
from raydc.training.checkpoint import CheckpointError
from raydc.training.config import RunConfig
from raydc.training.data_profiling import Profiler
from raydc.training.loop import Loop, Progress, TrainingDiverged
from raydc.training.placement import Room
from raydc.training.ray_worker import Reporter, work
from raydc.training.summary import summarise, write_baseline
from raydc.training.worker_job import Job


class Interrupted(RuntimeError):
    """The run was asked to stop; it has saved its state."""


class TrainingFailed(RuntimeError):
    """Workers failed more often than they are replaced; what they had saved is kept."""


@dataclass
class Watch:
    """What the caller wants to hear, and whether it wants the run to stop; all in the caller's process."""

    progress: Callable[[Progress], None] = lambda progress: None
    note: Callable[[str], None] = lambda text: None
    stop: threading.Event | None = None
    look: Callable[[Loop, Progress], Any] | None = None
    """Under Ray, called on rank 0 after each epoch (it must pickle); what it returns is `seen` here."""
    seen: Callable[[Any], None] = lambda found: None

    def stopping(self) -> bool:
        return self.stop is not None and self.stop.is_set()


@dataclass(frozen=True)
class Run:
    """A run that has been checked and may start."""

    job: Job
    store: Store
    finished: bool
    """Whether the output directory holds this very run already, finished."""


def check(config: RunConfig, watch: Watch | None = None) -> Run:
    """Everything that can be wrong, found before any worker trains.

    SettingsError, DataError or connection.NotPermitted say what; ConnectionError where there is no cluster. Raises
    Interrupted when asked to stop while rows are read.
    """
    watch, store, workers = watch or Watch(), Store(config.output.out).directory(), config.training.workers

    def poll() -> None:
        if watch.stopping():
            raise Interrupted("stopped while the rows were read; nothing was begun")

    if not store.exists("run.json"):
        store.only(f"{VECTORS}/")
    if workers:
        ray_cluster.check()
    job = worker_job.prepare(config, profiled=Profiler(store, bool(workers), watch.note, poll))
    return Run(job, store, finished(store, job))


def finished(store: Store, job: Job) -> bool:
    """Whether the directory holds this very run already, finished.

    SettingsError if it holds something else, DataError if the rows of its run have changed.
    """
    if not store.exists("run.json"):
        store.only(f"{VECTORS}/")
        return False
    before = json.loads(store.read_text("run.json"))
    if before["key"] != job.key:
        old, new = flatten(before["config"]), job.config.flat()
        skipped = ("output.", *(f"training.{name}" for name in worker_job.HOW))
        other = [k for k in new if not k.startswith(skipped) and new[k] != old.get(k)]
        if not other:
            what = changes(before["files"], job.profile.contents) or "other columns or another shape"
            raise DataError(f"{store.root} holds a run of other rows:\n{what}\nPut them back, or name another --out.")
        what = differences(old, new, other)
        raise SettingsError(f"output.out: {store.root} holds another run: {what}; name another --out")
    return bool(before["status"] == "finished")


def train(run: Run, watch: Watch | None = None) -> dict[str, Any]:
    """Train to the end, going on from what the output directory holds; the summary of the finished run.

    Raises Interrupted when asked to stop, TrainingFailed or TrainingDiverged when it cannot go on.
    """
    watch, store, job = watch or Watch(), run.store, run.job
    if run.finished:
        watch.note(f"{store.root} holds this run already, finished: nothing to do")
        return json.loads(store.read_text("summary.json"))
    started = time.time()
    record = begin(run) | {"status": "running"}
    if job.profile.dropped and not store.exists("dropped.csv"):
        store.write_text("dropped.csv", dropped_table(job.opened(), job.profile.dropped_rows))
    alignment.withdraw(store)
    status = _status(job, store, watch, record["id"])
    record["seconds"] += time.time() - started
    record["status"] = status
    if status == "interrupted":
        store.write_text("run.json", json.dumps(record, indent=1))
        raise Interrupted(f"saved in {store.root}; the same command goes on from there")
    summary = alignment.apply(job, store, summarise(job, store, record["seconds"]))
    summary = profiles.write(job, store, summary)
    if not job.kind.info.refuses:
        write_baseline(store, job.profile.inputs)
    store.write_text("run.json", json.dumps(record, indent=1))
    store.delete("checkpoints")
    return summary


def begin(run: Run) -> dict[str, Any]:
    """run.json, which says whose directory this is, made or found; config.yaml, which repeats the run; the profile."""
    job, store = run.job, run.store
    if store.exists("run.json"):
        record = json.loads(store.read_text("run.json"))
    else:
        record = {"id": uuid.uuid4().hex, "key": job.key, "created": time.time(), "seconds": 0.0, "status": "running"}
        record |= {"config": job.config.written(), "files": job.profile.contents}
        store.write_text("run.json", json.dumps(record, indent=1))
    if not store.exists("config.yaml"):
        store.write_text("config.yaml", job.config.yaml())
    Profiler(store).keep(job.profile)
    return record


def run_name(job: Job, run_id: str) -> str:
    """What MLflow and the centroid service call the run."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", job.config.method_name).lstrip("._-")
    return f"{plain[:100]}-{run_id[:8]}"


def _status(job: Job, store: Store, watch: Watch, run_id: str) -> str:
    """Train by the way that fits the method; finished or interrupted."""
    workers = job.config.training.workers
    plan = streaming_kmeans.plan_of(job, run_name(job, run_id))
    if plan is None:
        return _in_process(job, store, watch) if workers == 0 else on_ray(job, store, watch)
    watch.note(str(streaming_kmeans.memory_of(job)))
    listener = streaming_kmeans.Listener(watch.progress, watch.stopping, plan.iterations)
    if workers == 0:
        return "finished" if streaming_kmeans.in_process(plan, job, store, listener) else "interrupted"
    with ray_cluster.connected(workers * job.config.training.threads):
        from ray.exceptions import RayError

        try:
            return "finished" if streaming_kmeans.on_service(plan, job, store, listener) else "interrupted"
        except RayError as problem:
            raise _cause(problem, store) from problem


def _in_process(job: Job, store: Store, watch: Watch) -> str:
    def on_epoch(progress: Progress) -> bool:
        watch.progress(progress)
        return watch.stopping()

    return worker_job.in_process(job, store, on_epoch).status


def on_ray(job: Job, store: Store, watch: Watch) -> str:
    """Train on Ray Train's workers; finished or interrupted. Raises as `train` does.

    Whenever workers are lost, or there is room for more of those asked for, training goes on from its last checkpoint
    with as many as there is room for.
    """
    training = job.config.training
    with ray_cluster.connected(training.workers.least * training.threads + 1):
        import ray

        gpu = ray_cluster.gpu_for_each(training.device, training.workers.least)
        each = {"CPU": float(training.threads), **({"GPU": 1.0} if gpu else {})}
        room, failures, before = Room(training.workers, each), 0, 0
        try:
            while True:
                size = room.find(training.patience, watch.note, watch.stopping)
                if not size:
                    return "interrupted"
                if size != (before or training.workers):
                    watch.note(f"training with {size} of {training.workers} workers")
                before, reporter = size, _reporter()
                try:
                    status = _fit(job, store, watch, size, each, room, reporter)
                except TrainingFailed as problem:
                    failures += 1
                    if failures > training.max_failures:
                        raise
                    gist = _gist(problem, training.hang_after)
                    watch.note(f"workers were lost, {failures} of {training.max_failures} times: {gist}")
                else:
                    if status == "finished" or watch.stopping():
                        return status
                finally:
                    ray.kill(reporter)
        finally:
            room.leave()


def _reporter() -> Any:
    """The actor between workers and driver, on the driver's node: it is not lost with a worker."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Reporter).remote()


def _fit(job: Job, store: Store, watch: Watch, size: int, each: dict[str, float], room: Room, reporter: Any) -> str:
    """Train with `size` workers until the end, or it is interrupted, also by room for more of them."""
    import ray
    from ray.exceptions import RayError
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = "inf"  # it goes by the clock; workers have their watchers
    gpu = "GPU" in each
    trainer = TorchTrainer(
        work,
        train_loop_config={
            "job": worker_job.without_source(job),
            "store": store,
            "reporter": reporter,
            "gpu": gpu,
            "look": watch.look,
        },
        scaling_config=ScalingConfig(num_workers=size, use_gpu=gpu, resources_per_worker=each),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=f"{store.path}/ray" if store.local else (store / "ray").root,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=0),  # `on_ray` starts them anew
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    result: dict[str, Any] = {}

    def fit() -> None:
        try:
            result["status"] = trainer.fit().return_value
        except Exception as problem:  # handed to the caller's thread below
            result["problem"] = problem

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.3)
            reports = ray.get(reporter.drain.remote(watch.stopping() or room.grown()))
            _hear(reports, watch)
            if reports:
                room.want_more(size)
        _hear(ray.get(reporter.drain.remote(False)), watch)
    except RayError as problem:  # the reporter was killed, and the workers end when they miss it
        thread.join()
        result.setdefault("problem", problem)  # a worker may have said why
    except BaseException:
        reporter.drain.remote(True)  # nobody hears the workers any more: they save and end
        thread.join()
        raise
    store.delete("ray")
    if "problem" in result:
        raise _cause(result["problem"], store) from result["problem"]
    return result["status"]


def _gist(problem: TrainingFailed, hang_after: float) -> str:
    """What became of each worker, by rank."""
    failures = getattr(problem.__cause__, "worker_failures", {}) or {"driver": problem.__cause__}

    def said(failure: Any) -> str:
        if hasattr(failure, "health_check_failure"):  # Ray has no more to say of a process that is gone
            return f"its process died, or gave no sign of life for {hang_after:g} s and was killed"
        return str(failure).strip().splitlines()[0][:160]

    return "; ".join(f"rank {rank}: {said(failure)}" for rank, failure in failures.items())


def _hear(reports: list[tuple[dict[str, Any], Any]], watch: Watch) -> None:
    for progress, found in reports:
        watch.progress(Progress(**progress))
        if found is not None:
            watch.seen(found)


def _cause(problem: Exception, store: Store) -> Exception:
    """The user's own error where a worker raised one, else what to do about lost workers."""
    for failure in getattr(problem, "worker_failures", {}).values():
        inner = getattr(failure, "cause", None) or failure
        for known in (TrainingDiverged, CheckpointError, ValueError, MemoryError):
            if isinstance(inner, known):
                return inner
    return TrainingFailed(f"{problem}\nwhat was saved is kept in {store.root}; the same command goes on from there")
