"""Provoke faults, repeat after repeat of each, until all or the time is over; what is done is not done again.

A training has recovered when the first epoch after its loss is over; k-means and assignment when the whole run is.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_worker_niceness", "0")

import torch

from benchmarks.faults import nodes, recording, searching, service, training
from benchmarks.faults.lab import FAULTS, Fault, Lab
from benchmarks.faults.soak import soak

MODULES = (training, nodes, service, searching, recording)
"""Imported for the faults that they enter into the table."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--out", required=True, help="directory for results.jsonl and table.md")
    parser.add_argument("--repeats-quick", type=int, default=20, help="of faults that take seconds [20]")
    parser.add_argument("--repeats-train", type=int, default=5, help="of those that start Ray Train or a server [5]")
    parser.add_argument("--budget", type=float, default=3600, help="seconds after which no repeat is started [3600]")
    parser.add_argument(
        "--soak", type=float, nargs="?", const=1800.0, metavar="SECONDS",
        help="instead: quick faults at random for so long [1800], and how the driver's memory grows",
    )  # fmt: skip
    parser.add_argument(
        "--busy",
        type=int,
        default=0,
        metavar="N",
        help="beside so many processes that never rest; a table of its own [0]",
    )
    parser.add_argument("--only", help="these rows alone, such as A1,A6 or actor_killed")
    parser.add_argument("--seed", type=int, default=0, help="of the places and times of faults [0]")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    chosen = choose(given.only)
    repeats = {one.name: given.repeats_train if one.slow else given.repeats_quick for one in chosen}
    results, began, left = read(out, given.busy), time.monotonic(), list[str]()
    done = {(result["fault"], result["repeat"]) for result in results}
    rounds = range(max(repeats.values()))
    todo = [(one, n) for n in rounds for one in sorted(chosen, key=lambda one: one.slow) if n < repeats[one.name]]
    with tempfile.TemporaryDirectory(prefix="raydc-faults-", ignore_cleanup_errors=True) as scratch:
        lab = Lab(Path(scratch), given.seed, given.busy)
        try:
            if given.soak:
                text = soak(lab, [one for one in chosen if not one.slow], given.soak, say)
                (out / "soak.md").write_text(text)
                print(text)
                return int("FAILED" in text)
            for one, number in todo:
                if (one.name, number) in done:
                    continue
                if time.monotonic() - began > given.budget:
                    print(f"{given.budget:g} s are over; the same command goes on")
                    break
                results.append(lab.repeat(one, number))
                with (out / "results.jsonl").open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
                say(one, results[-1])
        finally:
            left = lab.close()
    text = table(chosen, results, repeats, given.busy)
    text += f"Left when all was over: {', '.join(left) or 'nothing'}.\n"
    (out / (f"table-busy-{given.busy}.md" if given.busy else "table.md")).write_text(text)
    print(text)
    wanted = {one.name for one in chosen}
    return int(any(not result["passed"] for result in results if result["fault"] in wanted))  # slow is not wrong


def choose(only: str | None) -> list[Fault]:
    """Rows by number or function name, in the order of their numbers."""
    names = only.split(",") if only else []
    chosen = [one for one in FAULTS if not names or one.number in names or one.name in names]
    if not chosen:
        raise SystemExit(f"--only {only}: there are {', '.join(sorted({one.number for one in FAULTS}))}")
    return sorted(chosen, key=lambda one: (one.number[0], int(one.number[1:]), one.name))


def read(out: Path, busy: int) -> list[dict[str, Any]]:
    """What is done beside so many busy processes."""
    path = out / "results.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [result for result in results if result["busy"] == busy]


def say(one: Fault, result: dict[str, Any]) -> None:
    ended = f"recovered in {result['recovery']:.1f} s" if result["passed"] else f"FAILED: {result['problem'][:300]}"
    left = f", left: {', '.join(result['left'])}" if result["left"] else ""
    print(f"{one.number} {one.name} {result['repeat']}: {ended}, {result['seconds']:.1f} s in all{left}", flush=True)


def table(chosen: list[Fault], results: list[dict[str, Any]], repeats: dict[str, int], busy: int) -> str:
    """The results as Markdown."""
    lines = [
        "| | fault | repeats | passed | in time | worst recovery | allowed | left behind |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes = []
    for one in chosen:
        mine = [result for result in results if result["fault"] == one.name]
        passed = [result for result in mine if result["passed"]]
        worst = f"{max(result['recovery'] for result in passed):.1f} s" if passed else ""
        kinds = sorted({thing.split(":")[0].split(" ")[0] for result in mine for thing in result["left"]})
        left = ", ".join(f"{sum(t.startswith(kind) for r in mine for t in r['left'])} {kind}" for kind in kinds)
        count = f"{len(mine)}" if len(mine) >= repeats[one.name] else f"{len(mine)} of {repeats[one.name]}"
        in_time = sum(result["recovery"] <= one.within for result in passed)
        cells = [one.number, one.what, count, str(len(passed)), str(in_time), worst, f"{one.within:g} s"]
        cells.append(left or "nothing")
        lines.append(f"| {' | '.join(cells)} |")
        notes += [f"- {one.number} repeat {r['repeat']}: {r['problem'][:400]}" for r in mine if not r["passed"]]
    loads = [result["load"] for result in results] or [0.0]
    cores = f"{os.cpu_count()} cores, load average {min(loads):.0f} to {max(loads):.0f} meanwhile"
    cores += f", beside {busy} processes that never rest" if busy else ""
    return "\n".join([*lines, "", f"Times are of {cores}.", *notes]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
