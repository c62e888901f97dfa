"""What a trial costs beside its training: raydc's trials, and the same trainings as a TorchTrainer in each Tune trial.

    python -m benchmarks.search_overhead --trials 12 --nested 3 --out overhead

Both train the same small configurations on scikit-learn's digits, one at a time. A trial's overhead is the time from
the end of the trial before it to its own end, less the seconds of its training. The first trial of each kind, which
starts processes, is shown apart. OUT/overhead.json holds every figure.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from raydc.distributed.ray_cluster import connected
from raydc.search import SearchState, SearchWatch, TuneSettings, tune

FIXED = {
    "method.network.hidden": (64, 64),
    "method.pretrain.length": "10 epochs",
    "method.cluster.length": "10 epochs",
    "method.restarts": 3,
}
SPACE = """
def space(trial):
    trial.suggest_float("method.nu", 0.5, 2.0)
    return {"method.name": "dec"}
"""


def ours(trials: int, out: Path) -> list[dict[str, float]]:
    """Wall and training seconds of each of raydc's trials, in order."""
    space = out / "space.py"
    space.write_text(SPACE)
    ends: dict[int, float] = {}

    def watch(state: SearchState) -> None:
        for record in state.records:
            ends.setdefault(record.number, time.perf_counter())

    settings = TuneSettings.model_validate(
        {
            "data": {"path": "digits"},
            "space": str(space),
            "trials": trials,
            "fixed": FIXED,
            "concurrent": 1,
            "replicas": 1,
            "early_stopping": False,
            "out": str(out / "search"),
        }
    )
    began = time.perf_counter()
    summary = tune(settings, SearchWatch(watch))
    times = {entry["number"]: entry["seconds"] for entry in summary["trials"]}
    return _lines(began, [(ends[number], times[number]) for number in sorted(times)])


def nested(trials: int, out: Path) -> list[dict[str, float]]:
    """The same trainings, each by a TorchTrainer of one worker inside a Tune trial."""
    from ray import train, tune
    from ray.train.torch import TorchTrainer

    def loop(config: dict[str, Any]) -> None:
        import torch

        from raydc.core.settings import unflatten
        from raydc.core.storage import Store
        from raydc.training.config import RunConfig
        from raydc.training.worker_job import prepare, work

        torch.set_num_threads(1)
        folder = f"{config['out']}/{config['number']}"
        flat = {key: value for key, value in FIXED.items() if key != "method.restarts"}
        flat |= {"method.name": "dec", "method.nu": config["nu"], "data.path": "digits", "output.out": folder}
        job = prepare(RunConfig.of(unflatten(flat)))
        began = time.perf_counter()
        work(job, store=Store(folder))
        Path(folder, "seconds.txt").write_text(str(time.perf_counter() - began))

    def trial(config: dict[str, Any]) -> None:
        TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=train.ScalingConfig(num_workers=1),
            run_config=train.RunConfig(name=f"run-{config['number']}", storage_path=config["out"]),
        ).fit()

    ends: list[float] = []

    class Clock(tune.Callback):
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            ends.append(time.perf_counter())

    folder = str((out / "nested").absolute())
    space = {"number": tune.grid_search([*range(trials)]), "nu": 1.0, "out": folder}
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        tune.Tuner(
            tune.with_resources(trial, {"CPU": 0.01}),
            param_space=space,
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0, callbacks=[Clock()]),
        ).fit()
    times = [float(Path(folder, str(number), "seconds.txt").read_text()) for number in range(trials)]
    return _lines(began, list(zip(ends, times, strict=True)))


def _lines(began: float, ended: list[tuple[float, float]]) -> list[dict[str, float]]:
    lines, before = [], began
    for end, training in ended:
        lines.append({"wall": end - before, "training": training, "overhead": end - before - training})
        before = end
    return lines


def describe(name: str, lines: list[dict[str, float]]) -> dict[str, float]:
    later = lines[1:]
    found = {
        "trials": len(lines),
        "first trial's overhead": lines[0]["overhead"],
        "median overhead": statistics.median(line["overhead"] for line in later),
        "trials an hour": 3600 * len(later) / sum(line["wall"] for line in later),
    }
    print(name + ": " + ", ".join(f"{key} {value:.3g}" for key, value in found.items()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12, help="suggested trials of raydc, beside four baselines [12]")
    parser.add_argument("--nested", type=int, default=3, help="trials of TorchTrainer in Tune, two at least [3]")
    parser.add_argument("--out", default="overhead", help="an empty directory [overhead]")
    given = parser.parse_args()
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    out = Path(given.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    with connected(2):
        lines = {"raydc": ours(given.trials, out), "TorchTrainer in Tune": nested(max(given.nested, 2), out)}
    found = {name: describe(name, part) for name, part in lines.items()}
    (out / "overhead.json").write_text(json.dumps({"summary": found, "trials": lines}, indent=1))


if __name__ == "__main__":
    main()
