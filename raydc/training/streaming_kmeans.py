"""Rows that need not fit in memory, for a method that trains nothing: the centroid service in place of the loop.

Each worker keeps the row groups that it has read and scaled, up to its share of memory (`raydc.data.block_cache`), and
reads the others again in every iteration: its memory does not grow beyond that, however many they are. Every finished
iteration is on storage: a run that is killed goes on from there, with any number of workers. The service can be looked
up in the cluster by the name of the run (raydc.clustering.centroid_service.actors.find).
"""

import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from raydc.clustering.centroid_service.service import ServicePlan, serve
from raydc.clustering.centroid_service.worker import rows_of, work
from raydc.clustering.distances import Counts, Distances, merge, to_nearest
from raydc.clustering.kmeans import accumulate
from raydc.clustering.kmeans.iteration import Clustering
from raydc.core.autocast import exact_float32
from raydc.core.fault_injection import failpoint
from raydc.core.storage import Store
from raydc.data import RowBlock, read_group
from raydc.data.block_cache import BlockCache, Scaled, room_of
from raydc.data.source import Block, dense
from raydc.data.staged import Staged, lay_out, shared_groups
from raydc.distributed.ray_cluster import gpu_for_each
from raydc.methods.base import Method, in_batches
from raydc.training.loop import Progress
from raydc.training.worker_job import Job, local_device, trusted, without_source, write_assignments

SNAPSHOTS, STAGED, ANSWERS = "checkpoints/centroids", "checkpoints/rows", "checkpoints/answers"
PART_ROWS = 2**17
"""Rows of a file of assignments, about."""


def plan_of(job: Job, run: str) -> ServicePlan | None:
    """What the service is asked to do; None where the method is trained on its rows."""
    options = job.method().streamed()
    if options is None:
        return None
    rows = tuple(map(len, job.profile.groups))
    weighted = job.config.data.weight_column is not None
    return ServicePlan(
        run=run, dim=int(np.prod(job.shape)), rows=rows, weighted=weighted, seed=job.clusters_seed, **options
    )


@dataclass(frozen=True)
class Memory:
    """Bytes of rows as float32 on each worker."""

    kept: int
    """Of those that are read once and kept."""
    streamed: int
    """Of those that are read again in each iteration."""

    def __str__(self) -> str:
        read_again = f", {self.streamed / 1e6:,.1f} MB are read again in each iteration" if self.streamed else ""
        return f"{self.kept / 1e6:,.1f} MB of rows are kept in each worker's memory{read_again}"


def memory_of(job: Job) -> Memory:
    """What each worker keeps of its share of the rows, if it has as much free memory as this process."""
    workers = max(job.config.training.workers, 1)
    share = -(-4 * job.profile.rows * math.prod(job.shape) // workers)
    kept = int(min(share, room_of(job.config.data.storage, workers)))
    return Memory(kept, share - kept)


def seconds_of_an_iteration(plan: ServicePlan, job: Job) -> float:
    """Of one worker over all rows, on this machine: from the first row group, read, scaled and counted a few times.

    Rows that are kept are not read again.
    """
    group, draw = job.profile.groups[0], torch.Generator().manual_seed(plan.seed)
    torch.set_num_threads(job.config.training.threads)
    now = plan.model_copy(update={"rows": (len(group),)}).begin()
    now = replace(now, given=torch.randn(plan.n_clusters, plan.dim, generator=draw))
    rows, reading, counting = Rows(without_source(job), BlockCache("", "disk", 1)), [], []
    for _ in range(4):  # the profile, an iteration that compiles, and two that count
        began = time.perf_counter()
        x, weights = rows_of(plan, group, rows)
        read = time.perf_counter()
        step = accumulate.pass_of(now)
        step.add(x, weights, np.arange(len(group)))
        reading.append(read - began)
        counting.append(time.perf_counter() - read)
        now = now if now.version else now.after({name: torch.from_numpy(a) for name, a in step.result().items()})
    memory = memory_of(job)
    read_again = memory.streamed / (memory.kept + memory.streamed)
    return (read_again * min(reading) + plan.restarts * min(counting[1:])) * job.profile.rows / len(group)


@dataclass(frozen=True)
class Rows:
    """Reads the row groups of a job, in whatever process."""

    job: Job
    kept: BlockCache
    staged: Staged | None = None

    @staticmethod
    def of(job: Job, staged: Staged | None = None) -> "Rows":
        """Those that each process keeps up to its share of memory."""
        return Rows(job, BlockCache(job.key, job.config.data.storage, job.config.training.workers), staged)

    @cached_property
    def method(self) -> Method:
        return self.job.method().eval()

    def __call__(self, group: RowBlock) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Features [n, D] of a row group, as the method clusters them; with their weights, where they have any."""
        x, block = self.scaled(group)
        features = self.method.features(x).numpy()
        return features if block.weights is None else (features, block.weights)

    def scaled(self, group: RowBlock) -> Scaled:
        """Rows [n, ...] as the method takes them, not to be written to; and their ids and weights."""
        failpoint("stream")
        return self.kept.take(group, self._read)

    def _read(self, group: RowBlock) -> Scaled:
        job = self.job
        block = read_group(job.opened(), job.profile, group, self.staged)
        x = job.scaling.apply(dense(block.x)).view(-1, *job.shape)
        return x, Block(None, block.ids, weights=block.weights)


def in_process(plan: ServicePlan, job: Job, store: Store, watch: "Listener") -> bool:
    """Cluster and write everything in this process; False if it was asked to stop before the end."""
    threads = torch.get_num_threads()
    torch.set_num_threads(job.config.training.threads)
    try:
        return _in_process(plan, job, store, watch)
    finally:
        torch.set_num_threads(threads)


def _in_process(plan: ServicePlan, job: Job, store: Store, watch: "Listener") -> bool:
    service = serve((store / SNAPSHOTS).root, plan)
    rows, device = Rows.of(job), local_device(job.config.training.device)
    while not service.state(centroids=False).done:
        work(service, plan, job.profile.groups, rows, device)
        if watch.heard(status := service.status()) and not status["done"]:
            return False
    now = service.state().clustering
    assert now is not None
    parts = parts_of(job.profile.groups, PART_ROWS)
    found = _distances(now, [_answer_parts((rows, now, store, device), parts)])
    _write_parts((found, store), parts)
    _conclude(job, store, now, found, service.status())
    return True


def on_service(plan: ServicePlan, job: Job, store: Store, watch: "Listener") -> bool:
    """The same by Ray tasks around the service's actor, stopped also within an iteration. Raises what tasks raise."""
    from raydc.clustering.centroid_service import actors as over_ray

    training, groups = job.config.training, job.profile.groups
    gpu = gpu_for_each(training.device, training.workers.least)
    each: dict[str, Any] = {
        "threads": training.threads,
        "gpu": gpu,
        "max_failures": training.max_failures,
        "hang_after": training.hang_after,
        "poll": watch.poll,
    }
    place = store / STAGED
    lots = shared_groups(job.opened(), job.profile, over_ray.split(groups, training.workers))
    away = without_source(job)
    rows = Rows.of(away, Staged(place, frozenset(group.id for lot in lots for group in lot)))
    service = over_ray.start(plan, (store / SNAPSHOTS).root, hang_after=training.hang_after)
    mine = over_ray.polling(service, watch.poll)

    def on_version() -> bool:
        return watch.heard(mine.status())

    try:
        if lots:
            over_ray.tasks(_lay_out, (away, place), **each | {"gpu": False})(lots)
        near = partial(over_ray.near, service, rows.kept.holds, blocks=chain.from_iterable)
        advance = partial(over_ray.advance, holds=rows.kept.holds)
        if not advance(service, plan, groups, rows, workers=training.workers, on_version=on_version, **each):
            return False
        now = mine.state().clustering
        assert now is not None
        written, device = {*store.list("assignments")}, "cuda" if gpu else "cpu"
        parts = parts_of(groups, PART_ROWS)
        counted = near(_answer_parts, (rows, now, store, device), **each)(_lots(parts, training.workers))
        found = _distances(now, counted)
        missing = [part for part in parts if _name(part) not in written]
        near(_write_parts, (found, store), **each | {"gpu": False})(_lots(missing, training.workers))
        _conclude(job, store, now, found, mine.status())
    except Stopped:
        return False
    return True


class Stopped(Exception):
    """Asked to stop while it waited."""


@dataclass
class Listener:
    """Tells the caller of each iteration, once."""

    progress: Callable[[Progress], None]
    stopping: Callable[[], bool]
    iterations: int
    told: int = 0

    def heard(self, status: dict[str, Any]) -> bool:
        """Tell what is new in the service's status; whether to stop."""
        history = progress_of(status, self.iterations)
        for entry in history[self.told :]:
            self.progress(entry)
        self.told = len(history)
        return self.stopping()

    def poll(self) -> None:
        """Raises Stopped when asked to stop."""
        if self.stopping():
            raise Stopped


def progress_of(status: dict[str, Any], iterations: int) -> list[Progress]:
    """The service's iterations as epochs of a phase."""
    entries = status["history"]
    over = status["done"] or status["phase"] == "count"
    return [
        Progress(
            phase="iterations",
            epoch=at,
            epochs=iterations,
            step=at,
            losses={"inertia": entry["inertia"], "refilled": float(entry["refilled"])},
            changed=None,
            alive=None,
            largest=None,
            last=over and at == len(entries),
        )
        for at, entry in enumerate(entries, start=1)
    ]


def parts_of(groups: Sequence[RowBlock], rows: int) -> list[list[RowBlock]]:
    """Consecutive row groups for each file of assignments, about `rows` rows in each."""
    parts: list[list[RowBlock]] = []
    for group in groups:
        if not parts or sum(map(len, parts[-1])) + len(group) > rows:
            parts.append([])
        parts[-1].append(group)
    return parts


def _name(part: Sequence[RowBlock], folder: str = "assignments") -> str:
    return f"{folder}/part-{part[0].start:012d}.parquet"


def _lay_out(what: tuple[Job, Store], groups: list[RowBlock]) -> None:
    job, place = what
    lay_out(job.opened(), job.profile, groups, place)


def _lots(parts: Sequence[list[RowBlock]], workers: int) -> list[list[list[RowBlock]]]:
    """Parts for each worker that gets any: about the rows that it had in each iteration."""
    from raydc.clustering.centroid_service.actors import split

    whole = [RowBlock(at, part[0].start, part[-1].stop) for at, part in enumerate(parts)]
    return [[parts[each.id] for each in lot] for lot in split(whole, workers)]


@exact_float32()
def _answer_parts(shared: tuple[Rows, Clustering, Store, str], parts: Sequence[list[RowBlock]]) -> Counts:
    """Answer for all rows of the parts, as far as that is not stored already; their distances to their centres."""
    rows, now, store, device = shared
    settled, method = now.to(device).settled(), rows.method.to(device)
    method.load_result(settled)

    def answer(x: Tensor) -> tuple[Tensor, Tensor]:
        label, memberships = method.decide(x)
        return label, memberships.amax(1)

    counts = Counts.of(np.zeros(0, np.int64), np.zeros(0, np.float32), method.n_clusters)
    for part in parts:
        if not store.exists(_name(part, ANSWERS)):
            answered, ids = [], []
            for group in part:
                x, block = rows.scaled(group)
                x = x.to(device)
                answered.append((*in_batches(answer, x), to_nearest(method.located(x), settled.centroids)))
                ids.append(block.ids)
            label, largest, distance = (torch.cat(each).cpu().numpy() for each in zip(*answered, strict=True))
            places = rows.job.profile.positions(np.arange(part[0].start, part[-1].stop))
            columns = {"row": places, "id": np.concatenate(ids), "cluster": label}
            write_assignments(store, _name(part, ANSWERS), columns | trusted(largest, None, distance))
        told = _answered(store, part)
        counts = merge([counts, Counts.of(told["cluster"].to_numpy(), told["distance"].to_numpy(), method.n_clusters)])
    return counts


def _answered(store: Store, part: Sequence[RowBlock]) -> pa.Table:
    """What `_answer_parts` stored of a part."""
    return pq.read_table(io.BytesIO(store.read_bytes(_name(part, ANSWERS))))


def _distances(now: Clustering, counted: Sequence[Counts]) -> Distances:
    return Distances(now.settled().centroids.cpu(), torch.from_numpy(merge(counted).quantiles()))


def _write_parts(shared: tuple[Distances, Store], parts: Sequence[list[RowBlock]]) -> None:
    """The assignments of the parts, but for those that are written: their answers, with distances as shares."""
    found, store = shared
    for part in parts:
        if store.exists(_name(part)):
            continue
        failpoint("stream.part")
        told = _answered(store, part)
        label, distance = (torch.tensor(told[name].to_numpy()) for name in ("cluster", "distance"))
        membership = told["membership"].to_numpy()
        columns = {name: told[name] for name in ("row", "id", "cluster")}
        columns |= trusted(membership, None, found.standing(distance, label).numpy())
        write_assignments(store, _name(part), columns)


def _conclude(job: Job, store: Store, now: Clustering, found: Distances, status: dict[str, Any]) -> None:
    """The model and the history."""
    method = job.method()
    method.load_result(now.settled())
    for name, data in job.model(method, found).files().items():
        store.write_bytes(f"model/{name}", data)
    history = progress_of(status, now.options.iterations)
    store.write_text("metrics.jsonl", "".join(json.dumps(asdict(entry)) + "\n" for entry in history))
