"""What protection costs: steps a second of a run with checkpoints and outbox, and without, taken in turns.

`python -m benchmarks.protection --rows 20000 --repeats 7`: CPU seconds of the process, on made-up rows.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from raydc.core.settings import unflatten
from raydc.core.storage import Store
from raydc.data import ArraySource, DataSettings
from raydc.tracking.tracker import Tracker
from raydc.training.config import RunConfig
from raydc.training.loop import Progress
from raydc.training.worker_job import in_process, prepare


def measure(folder: Path, source: ArraySource, epochs: int, checkpoint_every: float, protected: bool) -> float:
    """CPU milliseconds a step of DEC, its network (500, 500, 2000, 10)."""
    flat = {
        "method.name": "dec", "method.n_clusters": 10,
        "method.pretrain.length": f"{epochs} epochs", "method.cluster.length": f"{epochs} epochs",
        "method.cluster.tolerance": 0.0, "data.path": "made up", "training.workers": 0, "output.out": str(folder),
        "training.checkpoint_every": checkpoint_every,
    }  # fmt: skip
    job = prepare(RunConfig.of(unflatten(flat)), source)
    tracker = Tracker(folder, f"sqlite:///{folder.parent}/mlflow.db")
    steps = 0

    def hear(progress: Progress) -> bool:
        nonlocal steps
        steps = progress.step
        if protected:
            tracker.log([progress])
        return False

    if protected:
        tracker.start("protection", "x", folder.name, {})
    began = time.process_time()
    in_process(job, Store(folder) if protected else None, hear)
    spent = time.process_time() - began
    if protected:
        tracker.finish()
    return 1000 * spent / steps


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.protection", description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=784)
    parser.add_argument("--epochs", type=int, default=4, help="of pretraining, and again of clustering [4]")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two checkpoints [60, the default]")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    x = np.random.default_rng(0).normal(size=(given.rows, given.features)).astype(np.float32)
    source = ArraySource(x, None, settings=DataSettings(path="made up"))
    times: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory(prefix="raydc-") as scratch:
        for repeat in range(given.repeats + 1):  # the first one makes MLflow's database and warms up
            for protected in (repeat % 2 == 0, repeat % 2 == 1):
                folder = Path(scratch, f"{repeat}-{protected}")
                spent = measure(folder, source, given.epochs, given.every, protected)
                if repeat:
                    times[protected].append(spent)
    off, on = median(times[False]), median(times[True])
    ratios = sorted(b / a - 1 for a, b in zip(times[False], times[True], strict=True))
    print(f"{given.rows:,} rows x {given.features}, a checkpoint every {given.every:g} s, {given.repeats} repeats")
    print("| protection | CPU-ms a step | steps a CPU-second |\n| --- | --- | --- |")
    print(f"| off | {off:.2f} | {1000 / off:.1f} |\n| checkpoints and outbox | {on:.2f} | {1000 / on:.1f} |")
    print(f"overhead {median(ratios):+.1%} (median of pairs; {ratios[0]:+.1%} to {ratios[-1]:+.1%})")


if __name__ == "__main__":
    main()
