"""Ray clusters of several nodes on this machine: each with its own processes, address, ports, home and folders."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib
import psutil

from tests.support.waiting import Patience, happens

BIN = Path(sys.executable).parent


def freed(within_s: float) -> bool:
    """Whether all that tasks, actors and placement groups of the cluster held is free again, in this time."""
    import ray

    def all_is_free() -> bool:
        held = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
        return not held and ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"]

    return happens(all_is_free, within_s, every=0.2)


def free_port(ip: str = "127.0.0.1") -> int:
    with socket.socket() as bound:
        bound.bind((ip, 0))
        return bound.getsockname()[1]


def listens(ip: str, port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex((ip, port)) == 0


class Processes:
    """Processes of a test; those and all that they started end with it."""

    def __init__(self) -> None:
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], log: Path, **options: Any) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            self.started[name] = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, **options)

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a process by the signal, and after 10 s at most whatever is left of it."""
        process = self.started.pop(name)
        if process.poll() is not None:
            return
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(number)
        left = psutil.wait_procs(family, timeout=10)[1]
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.wait()
        psutil.wait_procs(left, timeout=10)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *problem: object) -> None:
        for name in reversed(list(self.started)):
            self.stop(name)


class Nodes(Processes):
    """A head without CPUs at 127.0.0.2, and worker nodes of one CPU from 127.0.0.3 on."""

    def __init__(self, folder: Path, workers: int = 0, *, token: bool = True, **environment: str) -> None:
        super().__init__()
        self.folder, self.workers, self.extra = folder, workers, environment
        self.token = secrets.token_hex(32) if token else ""
        self.scratch = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie in it
        self.address = f"127.0.0.2:{free_port('127.0.0.2')}"
        self.dashboard = f"http://127.0.0.1:{free_port()}"

    def __enter__(self) -> "Nodes":
        try:
            gcs, dashboard = self.address.rpartition(":")[2], self.dashboard.rpartition(":")[2]
            head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
            self._ray(0, [*head, "--num-cpus=0", f"--ray-client-server-port={free_port()}"])
            patience = Patience(60)
            while not listens("127.0.0.2", int(gcs)) and not patience.over():
                time.sleep(0.2)
            for number in range(1, self.workers + 1):
                self.add(number)
            self.wait_for(1 + self.workers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *problem: object) -> None:
        super().__exit__()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def add(self, number: int) -> None:
        """Start a worker node."""
        self._ray(number, [f"--address={self.address}", "--num-cpus=1"])

    def lose(self, number: int) -> None:
        """Kill a node and everything on it at once."""
        family = psutil.Process(self.started[f"node-{number}"].pid).children(recursive=True)
        for process in [process for process in family if process.name() == "raylet"] + family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.stop(f"node-{number}", signal.SIGKILL)

    def home(self, number: int) -> Path:
        return self.folder / f"node-{number}"

    def environment(self, home: Path) -> dict[str, str]:
        """What a node's processes find, and a user's at `home`: no trace of the test's own environment."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
        home.mkdir(parents=True, exist_ok=True)
        if self.token:
            (home / ".ray").mkdir(exist_ok=True)
            (home / ".ray" / "auth_token").write_text(self.token)
            (home / ".ray" / "auth_token").chmod(0o600)
        mode = {"RAY_AUTH_MODE": "token" if self.token else "disabled"}
        ours = {
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",
            "MPLCONFIGDIR": matplotlib.get_cachedir(),
        }
        return {**kept, **mode, **ours, **self.extra, "PATH": f"{BIN}:{kept['PATH']}"}

    def _ray(self, number: int, options: list[str]) -> None:
        home, ip = self.home(number), f"127.0.0.{number + 2}"
        environment = self.environment(home)
        command = [
            str(BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--node-ip-address={ip}",
            f"--temp-dir={self.scratch / str(number)}", "--include-log-monitor=False",
            "--object-store-memory=100000000",
            f"--dashboard-agent-listen-port={free_port(ip)}", f"--metrics-export-port={free_port()}", *options,
        ]  # fmt: skip
        self.start(f"node-{number}", command, home / "ray.log", env=environment, cwd=home)

    def ask(self, path: str) -> Any:
        """An answer of the dashboard."""
        request = urllib.request.Request(self.dashboard + path)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def listed(self, kind: str) -> list[dict[str, Any]]:
        """What Ray's state API lists: nodes, actors."""
        return self.ask(f"/api/v0/{kind}?limit=1000&detail=1")["data"]["result"]["result"]

    def wait_for(self, count: int) -> None:
        """Until that many nodes are alive."""
        patience, problem = Patience(180), "nothing yet"
        while not patience.over():
            try:
                there = [node for node in self.listed("nodes") if node["state"] == "ALIVE"]
                if len(there) == count:
                    return
                problem = f"{len(there)} of {count} nodes"
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                problem = str(error)
            for number in range(1, self.workers + 1):
                if self.started[f"node-{number}"].poll() is not None:
                    self.add(number)  # Ray gives a node 30 s to start, which a busy machine may exceed
            time.sleep(0.3)
        logs = "\n".join(path.read_text()[-2000:] for path in sorted(self.folder.glob("node-*/ray.log")))
        raise TimeoutError(f"the cluster does not come up: {problem}\n{logs}")
