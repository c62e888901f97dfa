"""Faults of whole nodes: a worker's, the service's, and the head."""

import os
import time
from pathlib import Path
from typing import Any

import psutil
import ray

from benchmarks.faults import service, training
from benchmarks.faults.lab import MARK, Lab, fault, mtime
from raydc.clustering.centroid_service import actors as over_ray
from tests.cli.test_main import options
from tests.clustering.centroid_service.test_actors import Rows
from tests.support import runs
from tests.support.ray_nodes import Nodes
from tests.training.test_placement import Driver

ROOT = str(Path(__file__).parents[2])
LONGER = {"method__cluster__length": "60 epochs", "training__workers": 2}


def nodes_of(lab: Lab, workers: int, token: bool = True) -> Nodes:
    return Nodes(lab.folder / "nodes", workers, token=token, PYTHONPATH=ROOT, **{MARK: lab.mark})


def number_of(nodes: Nodes, class_name: str) -> int:
    """The number of a node where such an actor lives."""
    places = {node["node_id"]: node["node_ip"] for node in nodes.listed("nodes")}
    actors = [actor for actor in nodes.listed("actors") if actor["class_name"] == class_name]
    ip = next(places[actor["node_id"]] for actor in actors if actor["state"] == "ALIVE")
    return int(ip.rpartition(".")[2]) - 2


def stop(nodes: Nodes, number: int) -> None:
    """Freeze everything on a node."""
    for process in psutil.Process(nodes.started[f"node-{number}"].pid).children(recursive=True):
        process.suspend()


def without_a_node(lab: Lab, lose: Any) -> float:
    """Two workers on three nodes, one of theirs is lost: the spare one takes over."""
    expected, out = training.undisturbed(lab, "longer-two", **LONGER)[0], lab.folder / "run"
    with nodes_of(lab, 3) as nodes, Driver(nodes, out, *options(**LONGER)) as driver:
        driver.wait_for("cluster 1/60")
        lose(nodes, number_of(nodes, "RayTrainWorker"))
        lost = time.time()
        driver.wait_for(r"cluster \d+/60", after="1 of 3 times")
        recovery = time.time() - lost
        assert driver.end(240) == 0, driver.log.read_text()[-500:]
    assert runs.weights(out) == expected, "another result than the undisturbed run's"
    return recovery


@fault("A4", "a worker's node killed, with a spare one", 90.0, slow=True)
def node_killed(lab: Lab, repeat: int) -> float:
    return without_a_node(lab, Nodes.lose)


@fault("A4", "a worker's node frozen (SIGSTOP), with a spare one", 120.0, slow=True)
def node_frozen(lab: Lab, repeat: int) -> float:
    return without_a_node(lab, stop)


@fault("A5", "the head lost (gcs_server killed), and the same run again", 60.0, slow=True)
def head_killed(lab: Lab, repeat: int) -> float:
    expected, out = training.undisturbed(lab, "longer-two", **LONGER), lab.folder / "run"
    process = training.start(lab, out, **LONGER)
    while not any(int(path.name.split("-")[0]) >= 48 for path in (out / "checkpoints").glob("*")):
        assert process.process.exitcode is None, f"it ended before: {process.output[-300:]}"
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    (head,) = [one for one in family if one.name() == "gcs_server"]
    head.kill()
    assert process.wait(240) != 0, "the run ended without its head"
    began = time.time()
    training.again(lab, expected, **LONGER)
    return training.until_it_went_on(out, began)


class Unhurried(Rows):
    """Reads rows so slowly that a node can be lost meanwhile."""

    def __call__(self, group: Any) -> Any:
        time.sleep(0.05)
        return super().__call__(group)


def clustered(address: str, folder: str, seed: int) -> int:
    """k-means over a service that lives on a worker node; the name of the run and the node are written down."""
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    head = address.rpartition(":")[0]
    for attempt in range(50):
        plan, groups, x = service.problem(f"run-{attempt}", seed)
        remote = over_ray.start(plan, f"{folder}/{plan.run}")
        if (ip := ray.get(remote.actor.__ray_call__.remote(lambda self: ray.util.get_node_ip_address()))) != head:
            break
    Path(folder, "place").write_text(f"{plan.run} {ip}")
    centroids, _, _ = over_ray.fit_service(plan, groups, Unhurried(x), f"{folder}/{plan.run}", workers=2)
    Path(folder, "centroids").write_bytes(centroids.tobytes())
    return 0


@fault("A7", "the node of the service's actor killed", 60.0, slow=True)
def service_node_killed(lab: Lab, repeat: int) -> float:
    expected = service.undisturbed(lab, repeat % 4)
    with nodes_of(lab, 2, token=False) as nodes:
        process = lab.start(clustered, nodes.address, str(lab.folder), repeat % 4, RAY_AUTH_MODE="disabled")
        place = lab.folder / "place"
        while not place.exists() or not list(
            (lab.folder / place.read_text().split()[0]).glob("snapshot-*-000000002.json")
        ):
            assert process.process.exitcode is None, process.output[-300:]
            time.sleep(0.01)
        run, ip = place.read_text().split()
        lost = time.time()
        nodes.lose(int(ip.rpartition(".")[2]) - 2)
        process.expect(os.EX_OK)
    assert (lab.folder / "centroids").read_bytes() == expected, "another result than the undisturbed run's"
    births = sorted((lab.folder / run).glob("incarnation-*"), key=mtime)
    assert len(births) == 2, f"{len(births)} incarnations of the service"
    return mtime(births[1]) - lost
