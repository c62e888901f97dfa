"""The centroid service over Ray: a named actor around it, and k-means over row groups larger than memory.

An actor that dies comes back from its last snapshot, and Ray repeats calls in flight: the service's methods may be
called twice. Callers wait as long as an answer takes (the start of many clusters takes minutes) while another method of
the actor is answered. A worker is a task without state, so a dead one is simply run again, and one that hangs is killed
(raydc.distributed.watchdog). The ledger decides what counts.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from raydc.centroid_service.service import CentroidService, Contribution, Fenced, Receipt, ServicePlan, State
from raydc.centroid_service.shards import ClusterShard, Sharded, Terms
from raydc.centroid_service.worker import Reader, work
from raydc.clustering.kmeans.iteration import CentroidUpdate, Clustering
from raydc.data.shard import RowBlock
from raydc.distributed.watchdog import HANG_AFTER, Watchdog
from raydc.utils.storage import Store

NAMESPACE = "raydc"
BESIDE = "beside"
"""The concurrency group of methods that an actor answers while it is busy."""


class _Actor:
    """Passes calls on to the service or a shard; ends itself when fenced, or when its lease has run out."""

    def __init__(self, lease_s: float | None, kind: Callable[..., Any], *arguments: Any) -> None:
        self.service, self.called = kind(*arguments), time.monotonic()
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

    def alive(self) -> None:
        pass

    def _expire(self, me: Any, lease_s: float) -> None:
        while (left := self.called + lease_s - time.monotonic()) > 0:
            for shard in getattr(self.service, "shards", ()):  # theirs goes on with that of the service
                shard.actor.call.remote("status")
            time.sleep(min(left, lease_s / 3, 5.0))
        ray.kill(me)


ACTOR: Any = ray.remote(concurrency_groups={BESIDE: 1})(_Actor)


class _Remote:
    """The methods of what an actor holds, wherever that is.

    Raises TimeoutError if the actor gives no sign of life for `timeout_s`.
    """

    def __init__(self, actor: Any, timeout_s: float = 300.0) -> None:
        self.actor, self.timeout_s = actor, timeout_s

    def status(self) -> dict[str, Any]:
        return self._call("status")

    def push(self, contribution: Contribution) -> Receipt:
        return self._call("push", contribution)

    def _call(self, method: str, *arguments: Any) -> Any:
        answer = self.actor.call.remote(method, *arguments)
        try:
            while not ray.wait([answer], timeout=self.timeout_s / 2)[0]:
                self._beside(self.actor.alive)
            return ray.get(answer)
        except RayTaskError as error:
            raise error.cause from None

    def _beside(self, method: Any) -> Any:
        """The answer of a method that the actor need not be idle for."""
        try:
            return ray.get(method.options(concurrency_group=BESIDE).remote(), timeout=self.timeout_s / 2)
        except GetTimeoutError:
            raise TimeoutError(f"no sign of life from the centroid service in {self.timeout_s:g} s") from None


class RemoteService(_Remote):
    """The service of a run."""

    def plan(self) -> ServicePlan:
        return self._beside(self.actor.plan)

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
    service: Callable[..., CentroidService] = CentroidService,
    shard: Callable[..., ClusterShard] = ClusterShard,
) -> Remote:
    """The service of `plan.run`, started unless it runs already; snapshots go to `folder`, which every node must reach.

    Where the sums are large it has shards, spread over the nodes. It ends when nothing refers to it any more, at the
    latest with the job that started it; with `lease_s`, when nobody has called it for so many seconds.
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
        return made.remote(lease_s, *arguments)

    names = _shards(plan)
    parts = [
        RemoteShard(actor(name, shard, (Store(folder) / f"shard-{at}").root, plan, at, scheduling_strategy="SPREAD"))
        for at, name in enumerate(names)
    ]
    leading = (_leading, service) if names else (service,)
    return _whole(RemoteService(actor(_name(plan.run), *leading, str(folder), plan, save_every)), plan, parts)


def find(run: str) -> Remote:
    """The running service of a run, from any job of the cluster.

    Raises ValueError where there is none, TimeoutError where it gives no sign of life.
    """
    try:
        actor = ray.get_actor(_name(run), namespace=NAMESPACE)
    except ValueError:
        raise ValueError(f"no centroid service runs for {run!r} in this cluster") from None
    service = RemoteService(actor)
    plan = service.plan()
    return _whole(service, plan, _found(plan))


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
    on_version: Callable[[], bool] = lambda: False,
) -> bool:
    """Work until the service is done, or until `on_version`, called after each version, says to stop; whether it is.

    With `gpu` each worker has one and counts there. Workers that are lost, or give no sign of life for `hang_after`
    seconds, are replaced. Raises WorkerCrashedError if one is lost more than `max_failures` times (-1: never).
    """
    shared = (remote, plan, read, threads, "cuda" if gpu else "cpu")
    count = tasks(_work, shared, threads=threads, gpu=gpu, max_failures=max_failures, hang_after=hang_after)
    while not (state := remote.state(centroids=False)).done:
        count(split([groups[index] for index in state.missing], workers))
        if on_version():
            return remote.state(centroids=False).done
    return True


def tasks(
    function: Callable[[Any, Any], Any],
    shared: Any,
    *,
    threads: int = 1,
    gpu: bool = False,
    max_failures: int = -1,
    hang_after: float = HANG_AFTER,
    poll: Callable[[], None] = lambda: None,
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
    poll: Callable[[], None] = lambda: None,
) -> Callable[[Sequence[Any]], Iterator[Any]]:
    """What runs function(shared, part) of every part of a list, at the same time, and yields the results in order, each
    as soon as those before it are there; or raises what one raises. A result that was yielded is not held here.

    Tasks that are lost, or give no sign of life for `hang_after` seconds, are run again, up to `max_failures` times.
    `poll` is called every second, and ends the waiting by what it raises.
    """
    watchdog, put = Watchdog.start(hang_after), ray.put((function, shared))
    task = TASK.options(num_cpus=threads, num_gpus=int(gpu), max_retries=max_failures)

    def run(parts: Sequence[Any]) -> Iterator[Any]:
        running = [task.remote(watchdog, put, part) for part in parts]
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

    return run


def _watched(watchdog: Watchdog, what: tuple[Callable[[Any, Any], Any], Any], part: Any) -> Any:
    function, shared = what
    leave = watchdog.watch()
    try:
        return function(shared, part)
    finally:
        leave()


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
