"""Sums and centroids shared out by clusters, where K x D is more than one process should take in.

The service (service.py) keeps what is light: counts, energy, far rows, the ledger, the history and every decision. A
shard has some of the clusters of all restarts: their sums in the open version, in a ledger of its own, and their
centroids. `Sharded` makes one service of them for workers and readers.

**From push to commit.** A worker asks the service for the open version and each shard for its centroids and what it
lacks; it pushes to each shard its clusters' sums, then the rest to the service. Once the service's ledger is full the
version closes in two steps:

1. The service decides what becomes of the clusters by their counts alone (`CentroidUpdate`) and has each shard do it.
   The shard commits the centroids of the next version, keeps those of this one, and answers with two numbers for each
   cluster; asked again, it answers the same.
2. From these numbers the service has the inertia and what is still moving, and commits the next version. Only then is
   that visible, and the first who asks a shard for it lets the shard drop the version before.

**Whoever dies** comes back from its own snapshot. Service and shards have each a ledger, so what one has lost the
others need not count again: `State.targets` says who lacks which row group. As all centroids of a version are there
until the next one is committed, any row group can be computed again, to the same integers; and as an update follows
from integers, it does not matter how often and by whom it is asked for.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from raydc.clustering.centroid_service.ledger import Contribution, Ledger, Receipt, Refused, ServicePlan
from raydc.clustering.centroid_service.snapshots import Fenced
from raydc.clustering.kmeans.iteration import CentroidUpdate, Clustering

Answer = TypeVar("Answer")
Terms = tuple[np.ndarray, np.ndarray]
"""`losses` and squared shifts, float64 [A, k]."""


@dataclass(frozen=True)
class State:
    """What a worker needs to know to contribute."""

    version: int
    incarnation: int
    done: bool
    missing: tuple[int, ...]
    """Row groups that this version still waits for."""
    clustering: Clustering | None = None
    """Where the clustering stands, unless the caller did not ask for it."""
    outline: Clustering | None = None
    """What shards must know of it, if they have a part in this version."""
    targets: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Who waits for each of these, where there are shards: 0 is the service, 1 and up its shards."""


class ClusterShard(Ledger):
    """The clusters `plan.parts[at]`: their centroids by version, and the sums of the open version."""

    def __init__(self, folder: str | Path, plan: ServicePlan, at: int) -> None:
        """Take over the shard in `folder`, from its newest snapshots or with nothing.

        Raises ValueError if the folder holds another plan.
        """
        super().__init__(folder, plan)
        self.at, self.part = at, plan.parts[at]
        self.kept: dict[int, torch.Tensor] = {}
        """Centroids [R, k, D] of the open version and of the next."""
        self.terms: dict[int, Terms] = {}
        """What was answered when a version was settled."""
        for arrays, meta in self._saved():
            self.kept[meta["version"]] = torch.from_numpy(arrays["centroids"])
            self.terms[meta["version"] - 1] = (arrays["losses"], arrays["shifts"])

    def pull(self, outline: Clustering, restarts: Sequence[int] = ()) -> tuple[tuple[int, ...], np.ndarray] | None:
        """Row groups that are missing here in the version of `outline`, and centroids [len(restarts), k, D] float64.

        The version is opened by that. None if a later one is open. Raises ValueError if its centroids are lost.
        """
        with self._lock:
            if outline.version < self.version:
                return None
            if outline.version > self.version:
                self.clustering = outline
                self._open()
            if restarts and self.version not in self.kept:
                lost = f"clusters {self.part.start} to {self.part.stop - 1} in version {self.version}"
                raise ValueError(
                    f"{self.snapshots.store.root}: the centroids of {lost} are lost. Remove the newest snapshot in the "
                    "folder above it, and the run goes on from the version before"
                )
            k = self.part.stop - self.part.start
            none = np.empty((0, k, self.plan.dim))
            return self.missing, self.kept[self.version][[*restarts]].numpy() if restarts else none

    def push(self, contribution: Contribution) -> Receipt:
        """As the service's; `overlap` also where this shard does not know yet that the version is open."""
        with self._lock:
            if contribution.run == self.plan.run and contribution.version > self.version:
                return Receipt("overlap", self.version)
            return super().push(contribution)

    def settle(
        self, version: int, update: CentroidUpdate, check: int, before: np.ndarray | None = None
    ) -> Terms | None:
        """carry out an update of the open version, from the centroids kept here or from `before`, and commit the next.

        None if the version is not open or not complete here. Raises Refused if the rows counted here are not those that
        the service has counted, by their `check`.
        """
        with self._lock:
            if version != self.version or self.missing:
                return None
            if version not in self.terms:
                if int(self.sums["check"][0]) != check:
                    raise Refused("the rows whose sums were counted are not the rows counted: data have changed")
                whole = self.kept[version] if before is None else torch.tensor(before)
                sums = torch.from_numpy(np.require(self.sums["sums"], None, "W"))
                following, *terms = self.clustering.moved(update, sums, whole)
                losses, shifts = (each.numpy() for each in terms)
                self._save(version + 1, centroids=following.numpy(), losses=losses, shifts=shifts)
                self.kept[version + 1], self.terms[version] = following, (losses, shifts)
            return self.terms[version]

    def status(self) -> dict[str, Any]:
        """Counters, for people and metrics."""
        with self._lock:
            return {
                "clusters": [self.part.start, self.part.stop],
                "version": self.version,
                "incarnation": self.snapshots.incarnation,
                "row_groups_counted": int(self.ledger.sum()),
            }

    # -- inside

    def _open(self) -> None:
        super()._open()
        now = self.clustering
        if now.version == 0:
            return
        self.kept = {version: each for version, each in self.kept.items() if version >= now.version}
        self.terms = {version: each for version, each in self.terms.items() if version >= now.version}
        if now.phase == "count" and not now.done and now.version in self.kept:
            best = self.kept[now.version][int(now.arrays["chosen"])]
            self.kept[now.version] = now.returned(best)[None]
        self.ledger[:] = now.version in self.terms  # settled before this process began

    def _shapes(self, got: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], str]]:
        each = (len(self.clustering.active), self.part.stop - self.part.start)
        return {"check": ((1,), "i"), "counts": (each, "i"), "sums": ((*each, self.plan.dim), "i")}

    def _save(self, version: int, **arrays: np.ndarray) -> None:
        self.reached("save.before")
        self.snapshots.save(arrays, {"plan": self.plan.model_dump(mode="json"), "version": version})
        self.reached("save.after")


class ShardLike(Protocol):
    """A shard, near or far."""

    def pull(self, outline: Clustering, restarts: Sequence[int] = ()) -> tuple[tuple[int, ...], np.ndarray] | None: ...
    def push(self, contribution: Contribution) -> Receipt: ...
    def settle(
        self, version: int, update: CentroidUpdate, check: int, before: np.ndarray | None = None
    ) -> Terms | None: ...
    def status(self) -> dict[str, Any]: ...


class ServiceLike(Protocol):
    """The service, near or far."""

    def state(self, centroids: bool = True) -> State: ...
    def push(self, contribution: Contribution) -> Receipt: ...
    def close(self, version: int) -> int: ...
    def light(self) -> Clustering: ...
    def status(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Sharded:
    """A service and its shards as one."""

    service: ServiceLike
    shards: Sequence[ShardLike]
    plan: ServicePlan

    def state(self, centroids: bool = True) -> State:
        """As the service's. Raises Fenced if the shards follow another service by now."""
        while True:
            state = self.service.state(centroids)
            if state.outline is None:
                return state
            now, restarts = state.clustering, tuple[int, ...]()
            if now is not None and "centroids" not in now.arrays:
                restarts = (0,) if state.done else state.outline.active
            if (found := self._pull(state.outline, restarts)) is None:
                continue
            if now is not None and restarts:
                now = _with(now, [part for _, part in found])
            lacking = [set(own) for own in (state.missing, *(own for own, _ in found))]
            missing = sorted(set[int]().union(*lacking))
            if not missing and not state.done:
                self.service.close(state.version)  # whoever should have asked for it is dead
                continue
            targets = {group: tuple(at for at, own in enumerate(lacking) if group in own) for group in missing}
            return replace(state, missing=tuple(missing), clustering=now, targets=targets)

    def push(self, contribution: Contribution) -> Receipt:
        """As the service's, to all `targets` of the contribution: what shards count reaches them first."""

        def push(target: int) -> Receipt:
            part, arrays = self.plan.parts[target - 1], contribution.arrays
            own = {name: arrays[name][:, part] for name in ("sums", "counts")} | {"check": arrays["check"]}
            return self.shards[target - 1].push(replace(contribution, arrays=own))

        for receipt in at_once(push, [target for target in contribution.targets if target]):
            if receipt.answer in ("overlap", "stale"):
                return receipt
        if 0 in contribution.targets:
            light = {name: value for name, value in contribution.arrays.items() if name != "sums"}
            return self.service.push(replace(contribution, arrays=light))
        return Receipt("accepted", self.service.close(contribution.version))

    def centroids(self) -> tuple[int, np.ndarray, np.ndarray]:
        """As the service's."""
        while True:
            now = self.service.light()
            best = now.leading()
            if "centroids" not in best.arrays:
                found = self._pull(now.outline(), [int(best.arrays["chosen"])])
                if found is None:
                    continue
                best = _with(best, [part for _, part in found])
            centroids, counts = best.present()
            return now.version, centroids.numpy(), counts.numpy()

    def status(self) -> dict[str, Any]:
        """The service's, and those of its shards."""
        return self.service.status() | {"shards": at_once(lambda shard: shard.status(), self.shards)}

    def _pull(self, outline: Clustering, restarts: Sequence[int]) -> list[tuple[tuple[int, ...], np.ndarray]] | None:
        """What the shards miss, and their centroids; None if a later version is open."""
        answers = at_once(lambda shard: shard.pull(outline, restarts), self.shards)
        found = [answer for answer in answers if answer is not None]
        if len(found) == len(answers):
            return found
        if self.service.state(False).version == outline.version:
            raise Fenced(
                f"the shards of {self.plan.run} are past version {outline.version}: another service leads them, or the "
                "newest snapshot of this one is damaged. Start the run again"
            )
        return None


def _with(now: Clustering, parts: list[np.ndarray]) -> Clustering:
    centroids = torch.from_numpy(np.concatenate(parts, 1))
    return replace(now, arrays=now.arrays | {"centroids": centroids})


def at_once(call: Callable[..., Answer], *each: Sequence[Any]) -> list[Answer]:
    """The answers to several calls, made at the same time; all have ended before one of them raises."""
    with ThreadPoolExecutor(max(len(each[0]), 1)) as pool:
        return list(pool.map(call, *each))
