"""Faults of the centroid service, on real actors and tasks of one local Ray cluster, and of its protocol alone."""

import gc
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.faults.lab import Lab, fault, mtime
from raydc.clustering.centroid_service import actors as over_ray
from raydc.clustering.centroid_service.service import CentroidService, Contribution, ServicePlan
from raydc.clustering.centroid_service.snapshots import Fenced
from raydc.clustering.centroid_service.worker import contribution, work
from raydc.data.shard import RowBlock, split
from tests.clustering.centroid_service.test_actors import POINTS, Mortal, MortalShard, Rows, alone, left
from tests.clustering.centroid_service.test_actors import once as first_time
from tests.support.waiting import Patience

ROOT = Path(__file__).parents[2]
CLUSTERS = 50


class Fragile(Rows):
    """Reads rows; the first reading of one group sends the process a signal, or fails."""

    def __init__(self, x: np.ndarray, graves: Path, group: int, how: str) -> None:
        super().__init__(x)
        self.fatal, self.how, self.place = group, how, graves

    def __call__(self, group: RowBlock) -> np.ndarray:
        if group.id == self.fatal and first_time(self.place / f"worker-{group.id}"):
            if self.how != "fail":
                os.kill(os.getpid(), signal.Signals[self.how])
            raise ValueError("the rows are out of reach")
        rows: np.ndarray = self.x[group.start : group.stop]
        return rows


class Slow(Rows):
    """Reads rows, those of the first groups slowly."""

    def __init__(self, x: np.ndarray, groups: int, seconds: float) -> None:
        super().__init__(x)
        self.groups, self.seconds = groups, seconds

    def __call__(self, group: RowBlock) -> np.ndarray:
        time.sleep(self.seconds if group.id < self.groups else 0)
        rows: np.ndarray = self.x[group.start : group.stop]
        return rows


def problem(run: str, seed: int) -> tuple[ServicePlan, list[RowBlock], np.ndarray]:
    """Blobs [4800, 8] in 24 row groups, K = 50, five iterations."""
    draw = np.random.default_rng(seed)
    x = (draw.normal(size=(4800, 8)) + 6 * draw.integers(4, size=(4800, 1))).astype(np.float32)
    groups = split(4800, 200)
    plan = ServicePlan(
        run=run,
        n_clusters=CLUSTERS,
        dim=8,
        rows=tuple(map(len, groups)),
        iterations=5,
        restarts=1,
        tolerance=0.0,
        seed=seed,
    )
    return plan, groups, x


STARTED: list[str] = []
"""Runs whose actors must be gone a minute after the last."""


def start(lab: Lab, kind: str, repeat: int) -> tuple[ServicePlan, list[RowBlock], np.ndarray]:
    """A problem of its own name, and the local Ray cluster of all repeats."""

    def make() -> bool:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            object_store_memory=200 * 2**20, _temp_dir=lab.short,
            runtime_env={"env_vars": {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}},
        )  # fmt: skip

        def end() -> list[str]:
            gc.collect()  # what a failed run raised refers to its actor
            there = [f"actor of {run}" for run in STARTED if not left(run)]
            groups = [g for g in ray.util.placement_group_table().values() if g["state"] != "REMOVED"]
            ray.shutdown()
            return there + [f"placement group {group['name']}" for group in groups]

        lab.at_the_end(end)
        return True

    lab.once("ray", make)
    found = problem(f"{kind}-{lab.mark[:8]}-{repeat}", repeat % 4)
    STARTED.append(found[0].run)
    return found


def undisturbed(lab: Lab, seed: int) -> bytes:
    def make() -> bytes:
        plan, groups, x = problem("alone", seed)
        folder = lab.folder / "alone"
        centroids: bytes = alone(folder, plan, groups, x).tobytes()
        return centroids

    found: bytes = lab.once(f"centroids-{seed}", make)
    return found


@fault(
    "A6", "service actor SIGKILL: before apply, after apply, before, during and after the snapshot (5 a repeat)", 10.0
)
def actor_killed(lab: Lab, repeat: int) -> float:
    plan, groups, x = start(lab, "actor", repeat)
    expected = undisturbed(lab, repeat % 4)
    graves, folder = lab.folder / "graves", lab.folder / "run"
    graves.mkdir()
    centroids, counts, status = over_ray.fit_service(plan, groups, Rows(x), folder, workers=2, service=Mortal)
    deaths = sorted(mtime(graves / point) for point in POINTS)
    births = sorted(mtime(path) for path in folder.glob("incarnation-*"))
    assert centroids.tobytes() == expected, "another result than the undisturbed run's"
    assert counts.sum() == 4800 and status["done"], "rows were lost or counted twice"
    assert len(births) == 1 + len(deaths) == 6, "a death was not an incarnation"
    return max(birth - death for birth, death in zip(births[1:], deaths, strict=True))


@fault(
    "A6", "sharded: the service's actor and a shard's SIGKILL, also between the steps of a close (11 a repeat)", 10.0
)
def shard_killed(lab: Lab, repeat: int) -> float:
    plan, groups, x = start(lab, "shards", repeat)
    plan = plan.model_copy(update={"shards": 3})
    STARTED.extend(f"{plan.run}/{at}" for at in range(3))
    expected = undisturbed(lab, repeat % 4)
    graves, folder = lab.folder / "graves", lab.folder / "run"
    graves.mkdir()
    centroids, counts, status = over_ray.fit_service(
        plan, groups, Rows(x), folder, workers=2, service=Mortal, shard=MortalShard
    )
    assert centroids.tobytes() == expected, "another result than the undisturbed run's"
    assert counts.sum() == 4800 and status["done"], "rows were lost or counted twice"
    slowest = 0.0
    for place, points in ((folder, {*POINTS, "settled"}), (folder / "shard-1", {f"shard-{point}" for point in POINTS})):
        deaths = sorted(mtime(graves / point) for point in points)
        births = sorted(mtime(path) for path in place.glob("incarnation-*"))
        assert len(births) == 1 + len(deaths), "a death was not an incarnation"
        slowest = max(slowest, *(birth - death for birth, death in zip(births[1:], deaths, strict=True)))
    return slowest


def without_a_worker(lab: Lab, repeat: int, name: str, signal_name: str) -> float:
    """A worker gets a signal while it reads the first row group, or a later one, by turns."""
    plan, groups, x = start(lab, name, repeat)
    expected = undisturbed(lab, repeat % 4)
    fatal = 0 if repeat % 2 else lab.dice.randrange(1, len(groups))
    read = Fragile(x, lab.folder, fatal, signal_name)
    centroids, counts, _ = over_ray.fit_service(plan, groups, read, lab.folder / "run", workers=2)
    assert centroids.tobytes() == expected and counts.sum() == 4800, "another result than the undisturbed run's"
    return time.time() - mtime(lab.folder / f"worker-{fatal}")


@fault("A1", "service worker SIGKILL: while it loads, and between row groups it has assigned")
def service_worker_killed(lab: Lab, repeat: int) -> float:
    return without_a_worker(lab, repeat, "worker", "SIGKILL")


@fault("A3", "service worker hangs (SIGSTOP): what it has not counted is dealt anew")
def service_worker_hangs(lab: Lab, repeat: int) -> float:
    return without_a_worker(lab, repeat, "hung", "SIGSTOP")


@fault("A15", "a k-means run over the service fails, and goes on with 1 or 3 workers instead of 2")
def service_other_workers(lab: Lab, repeat: int) -> float:
    plan, groups, x = start(lab, "workers", repeat)
    expected = undisturbed(lab, repeat % 4)
    read = Fragile(x, lab.folder, lab.dice.randrange(len(groups)), "fail")
    try:
        over_ray.fit_service(plan, groups, read, lab.folder / "run", workers=2)
    except ValueError:
        pass
    else:
        raise AssertionError("the failure went unnoticed")
    began = time.time()
    centroids, counts, _ = over_ray.fit_service(plan, groups, read, lab.folder / "run", workers=(1, 3)[repeat % 2])
    assert centroids.tobytes() == expected and counts.sum() == 4800, "another result than the undisturbed run's"
    return time.time() - began


@fault("A16", "a service worker slowed down (2.4 s an iteration): the others wait for it, and no longer", 2.9)
def service_worker_slow(lab: Lab, repeat: int) -> float:
    plan, groups, x = start(lab, "slow", repeat)
    expected, half, versions = undisturbed(lab, repeat % 4), len(groups) // 2, list[float]()
    remote = over_ray.start(plan, lab.folder / "run")
    read = Slow(x, half, 2.4 / half)
    over_ray.advance(remote, plan, groups, read, workers=2, on_version=lambda: bool(versions.append(time.time())))
    _, centroids, counts = remote.centroids()
    assert centroids.tobytes() == expected and counts.sum() == 4800, "another result than the undisturbed run's"
    return versions[-1] - versions[0] - 2.4 * (len(versions) - 1)


@fault("A8", "zombie actor: SIGSTOP, replaced, SIGCONT", 60.0)
def zombie(lab: Lab, repeat: int) -> float:
    plan, groups, x = start(lab, "zombie", repeat)
    expected, folder = undisturbed(lab, repeat % 4), str(lab.folder / "run")
    actor, unwatched = over_ray.ACTOR.options(num_cpus=0), 3600.0
    old = actor.remote(None, unwatched, CentroidService, folder, plan)
    before = over_ray.RemoteService(old)
    for _ in range(lab.dice.randint(1, 3)):
        work(before, plan, groups, Rows(x))
    late = contribution(plan, before.state(), groups, Rows(x))
    pid = ray.get(old.__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signal.SIGSTOP)
    began = time.time()
    new = actor.remote(None, unwatched, CentroidService, folder, plan)
    after = over_ray.RemoteService(new)
    work(after, plan, groups, Rows(x))
    recovery = time.time() - began
    os.kill(pid, signal.SIGCONT)
    patience = Patience(5.0)
    try:
        before.push(late)
        raise AssertionError("the zombie committed")
    except (Fenced, ray.exceptions.RayActorError):
        pass
    assert not patience.over(), "the zombie took more than 5 s to end itself"
    while not after.state(centroids=False).done:
        work(after, plan, groups, Rows(x))
    assert after.centroids()[1].tobytes() == expected, "another result than the undisturbed run's"
    manifests = sorted((lab.folder / "run").glob("snapshot-*.json"), key=mtime)
    assert [path.name for path in manifests] == sorted(path.name for path in manifests), "a lower incarnation wrote"
    ray.kill(new)
    return recovery


@fault("A9", "every push replayed three times, shuffled, with those of older versions (500 pushes a repeat)", 60.0)
def replayed(lab: Lab, repeat: int) -> float:
    pushes, began = 0, time.time()
    while pushes < 500:
        seed = 1000 * repeat + pushes
        plan, groups, x = problem("replayed", seed % 4)
        service = CentroidService(lab.folder / f"run-{pushes}", plan)
        old: list[Contribution] = []
        while not service.done:
            state = service.state()
            parts = [contribution(plan, state, [group], Rows(x)) for group in groups]
            sent = 3 * parts + lab.dice.sample(old, min(len(old), 24))
            lab.dice.shuffle(sent)
            accepted: dict[tuple[int, ...], int] = {}
            for part in sent:
                before = digest(service)
                answer = service.push(part).answer
                pushes += 1
                if answer == "accepted":
                    assert part.version == state.version, "an old version was counted"
                    accepted[part.groups] = accepted.get(part.groups, 0) + 1
                else:
                    assert digest(service) == before, f"a push answered {answer} changed the sums"
            assert accepted == {part.groups: 1 for part in parts}, "a row group was counted twice, or not at all"
            old += parts
        assert service.centroids()[1].tobytes() == undisturbed(lab, seed % 4), "another result"
        shutil.rmtree(lab.folder / f"run-{pushes}", ignore_errors=True)
    return time.time() - began


def digest(service: CentroidService) -> tuple[int, Any]:
    """What a push that does not count must leave alone."""
    return service.version, {name: value.tobytes() for name, value in service.sums.items()}


@fault("B5", "the newest snapshot of the service truncated (at 0, 30, 90, 99.9 %)")
def snapshot_truncated(lab: Lab, repeat: int) -> float:
    def cut(data: bytes, part: float) -> bytes:
        return data[: int(len(data) * part)]

    return damaged(lab, repeat, [lambda data, part=part: cut(data, part) for part in (0.0, 0.3, 0.9, 0.999)])


@fault("B6", "a bit of the newest snapshot of the service flipped (5 bits a repeat)")
def snapshot_flipped(lab: Lab, repeat: int) -> float:
    def flip(data: bytes) -> bytes:
        flipped = bytearray(data)
        flipped[lab.dice.randrange(len(data))] ^= 1 << lab.dice.randrange(8)
        return bytes(flipped)

    return damaged(lab, repeat, [flip] * 5)


def damaged(lab: Lab, repeat: int, ways: list[Any]) -> float:
    """Damage arrays or manifest of the newest snapshot: the run goes on from the one before, to the same result."""
    plan, groups, x = problem("damaged", repeat % 4)
    folder, slowest = lab.folder / "run", 0.0
    service = CentroidService(folder, plan)
    for _ in range(3):
        work(service, plan, groups, Rows(x))
    for number, way in enumerate(ways):
        copy = lab.folder / f"copy-{number}"
        shutil.copytree(folder, copy)
        newest = max(copy.glob("snapshot-*.json"))
        path = lab.dice.choice([newest, newest.with_suffix(".npz")])
        path.write_bytes(way(path.read_bytes()))
        began = time.time()
        restarted = CentroidService(copy, plan)
        slowest = max(slowest, time.time() - began)
        assert restarted.version == 2, f"damage to {path.name} was not noticed, or all was lost"
        while not restarted.done:
            work(restarted, plan, groups, Rows(x))
        assert restarted.centroids()[1].tobytes() == undisturbed(lab, repeat % 4), "another result"
    return slowest
