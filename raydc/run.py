"""From a configuration to a recorded, registered run: training, MLflow, report, in the order that loses nothing."""

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from raydc import registry
from raydc.clusters.local import CollectiveClusters
from raydc.config import RunConfig
from raydc.data import Shard
from raydc.job import Job
from raydc.loop import Loop, Progress
from raydc.phases import Phase
from raydc.report import report
from raydc.storage import Store
from raydc.train import Interrupted, Run, Watch, begin, check, train


class View(Protocol):
    """Who shows a run while it goes on."""

    def start(self, job: Job, phases: dict[str, int]) -> None: ...

    def progress(self, progress: Progress) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self, summary: dict[str, Any], paths: dict[str, str]) -> None: ...


def train_and_record(config: RunConfig, view: View, stop: threading.Event | None = None) -> dict[str, Any]:
    """Train, draw the report, and put everything into MLflow; the summary. Running it again repeats nothing."""
    run = check(config)
    registry.find(config.output.tracking_uri)
    record = begin(run)
    tracker = registry.Tracker(run.store, config.output.tracking_uri)
    name = f"{config.method_name}-{record['id'][:8]}"
    run_id = tracker.start(config.output.experiment, name, record["id"], config.resolved())
    view.start(run.job, phase_steps(run.job))
    status = "failed"
    try:

        def hear(progress: Progress) -> None:
            tracker.log([progress])
            view.progress(progress)

        summary = train(run, Watch(hear, view.note, stop))
        paths = _record(run, tracker, summary, run_id)
        status = "finished"
    except Interrupted:
        status = "interrupted"
        raise
    finally:
        tracker.finish(status)
    view.finish(summary, paths)
    return summary


def _record(run: Run, tracker: registry.Tracker, summary: dict[str, Any], run_id: str) -> dict[str, str]:
    """Report, files and model of a finished run into MLflow; where everything is."""
    store, output = run.store, run.job.config.output
    # the history on disk is complete, also where a killed driver never heard of some epochs
    tracker.log(json.loads(line) for line in store.read_text("metrics.jsonl").splitlines())
    paths = {"output": store.root, "assignments": f"{store.root}/assignments", "mlflow run": run_id}
    with _folder(store, "report", write=True) as folder:
        report(store.root, str(folder))
        tracker.log_pictures(folder)
    paths["report"] = f"{store.root}/report/index.html"
    tracker.log_summary(summary)
    tracker.log_files()
    with _folder(store, "model") as folder:
        uri = tracker.log_model(folder)
        paths["model"] = uri
        if output.register_as:
            tags = {"raydc.method": run.job.config.method_name, "raydc.score": str(summary["measures"]["score"])}
            sha = registry.sha256_of(folder)
            version = registry.register(uri, output.register_as, sha, run_id, tags, output.tracking_uri)
            paths["registered as"] = f"models:/{output.register_as}/{version}"
    return paths


@contextmanager
def _folder(store: Store, name: str, write: bool = False) -> Iterator[Path]:
    """A folder of the output directory as a local path: itself, or a copy of what is remote."""
    if store.local:
        path = Path(store.path) / name
        path.mkdir(exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="raydc-") as scratch:
        for file in store.list(name):
            Path(scratch, file).parent.mkdir(parents=True, exist_ok=True)
            Path(scratch, file).write_bytes(store.read_bytes(file))
        Path(scratch, name).mkdir(exist_ok=True)
        yield Path(scratch, name)
        if write:
            for path in Path(scratch, name).iterdir():
                store.write_bytes(f"{name}/{path.name}", path.read_bytes())


def phase_steps(job: Job) -> dict[str, int]:
    """Steps of every phase at most."""
    return _dry_loop(job.config, job, job.survey.rows).plan()


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    job: Job
    run: Run
    steps: dict[str, int]
    seconds: dict[str, float]
    """Of each phase at most, from a few steps on this machine with one worker's share of a batch."""
    memory: int
    """Bytes of rows that each worker keeps."""
    parameters: int


def plan(config: RunConfig) -> Plan:
    """Check everything and time a few steps of each phase on made-up rows; nothing is started or written."""
    run = check(config)
    job, workers = run.job, max(config.training.workers, 1)
    steps = phase_steps(job)
    short = config.with_settings({f"method.{name}.length": "3 steps" for name in _lengths(config)})
    share = max(-(-job.batch_size // workers), config.method.n_clusters or 1)
    seconds: dict[str, float] = {}
    torch.set_num_threads(config.training.threads)
    with torch.random.fork_rng():
        loop, before = _dry_loop(short, job, share), time.perf_counter()
        for progress in loop:
            now = time.perf_counter()
            # the first step of a phase prepares it; an epoch of these few rows is one step
            seconds[progress.phase] = min(seconds.get(progress.phase, float("inf")), now - before)
            before = now
    parameters = sum(p.numel() for p in loop.method.parameters())
    memory = 4 * max(sum(map(len, g)) for g in [job.survey.groups]) * int(torch.tensor(job.shape).prod()) // workers
    return Plan(job, run, steps, {name: seconds.get(name, 0.0) * n for name, n in steps.items()}, memory, parameters)


def _lengths(config: RunConfig) -> list[str]:
    """Settings of the method that are phases, and that are not left out."""
    found = {name: getattr(config.method, name) for name in type(config.method).model_fields}
    return [name for name, value in found.items() if isinstance(value, Phase) and value.length[:2] != "0 "]


def _dry_loop(config: RunConfig, job: Job, rows: int) -> Loop:
    """A loop over made-up rows; without memory for them where only its lengths are asked for."""
    planned = replace(job, config=config)
    few = min(rows, max(job.batch_size, 4 * (config.method.n_clusters or 1)))
    shard = Shard.of(torch.randn(few, *job.shape))
    shard.sizes = (rows,)
    training = config.training
    return Loop(
        planned.method(), shard, CollectiveClusters(shard, 0), job.batch_size, training.seed,
        skip_pretraining=training.init_from is not None,
    )  # fmt: skip
