"""How many workers a training has: as many as there is room for, within what was asked for.

Room is asked for by placement groups, so that an autoscaler brings the nodes that are missing.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from raydc.training.config import Workers

SETTLE = 3.0
"""Seconds in which the places of workers that are gone become free."""


class NoRoom(RuntimeError):
    """The cluster stayed too small for too long; what was saved is kept."""


class Room:
    """Places for `workers` workers, each of which needs the resources `each`."""

    def __init__(self, workers: Workers, each: Mapping[str, float]) -> None:
        self.workers, self.each = workers, dict(each)
        self.groups: list[Any] = []

    def find(self, patience: float, note: Callable[[str], None], stopping: Callable[[], bool]) -> int:
        """Wait for room for the least number of workers; how many there is room for, 0 if told to stop.

        Raises NoRoom after `patience` seconds.
        """
        self.leave()
        least = self._ask([self.each] * self.workers.least)
        began = said = time.monotonic()
        while not least.wait(1):
            now = time.monotonic()
            if stopping():
                return 0
            if now - began > patience:
                raise NoRoom(f"no room for {self._wanted()} in {patience:.0f} s; start the same command again")
            if now - said > 10:
                note(f"waiting for room for {self._wanted()}, {now - began:.0f} s so far")
                said = now
        # one group for each of the others, so that any number of them may fit; asked for earlier, one of them may take
        # the place that the least number waits for, as Ray tries a group again after longer and longer pauses
        others = [self._ask([self.each]) for _ in range(self.workers - self.workers.least)]
        if others:
            time.sleep(SETTLE)
        found = self.workers.least + sum(map(_fits, others))
        self.leave()
        return found

    def want_more(self, than: int) -> None:
        """Ask for room for the workers that are missing, now that `than` are at work."""
        for _ in range(0 if self.groups else self.workers - than):
            self._ask([self.each])

    def grown(self) -> bool:
        """Whether there is room for some of those that are missing."""
        return any(map(_fits, self.groups))

    def leave(self) -> None:
        """Hold and ask for no room."""
        from ray.util import remove_placement_group

        for group in self.groups:
            remove_placement_group(group)
        self.groups = []

    def _ask(self, bundles: list[dict[str, float]]) -> Any:
        from ray.util import placement_group

        self.groups.append(placement_group(bundles))
        return self.groups[-1]

    def _wanted(self) -> str:
        each = ", ".join(f"{amount:g} {name}" for name, amount in self.each.items())
        return f"{self.workers.least} workers of {each} each"


def _fits(group: Any) -> bool:
    from ray.util import placement_group_table

    return placement_group_table(group)["state"] == "CREATED"
