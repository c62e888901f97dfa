"""A trial in its own process: trained, scored while it goes on, and put on record.

The record is written last, whole or not at all, so that a search which is started again sees what is finished.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from optuna.exceptions import StorageInternalError
from ray.exceptions import OutOfMemoryError, RayError
from sklearn.cluster import KMeans
from torch import Tensor

from raydc.clustering.metrics import graph
from raydc.clustering.metrics.graph import WORST_SCORE
from raydc.clustering.shallow import placed
from raydc.core.autocast import exact_float32
from raydc.core.storage import OWN, Store
from raydc.data import DataError, RowsChanged
from raydc.methods.base import DistilledMethod, Method, in_batches
from raydc.search.evaluation import Context, Labels, Task
from raydc.search.opponents import kept_unseen
from raydc.training import worker_job
from raydc.training.loop import Loop, Progress, TrainingDiverged
from raydc.training.model import ClusteringModel
from raydc.training.placement import NoRoom
from raydc.training.summary import assignments
from raydc.training.trainer import TrainingFailed, Watch, on_ray
from raydc.training.worker_job import Job

RUNGS = 10
"""A trial is scored at every tenth of its training."""
WIDEST_FEATURES = 512
CHUNK = 4096
INTERRUPTED, OUT_OF_TIME, OUT_OF_MEMORY = "interrupted", "out of time", "out of memory"
"""Reasons that say nothing of a trial itself; it goes on, or is tried again, when the search does."""
LOST = (NoRoom, TrainingFailed, RayError, StorageInternalError, OSError)
"""Failures that say nothing of it either."""
MEMORY = (MemoryError, torch.OutOfMemoryError, OutOfMemoryError)
NOT_OVER = ("lost", OUT_OF_MEMORY, OUT_OF_TIME, "changed")
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""What torch says, in a plain RuntimeError, where the machine has none left."""
Report = Callable[[int, float], None]
"""(rung, score), while a trial goes on."""


class Stopped(Exception):
    """The trial is to end here, for this reason."""


@dataclass
class Record:
    """What is known of a finished training, without any label."""

    number: int
    replica: int
    point: dict[str, Any]
    status: str
    """finished; stopped (early); guarded (finished or diverged, and not worth a score); failed; out of time (it goes on
    when the search does); out of memory, or lost (for want of workers or disk): it is tried again; changed (its rows
    were not those of the search, which ends)."""
    score: float = WORST_SCORE
    """The neighbour score: Q / (1 - sum p^2)^(1/4), or the worst."""
    unseen: float = 1.0
    """Share of it that counts: what a method that maximises it keeps among rows that it did not see."""
    measures: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """Why it was guarded, stopped or failed; of a finished one what looks collapsed."""
    history: list[list[float]] = field(default_factory=list)
    """Score at each tenth of training."""
    n_clusters: int = 0
    loss: float | None = None
    """Sum of the parts of the last epoch's loss, unweighted."""
    seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    """Every setting, dotted."""
    weights: str = ""
    """Hash of the weights."""

    @property
    def method(self) -> str:
        return str(self.point["method.name"])

    @property
    def over(self) -> bool:
        """Whether it is not to be tried again."""
        return self.status not in NOT_OVER

    def has_model(self, store: Store) -> bool:
        """Whether it finished with a model, which is still there."""
        return self.status == "finished" and store.exists(f"{self.folder}/run/model/model.json")

    @property
    def folder(self) -> str:
        return Task(self.number, self.replica, self.point).folder

    def write(self, store: Store) -> None:
        store.write_text(f"{self.folder}/record.json", json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(store: Store, number: int, replica: int = 0) -> "Record | None":
        """None if that training is not finished."""
        name = f"{Task(number, replica, {}).folder}/record.json"
        return Record(**json.loads(store.read_text(name))) if store.exists(name) else None


def run_task(context: Context, task: Task, report: Report) -> Record | None:
    """Train and score; the record, also where training failed or had no time left. None if the search was asked to
    stop.
    """
    store = context.store
    before = Record.read(store, task.number, task.replica)
    if before is not None and before.over and before.point == task.point:
        return before
    record = Record(task.number, task.replica, task.point, "finished", n_clusters=_asked(task))
    started = time.monotonic()
    with torch.random.fork_rng([]):
        try:
            labels, features = _trained(context, task, record, report)
            _judge(context, record, labels, features)
        except Stopped as reason:
            if str(reason) == INTERRUPTED:
                return None
            record.status = OUT_OF_TIME if str(reason) == OUT_OF_TIME else "stopped"
            record.problems = [_reached(record)] if record.status == OUT_OF_TIME else [str(reason)]
            record.score = record.history[-1][1] if record.history else WORST_SCORE
        except TrainingDiverged as problem:
            record.status, record.problems = "guarded", [str(problem)]
        except Exception as problem:  # on record, and shown
            record.status = _status_of(problem)
            record.problems = [f"{type(problem).__name__}: {problem}"]
    record.seconds = time.monotonic() - started
    if record.over:
        # the model stays: any trial may be among the best when the search goes on
        for name in ("checkpoints", "assignments"):
            (store / task.folder).delete(f"run/{name}")
    record.write(store)
    return record


def _status_of(problem: Exception) -> str:
    if isinstance(problem, RowsChanged):
        return "changed"
    if isinstance(problem, MEMORY) or NO_MEMORY in str(problem):
        return OUT_OF_MEMORY
    return "lost" if isinstance(problem, LOST) else "failed"


def _reached(record: Record) -> str:
    """How far a trial came."""
    rung = record.history[-1][0] if record.history else 0
    return f"at {rung / RUNGS:.0%} of its training; it goes on with the same command"


def _asked(task: Task) -> int:
    return int(task.point.get("method.n_clusters", 0))


def _trained(context: Context, task: Task, record: Record, report: Report) -> tuple[Labels, NDArray[np.float32] | None]:
    """Labels [n] and features [n, D] of the evaluation rows; raises Stopped."""
    job = context.job(task)
    store = context.store / f"{task.folder}/run"
    record.settings = job.config.flat()
    look = Look(context, job)
    flags = Flags(context.store, task.folder)
    losses: dict[str, float] = {}

    def seen(found: tuple[int, float]) -> None:
        record.history.append([*found])
        report(*found)

    def progress(now: Progress) -> None:
        losses.clear()
        losses.update(now.losses)

    if job.config.training.workers == 0:
        loops: list[Loop] = []

        def on_epoch(now: Progress) -> bool:
            found = look(loops[0], now)
            if found is not None:
                seen(found)
            progress(now)
            return bool(flags.reason(always=found is not None))

        outcome = worker_job.in_process(job, store, on_epoch, loops.append)
        status, trained = outcome.status, outcome.labels
    else:
        status = on_ray(job, store, FlagWatch(progress, look=look, seen=seen, flags=flags))
        parts = [part["cluster"].to_numpy() for part in assignments(store)] if status == "finished" else []
        trained = np.concatenate([np.zeros(0, np.int64), *parts])
    record.loss = sum(losses.values()) if losses else None
    if status == "interrupted":
        raise Stopped(flags.reason(always=True))
    model = ClusteringModel.stored(store / "model", allow_code=[job.config.method_name])
    record.weights, record.n_clusters = model.weights_hash(), model.n_clusters
    x = job.scaling.apply(context.rows).view(-1, *context.shape)
    features = _features(model.method, x, x.device)
    if isinstance(model.method, DistilledMethod) and model.method.follows_neighbours:
        sample = model.method.cluster_sample
        record.unseen = kept_unseen(sample, context.reference, context.graph, context.seed(task, "halves"))
    if not model.refuses:
        return model.predict(context.rows), features
    return extend(context, task, trained), features


STOP = f"{OWN}/stop"
"""Flag that asks the trials of a search, or a trial, to end, in the folder of either; its text says why."""


class Flags:
    """Files by which the driver asks trials to end: one for all of them, and one for each."""

    def __init__(self, store: Store, folder: str) -> None:
        self.store, self.names = store, (STOP, f"{folder}/{STOP}")
        self.looked, self.found = 0.0, ""

    def reason(self, always: bool = False) -> str:
        """Why to end; empty if nobody asks. Looks at most five times a second."""
        now = time.monotonic()
        if not self.found and (always or now - self.looked > 0.2):
            self.looked = now
            reasons = [self.store.read_text(name) for name in self.names if self.store.exists(name)]
            self.found = next(filter(None, reasons), "")
        return self.found


@dataclass
class FlagWatch(Watch):
    """Stops by flags, which are also seen while a trial waits for room."""

    flags: Flags = field(kw_only=True)

    def stopping(self) -> bool:
        return bool(self.flags.reason())


class Look:
    """Scores a method while it is trained, at every tenth of its steps: (rung, score), else None."""

    def __init__(self, context: Context, job: Job) -> None:
        self.graph, self.n_clusters = context.graph, job.config.method.n_clusters
        self.x = job.scaling.apply(context.rows).view(-1, *context.shape)
        self.chosen, self.rung = context.chosen, 0
        self.whole = job.profile.rows == context.profile.rows

    def __call__(self, loop: Loop, progress: Progress) -> tuple[int, float] | None:
        plan = [*loop.plan().values()]
        done = sum(plan[: loop.phase_index]) + (0 if progress.last else loop.phase_step)
        rung = RUNGS * done // max(sum(plan), 1)
        if not self.rung < rung < RUNGS:
            return None
        self.rung = rung
        was = loop.method.training
        loop.method.eval()
        try:
            labels = self._labels(loop)
        finally:
            loop.method.train(was)
        return rung, WORST_SCORE if labels is None else graph.neighbour_score(labels, self.graph)

    def _labels(self, loop: Loop) -> Labels | None:
        """Of the evaluation rows: the method's once it clusters, else those of k-means on its features."""
        method, device = loop.method, loop.shard.device
        if loop.begun and not method.info.refuses:
            found = in_batches(lambda part: (method.label(part.to(device)).cpu(),), self.x)
            return found[0].numpy()
        if loop.begun and self.whole and loop.shard.total == len(loop.shard) and "previous" in method.rows:
            return method.rows["previous"].cpu().numpy()[self.chosen]
        features = _features(method, self.x, device)
        if features is None or not np.isfinite(features).all():
            return None
        return KMeans(self.n_clusters or 10, n_init=1, random_state=0).fit_predict(features).astype(np.int64)


def _chunked(function: Callable[[Tensor], Tensor], x: Tensor, device: torch.device) -> Tensor:
    with torch.no_grad(), exact_float32():
        return torch.cat([function(part.to(device)).cpu() for part in x.split(CHUNK)])


def _features(method: Method, x: Tensor, device: torch.device) -> NDArray[np.float32] | None:
    """Features [n, D] of the rows x, by a method on this device; None where the method has none for new rows."""
    try:
        return _chunked(lambda part: method.features(part).float(), x, device).flatten(1).numpy()
    except NotImplementedError:
        return None


def _judge(context: Context, record: Record, labels: Labels, features: NDArray[np.float32] | None) -> None:
    """Guards, then the score; labels and features of the evaluation rows are kept beside the record.

    A trial that guards pass may still have remarks among its problems.
    """
    n_clusters = max(record.n_clusters, int(labels.max()) + 1)
    record.n_clusters = n_clusters
    kept = features if features is not None and features.shape[1] <= WIDEST_FEATURES else None
    refused = graph.guards(labels, loss=record.loss, embeddings=kept)
    record.problems = refused or graph.remarks(labels, n_clusters, kept)
    record.measures = measures(context, labels)
    record.status = "guarded" if refused else "finished"
    record.score = WORST_SCORE if refused else record.unseen * record.measures["neighbour_score"]
    record.history.append([RUNGS, record.score])
    store = context.store / record.folder
    store.write_bytes("labels.npy", _bytes(labels.astype(np.int32)))
    if kept is not None and np.isfinite(kept).all():
        store.write_bytes("features.npy", _bytes(kept))


def measures(context: Context, labels: Labels) -> dict[str, float]:
    """Label-free measures of labels [n] of the evaluation rows."""
    return {
        "neighbour_score": graph.neighbour_score(labels, context.graph),
        "modularity": graph.modularity(labels, context.graph),
        "kappa": graph.kappa(labels, context.graph),
        "agreement": graph.agreement(labels, context.graph),
    }


def _bytes(values: NDArray[Any]) -> bytes:
    buffer = BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


def read_array(store: Store, name: str) -> NDArray[Any] | None:
    """What a trial kept; None if it kept nothing of that name."""
    return np.load(BytesIO(store.read_bytes(name)), allow_pickle=False) if store.exists(name) else None


def extend(context: Context, task: Task, labels: Labels) -> Labels:
    """Labels [n] of all evaluation rows, from those [N] of the rows a task was trained on."""
    kept = context.kept(task)
    if len(labels) != kept.sum():
        raise DataError(f"expected labels of {int(kept.sum())} rows, got {len(labels)}")
    everywhere = np.full(len(kept), -1, np.int64)
    everywhere[kept] = labels
    known = np.flatnonzero(kept[context.chosen])
    labels = np.full(len(context.chosen), -1, np.int64)
    labels[known] = everywhere[context.chosen[known]]
    return placed(context.reference, labels)
