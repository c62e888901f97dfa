"""The service on real actors and tasks that are killed where it hurts; RAYDC_FAULT_REPEATS times, by default once."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import WorkerCrashedError

from raydc.clustering.centroid_service import actors as over_ray
from raydc.clustering.centroid_service.service import CentroidService, Refused, ServicePlan
from raydc.clustering.centroid_service.shards import ClusterShard
from raydc.clustering.centroid_service.worker import work
from raydc.data.block_cache import BlockCache
from raydc.data.shard import split
from raydc.data.source import Block
from tests.support.ray_nodes import freed
from tests.support.waiting import happens

pytestmark = [pytest.mark.ray, pytest.mark.slow]
REPEATS = int(os.environ.get("RAYDC_FAULT_REPEATS", "1"))
POINTS = ("push.before_apply", "push.after_apply", "save.before", "save.during", "save.after")


def once(marker: Path) -> bool:
    """Whether this is the first time anybody asks."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


class Mortal(CentroidService):
    """Kills its own process, once at each point."""

    def __init__(self, folder, plan, save_every, shards=()):
        self.graves = Path(folder).parent / "graves"
        self.graves.mkdir(exist_ok=True)
        super().__init__(folder, plan, save_every, shards)
        self.snapshots.during = self.during

    def during(self) -> None:
        self.reached("save.during")

    def reached(self, point: str) -> None:
        if self.version and once(self.graves / point):
            os.kill(os.getpid(), signal.SIGKILL)


class MortalShard(ClusterShard):
    """The same for the second shard of a run."""

    def __init__(self, folder, plan, at):
        self.graves = Path(folder).parents[1] / "graves"
        super().__init__(folder, plan, at)
        self.snapshots.during = lambda: self.reached("save.during")

    def reached(self, point: str) -> None:
        if self.at == 1 and once(self.graves / f"shard-{point}"):
            os.kill(os.getpid(), signal.SIGKILL)


class Rows:
    """Reads rows, and kills or stops its own process the first time that it reads some of the groups."""

    def __init__(self, x, graves=None, number=signal.SIGKILL):
        self.x, self.graves, self.number = x, graves, number

    def __call__(self, group):
        if self.graves is not None and group.id in (0, 7) and once(self.graves / f"worker-{group.id}"):
            os.kill(os.getpid(), self.number)
        return self.x[group.start : group.stop]


@pytest.fixture(scope="module")
def cluster():
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[3])}}
    ray.init(address="local", num_cpus=2, include_dashboard=False, runtime_env=environment, log_to_driver=False)
    yield
    ray.shutdown()


VERSIONS = 5
"""Of a problem: the survey, three moves of the centroids, and the count of their members."""


def problem(run, **settings):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(1200, 4)) + 3 * rng.integers(3, size=(1200, 1))).astype(np.float32)
    groups = split(1200, 100)
    fixed = {"n_clusters": 5, "dim": 4, "rows": tuple(map(len, groups)), "iterations": 3, "tolerance": 0.0}
    return ServicePlan(run=run, **{**fixed, "restarts": 1, **settings}), groups, x


def alone(folder, plan, groups, x):
    service = CentroidService(folder, plan)
    while not service.state().done:
        work(service, plan, groups, Rows(x))
    return service.centroids()[1]


def left(run, within_s=60):
    """Whether the actor of a run, or of `run/shard`, is gone in time."""

    def gone():
        try:
            ray.get_actor(f"centroids-{run}", namespace=over_ray.NAMESPACE)
        except ValueError:
            return True
        return False

    return happens(gone, within_s, every=0.5)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("repeat", range(REPEATS))
def test_deaths_of_actor_and_workers_change_no_byte(cluster, tmp_path, repeat):
    plan, groups, x = problem(f"mortal-{repeat}", seed=repeat)
    expected = alone(tmp_path / "alone", plan, groups, x)
    (tmp_path / "graves").mkdir()
    read = Rows(x, tmp_path / "graves")
    centroids, counts, status = over_ray.fit_service(plan, groups, read, tmp_path / "run", workers=2, service=Mortal)
    graves = {path.name for path in (tmp_path / "graves").iterdir()}
    assert centroids.tobytes() == expected.tobytes()
    assert counts.sum() == 1200 and status["done"] and status["version"] == VERSIONS
    assert graves == {"worker-0", "worker-7", *POINTS}
    assert status["incarnation"] == 1 + len(POINTS), "every death of the actor is an incarnation"
    assert left(plan.run), "the actor outlived its run"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("repeat", range(REPEATS))
def test_deaths_of_service_shards_and_workers_change_no_byte(cluster, tmp_path, repeat):
    plan, groups, x = problem(f"shards-{repeat}", seed=repeat, restarts=2, shards=2)
    expected = alone(tmp_path / "alone", plan, groups, x)
    (tmp_path / "graves").mkdir()
    read = Rows(x, tmp_path / "graves")
    centroids, counts, status = over_ray.fit_service(
        plan, groups, read, tmp_path / "run", workers=2, service=Mortal, shard=MortalShard
    )
    graves = {path.name for path in (tmp_path / "graves").iterdir()}
    assert centroids.tobytes() == expected.tobytes()
    assert counts.sum() == 1200 and status["done"] and status["version"] == VERSIONS
    assert graves == {"worker-0", "worker-7", *POINTS, "settled", *(f"shard-{point}" for point in POINTS)}
    assert status["incarnation"] == 2 + len(POINTS)
    assert [shard["incarnation"] for shard in status["shards"]] == [1, 1 + len(POINTS)]
    assert all(left(name) for name in (plan.run, f"{plan.run}/0", f"{plan.run}/1")), "an actor outlived its run"


@pytest.mark.parametrize("workers", [1, 2])
def test_all_workers_hang_and_are_replaced(cluster, tmp_path, workers):
    plan, groups, x = problem(f"hung-{workers}")
    expected = alone(tmp_path / "alone", plan, groups, x)
    (tmp_path / "graves").mkdir()
    read = Rows(x, tmp_path / "graves", signal.SIGSTOP)
    remote = over_ray.start(plan, tmp_path / "run")
    assert over_ray.advance(remote, plan, groups, read, workers=workers, hang_after=2.0)
    assert len(list((tmp_path / "graves").iterdir())) == 2
    assert remote.centroids()[1].tobytes() == expected.tobytes()
    with pytest.raises(WorkerCrashedError):
        over_ray.tasks(stopped, None, max_failures=1, hang_after=1.0)([0])


def stopped(shared, part):
    os.kill(os.getpid(), signal.SIGSTOP)


def slow(shared, part):
    time.sleep(4)
    if part == 0:
        os.kill(os.getpid(), signal.SIGSTOP if once(shared) else 0)


def test_work_may_take_longer_than_a_worker_may_be_silent(cluster, tmp_path):
    began = time.monotonic()
    run = over_ray.tasks(slow, tmp_path / "marker", max_failures=1, hang_after=1.0)
    run([0, 1])
    run([1])
    assert (tmp_path / "marker").exists() and time.monotonic() - began > 12


def long(folder, part):
    (folder / str(part)).touch()
    if part == "bad":
        raise Refused("no such row")
    time.sleep(600)


@pytest.mark.parametrize("parts", [["a", "b"], ["a", "bad"]])
def test_no_task_is_left_at_work(cluster, tmp_path, parts):
    """Neither where the driver gives up, nor where one of them finds that the others work in vain."""

    def poll():
        if "bad" not in parts and len([*tmp_path.iterdir()]) == len(parts):
            raise Refused("enough")

    with pytest.raises(Refused, match="no such row" if "bad" in parts else "enough"):
        over_ray.tasks(long, tmp_path, poll=poll)(parts)
    assert freed(60)


class Kept:
    """Reads rows that its process keeps, and leaves a mark for each group that it reads."""

    def __init__(self, x, marks):
        self.x, self.marks, self.kept = torch.from_numpy(x), marks, BlockCache("rows", "auto", 2)

    def __call__(self, group):
        return self.kept.take(group, self.read)[0].numpy()

    def read(self, group):
        (self.marks / f"{group.id}-{time.monotonic_ns()}").touch()
        return self.x[group.start : group.stop].clone(), Block(None, np.arange(group.start, group.stop))


def test_processes_get_the_row_blocks_that_they_keep(cluster, tmp_path):
    plan, groups, x = problem("kept")
    expected = alone(tmp_path / "alone", plan, groups, x)
    (tmp_path / "marks").mkdir()
    read = Kept(x, tmp_path / "marks")
    remote = over_ray.start(plan, tmp_path / "run")
    assert over_ray.advance(remote, plan, groups, read, workers=2, holds=read.kept.holds)
    assert remote.centroids()[1].tobytes() == expected.tobytes()
    assert len(groups) <= len([*read.marks.iterdir()]) <= 2 * len(groups) < VERSIONS * len(groups)


class Unhurried(CentroidService):
    """Takes its time to close a version."""

    def close(self, version: int) -> int:
        time.sleep(0 if self.missing else 4)
        return super().close(version)


def test_a_busy_service_is_waited_for_and_a_stopped_one_is_replaced(cluster, tmp_path):
    plan, groups, x = problem("busy")
    remote = over_ray.start(plan, tmp_path, service=Unhurried, hang_after=2.0)
    assert work(remote, plan, groups, Rows(x)).version == 1
    assert remote.status()["incarnation"] == 1, "it was killed while it was at work"
    os.kill(process_of(remote), signal.SIGSTOP)
    assert remote.status()["incarnation"] == 2 and remote.plan() == plan


def process_of(remote):
    return ray.get(remote.actor.__ray_call__.remote(lambda self: os.getpid()))


def test_a_service_with_5_percent_of_the_time_is_not_replaced(cluster, tmp_path):
    plan, groups, x = problem("slow-service")
    remote = over_ray.start(plan, tmp_path, hang_after=2.0)
    number, over = process_of(remote), threading.Event()

    def slow_down():
        while not over.is_set():
            os.kill(number, signal.SIGSTOP)
            time.sleep(0.19)
            os.kill(number, signal.SIGCONT)
            time.sleep(0.01)

    thread = threading.Thread(target=slow_down)
    thread.start()
    try:
        began = time.monotonic()
        while time.monotonic() - began < 5:
            remote.status()
    finally:
        over.set()
        thread.join()
    work(remote, plan, groups, Rows(x))
    assert remote.status()["incarnation"] == 1


class Asked(Exception):
    pass


def test_who_waits_for_a_service_may_be_told_to_stop(cluster, tmp_path):
    plan, groups, x = problem("interrupted")
    remote = over_ray.start(plan, tmp_path)
    number, asked = process_of(remote), iter([False, True])

    def poll():
        if next(asked):
            raise Asked

    os.kill(number, signal.SIGSTOP)
    with pytest.raises(Asked):
        over_ray.advance(remote, plan, groups, Rows(x), poll=poll)
    os.kill(number, signal.SIGCONT)
    assert over_ray.advance(remote, plan, groups, Rows(x))


@pytest.mark.parametrize("shards", [1, 3])
def test_another_job_finds_the_service_by_name_and_it_leaves_when_its_lease_ends(cluster, tmp_path, shards):
    run, lease_s = f"leased-{shards}", 5.0
    plan, groups, x = problem(run, shards=shards)
    with pytest.raises(ValueError, match=f"no centroid service runs for '{run}'"):
        over_ray.find(run)
    over_ray.start(plan, tmp_path, lease_s=lease_s)
    with pytest.raises(ValueError, match="no centroids yet"):
        over_ray.find(run).centroids()
    centroids, _, _ = over_ray.fit_service(plan, groups, Rows(x), tmp_path, workers=2, lease_s=lease_s)
    version, found, _ = over_ray.find(run).centroids()
    assert version == VERSIONS and found.tobytes() == centroids.tobytes()
    assert all(left(name) for name in (run, f"{run}/0", f"{run}/2")), "an actor outlived its lease"


def test_rows_that_cannot_be_used_end_the_run_with_their_message(cluster, tmp_path):
    plan, groups, x = problem("nan")
    x[777, 2] = np.nan
    with pytest.raises(Refused, match="row 777: expected finite values"):
        over_ray.fit_service(plan, groups, Rows(x), tmp_path, workers=2)
