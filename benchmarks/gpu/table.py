"""Rows that are done once each, and the table of what they found."""

import hashlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import answers, speed, workers
from benchmarks.gpu.row import LeftOut, Row

MODULES = {"methods": answers.METHODS, "kmeans": answers.KMEANS, "workers": workers.ROWS, "speed": speed.ROWS}
RIGHT = ("same", "measured", "left out")
UNAVAILABLE, TRY_AGAIN = 69, 75


def run(out: Path, device: str, budget: float, only: str | None, again: bool) -> int:
    """Do the rows that are not in `out` yet; the exit code."""
    if device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no GPU here; --device cpu tries the same rows without", file=sys.stderr)
        return UNAVAILABLE
    torch.set_num_threads(1)
    chosen = choose(only)
    results = read(out, about(device))
    if again:
        results = {name: result for name, result in results.items() if result["is"] in RIGHT}
    began = time.monotonic()
    for row in chosen:
        if row.name in results:
            continue
        if time.monotonic() - began > budget:
            break
        results[row.name] = result = do(row, device)
        write(out, about(device), results)
        print(f"{row.name}: {result['is']}, {shown(result['found'])} ({result['seconds']:.1f} s)", flush=True)
        if result["lost"]:  # a fault in a kernel: nothing works on the device in this process any more
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:]])
    mine = [results[row.name] for row in chosen if row.name in results]
    if len(mine) < len(chosen):
        print(f"{budget:g} s are over with {len(mine)} of {len(chosen)} rows done; the same command goes on")
        return TRY_AGAIN
    return int(any(result["is"] not in RIGHT for result in mine))


def choose(only: str | None) -> list[Row]:
    wanted = only.split(",") if only else [*MODULES]
    if unknown := [name for name in wanted if name not in MODULES]:
        raise SystemExit(f"--only {unknown[0]}: expected some of {', '.join(MODULES)}")
    return [row for name in wanted for row in MODULES[name]]


def do(row: Row, device: str) -> dict[str, Any]:
    """What became of a row: same, differs, measured (nothing is compared), failed or left out."""
    began = time.monotonic()
    result: dict[str, Any] = {"found": {}, "allowed": row.allowed}
    try:
        found = row.measure(device)
        wrong = row.beyond(found)
        result |= {
            "found": found,
            "is": f"differs: {', '.join(wrong)}" if wrong else "same" if row.allowed else "measured",
        }
    except LeftOut as reason:
        result |= {"is": "left out", "found": {"because": str(reason)}}
    except Exception as problem:
        traceback.print_exc()
        said = f"{type(problem).__name__}: {problem}".strip().splitlines()[0][:300]
        result |= {"is": "failed", "found": {"because": said}, "lost": "CUDA error" in str(problem)}
    return {"lost": False} | result | {"seconds": time.monotonic() - began}


def about(device: str) -> dict[str, Any]:
    """What results hold for: the device, torch, and the code."""
    digest = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted([*root.glob("raydc/**/*.py"), *root.glob("benchmarks/gpu/*.py")]):
        digest.update(path.read_bytes())
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"device": name, "torch": torch.__version__, "code": digest.hexdigest()[:12]}


def read(out: Path, expected: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Results by row. SystemExit where they are of another device, torch or code."""
    path = out / "gpu.json"
    if not path.exists():
        return {}
    kept: dict[str, Any] = json.loads(path.read_text())
    results: dict[str, dict[str, Any]] = kept.pop("rows")
    if kept != expected:
        raise SystemExit(f"{path} is of {kept}, this is {expected}: name another --out, or remove it")
    return results


def write(out: Path, facts: dict[str, Any], results: dict[str, dict[str, Any]]) -> None:
    """Both files, each whole or not there."""
    for name, text in {
        "gpu.json": json.dumps(facts | {"rows": results}, indent=1),
        "gpu.md": page(facts, results),
    }.items():
        fresh = out / f".{name}"
        fresh.write_text(text + "\n")
        fresh.replace(out / name)


def page(facts: dict[str, Any], results: dict[str, dict[str, Any]]) -> str:
    lines = ["| row | | found | allowed | s |", "| --- | --- | --- | --- | --- |"]
    for name, each in results.items():
        cells = [name, each["is"], shown(each["found"]), shown(each["allowed"]), f"{each['seconds']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    count = {
        kind: sum(each["is"].split(":")[0] == kind for each in results.values())
        for kind in (*RIGHT, "differs", "failed")
    }
    told = ", ".join(f"{many} {kind}" for kind, many in count.items() if many)
    told = f"{facts['device']}, torch {facts['torch']}, code {facts['code']}: {told}."
    return "\n".join([*lines, "", told])


def shown(found: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        return (
            f"{value:.3g}"
            if isinstance(value, float) and abs(value) < 1000
            else f"{value:,.0f}"
            if not isinstance(value, str)
            else value
        )

    return ", ".join(f"{name} {text(value)}" for name, value in found.items())
