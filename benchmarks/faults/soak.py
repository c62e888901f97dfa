"""Faults at random, one after the other, for a long time: nothing may go wrong, be left behind, or grow."""

import time
from collections import Counter
from collections.abc import Callable
from statistics import linear_regression

import psutil

from benchmarks.faults.lab import Fault, Lab

SETTLED = 0.25
"""Share of the time after which caches are taken to be full."""


def soak(lab: Lab, faults: list[Fault], seconds: float, say: Callable[[Fault, dict[str, object]], None]) -> str:
    """What came of it, as Markdown; its last line begins with FAILED if anything did.

    This process drives every run over the centroid service, so that its memory is a driver's.
    """
    began, results, memory = time.monotonic(), list[tuple[Fault, dict[str, object]]](), list[tuple[float, float]]()
    counts: Counter[str] = Counter()
    dice = lab.dice
    while (passed := time.monotonic() - began) < seconds:
        one = dice.choice(faults)
        results.append((one, lab.repeat(one, counts[one.name])))
        counts[one.name] += 1
        say(*results[-1])
        if passed > SETTLED * seconds:
            memory.append(((time.monotonic() - began) / 60, psutil.Process().memory_info().rss / 2**20))
    failed = [f"{one.number} {one.name}: {result['problem']}" for one, result in results if not result["passed"]]
    left = [f"{one.number} {one.name}: {thing}" for one, result in results for thing in result["left"]]  # type: ignore[attr-defined]
    slope = linear_regression(*zip(*memory, strict=True)).slope if len(memory) > 2 else float("nan")
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    lines = [
        f"{len(results)} faults in {(time.monotonic() - began) / 60:.0f} minutes: {kinds}.",
        f"The driver's memory grew by {slope:+.2f} MB a minute (allowed: 1).",
        f"Left behind: {', '.join(left) or 'nothing'}.",
        f"FAILED: {'; '.join(failed)}" if failed else "Every one ended as the undisturbed run.",
    ]
    return "\n\n".join(lines) + "\n"
