"""How often `raydc watch` alarms: at rows like those trained on, and at planted changes.

    python -m benchmarks.drift --resamples 100 --models 4

Models are trained on some rows of a set, each on others. Unchanged rows come from those that a model never saw, in
disjoint parts, so that no two looks at a model have a row in common; an alarm there is a false one. Then one change
after another is planted into ten such parts. Rows are looked at as the command does, but in memory. No class is read.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from raydc.core.settings import unflatten
from raydc.data import DataSettings, open_frame
from raydc.data.faults import bad_cells
from raydc.data.source import Source, dense
from raydc.pipelines.counting import Counted
from raydc.pipelines.drift import Drift, compared, observed
from raydc.tracking import registry
from raydc.training.config import RunConfig
from raydc.training.model import TRUST, ClusteringModel
from raydc.training.trainer import check, train

Draw = np.random.Generator
Change = Callable[[pd.DataFrame, Draw, NDArray[np.int64]], pd.DataFrame]
Train = Callable[[pd.DataFrame, int], ClusteringModel]


def categories(draw: Draw, rows: int = 4000) -> pd.DataFrame:
    """Customers of four kinds: three columns of numbers, two of categories."""
    kind = draw.choice(4, rows, p=[0.4, 0.3, 0.2, 0.1])
    plans, regions = np.array(["basic", "plus", "pro", "free"]), np.array(["north", "south", "east", "west"])
    other = draw.random(rows) < 0.15
    return pd.DataFrame(
        {
            "income": draw.lognormal(np.array([10.0, 10.6, 11.2, 9.4])[kind], 0.25),
            "age": draw.normal(np.array([30.0, 45, 55, 22])[kind], 5),
            "visits": draw.poisson(np.array([2, 8, 15, 30])[kind]).astype(float),
            "plan": plans[np.where(other, draw.integers(4, size=rows), kind)],
            "region": regions[draw.integers(4, size=rows)],
        }
    )


class Rows(NamedTuple):
    """A set, and how many of its rows a model is trained on and a look has."""

    name: str
    n_clusters: int
    rows: pd.DataFrame
    trained: int
    look: int


def sets(folder: str | None) -> Iterator[Rows]:
    """Those of a folder take part where there is one."""
    yield Rows("digits", 10, pd.DataFrame(load_digits().data.astype(np.float32)).add_prefix("x"), 898, 224)
    if folder is not None:
        x = np.load(Path(folder, "pendigits.npz"))["X"]
        yield Rows("pendigits", 10, pd.DataFrame(x).add_prefix("x"), 5496, 549)
        x = np.load(Path(folder, "mnist.npz"))["X"].reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
        yield Rows("mnist, 14 x 14", 10, pd.DataFrame(x.astype(np.float32)).add_prefix("x"), 8000, 500)
    yield Rows("categories", 4, categories(np.random.default_rng(0), 60_000), 2000, 500)


def _numbers(rows: pd.DataFrame) -> list[str]:
    """Columns of numbers, those that vary most among their values first."""
    return sorted(rows.select_dtypes("number").columns, key=lambda name: -rows[name].nunique())


def shifted(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    name = _numbers(rows)[0]
    return rows.assign(**{name: rows[name] + rows[name].std()})


def scaled(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    name = _numbers(rows)[0]
    return rows.assign(**{name: rows[name].mean() + 2 * (rows[name] - rows[name].mean())})


def other_units(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    name = _numbers(rows)[0]
    return rows.assign(**{name: rows[name] * 1000})


def new_cluster(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    """A tenth of the rows lies where none was: around a corner of the numbers' ranges."""
    names, made = _numbers(rows), rows.copy()
    chosen = draw.permutation(len(rows))[: len(rows) // 10]
    corner = np.where(np.arange(len(names)) % 2, rows[names].min(), rows[names].max())
    values = corner + 0.3 * rows[names].std().to_numpy() * draw.normal(size=(len(chosen), len(names)))
    for at, name in enumerate(names):
        made[name] = made[name].astype(float)
        made.iloc[chosen, made.columns.get_loc(name)] = values[:, at]
    return made


def cluster_gone(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    ids, sizes = np.unique(clusters, return_counts=True)
    return rows[clusters != ids[sizes.argmin()]]


def shares_moved(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    """Of half of the clusters two rows in three are left out."""
    ids = np.unique(clusters)
    thin = np.isin(clusters, ids[: len(ids) // 2]) & (draw.random(len(rows)) < 2 / 3)
    return rows[~thin]


def nulls(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    """A value is missing in one row in ten."""
    name = _numbers(rows)[0]
    return rows.assign(**{name: rows[name].astype(float).mask(draw.random(len(rows)) < 0.1)})


def unseen_category(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    """In one row in twenty."""
    return rows.assign(plan=rows["plan"].mask(draw.random(len(rows)) < 0.05, "trial"))


def noise(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    """One row in ten has any values between the smallest and the largest."""
    made, some = rows.copy(), draw.random(len(rows)) < 0.1
    for name in _numbers(rows):
        any_values = draw.uniform(rows[name].min(), rows[name].max(), len(rows))
        made[name] = rows[name].astype(float).mask(some, any_values)
    return made


def duplicates(rows: pd.DataFrame, draw: Draw, clusters: NDArray[np.int64]) -> pd.DataFrame:
    """One row in five comes again."""
    return pd.concat([rows, rows.iloc[draw.permutation(len(rows))[: len(rows) // 5]]])


CHANGES: tuple[Change, ...] = (
    shifted, scaled, other_units, new_cluster, cluster_gone, shares_moved, nulls, unseen_category, noise, duplicates
)  # fmt: skip


def looked_at(model: ClusteringModel, rows: pd.DataFrame) -> Drift:
    """The rows, compared with those that the model was trained on."""
    source = _opened(model, rows)
    tables, counts = [], []
    for piece in source.pieces:
        block = source.read(piece)
        bad = bad_cells(block)
        found = model.assign(dense(block.x if bad is None else block.x[~bad.any(axis=1)]))
        tables.append(pa.table({"cluster": found.clusters, **{name: getattr(found, name) for name in TRUST}}))
        counts.append(Counted.of(model, block, bad, found))
    return compared(model, observed(model, tables, counts))


def _opened(model: ClusteringModel, rows: pd.DataFrame) -> Source:
    settings = DataSettings(path="memory", columns=tuple(rows.columns), on_bad_row="drop")
    return open_frame(rows, settings.with_encoding(model.encoding))


def trained(rows: pd.DataFrame, n_clusters: int, method: str, out: Path, settings: dict[str, Any]) -> ClusteringModel:
    """A model of these rows, as the command trains it, but for its record and report."""
    rows.to_parquet(path := f"{out}.parquet")
    flat = {"method.name": method, "method.n_clusters": n_clusters, "data.path": path, "training.workers": 0}
    train(check(RunConfig.of(unflatten({**flat, "output.out": str(out), **settings}))))
    return registry.load(str(out))


def looks(of: Rows, models: int, many: int, train_on: Train) -> Iterator[tuple[ClusteringModel, pd.DataFrame]]:
    """So many parts of rows, each with a model that saw none of them: as many of each of the models, or fewer."""
    parts = min(-(-many // models), (len(of.rows) - of.trained) // of.look)
    for at in range(many):
        number, part = divmod(at, parts)
        if not part:
            order = np.random.default_rng(number).permutation(len(of.rows))
            model = train_on(of.rows.iloc[order[: of.trained]], number)
        start = of.trained + part * of.look
        yield model, of.rows.iloc[order[start : start + of.look]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="kmeans")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the training")
    parser.add_argument("--data", help="folder of pendigits.npz and mnist.npz")
    parser.add_argument("--sets", help="their names, with commas; else all")
    parser.add_argument("--out", required=True, help="folder for the runs")
    parser.add_argument("--resamples", type=int, default=100)
    parser.add_argument("--models", type=int, default=4, help="at least; more where a set has too few rows [4]")
    given: Any = parser.parse_args()
    settings = dict(each.split("=", 1) for each in given.set)
    for at, of in enumerate(sets(given.data)):
        if given.sets is not None and of.name not in given.sets.split(","):
            continue
        folder = Path(given.out, f"{at}-{given.method}")
        folder.mkdir(parents=True, exist_ok=True)

        def train_on(rows: pd.DataFrame, number: int, of: Rows = of, folder: Path = folder) -> ClusteringModel:
            return trained(rows, of.n_clusters, given.method, folder / str(number), settings)

        taken = list(looks(of, given.models, given.resamples, train_on))
        false = [look for look in (looked_at(model, rows) for model, rows in taken) if look.drifted]
        why = sorted({f"{check.kind} {check.name}".strip() for look in false for check in look.drifted})
        models = len({id(model) for model, _ in taken})
        print(
            f"{of.name}, {given.method}, {models} models: false alarms {len(false)} of {len(taken)} {why}", flush=True
        )
        draw = np.random.default_rng(1)
        for change in CHANGES:
            if change is unseen_category and "plan" not in of.rows:
                continue
            found = []
            for model, plain in taken[:: max(1, len(taken) // 10)][:10]:
                source = _opened(model, plain)
                clusters = np.concatenate([model.predict(dense(source.read(piece).x)) for piece in source.pieces])
                found.append(looked_at(model, change(plain, draw, clusters)))
            kinds = [check.kind for look in found for check in look.drifted]
            first = ", ".join(dict.fromkeys(sorted(kinds, key=lambda kind: -kinds.count(kind))))
            print(
                f"  {change.__name__}: {sum(bool(look.drifted) for look in found)} of {len(found)}: {first}", flush=True
            )


if __name__ == "__main__":
    main()
