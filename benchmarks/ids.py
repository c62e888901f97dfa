"""Whose rows keep their cluster's id when a model is trained anew, ten times in a row, each time with more rows.

    python -m benchmarks.ids --data DIR --out ids

A model is trained on half of a set; then again and again with another seed and as many new rows as a tenth of that
half, each time with the ids of the model before, as `--align-to` does it. Told of each step, over the rows that both
models were trained on: rows whose id stays; rows whose cluster stays, which is the most that any renaming of clusters
could keep (one to one, with the largest number of rows in common); and rows that would keep their number without
alignment. The last column are the first half's rows that have after the last step the id that they had at first. No
class is read.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits

from benchmarks.drift import categories
from raydc.core.settings import unflatten
from raydc.pipelines import follow
from raydc.pipelines.assign import read
from raydc.tracking import registry
from raydc.training.config import RunConfig
from raydc.training.model import ClusteringModel
from raydc.training.trainer import begin, check, train

STEPS = 10
Labels = NDArray[np.int64]


def sets(folder: str | None) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Name, number of clusters, rows in an order of chance."""
    draw = np.random.default_rng(0)
    found = [("digits", 10, pd.DataFrame(load_digits().data.astype(np.float32)).add_prefix("x"))]
    for name, n_clusters in (("pendigits", 10), ("coil20", 20)) if folder is not None else ():
        x = np.load(Path(str(folder), f"{name}.npz"))["X"]
        found.append((name, n_clusters, pd.DataFrame(x.reshape(len(x), -1)).add_prefix("x")))
    found.append(("categories", 6, categories(np.random.default_rng(0))))
    for name, n_clusters, rows in found:
        yield name, n_clusters, rows.iloc[draw.permutation(len(rows))]


def table(before: Labels, after: Labels) -> NDArray[np.int64]:
    """Rows [ids before, ids after]."""
    found = np.zeros((before.max() + 1, after.max() + 1), np.int64)
    np.add.at(found, (before, after), 1)
    return found


def could_stay(before: Labels, after: Labels) -> float:
    """Share of rows that the best renaming keeps."""
    both = table(before, after)
    return float(both[linear_sum_assignment(both, maximize=True)].sum() / len(before))


def trained(rows: pd.DataFrame, n_clusters: int, method: str, out: Path, settings: dict[str, Any]) -> Labels:
    """Ids of the rows, of a model that keeps those of the one before, where there is one: as the command trains it, but
    for its record and report.
    """
    rows.to_parquet(path := f"{out}.parquet")
    flat = {"method.name": method, "method.n_clusters": n_clusters, "data.path": path, "training.workers": 0}
    run = check(RunConfig.of(unflatten({**flat, "output.out": str(out), **settings})))
    if not run.finished:
        begin(run)
        before = out.with_name(str(int(out.name) - 1))
        follow.keep((registry.load(str(before)), before.name) if before.exists() else None, run.store)
    train(run)
    return np.concatenate([part["cluster"].to_numpy() for part in read(f"{out}/assignments")])


def own_numbers(out: Path, ids: Labels) -> Labels:
    """The method's own numbers of clusters, behind ids."""
    given = np.array(ClusteringModel.load(out / "model").labels.given)
    order = given.argsort()
    found: Labels = order[np.searchsorted(given, ids, sorter=order)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="kmeans")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the training")
    parser.add_argument("--data", help="folder of pendigits.npz and coil20.npz")
    parser.add_argument("--sets", help="their names, with commas; else all")
    parser.add_argument("--out", required=True, help="folder for the runs")
    given: Any = parser.parse_args()
    print("| set | id stays | cluster stays | number stays | clusters kept | since the first |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, n_clusters, rows in sets(given.data):
        if given.sets is not None and name not in given.sets.split(","):
            continue
        folder = Path(given.out, f"{name}-{given.method}")
        folder.mkdir(parents=True, exist_ok=True)
        half, settings = len(rows) // 2, dict(each.split("=", 1) for each in given.set)
        ids = first = trained(rows.iloc[:half], n_clusters, given.method, folder / "0", settings)
        shares, kept = [], 0
        for step in range(1, STEPS + 1):
            some = rows.iloc[: half + step * half // STEPS]
            seeded = settings | {"training.seed": step}
            after = trained(some, n_clusters, given.method, folder / str(step), seeded)
            now, numbers = after[: len(ids)], own_numbers(folder / str(step), after)[: len(ids)]
            before = own_numbers(folder / str(step - 1), ids)
            shares.append(((now == ids).mean(), could_stay(ids, now), (numbers == before).mean()))
            kept += len(np.intersect1d(ids, after))
            ids = after
        told = [f"{100 * mean:.1f} ± {100 * spread:.1f}" for mean, spread in zip(*_over(shares), strict=True)]
        last = f"{100 * (ids[:half] == first).mean():.1f}"
        print(f"| {name}, {given.method} | {' | '.join(told)} | {kept} of {STEPS * n_clusters} | {last} |", flush=True)


def _over(shares: list[tuple[Any, ...]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column."""
    return np.mean(shares, axis=0), np.std(shares, axis=0)


if __name__ == "__main__":
    main()
