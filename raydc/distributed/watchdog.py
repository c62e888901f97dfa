"""Workers of Ray that hang are killed, and so replaced as Ray replaces all that are lost.

A worker's process beats from a thread of its own, however long its work takes; only a process that is stopped beats no
more. Beats reach an actor on the driver's node, which has a task on the worker's node kill the process. What is killed
runs again, as often as the task's `max_retries` or the actor's `max_restarts` say. A worker counts from its first beat
on: a task may wait for its turn, and large libraries for the disk, while no thread can beat.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

log = logging.getLogger("raydc")

HANG_AFTER = 20.0
"""Seconds without a sign of life until a worker is replaced, where no setting says otherwise."""
BEATS = 8
"""That a process is due in this time."""

Process = tuple[str, int, str]
"""Its node, its number there, and when it was started: a number may come again."""


class _Heartbeats:
    """The actor that hears beats. It counts by its own pauses between them: stopped itself, it blames nobody."""

    def __init__(self, pause_s: float) -> None:
        self.silent: dict[Process, int] = {}
        """Pauses in which nothing was heard."""
        self.lock = threading.Lock()
        threading.Thread(target=self._listen, args=(pause_s,), daemon=True).start()

    def beat(self, process: Process) -> None:
        with self.lock:
            self.silent[process] = 0

    def leave(self, process: Process) -> None:
        with self.lock:
            self.silent.pop(process, None)

    def _listen(self, pause_s: float) -> None:
        while True:
            time.sleep(pause_s)
            with self.lock:
                hung = [process for process, pauses in self.silent.items() if pauses >= BEATS]
                self.silent = {each: pauses + 1 for each, pauses in self.silent.items() if each not in hung}
            for node, number, born in hung:
                log.warning("no sign of life from process %d of node %s: killed", number, node)
                there = NodeAffinitySchedulingStrategy(node, soft=False)
                ray.remote(num_cpus=0, scheduling_strategy=there)(_kill).remote(number, born)


EAR: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Heartbeats)


@dataclass(frozen=True)
class Watchdog:
    """What workers need to be watched."""

    ear: Any
    pause_s: float

    @staticmethod
    def start(hang_after: float = HANG_AFTER) -> "Watchdog":
        """On the driver's node, until nothing refers to it."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return Watchdog(EAR.options(scheduling_strategy=here).remote(hang_after / BEATS), hang_after / BEATS)

    def watch(self) -> Callable[[], None]:
        """Watch this process, until what is returned is called."""
        number, over = os.getpid(), threading.Event()
        process = (ray.get_runtime_context().get_node_id(), number, _born(number))

        def beat() -> None:
            while not over.wait(self.pause_s):
                self.ear.beat.remote(process)

        thread = threading.Thread(target=beat, daemon=True)

        def leave() -> None:
            over.set()
            thread.join()  # no beat comes after this
            self.ear.leave.remote(process)

        ray.get(self.ear.beat.remote(process))  # from now on its silence is noticed
        thread.start()
        return leave


def _kill(number: int, born: str) -> None:
    if _born(number) == born:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _born(number: int) -> str:
    """When a process of this machine was started, where the system tells."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
