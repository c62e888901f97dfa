"""Where faults are provoked: processes of their own, a folder for each repeat, undisturbed results computed once."""

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.waiting import Patience

PRELOADED = [
    "raydc.cli.main",
    "raydc.cli.console",
    "raydc.pipelines.train",
    "raydc.search.record",
    "raydc.tracking.tracker",
    "tests.support.runs",
]
MARK = "RAYDC_LABORATORY"
PATIENCE = 300.0
BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
"""A program that never rests, and ends with who started it."""


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    number: str
    what: str
    within: float
    """Seconds that recovery may take."""
    slow: bool
    """Whether it starts Ray Train or a server, and is repeated less often."""
    provoke: "Callable[[Lab, int], float]"

    @property
    def name(self) -> str:
        return self.provoke.__name__


FAULTS: list[Fault] = []


def fault(
    number: str, what: str, within: float = 60.0, slow: bool = False
) -> "Callable[[Callable[[Lab, int], float]], Callable[[Lab, int], float]]":
    """Enter a function into the table."""

    def enter(provoke: "Callable[[Lab, int], float]") -> "Callable[[Lab, int], float]":
        FAULTS.append(Fault(number, what, within, slow, provoke))
        return provoke

    return enter


class Process:
    """A function in a process forked from one that has imported everything, with its output in a file."""

    def __init__(
        self, lab: "Lab", target: Callable[..., int], arguments: Sequence[Any], env: Mapping[str, str]
    ) -> None:
        self.log, self.started = lab.folder / f"log-{uuid.uuid4().hex[:8]}", time.time()
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(lab.root / "torch")}
        places = {"TMPDIR": str(lab.temporary), "RAY_TMPDIR": lab.short}
        everything = {MARK: lab.mark, **places, **caches, **env}
        self.process = lab.context.Process(target=_run, args=(target, arguments, everything, str(self.log)))
        self.process.start()

    @property
    def pid(self) -> int:
        return int(self.process.pid or 0)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code, negative for a signal. `timeout` are the seconds of a machine with nothing else to do."""
        patience = Patience(timeout)
        while self.process.exitcode is None:
            if patience.over():
                self.process.kill()
                self.process.join()
                raise AssertionError(f"no end after {timeout:g} s: {self.output[-500:]}")
            self.process.join(0.2)
        return int(self.process.exitcode)

    def expect(self, code: int, timeout: float = PATIENCE) -> None:
        """Wait, and be content with this exit code alone."""
        found = self.wait(timeout)
        assert found == code, f"expected exit code {code}, got {found}: {self.output[-500:]}"


def _run(target: Callable[..., int], arguments: Sequence[Any], env: Mapping[str, str], log: str) -> None:
    os.environ.update(env)
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(target(*arguments))


class Lab:
    """What faults work with."""

    def __init__(self, root: Path, seed: int, busy: int = 0) -> None:
        """`busy` processes that never rest run beside until the end."""
        self.root, self.seed, self.mark = root, seed, uuid.uuid4().hex
        self.busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        self.folder, self.dice = root, random.Random(seed)
        self.temporary = root / "tmp"
        self.short = tempfile.mkdtemp(prefix="rf-", dir="/tmp")  # Ray's sockets lie in it
        self._known: dict[str, Any] = {}
        self._ends: list[Callable[[], list[str] | None]] = []
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gave when it was first asked for: an undisturbed result, a server, a cluster."""
        if name not in self._known:
            before = self.folder
            self.folder = self.root / "once" / name
            shutil.rmtree(self.folder, ignore_errors=True)  # of an attempt that failed
            self.folder.mkdir(parents=True)
            self._known[name] = make()
            self.folder = before
        return self._known[name]

    def at_the_end(self, action: Callable[[], list[str] | None]) -> None:
        """Something that `once` made is to be ended; what the action returns was left behind."""
        self._ends.append(action)

    def start(self, target: Callable[..., int], *arguments: Any, **env: str) -> Process:
        return Process(self, target, arguments, env)

    def repeat(self, one: Fault, number: int) -> dict[str, Any]:
        """Provoke a fault once: whether it passed, seconds, and what was left behind."""
        self.folder = self.root / f"{one.name}-{number}"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.temporary = self.folder / "tmp"
        self.temporary.mkdir()
        self.dice = random.Random(f"{self.seed} {one.name} {number}")
        standing, began, problem, recovery = self._processes(), time.monotonic(), "", 0.0
        try:
            recovery = one.provoke(self, number)
        except Exception as failure:  # it is what the table is about
            problem = f"{type(failure).__name__}: {failure}"
        left = self._left(standing)
        result = {"fault": one.name, "repeat": number, "passed": not problem, "problem": problem}
        result |= {"recovery": recovery, "seconds": time.monotonic() - began, "left": left, "load": os.getloadavg()[0]}
        result |= {"busy": len(self.busy)}
        if not problem:
            shutil.rmtree(self.folder, ignore_errors=True)
        return result

    def _left(self, standing: set[int], within: float = 60.0) -> list[str]:
        """Processes and unfinished files of a repeat that are still there after some time."""
        patience = Patience(within)
        while (more := self._processes() - standing) and not patience.over():
            time.sleep(0.2)
        left = [f"process {pid}" for pid in more]
        for pid in more:
            psutil.Process(pid).kill()
        scratch = [path.name for path in self.temporary.iterdir() if not path.name.startswith("ray")]
        left += [f"scratch of a killed process: {name}" for name in scratch]
        left += [f"unfinished file {path.name}" for path in self.folder.rglob("*.tmp")]
        return left

    def _processes(self) -> set[int]:
        """This process's descendants, and what they started and left to itself."""
        found = set()
        for process in psutil.process_iter(["pid", "status", "environ", "cmdline"]):
            ours = (process.info["environ"] or {}).get(MARK) == self.mark
            if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.add(process.info["pid"])
        return found

    def close(self) -> list[str]:
        """End everything; what was left behind all the same."""
        left = [thing for end in reversed(self._ends) for thing in end() or []]
        shutil.rmtree(self.short, ignore_errors=True)
        for process in self.busy:
            process.kill()
            process.wait()
        return left


def mtime(path: Path) -> float:
    return path.stat().st_mtime
