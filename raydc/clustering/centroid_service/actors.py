"""The centroid service over Ray: a named actor around it, and k-means over row groups larger than memory.

An actor that dies comes back from its last snapshot, and Ray repeats calls in flight: the service's methods may be
called twice. A worker is a task without state, so a dead one is simply run again. Actors and workers that hang are
killed (raydc.distributed.watchdog), so callers wait as long as an answer takes, and for an actor as long as its start
takes. The ledger decides what counts. A worker's process is used again by Ray, and may keep row blocks that it has
read: which part of the rows a task takes is settled when it runs, so that processes find theirs again (`near`).
"""

import math
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import ray
import torch
from ray.exceptions import ActorDiedError, RayTaskError

from raydc.clustering.centroid_service.service import CentroidService, Contribution, Fenced, Receipt, ServicePlan, State
from raydc.clustering.centroid_service.shards import ClusterShard, Sharded, Terms
from raydc.clustering.centroid_service.worker import Reader, work
from raydc.clustering.kmeans.iteration import CentroidUpdate, Clustering
from raydc.core.storage import Store
from raydc.data.shard import RowBlock
from raydc.distributed.watchdog import HANG_AFTER, watch

NAMESPACE = "raydc"
BESIDE = "beside"
"""The concurrency group of methods that an actor answers while it is busy."""


class Claims:
    """Which task of a round takes which part of the rows.

    The last round is remembered, until the process dies; then parts may be given out twice, which `near` notices.
    """

    def __init__(self) -> None:
        self.round_id, self.taken = "", dict[int, int]()

    def take(self, round_id: str, task: int, wanted: Sequence[int], parts: Sequence[int]) -> int:
        """The first of the parts that the task wants and nobody has, else any; the same when it is run again."""
        if round_id != self.round_id:
            self.round_id, self.taken = round_id, {}
        if task not in self.taken:
            free = [part for part in parts if part not in self.taken.values()]
            self.taken[task] = next(part for part in (*wanted, *free) if part in free)
        return self.taken[task]


class _Actor:
    """Passes calls on to the service or a shard; ends itself when fenced, or when its lease has run out."""

    def __init__(self, lease_s: float | None, hang_after: float, kind: Callable[..., Any], *arguments: Any) -> None:
        watch(hang_after)
        self.service, self.called = kind(*arguments), time.monotonic()
        self.claims = Claims()
        if lease_s is not None:
            me = ray.get_runtime_context().current_actor
            threading.Thread(target=self._expire, args=(me, lease_s), daemon=True).start()

    def call(self, method: str, *arguments: Any) -> Any:
        self.called = math.inf  # the lease does not run out meanwhile
        try:
            return getattr(self.service, method)(*arguments)
        except Fenced:
            ray.actor.exit_actor()  # a successor is at work
        finally:
            self.called = time.monotonic()

    def plan(self) -> ServicePlan:
        return self.service.plan

    def claim(self, round_id: str, task: int, wanted: Sequence[int], parts: Sequence[int]) -> int:
        return self.claims.take(round_id, task, wanted, parts)

    def _expire(self, me: Any, lease_s: float) -> None:
        while (left := self.called + lease_s - time.monotonic()) > 0:
            for shard in getattr(self.service, "shards", ()):  # theirs goes on with that of the service
                shard.actor.call.remote("status")
            time.sleep(min(left, lease_s / 3, 5.0))
        ray.kill(me)


ACTOR: Any = ray.remote(concurrency_groups={BESIDE: 1})(_Actor)


def _go_on() -> None:
    pass


def _nothing(block: int) -> bool:
    return False


class _Remote:
    """The methods of what an actor holds, wherever that is.

    `poll` is called every second while an answer takes, and ends the waiting by what it raises.
    """

    def __init__(self, actor: Any, poll: Callable[[], None] = _go_on) -> None:
        self.actor, self.poll = actor, poll

    def polling(self, poll: Callable[[], None]) -> Self:
        return type(self)(self.actor, poll)

    def status(self) -> dict[str, Any]:
        return self._call("status")

    def push(self, contribution: Contribution) -> Receipt:
        return self._call("push", contribution)

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._answer(self.actor.call.remote(method, *arguments))

    def _answer(self, asked: Any) -> Any:
        try:
            while not ray.wait([asked], timeout=1.0)[0]:
                self.poll()
            return ray.get(asked)
        except RayTaskError as error:
            raise error.cause from None


class RemoteService(_Remote):
    """The service of a run."""

    def plan(self) -> ServicePlan:
        """Also while the service is busy."""
        return self._answer(self.actor.plan.options(concurrency_group=BESIDE).remote())

    def claim(self, round_id: str, task: int, wanted: Sequence[int], parts: Sequence[int]) -> int:
        """Also while the service is busy."""
        beside = self.actor.claim.options(concurrency_group=BESIDE)
        return self._answer(beside.remote(round_id, task, wanted, parts))

    def state(self, centroids: bool = True) -> State:
        return self._call("state", centroids)

    def close(self, version: int) -> int:
        return self._call("close", version)

    def centroids(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Version, centroids [K, D] float32 of the best restart, and their members [K] when last counted."""
        return self._call("centroids")

    def light(self) -> Clustering:
        return self._call("light")


class RemoteShard(_Remote):
    """A shard of it."""

    def pull(self, outline: Clustering, restarts: Sequence[int] = ()) -> tuple[tuple[int, ...], np.ndarray] | None:
        return self._call("pull", outline, restarts)

    def settle(
        self, version: int, update: CentroidUpdate, check: int, before: np.ndarray | None = None
    ) -> Terms | None:
        return self._call("settle", version, update, check, before)


Remote = RemoteService | Sharded


def start(
    plan: ServicePlan,
    folder: str | Path,
    *,
    save_every: int = 0,
    lease_s: float | None = None,
    hang_after: float = HANG_AFTER,
    service: Callable[..., CentroidService] = CentroidService,
    shard: Callable[..., ClusterShard] = ClusterShard,
) -> Remote:
    """The service of `plan.run`, started unless it runs already; snapshots go to `folder`, which every node must reach.

    Where the sums are large it has shards, spread over the nodes. An actor that gives no sign of life for `hang_after`
    seconds is replaced. It ends when nothing refers to it any more, at the latest with the job that started it; with
    `lease_s`, when nobody has called it for so many seconds.
    """

    def actor(name: str, *arguments: Any, **options: Any) -> Any:
        made = ACTOR.options(
            name=name,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime=None if lease_s is None else "detached",
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            **options,
        )
        return made.remote(lease_s, hang_after, *arguments)

    names = _shards(plan)
    parts = [
        RemoteShard(actor(name, shard, (Store(folder) / f"shard-{at}").root, plan, at, scheduling_strategy="SPREAD"))
        for at, name in enumerate(names)
    ]
    leading = (_leading, service) if names else (service,)
    return _whole(RemoteService(actor(_name(plan.run), *leading, str(folder), plan, save_every)), plan, parts)


def find(run: str) -> Remote:
    """The running service of a run, from any job of the cluster. Raises ValueError where there is none."""
    try:
        actor = ray.get_actor(_name(run), namespace=NAMESPACE)
    except ValueError:
        raise ValueError(f"no centroid service runs for {run!r} in this cluster") from None
    service = RemoteService(actor)
    plan = service.plan()
    return _whole(service, plan, _found(plan))


def polling(remote: Remote, poll: Callable[[], None]) -> Remote:
    """The same service for this process alone, whose waiting calls `poll`."""
    if isinstance(remote, RemoteService):
        return remote.polling(poll)
    shards = cast(Sequence[RemoteShard], remote.shards)
    return replace(remote, service=_of_service(remote).polling(poll), shards=[shard.polling(poll) for shard in shards])


def _leading(
    service: Callable[..., CentroidService], folder: str, plan: ServicePlan, save_every: int
) -> CentroidService:
    """The service, with shards that are found by name: handles among its arguments would alarm Ray."""
    return service(folder, plan, save_every, _found(plan))


def _found(plan: ServicePlan) -> list[RemoteShard]:
    return [RemoteShard(ray.get_actor(name, namespace=NAMESPACE)) for name in _shards(plan)]


def _whole(service: RemoteService, plan: ServicePlan, shards: list[RemoteShard]) -> Remote:
    return Sharded(service, shards, plan) if shards else service


def fit_service(
    plan: ServicePlan,
    groups: Sequence[RowBlock],
    read: Reader,
    folder: str | Path,
    *,
    workers: int = 1,
    lease_s: float | None = None,
    service: Callable[..., CentroidService] = CentroidService,
    shard: Callable[..., ClusterShard] = ClusterShard,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """k-means of all row groups by `workers` tasks of one CPU: centroids [K, D], members [K], and the service's status.

    Row groups are read again in every iteration and never held together, so memory does not grow with N. Started again
    with the same plan and folder after any death, it goes on from the last version and ends in the same bytes. Raises
    ValueError for rows that cannot be used, and for a folder that holds another plan.
    """

    def run() -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        remote = start(plan, folder, lease_s=lease_s, service=service, shard=shard)
        advance(remote, plan, groups, read, workers=workers)
        _, centroids, counts = remote.centroids()
        return centroids, counts, remote.status()

    try:
        return run()
    except ActorDiedError:  # nobody holds what a failed run before this one left, but it still had the name
        return run()


def advance(
    remote: Remote,
    plan: ServicePlan,
    groups: Sequence[RowBlock],
    read: Reader,
    *,
    workers: int = 1,
    threads: int = 1,
    gpu: bool = False,
    max_failures: int = -1,
    hang_after: float = HANG_AFTER,
    poll: Callable[[], None] = _go_on,
    on_version: Callable[[], bool] = lambda: False,
    holds: Callable[[int], bool] = _nothing,
) -> bool:
    """Work until the service is done, or until `on_version`, called after each version, says to stop; whether it is.

    With `gpu` each worker has one and counts there. Workers that are lost, or give no sign of life for `hang_after`
    seconds, are replaced. Raises WorkerCrashedError if one is lost more than `max_failures` times (-1: never). `poll`
    is called every second, and ends the work by what it raises; what the service has committed stays. Workers get the
    row blocks that their processes keep, as `holds` says there of a block's id.
    """
    shared = (remote, plan, read, threads, "cuda" if gpu else "cpu")
    each: dict[str, Any] = {"max_failures": max_failures, "hang_after": hang_after, "poll": poll}
    count = near(remote, holds, _work, shared, threads=threads, gpu=gpu, **each)
    mine = polling(remote, poll)
    while not (state := mine.state(centroids=False)).done:
        count(split([groups[index] for index in state.missing], workers))
        if on_version():
            return mine.state(centroids=False).done
    return True


def tasks(
    function: Callable[[Any, Any], Any],
    shared: Any,
    *,
    threads: int = 1,
    gpu: bool = False,
    max_failures: int = -1,
    hang_after: float = HANG_AFTER,
    poll: Callable[[], None] = _go_on,
) -> Callable[[Sequence[Any]], list[Any]]:
    """What runs function(shared, part) of every part of a list, at the same time; results in order, or what one raises.

    As `stream` does, but that all results are held.
    """
    each: dict[str, Any] = {"max_failures": max_failures, "hang_after": hang_after, "poll": poll}
    run = stream(function, shared, threads=threads, gpu=gpu, **each)
    return lambda parts: [*run(parts)]


def stream(
    function: Callable[[Any, Any], Any],
    shared: Any,
    *,
    threads: int = 1,
    gpu: bool = False,
    max_failures: int = -1,
    hang_after: float = HANG_AFTER,
    poll: Callable[[], None] = _go_on,
) -> Callable[[Sequence[Any]], Iterator[Any]]:
    """What runs function(shared, part) of every part of a list, at the same time, and yields the results in order, each
    as soon as those before it are there; or raises what one raises. A result that was yielded is not held here.

    Tasks that are lost, or give no sign of life for `hang_after` seconds, are run again, up to `max_failures` times.
    `poll` is called every second, and ends the waiting by what it raises. Whatever ends it, no task is left at work.
    """
    put = ray.put((function, shared))
    task = TASK.options(num_cpus=threads, num_gpus=int(gpu), max_retries=max_failures)

    def run(parts: Sequence[Any]) -> Iterator[Any]:
        running = [task.remote(hang_after, put, part) for part in parts]
        asked = deque(running)
        try:
            while running:
                poll()
                done, running = ray.wait(running, timeout=1.0)
                ray.get(done)  # what one raises ends all, also where it is not the next
                left = {*running}
                while asked and asked[0] not in left:
                    yield ray.get(asked.popleft())
        except RayTaskError as error:
            raise error.cause from None
        finally:
            for unfinished in running:
                ray.cancel(unfinished, force=True)

    return run


def near(
    remote: Remote,
    holds: Callable[[int], bool],
    function: Callable[[Any, Any], Any],
    shared: Any,
    *,
    blocks: Callable[[Any], Iterable[RowBlock]] = iter,
    **each: Any,
) -> Callable[[Sequence[Any]], list[Any]]:
    """As `tasks`, but that a part of the rows goes to a process that holds some of its `blocks`, where there is one.

    A task starts in any process and asks the service for the part that suits it; a part that nobody took is run again.
    """
    run = tasks(_nearest, (_of_service(remote), holds, function, shared), **each)

    def of_all(parts: Sequence[Any]) -> list[Any]:
        put, found = [ray.put(part) for part in parts], dict[int, Any]()
        samples = [_sample([*blocks(part)]) for part in parts]
        while left := [at for at in range(len(parts)) if at not in found]:
            offer = _Offer(uuid.uuid4().hex, left, samples, put)
            found |= dict(run([(offer, task) for task in range(len(left))]))
        return [found[at] for at in range(len(parts))]

    return of_all


@dataclass(frozen=True)
class _Offer:
    """Parts of which each task takes one."""

    round_id: str
    left: list[int]
    """Numbers of the parts that are to be had."""
    samples: list[list[int]]
    """Ids of some row blocks of every part."""
    parts: list[Any]
    """References to them."""

    def best(self, holds: Callable[[int], bool]) -> list[int]:
        """The parts of which blocks are held, those with the most first."""
        held = {at: sum(map(holds, self.samples[at])) for at in self.left}
        return sorted((at for at in self.left if held[at]), key=lambda at: -held[at])


def _nearest(what: tuple[RemoteService, Any, Any, Any], asked: tuple[_Offer, int]) -> tuple[int, Any]:
    """The number of the part that this process took, and what the function gave."""
    (service, holds, function, shared), (offer, task) = what, asked
    at = service.claim(offer.round_id, task, offer.best(holds), offer.left)
    return at, function(shared, ray.get(offer.parts[at]))


def _sample(blocks: Sequence[RowBlock], most: int = 16) -> list[int]:
    """Ids of some of the row blocks, at equal distances."""
    return [block.id for block in blocks[:: -(-len(blocks) // most)]]


def _of_service(remote: Remote) -> RemoteService:
    return remote if isinstance(remote, RemoteService) else cast(RemoteService, remote.service)


def _watched(hang_after: float, what: tuple[Callable[[Any, Any], Any], Any], part: Any) -> Any:
    function, shared = what
    watch(hang_after)
    return function(shared, part)


TASK: Any = ray.remote(_watched)


def _work(shared: tuple[Remote, ServicePlan, Reader, int, str], groups: list[RowBlock]) -> None:
    service, plan, read, threads, device = shared
    torch.set_num_threads(threads)
    work(service, plan, groups, read, device)


def split(groups: Sequence[RowBlock], parts: int) -> list[list[RowBlock]]:
    """Consecutive groups with about the same number of rows in each part; parts without any are left out."""
    total, at, dealt = sum(map(len, groups)), 0, [[] for _ in range(parts)]  # type: ignore[var-annotated]
    for group in groups:
        dealt[min(parts - 1, (2 * at + len(group)) * parts // max(2 * total, 1))].append(group)
        at += len(group)
    return [part for part in dealt if part]


def _name(run: str) -> str:
    return f"centroids-{run}"


def _shards(plan: ServicePlan) -> list[str]:
    """Names of the shards, where there is more than one part."""
    many = len(plan.parts)
    return [f"{_name(plan.run)}/{at}" for at in range(many if many > 1 else 0)]
