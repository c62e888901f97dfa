"""From a configuration to a recorded, registered run: training, MLflow, report, in the order that loses nothing."""

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch

from raydc.clustering.collective import CollectiveClusters
from raydc.core.schedule import Clustering, Phase
from raydc.core.storage import alone
from raydc.data import Shard
from raydc.methods.base import Method
from raydc.pipelines import embed, follow
from raydc.pipelines.report import report
from raydc.tracking.payloads import alignment_tags, naming_tags
from raydc.tracking.tracker import RecordPending, Tracker, local_folder
from raydc.training import alignment, checkpoint, streaming_kmeans
from raydc.training.config import RunConfig
from raydc.training.loop import Loop, Progress
from raydc.training.trainer import Interrupted, Run, Watch, begin, check, finished, run_name, train
from raydc.training.worker_job import Job


class View(Protocol):
    """Who shows a run while it goes on."""

    def start(self, job: Job, phases: dict[str, int]) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self, summary: dict[str, Any], paths: dict[str, str]) -> None: ...


def train_and_record(config: RunConfig, view: View, stop: threading.Event | None = None) -> dict[str, Any]:
    """Train, draw the report, and put everything into MLflow; the summary. Running it again repeats nothing.

    Raises Occupied where another process works in the same directory, and RecordPending where the run is finished and
    MLflow could not be told: `raydc registry flush`, or the same command, tells it later.
    """
    config = of_vectors(config, view.note, stop)
    run = check(config, Watch(note=view.note, stop=stop))
    output, earlier = config.output, followed(run)
    tracker = Tracker(run.store, output.tracking_uri)
    with alone(run.store):
        run = replace(run, finished=finished(run.store, run.job))  # another process may have ended it just now
        record = begin(run)
        follow.keep(earlier, run.store)
        tracker.start(output.experiment, run_name(run.job, record["id"]), record["id"], run.job.config.resolved())
        view.note(f"tracking store: {tracker.server}")
        view.start(run.job, phase_steps(run.job))
        try:

            def hear(progress: Progress) -> None:
                tracker.log([progress])
                view.progress(progress)

            # epochs that a killed driver had not told come before those that follow, also by time
            tracker.log(checkpoint.history_of(run.store))
            summary = train(run, Watch(hear, view.note, stop))
            _record(run, tracker, summary)
        except BaseException as problem:
            try:
                tracker.finish("interrupted" if isinstance(problem, Interrupted) else "failed")
            except RecordPending as pending:
                view.note(str(pending))
            raise
        root = run.store.root
        paths = {"output": root, "assignments": f"{root}/assignments", "report": f"{root}/report/index.html"}
        try:
            paths |= tracker.finish()
        finally:
            view.finish(summary, paths | tracker.paths())
        return summary


def of_vectors(config: RunConfig, note: Callable[[str], None], stop: threading.Event | None) -> RunConfig:
    """The configuration of a run over its rows' vectors, which are made first where the data name an encoder."""

    def poll() -> None:
        if stop is not None and stop.is_set():
            raise Interrupted(f"the vectors so far are kept in {config.output.out}; the same command goes on")

    data = embed.with_vectors(config.data, config.output.out, int(config.training.workers), note, poll)
    return config if data is config.data else replace(config, data=data)


def followed(run: Run) -> follow.Earlier | None:
    """The earlier model whose ids a run is to keep; none where it keeps none, or its directory holds it already."""
    job, uri = run.job, run.job.config.training.align_to
    if uri is None or run.finished or run.store.exists(alignment.VERSION):
        return None
    allow_code = [job.config.method_name]
    return follow.find(uri, job.shape, job.columns, job.config.output.tracking_uri, allow_code)


def _record(run: Run, tracker: Tracker, summary: dict[str, Any]) -> None:
    """Report, files and model of a finished run, to be put into MLflow."""
    store, output = run.store, run.job.config.output
    # the history on disk is complete, also where a killed driver never heard of some epochs
    tracker.log(json.loads(line) for line in store.read_text("metrics.jsonl").splitlines())
    with local_folder(store, "report", write=True) as folder:
        report(store.root, str(folder), allow_code=[run.job.config.method_name], source=run.job.source)
    tracker.log_pictures()
    tracker.log_summary(summary)
    tracker.log_files()
    tracker.log_model()
    if output.register_as:
        tags = {"raydc.method": run.job.config.method_name, "raydc.score": str(summary["measures"]["score"])}
        tags["raydc.reference"] = summary["reference"].rpartition(" ")[2]
        tags |= alignment_tags(summary.get("aligned"))
        tags |= naming_tags(summary.get("suggested"))
        tracker.register(output.register_as, tags)


def phase_steps(job: Job) -> dict[str, int]:
    """Steps of every phase at most."""
    return _dry_loop(job.config, job, job.profile.rows).plan()


@dataclass(frozen=True)
class RunPlan:
    """What a run would do."""

    job: Job
    run: Run
    steps: dict[str, int]
    """Of each phase at most; of those that `seconds` has."""
    seconds: dict[str, float]
    """The same, from a few steps on this machine with one worker's share of a batch."""
    unknown: tuple[str, ...]
    """Phases whose batches come of a graph or matrix of all rows, or "clustering" where nothing is trained and all rows
    are clustered at once: a few made-up rows tell nothing of it."""
    memory: int
    """Bytes of rows that each worker keeps."""
    streamed: int
    """Bytes of rows that each worker reads again in each iteration, as there is no room to keep them."""
    parameters: int
    batch_size: int | None
    """Rows of a batch; None where the method is not trained."""


def plan(config: RunConfig) -> RunPlan:
    """Check everything and time a few steps of each phase on made-up rows; nothing is started or written.

    Of a method whose rows are streamed, one row group is read and counted instead.
    """
    run = check(config)
    followed(run)
    job, workers = run.job, max(config.training.workers, 1)
    streaming = streaming_kmeans.plan_of(job, "plan")
    if streaming is not None:
        seconds = streaming.iterations * streaming_kmeans.seconds_of_an_iteration(streaming, job) / workers
        held, centroids = streaming_kmeans.memory_of(job), streaming.n_clusters * streaming.dim
        steps = {"iterations": streaming.iterations}
        return RunPlan(job, run, steps, {"iterations": seconds}, (), held.kept, held.streamed, centroids, None)
    steps = phase_steps(job)
    short = config.with_settings({f"method.{name}.length": "3 steps" for name in _lengths(config)})
    share = max(-(-job.batch_size // workers), config.method.n_clusters or 1)
    each: dict[str, float] = {}
    torch.set_num_threads(config.training.threads)
    with torch.random.fork_rng([]):
        loop, before = _dry_loop(short, job, share), time.perf_counter()
        for progress in loop:
            now = time.perf_counter()
            # the first step of a phase prepares it; an epoch of these few rows is one step
            each[progress.phase] = min(each.get(progress.phase, float("inf")), now - before)
            before = now
    parameters = sum(p.numel() for p in loop.method.parameters())
    memory = 4 * job.profile.rows * math.prod(job.shape) // workers
    batch_size: int | None = job.batch_size
    own = job.kind.sample_batch is not Method.sample_batch
    unknown = tuple(name for name in steps if own and isinstance(getattr(config.method, name), Clustering))
    if not job.kind.trains:
        unknown, batch_size = ("clustering",), None
    known = {name: n for name, n in steps.items() if name not in unknown}
    seconds_of = {name: each.get(name, 0.0) * n for name, n in known.items()}
    return RunPlan(job, run, known, seconds_of, unknown, memory, 0, parameters, batch_size)


def _lengths(config: RunConfig) -> list[str]:
    """Settings of the method that are phases, and that are not left out."""
    found = {name: getattr(config.method, name) for name in type(config.method).model_fields}
    return [name for name, value in found.items() if isinstance(value, Phase) and not value.left_out]


def _dry_loop(config: RunConfig, job: Job, rows: int) -> Loop:
    """A loop over made-up rows, few but for their number, in the range of the real ones: some methods check that."""
    planned, profile = replace(job, config=config), job.profile
    few = min(rows, max(job.batch_size, 4 * (config.method.n_clusters or 1)))
    drawn = np.random.default_rng(0).normal(profile.mean, np.sqrt(profile.variance), (few, math.prod(job.shape)))
    made = drawn.clip(profile.minimum, profile.maximum)
    shard = Shard.of(job.scaling.apply(made).view(few, *job.shape))
    shard.sizes = (rows,)
    training = config.training
    return Loop(
        planned.method(), shard, CollectiveClusters(shard, 0), job.batch_size, training.seed,
        skip_pretraining=training.init_from is not None,
    )  # fmt: skip
