"""How long tests and fault runs wait for other processes: on a busy machine longer."""

import os
import time


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
