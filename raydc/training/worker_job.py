"""A training job on one worker: from settings to labels, a model, and files. Knows checkpoints, not Ray.

`prepare` runs once, before any worker starts, and finds whatever is wrong with settings or rows. `work` runs on every
worker, at the same time; under Ray Train, in a trial's own process, or in the caller's.
"""

import hashlib
import io
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raydc import methods
from raydc.clustering import distances
from raydc.clustering.collective import CollectiveClusters
from raydc.clustering.distances import Distances
from raydc.core.autocast import exact_float32
from raydc.core.fault_injection import failpoint
from raydc.core.settings import SettingsError, fields
from raydc.core.storage import Store
from raydc.data import (
    DataError,
    DataProfile,
    DataSettings,
    Scaling,
    Shard,
    Source,
    load_shard,
    open_source,
    opened,
    partition,
    profile_rows,
    require,
    units,
)
from raydc.data.decoded import DecodedSource
from raydc.distributed import collectives, ray_cluster
from raydc.methods.base import Method, copy_pretrained, in_batches
from raydc.training import checkpoint
from raydc.training.config import RunConfig
from raydc.training.loop import Loop, Progress, seed_of
from raydc.training.model import TRUST, ClusteringModel

log = logging.getLogger("raydc")

OF_NETWORKS = dict.fromkeys(["training.batch_size", "training.precision", "training.init_from"], "trains no network")
"""Settings that have no effect on a method that trains nothing, and why."""
OF_HELD_ROWS = {"training.patience": "takes whatever workers are free"}
"""Settings that have no effect on it where its rows are streamed, and why."""
HOW = ("workers", "device", "threads", "checkpoint_every", "max_failures", "hang_after", "patience")
"""Settings of training that say where and how safely it is done, not what comes out."""
OnEpoch = Callable[[Progress], bool]
"""Called on every worker after each epoch; True asks to save and stop."""
OnStart = Callable[[Loop], None]
"""Called on every worker before the first epoch, for those that look at the method while it is trained."""


@dataclass(frozen=True)
class Job:
    """Everything a worker needs to know, the same for all of them."""

    config: RunConfig
    profile: DataProfile
    scaling: Scaling
    shape: tuple[int, ...]
    columns: tuple[str, ...]
    id_column: str | None = None
    """What identifies rows, where they have such a column."""
    source: Source | None = None
    """The rows as this process has opened them; other processes open `config.data` themselves."""

    @property
    def key(self) -> str:
        """Identifies what is computed: settings (but for where and by how many), and data."""
        settings = self.config.resolved()
        settings.pop("output")
        for name in HOW:
            settings["training"].pop(name)
        settings["data"] |= {"path": self.profile.identity, "storage": None}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def opened(self) -> Source:
        """The rows, which are opened once in each process. Raises RowsChanged as `raydc.data.opened` does."""
        return self.source or opened(self.config.data, self.profile.fingerprint)

    @property
    def kind(self) -> type[Method]:
        return methods.load(self.config.method_name)

    @property
    def batch_size(self) -> int:
        return self.config.training.batch_size or self.kind.batch_size

    @property
    def clusters_seed(self) -> int:
        """Seed of what is drawn for clusters over all workers."""
        return seed_of(self.config.training.seed, "clusters") % 2**31

    def method(self) -> Method:
        """The method with fresh weights, the same on every worker and device."""
        torch.manual_seed(seed_of(self.config.training.seed, "weights"))
        return self.kind(self.config.method, self.shape)

    def model(self, method: Method, distances: Distances | None = None) -> ClusteringModel:
        """The method, trained on these rows, with what is to be known of them."""
        return ClusteringModel(
            self.config.method_name,
            method,
            self.scaling,
            self.shape,
            self.columns,
            notes={"rows": [*self.profile.notes]},
            distances=distances,
            id_column=self.id_column,
            encoding=self.config.data.encoding,
        )

    def checked(self, here: bool) -> Method:
        """The same. DataError where it cannot take so many rows, or such, SettingsError where settings do not fit.

        MemoryError where the training is done on this machine (`here`) and lacks the memory; other machines ask
        themselves, when they begin.
        """
        try:
            method = self.method()
            method.check(self.profile.rows)
        except SettingsError:
            raise
        except ValueError as problem:
            raise DataError(str(problem)) from None
        if here:
            method.check_memory(self.profile.rows)
        return method


@dataclass
class Outcome:
    """What one worker has at the end."""

    status: str
    """finished or interrupted."""
    model: ClusteringModel
    shard: Shard
    labels: np.ndarray
    """int64 [N], this worker's rows."""
    membership: np.ndarray
    """float32 [N], the largest membership; NaN where the method defines none."""
    distance: np.ndarray
    """float32 [N], where the row's distance to a centre stands among those of its cluster."""
    initial: np.ndarray | None
    """int64 [N], labels when clustering began."""
    history: list[dict[str, Any]]


def prepare(
    config: RunConfig,
    source: Source | None = None,
    profiled: Callable[[Source, DataSettings], DataProfile] = profile_rows,
) -> Job:
    """Open and check the rows and the method. Raises SettingsError or DataError before any work is done.

    Paths become absolute: workers, who open them too, have other working directories.
    """
    rows, kind = source or open_source(config.data), methods.load(config.method_name)
    if isinstance(rows, DecodedSource):
        rows.keep_decoded()
    training = config.training
    if training.init_from is not None:
        if training.init_from.startswith(("models:", "runs:")):
            raise DataError(
                f"training.init_from: expected the output directory of a finished run, got {training.init_from}: name "
                "that which the model was trained in (the run's parameter output.out in MLflow)"
            )
        training = training.model_copy(update={"init_from": Store(training.init_from).root})
    data = rows.settings if source is None else config.data.with_encoding(source.encoding)
    config = replace(config, data=data, training=training)
    if rows.weights and not kind.weighs_rows:
        raise DataError(
            f"{rows.weights}: {config.method_name} counts all rows alike; leave weights out, or take kmeans, which "
            "takes them"
        )
    config = replace(config, method=kind.settled(config.method, rows.shape))
    if not kind.trains:
        _refuse_idle(config, OF_NETWORKS | (OF_HELD_ROWS if source is None else {}))
    if not training.workers:
        local_device(training.device)
    found = profiled(rows, config.data)
    suited = units.suited(config.data.scaling, kind.scaling, found, rows)
    found = replace(found, notes=(*found.notes, *units.remarks(config.data.scaling, suited, found, rows)))
    # what is on record is what was done: the same configuration does it again, whatever auto comes to mean
    config = replace(config, data=config.data.model_copy(update={"scaling": suited}))
    scaling = Scaling.of(suited, found)
    found = replace(found, notes=(*found.notes, *scaling.remarks(found, rows)))
    job = Job(config, found, scaling, rows.shape, tuple(rows.columns), rows.identified, rows)
    # before the method is built: a row of memory is set aside for every cluster
    require(found, config.method.n_clusters, max(config.training.workers, 1))
    method = job.checked(here=not (config.training.workers and ray_cluster.joined()))
    if config.training.init_from:
        _pretrained(method, config.training.init_from, job)
    return job


def _refuse_idle(config: RunConfig, idle: Mapping[str, str]) -> None:
    usual = dict(fields(DataSettings, "data")) | dict(fields(type(config.training), "training"))
    given = config.flat()
    lines = [
        f"{name}: {given[name]} has no effect on {config.method_name}, which {why}; leave it out"
        for name, why in idle.items()
        if given[name] != usual[name].default
    ]
    if lines:
        raise SettingsError("\n".join(lines))


@exact_float32()
def work(
    job: Job,
    *,
    store: Store | None = None,
    on_epoch: OnEpoch = lambda progress: False,
    on_start: OnStart = lambda loop: None,
    device: str = "cpu",
) -> Outcome:
    """Train on this worker's rows, going on from the newest checkpoint in `store`, and write what is asked of it."""
    training = job.config.training
    torch.set_num_threads(training.threads)
    method = job.method()
    method.check_memory(job.profile.rows)
    with tempfile.TemporaryDirectory(prefix="raydc-", ignore_cleanup_errors=True) as scratch:
        groups = partition(job.profile.groups, collectives.workers())
        rank = collectives.rank()
        shard = load_shard(
            job.opened(), job.profile, job.scaling, groups, rank, device, job.config.data.storage, scratch
        )
        failpoint("load")
        loop = _loop(job, method, shard, store)
        history = checkpoint.load(store, loop) if store else []
        on_start(loop)
        outcome = _train(job, loop, store, history, on_epoch)
        if store and outcome.status == "finished":
            _write(job, outcome, store)
        return outcome


def _loop(job: Job, method: Method, shard: Shard, store: Store | None) -> Loop:
    training = job.config.training
    if training.init_from:
        _pretrained(method, training.init_from, job)
    method = method.to(shard.device)
    clusters = CollectiveClusters(shard, job.clusters_seed)
    bf16 = _precision(training.precision, shard.device, store) == "bf16"
    skip = training.init_from is not None
    return Loop(method, shard, clusters, job.batch_size, training.seed, bf16, skip)


def _pretrained(method: Method, init_from: str, job: Job) -> None:
    if not Store(init_from).exists("model/model.json"):
        raise DataError(f"training.init_from: {init_from} holds no finished run (no model folder in it)")
    try:
        model = ClusteringModel.stored(Store(init_from) / "model", allow_code=[job.config.method_name])
        if model.scaling.kind != job.scaling.kind:
            raise ValueError(
                f"its network knows rows scaled by {model.scaling.kind}, here they are scaled by {job.scaling.kind}: "
                f"use data.scaling={model.scaling.kind}"
            )
        copy_pretrained(method, model.method.state_dict())
    except ValueError as problem:
        raise DataError(f"training.init_from {init_from}: {problem}") from None


def _precision(asked: str, device: torch.device, store: Store | None) -> str:
    """bf16 or fp32; what a run began with is kept when it goes on, on whatever hardware.

    Rank 0 decides for all: workers may be unlike, and see a new file at different times.
    """
    decided = torch.zeros(1, dtype=torch.int64, device=device)
    if collectives.rank() == 0:
        resolved = store.read_text("precision.txt") if store and store.exists("precision.txt") else asked
        if resolved == "auto":
            on_cpu = torch.cpu.get_capabilities().get("avx512_bf16", False)
            has = torch.cuda.is_bf16_supported(False) if device.type == "cuda" else on_cpu
            resolved = "bf16" if has else "fp32"
        if store:
            store.write_text("precision.txt", resolved)
        decided += resolved == "bf16"
    collectives.broadcast([decided])
    return "bf16" if decided.item() else "fp32"


def _train(job: Job, loop: Loop, store: Store | None, history: list[dict[str, Any]], on_epoch: OnEpoch) -> Outcome:
    saved = time.monotonic()
    for progress in loop:
        if not history or history[-1]["step"] < progress.step or history[-1]["phase"] != progress.phase:
            history.append(asdict(progress))
        failpoint("epoch" if not loop.begun else "epoch.clustering")
        stop = on_epoch(progress)
        due = time.monotonic() - saved >= job.config.training.checkpoint_every
        stop, due = _agree(stop, due, loop.shard.device)
        if store and (due or stop):
            checkpoint.save(store, loop, history)
            saved = time.monotonic()
        if stop:
            return _outcome(job, loop, history, "interrupted")
    failpoint("finish")
    loop.finish()
    return _outcome(job, loop, history, "finished")


def _agree(stop: bool, due: bool, device: torch.device) -> tuple[bool, bool]:
    """Stop if any worker must, save when rank 0's clock says so: clocks differ, decisions must not."""
    if collectives.workers() == 1:
        return stop, due
    flags = collectives.total(torch.tensor([stop, due and collectives.rank() == 0], dtype=torch.int64, device=device))
    return bool(flags[0]), bool(flags[1])


def _outcome(job: Job, loop: Loop, history: list[dict[str, Any]], status: str) -> Outcome:
    rows, method = loop.method.rows, loop.method
    empty = np.zeros(0, np.float32)

    def largest(x: Tensor) -> tuple[Tensor, ...]:
        return (method.assign(x).amax(1),)

    initial = rows["initial"].cpu().numpy() if "initial" in rows and loop.begun else None
    model = job.model(method)
    if status != "finished":
        return Outcome(status, model, loop.shard, empty.astype(np.int64), empty, empty, initial, history)
    method.eval()
    labels = rows["label"].long()
    membership = np.full(len(labels), math.nan, np.float32)
    if not method.info.refuses:
        membership = loop.shard.map(lambda x: in_batches(largest, x)[0]).cpu().numpy()
    centres = method.centres()
    if centres is None:
        centres = distances.centres_of(method.located, loop.shard, method.n_clusters, job.clusters_seed)
    model.distances, distance = distances.of_shard(method.located, loop.shard, labels, method.n_clusters, centres)
    found = labels.cpu().numpy(), membership, distance.cpu().numpy()
    return Outcome(status, model, loop.shard, *found, initial, history)


def _write(job: Job, outcome: Outcome, store: Store) -> None:
    """This worker's assignments; from rank 0 also the model and the history."""
    shard = outcome.shard
    if collectives.rank() == 0:
        store.delete("assignments")  # by another number of workers, who died here
    collectives.total(torch.zeros(1, device=shard.device))
    columns: dict[str, Any] = {
        "row": job.profile.positions(np.arange(shard.start, shard.start + len(shard))),
        "id": pa.array(shard.ids),
        "cluster": outcome.labels,
        **trusted(outcome.membership, None, outcome.distance),
    }
    if outcome.initial is not None:
        columns["initial"] = outcome.initial
    write_assignments(store, f"assignments/part-{shard.start:012d}.parquet", columns)
    failpoint("assignments")
    if collectives.rank() == 0:
        for name, data in outcome.model.files().items():
            store.write_bytes(f"model/{name}", data)
        lines = "".join(json.dumps(entry) + "\n" for entry in outcome.history)
        store.write_text("metrics.jsonl", lines)
    collectives.total(torch.zeros(1, device=shard.device))


def trusted(*values: np.ndarray | None) -> dict[str, pa.Array]:
    """The columns of TRUST, as they are stored: null where there is no such number."""
    rows = next(len(each) for each in values if each is not None)
    missing = np.full(rows, np.nan, np.float32)
    return {
        name: pa.array(missing if each is None else each, pa.float32(), from_pandas=True)
        for name, each in zip(TRUST, values, strict=True)
    }


def write_assignments(store: Store, name: str, columns: dict[str, Any], about: dict[str, Any] | None = None) -> None:
    """A file of assignments, with checksums in its pages, and what it says of itself."""
    buffer = io.BytesIO()
    table = pa.table(columns).replace_schema_metadata({"raydc": json.dumps(about or {})})
    pq.write_table(table, buffer, write_page_checksum=True)
    store.write_bytes(name, buffer.getvalue())


def in_process(
    job: Job,
    store: Store | None = None,
    on_epoch: OnEpoch = lambda progress: False,
    on_start: OnStart = lambda loop: None,
) -> Outcome:
    """`work` in this process, leaving its random numbers and threads as they were."""
    threads, device = torch.get_num_threads(), local_device(job.config.training.device)
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if device == "cuda" else []):
            return work(job, store=store, on_epoch=on_epoch, on_start=on_start, device=device)
    finally:
        torch.set_num_threads(threads)


def local_device(wanted: str) -> str:
    """Where this process trains, if it is asked for a device or for the best one. SettingsError if it has no GPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise SettingsError("training.device cuda: this process sees no GPU that torch can use; take auto or cpu")
    return "cuda" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu"


def without_source(job: Job) -> Job:
    """The job for workers that open the rows themselves."""
    return replace(job, source=None)
