"""The whole way on scikit-learn's digits: rows in, a tuned and registered clustering model out, new rows assigned.

On 80 % of the rows, DEC is trained with two data-parallel workers and registered; then IMSAT, which needs no
pretraining and so trains in seconds, is tuned without labels in 12 trials (and those that every search adds), and the
winner becomes champion. Both models assign the other 20 %. It ends with a table that compares them with shallow
methods, with how right the winner is where it is sure, and with what the search says. Labels are read by the final
scores alone.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from raydc.cli.main import main as raydc
from raydc.clustering.metrics import external

CLUSTERS = 10
SHORT = ("method.pretrain.length=40",)
"""Of the autoencoder that every search compares with."""


def write_rows(folder: Path) -> tuple[Path, Path]:
    """Digits as Parquet, 80 % and 20 % of the rows at random: image [64], id, y."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    cut, paths = int(0.8 * len(x)), (folder / "train.parquet", folder / "new.parquet")
    for path, rows in zip(paths, (order[:cut], order[cut:]), strict=True):
        images = pa.FixedSizeListArray.from_arrays(pa.array(x[rows].astype(np.float32).ravel()), 64)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": images, "id": rows, "y": y[rows]}), path, row_group_size=256)
    return paths


def read(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x [N, 64], ids [N], y [N]."""
    table = pq.read_table(path)
    x = table["image"].combine_chunks().flatten().to_numpy().reshape(-1, 64)
    return x, table["id"].to_numpy(), table["y"].to_numpy()


def assigned(folder: Path, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clusters that a command wrote, in the order of `ids`, and the agreement of replicas on them."""
    table = pq.read_table([str(part) for part in sorted(folder.glob("part-*.parquet"))])
    order = np.argsort(table["id"].to_numpy())[np.argsort(np.argsort(ids))]
    return table["cluster"].to_numpy()[order], table["agreement"].to_numpy()[order]


def scores(labels: np.ndarray, y: np.ndarray) -> list[str]:
    table = external.contingency(labels, y, CLUSTERS, 10)
    return [f"{score(table):.3f}" for score in (external.accuracy, external.nmi, external.ari)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, help="directory for everything")
    parser.add_argument(
        "--epochs", type=int, default=60, help="epochs of clustering, and half of those of pretraining [60]"
    )
    parser.add_argument("--trials", type=int, default=12, help="trials of the search, beside its baselines [12]")
    given = parser.parse_args()
    out, started = Path(given.out).absolute(), time.time()
    train_path, new_path = write_rows(out / "data")
    store = f"sqlite:///{out}/mlflow.db"
    common = ["--n-clusters", str(CLUSTERS), "--register", "digits", "--tracking-uri", store]
    common += ["--data", str(train_path), "--label-column", "y", "--id-column", "id", "--data.shape", "8,8"]
    lengths = [f"--method.pretrain.length={2 * given.epochs}", f"--method.cluster.length={given.epochs}"]
    short = [word for setting in SHORT for word in ("--set", setting)]
    search = ["--space", "imsat", "--trials", str(given.trials), "--promote", "true", *short]
    rows = ["--data", str(new_path), "--id-column", "id", "--tracking-uri", store]
    commands = [
        ["train", "--method", "dec", "--workers", "2", "--out", str(out / "run"), *lengths, *common],
        ["tune", "--out", str(out / "search"), *search, *common],
        ["assign", "--model", "models:/digits/1", "--out", str(out / "new-run"), *rows],
        ["assign", "--model", "models:/digits@champion", "--out", str(out / "new"), *rows],
    ]
    for command in commands:
        code = raydc(command)
        if code:
            return code
    found = json.loads((out / "search" / "search.json").read_text())
    winner = found["winner"]
    (x, ids, y), (new_x, new_ids, new_y) = read(train_path), read(new_path)
    table = Table(title=f"digits: {len(y)} rows trained on, {len(new_y)} new")
    for column in ("method", "ACC", "NMI", "ARI", "new ACC", "new NMI", "new ARI"):
        table.add_column(column, justify="left" if column == "method" else "right")
    models = {"raydc train: dec": ("run", "new-run"), f"raydc tune: {winner['method']}": ("search", "new")}
    for name, (trained, folder) in models.items():
        ours, new = assigned(out / trained / "assignments", ids), assigned(out / folder, new_ids)
        table.add_row(name, *scores(ours[0], y), *scores(new[0], new_y))
    sure, new_sure = ours[1] == 1, new[1] == 1  # all replicas of the search's choice agree
    name = f"  sure ({sure.mean():.0%}, {new_sure.mean():.0%})"
    table.add_row(name, *scores(ours[0][sure], y[sure]), *scores(new[0][new_sure], new_y[new_sure]))
    kmeans = KMeans(CLUSTERS, n_init=20, random_state=0).fit(x)
    ward = AgglomerativeClustering(CLUSTERS).fit_predict(x)
    table.add_row("k-means", *scores(kmeans.labels_, y), *scores(kmeans.predict(new_x), new_y))
    nearest = KNeighborsClassifier(1).fit(x, ward).predict(new_x)
    table.add_row("Ward (new: as nearest)", *scores(ward, y), *scores(nearest, new_y))
    console = Console()
    console.print(table)
    for note in (f"trial {winner['number']} ({winner['method']}) is the best that can be registered", *found["notes"]):
        console.print(f"the search says: {note}", highlight=False)
    console.print(f"MLflow store: {store}", soft_wrap=True)
    for part in ("run", "search"):
        console.print(f"report: {out / part / 'report' / 'index.html'}", soft_wrap=True)
    console.print(f"assignments: {out / 'run' / 'assignments'}, {out / 'new'}", soft_wrap=True)
    console.print(f"{time.time() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
