"""Whether the same search returns the same kind of answer: over search seeds, rounding, and processes.

    python -m benchmarks.steadiness --out steadiness              # ten seeds, noise of 1e-6, one and two processes
    python -m benchmarks.steadiness --out steadiness --seeds 3 --trials 2

Digits, K given. Each search sees rows alone; classes are read when it has ended. Beside what is returned stands the
standard deviation of the same scores over the winner's own trainings: searches that differ by no more than that agree.
Finished searches are not repeated.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from raydc.clustering.metrics.external import accuracy, contingency, nmi
from raydc.search import TuneSettings, tune
from raydc.search.evaluation import prepare
from raydc.search.trial import Record, read_array

NOISE = 1e-6
"""Standard deviation of what is added to every value, of digits from 0 to 16: what rounding may do elsewhere."""


class Variant(NamedTuple):
    name: str
    seed: int = 0
    noise: bool = False
    concurrent: int = 0


def variants(seeds: int) -> list[Variant]:
    """Seeds in this process; then seed 0 with noisy rows, and by one and two processes."""
    others = [Variant("noise", noise=True), Variant("one process", concurrent=1), Variant("two", concurrent=2)]
    return [*(Variant(f"seed {seed}", seed) for seed in range(seeds)), *others]


def returned(variant: Variant, given: argparse.Namespace) -> dict[str, Any]:
    """What one search returns, with its scores and those of its winner's trainings."""
    out = Path(given.out).absolute()
    x, y = load_digits(return_X_y=True)
    if variant.noise:
        x = x + NOISE * np.random.default_rng(0).standard_normal(x.shape)
    rows = out / f"rows{'-noise' * variant.noise}.npy"
    out.mkdir(parents=True, exist_ok=True)
    if not rows.exists():
        np.save(rows, x.astype(np.float64))
    settings = TuneSettings.model_validate(
        {
            "data": {"path": str(rows)},
            "space": given.space,
            "n_clusters": 10,
            "trials": given.trials,
            "fixed": dict(pair.split("=", 1) for pair in given.set),
            "concurrent": variant.concurrent,
            "seed": variant.seed,
            "out": str(out / variant.name.replace(" ", "-")),
        }
    )
    summary = tune(settings)
    winner, context = summary["winner"], prepare(settings)
    trainings = [Record.read(context.store, winner["number"], replica) for replica in range(settings.replicas + 1)]
    labels = {r.replica: read_array(context.store, f"{r.folder}/labels.npy") for r in trainings if r is not None}
    each = {replica: scored(own, y[context.numbers]) for replica, own in labels.items() if own is not None}
    spread = np.std([*each.values()], axis=0, ddof=1).tolist() if len(each) > 1 else [0.0, 0.0]
    return {"name": variant.name, "method": winner["method"], "scores": each[winner["replica"]], "spread": spread}


def scored(labels: NDArray[Any], classes: NDArray[np.int64]) -> tuple[float, float]:
    """ACC and NMI."""
    table = contingency(labels.astype(np.int64), classes, int(labels.max()) + 1, 10)
    return accuracy(table), nmi(table)


def table(found: Sequence[dict[str, Any]]) -> str:
    """What each search returned, and how far seeds and the others lie apart."""
    lines = ["| search | returned | ACC | NMI | ACC, NMI over its trainings |", "| --- | --- | --- | --- | --- |"]
    for one in found:
        acc, score = one["scores"]
        lines.append(
            f"| {one['name']} | {one['method']} | {acc:.3f} | {score:.3f} | "
            f"± {one['spread'][0]:.3f}, ± {one['spread'][1]:.3f} |"
        )
    values = np.array([one["scores"] for one in found])
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(2)
    own = np.mean([one["spread"] for one in found], axis=0)
    lines += [
        "",
        f"over {len(found)} searches: ACC {values[:, 0].mean():.3f} ± {spread[0]:.3f}, NMI {values[:, 1].mean():.3f} ± "
        f"{spread[1]:.3f}; over one winner's trainings ± {own[0]:.3f}, ± {own[1]:.3f}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="where searches are kept")
    parser.add_argument("--space", default="imsat", help="search space [imsat]")
    parser.add_argument("--trials", type=int, default=6, help="trials beside the baselines [6]")
    parser.add_argument("--seeds", type=int, default=10, help="search seeds [10]")
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE", help="fixed settings")
    given = parser.parse_args(arguments)
    found = []
    for variant in variants(given.seeds):
        found.append(returned(variant, given))
        print(table(found[-1:]).split("\n")[2], flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
