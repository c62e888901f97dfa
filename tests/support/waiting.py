"""How long tests and fault runs wait for other processes: on a busy machine longer."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any


class Patience:
    """Seconds that count only in part while more processes want to run than there are processors.

    On a machine where each gets half of the time that it wants, one second of the clock is half a second here.
    """

    def __init__(self, seconds: float) -> None:
        self.left, self.looked = seconds, time.monotonic()

    def over(self) -> bool:
        now, load = time.monotonic(), os.getloadavg()[0]
        self.left -= (now - self.looked) * min(1.0, (os.cpu_count() or 1) / max(load, 1.0))
        self.looked = now
        return self.left <= 0


def happens(found: Callable[[], object], seconds: float, every: float = 0.1) -> bool:
    """Whether it is found in this time."""
    patience = Patience(seconds)
    while not found() and not patience.over():
        time.sleep(every)
    return bool(found())


def run(command: Sequence[str], seconds: float, **options: Any) -> "subprocess.CompletedProcess[str]":
    """`subprocess.run` of text with this limit. subprocess.TimeoutExpired when it is over; the process is gone then."""
    patience = Patience(seconds)
    with subprocess.Popen(command, text=True, **options) as process:
        while True:
            try:
                told = process.communicate(timeout=0.5)
                return subprocess.CompletedProcess(command, process.returncode, *told)
            except subprocess.TimeoutExpired:
                if patience.over():
                    process.kill()
                    raise
