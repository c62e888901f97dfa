"""How fast a served model answers, and what is lost when a replica is killed or another version becomes champion.

    python -m benchmarks.serve --seconds 20 --clients 8

k-means of scikit-learn's digits is trained twice and registered. Clients in threads send requests of one row each, in
JSON over connections that they keep, one after the other; latency is what a client waits. Beside it stands the model
called in this process, row by row, without HTTP. A request is lost that has no answer of status 200: clients ask once,
and neither a connection that ends nor a refused one is asked again.
"""

import argparse
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from sklearn.datasets import load_digits

import raydc
from raydc.tracking import registry

PATIENCE = 300.0
"""Seconds for a server to start."""
REPLICA = "ServeReplica:raydc:Model"
"""In the name of a process that holds the model."""


@dataclass(frozen=True)
class Server:
    """A running `raydc serve`."""

    process: subprocess.Popen[bytes]
    port: int

    def replicas(self) -> list[int]:
        """Process ids of those that hold the model."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return sorted(one.pid for one in found if REPLICA in _title(one))


def _title(process: psutil.Process) -> str:
    """What a process is called; nothing of one that has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """`raydc serve` in a process of its own, once it answers; RuntimeError with what it said if it does not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "raydc", "serve", "--port", str(port), *options]
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE
        while "next:" not in (said := (folder / "serve.log").read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not answer: {said}")
            time.sleep(0.2)
        yield Server(process, port)
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


@dataclass
class Load:
    """What became of requests."""

    ended: list[tuple[str, float, str]] = field(default_factory=list)
    """Of each: its status or what it ended with, seconds, and which model answered."""
    seconds: float = 0.0

    @property
    def lost(self) -> Counter[str]:
        """Requests without an answer of status 200, by what they ended with."""
        return Counter(status for status, _, _ in self.ended if status != "200")

    @property
    def models(self) -> set[str]:
        """Which answered."""
        return {model for status, _, model in self.ended if status == "200"}

    def told(self) -> tuple[str, ...]:
        """Requests a second, and the median and 99th percentile of latency in milliseconds."""
        waited = np.array([seconds for _, seconds, _ in self.ended])
        p50, p99 = 1000 * np.quantile(waited, [0.5, 0.99])
        return f"{len(waited) / self.seconds:.0f}", f"{p50:.1f}", f"{p99:.1f}"


@contextlib.contextmanager
def load(port: int, clients: int) -> Iterator[Load]:
    """Requests of so many clients for as long as this lasts."""
    found, stop, rows = Load(), threading.Event(), load_digits().data

    def client(number: int) -> None:
        draw = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        while not stop.is_set():
            body = json.dumps({"rows": [rows[draw.integers(len(rows))].tolist()]})
            started, model = time.monotonic(), ""
            try:
                connection.request("POST", "/assign", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                status, model = str(answer.status), answer.headers.get("raydc-model", "")
            except (OSError, http.client.HTTPException) as problem:
                status = type(problem).__name__
                connection.close()
            found.ended.append((status, time.monotonic() - started, model))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        found.seconds = time.monotonic() - started


def register(folder: Path, uri: str, seed: int) -> None:
    """k-means of digits as another version of the registered model digits."""
    settings = {"training.seed": seed, "output.register_as": "digits", "output.tracking_uri": uri}
    raydc.train("digits", "kmeans", 10, out=str(folder / f"run-{seed}"), workers=0, settings=settings)


def wait_until(true: Callable[[], bool]) -> None:
    """TimeoutError if it is not true in time."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("what was waited for did not come")
        time.sleep(0.1)


def kill_one(server: Server, wanted: int) -> None:
    """Kill a replica, and wait until there are `wanted` again."""
    before = server.replicas()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: before[0] not in server.replicas() and len(server.replicas()) == wanted)


def another_champion(seen: Load, uri: str, version: int) -> None:
    """Make a version champion, and wait until it alone answers."""
    registry.promote("digits", version, uri)
    name = f"models:/digits/{version}"
    wait_until(lambda: len(seen.ended) > 50 and {model for _, _, model in seen.ended[-50:]} == {name})


def direct(uri: str, seconds: float) -> Load:
    """The model called in this process, a row at a time."""
    model, rows, found = registry.load("models:/digits@champion", uri), load_digits().data, Load()
    started = time.monotonic()
    while (now := time.monotonic()) < started + seconds:
        model.assign(rows[len(found.ended) % len(rows)][None])
        found.ended.append(("200", time.monotonic() - now, ""))
    found.seconds = time.monotonic() - started
    return found


def measure(folder: Path, seconds: float, clients: int) -> Iterator[tuple[str, ...]]:
    """Rows of the table: what, requests a second, median and 99th percentile of latency, requests lost of all."""
    uri = f"sqlite:///{folder}/mlflow.db"
    for seed in (0, 1):
        register(folder, uri, seed)
    yield "the model called directly", *direct(uri, seconds).told(), ""
    options = ("--model", "models:/digits@champion", "--tracking-uri", uri, "--poll", "1")
    for replicas in (1, 2):
        with serving(folder, *options, "--replicas", str(replicas)) as server:
            for many in (1, clients):
                with load(server.port, many) as found:
                    time.sleep(seconds)
                yield f"replicas: {replicas}, clients: {many}", *found.told(), _lost(found)
            with load(server.port, clients) as found:
                time.sleep(2)
                kill_one(server, replicas)
            yield f"replicas: {replicas}, one killed", *found.told(), _lost(found)
            with load(server.port, clients) as found:
                for version in (2, 1):
                    another_champion(found, uri, version)
            yield f"replicas: {replicas}, champion changed twice", *found.told(), _lost(found)


def _lost(found: Load) -> str:
    """How many of how many, and how."""
    how = ", ".join(f"{count} {what}" for what, count in found.lost.items())
    return f"{found.lost.total()} of {len(found.ended):,}" + (f" ({how})" if how else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement [20]")
    parser.add_argument("--clients", type=int, default=8, help="clients at the same time [8]")
    given = parser.parse_args()
    print("|  | requests/s | p50 in ms | p99 in ms | lost |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="raydc-serve-") as folder:
        for cells in measure(Path(folder), given.seconds, given.clients):
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
