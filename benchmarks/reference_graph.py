"""Which view and which neighbour graph order partitions of a set as its classes do.

    python -m benchmarks.reference_graph partition --data DIR --out graphs    # trains; sees no classes
    python -m benchmarks.reference_graph evaluate --data DIR --out graphs     # reads classes, over frozen partitions

A set is a NAME.npz with X and y under --data, at most --rows rows of it drawn at random; digits comes with
scikit-learn. Each is partitioned once by the methods and numbers of clusters of PARTITIONS, without classes, and the
labels are kept. `evaluate` builds every graph over every view and prints Spearman's correlation of the neighbour score
with NMI over the partitions of about the right number of clusters, and what is lost in NMI by the best-scored one,
among these and among all. It trains nothing, so a new graph is measured in a minute.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
from sklearn.datasets import load_digits
from sklearn.mixture import GaussianMixture

from raydc import DeepClustering
from raydc.clustering.metrics import graph
from raydc.clustering.metrics.external import contingency, nmi
from raydc.clustering.metrics.graph import NeighbourGraph
from raydc.clustering.views import USUAL, choose, views
from raydc.data import DataSettings, open_source, profile_rows, units

Labels = NDArray[np.int64]
Rows = NDArray[np.float32]
SHALLOW = ("kmeans", "mixture", "ward", "average", "spectral")
DEEP: dict[str, dict[str, Any]] = {
    "ae_kmeans": {"method.network.hidden": (128, 128), "method.pretrain.length": "400 steps"},
    "dec": {
        "method.network.hidden": (128, 128),
        "method.pretrain.length": "400 steps",
        "method.cluster.length": "200 steps",
    },
    "idec": {
        "method.network.hidden": (128, 128),
        "method.pretrain.length": "400 steps",
        "method.cluster.length": "200 steps",
    },
    "imsat": {"method.cluster.length": "300 steps"},
    "jule": {"method.cluster.length": "20 epochs"},
    "dac": {"method.cluster.length": "10 epochs"},
}
"""Short trainings: the order of partitions is what is asked about, not their best figure."""
SCALES = (1, 3, 5, 8, 15, 30)
RATIOS = (0.5, 0.75, 1.0, 1.4, 2.0)
"""Numbers of clusters over that of the classes for the shallow methods; the deep ones take 1."""


def sets(given: argparse.Namespace) -> Iterator[tuple[str, Rows, Labels]]:
    """Name, rows [n, D] and classes [n] of every set."""
    found = {path.stem: path for path in sorted(Path(given.data).glob("*.npz"))}
    for name in ("digits", *found):
        if given.sets and name not in given.sets:
            continue
        if name == "digits":
            x, y = load_digits(return_X_y=True)
        else:
            with np.load(found[name], allow_pickle=False) as file:
                x, y = file["X"], file["y"]
        chosen = np.sort(np.random.default_rng(0).permutation(len(y))[: given.rows])
        yield name, x[chosen].reshape(len(chosen), -1).astype(np.float32), np.unique(y[chosen], return_inverse=True)[1]


def shallow(name: str, rows: Rows, k: int) -> Labels:
    """Labels [n] of the rows in k clusters by one of SHALLOW."""
    estimators = {
        "kmeans": lambda: KMeans(k, n_init=3, random_state=0),
        "mixture": lambda: GaussianMixture(k, covariance_type="diag", reg_covar=1e-3, random_state=0),
        "ward": lambda: AgglomerativeClustering(k),
        "average": lambda: AgglomerativeClustering(k, linkage="average"),
        "spectral": lambda: SpectralClustering(k, affinity="nearest_neighbors", random_state=0),
    }
    return estimators[name]().fit_predict(rows).astype(np.int64)


def partition(given: argparse.Namespace) -> None:
    """Write the labels of every partition that is not there yet."""
    for name, rows, classes in sets(given):
        k = int(classes.max()) + 1
        folder = Path(given.out) / name
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [(method, max(2, round(ratio * k))) for method in SHALLOW for ratio in RATIOS]
        wanted += [(method, k) for method in DEEP]
        for method, n_clusters in wanted:
            path = folder / f"{method}-{n_clusters}.npy"
            if path.exists():
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    if method in SHALLOW:
                        labels = shallow(method, rows / rows.std(), n_clusters)
                    else:
                        labels = DeepClustering(method, n_clusters, DEEP[method]).fit(rows).labels_
                except ValueError as problem:
                    print(f"{name}: {method} left out: {problem}")
                    continue
            np.save(path, labels)
            print(f"{name}: {method} {n_clusters}", flush=True)


def graphs(rows: Rows, kept: NDArray[np.int64]) -> dict[str, list[NeighbourGraph]]:
    """Graphs by name over the kept of rows [n, D]; a score is the mean over a name's graphs."""
    near = graph.nearest(rows[kept], min(max(SCALES), len(kept) - 1))

    def built(k: int, mutual: bool) -> NeighbourGraph:
        found = graph.of_neighbours(near[:, :k], mutual)
        return NeighbourGraph(len(rows), kept[found.left], kept[found.right], kept)

    kinds = {f"{name} {k}": [built(k, name == "mutual")] for name in ("symmetric", "mutual") for k in SCALES}
    kinds |= {f"mean of {name}": [built(k, name == "mutual") for k in SCALES[1:5]] for name in ("symmetric", "mutual")}
    return kinds


def evaluate(given: argparse.Namespace) -> None:
    """The only part that reads classes: purity of the views, then rank correlation and loss of every graph."""
    lines: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
    for name, rows, classes in sets(given):
        k = int(classes.max()) + 1
        truth, about = {}, {}
        for path in sorted((Path(given.out) / name).glob("*.npy")):
            labels = np.load(path)
            truth[path.stem] = (labels, nmi(contingency(labels, classes, int(labels.max()) + 1, k)))
            about[path.stem] = 0.7 < (int(labels.max()) + 1) / k < 1.5
        if len(truth) < 5:
            continue
        with TemporaryDirectory() as scratch:
            np.save(f"{scratch}/rows.npy", rows)
            source = open_source(DataSettings(path=f"{scratch}/rows.npy"))
            scaled = units.reference(profile_rows(source, source.settings), source).apply(rows).numpy()
        kept = graph.distinct(rows)
        chosen = choose(scaled[kept], 0)
        print(
            f"{name}: K {k}, {len(kept)} of {len(rows)} rows, view {chosen.view.name}, skewness {chosen.skewness:.1f}"
        )
        purities = {}
        for view in (view for view in views(scaled[kept]) if view.name in (USUAL, "rows", chosen.view.name)):
            seen = view.apply(scaled)
            found = graphs(seen, kept)
            purities[view.name] = graph.agreement(classes, found["symmetric 15"][0])
            for kind, built in found.items():
                score = {
                    n: float(np.mean([graph.neighbour_score(own, g) for g in built])) for n, (own, _) in truth.items()
                }
                line = []
                for among in ([n for n in truth if about[n]], [*truth]):
                    said, true = [score[n] for n in among], [truth[n][1] for n in among]
                    line += [float(stats.spearmanr(said, true).statistic), max(true) - true[int(np.argmax(said))]]
                lines.setdefault((view.name, kind, name), []).append(tuple(line))
                if view.name == chosen.view.name:
                    lines.setdefault(("chosen", kind, name), []).append(tuple(line))
        print("   modularity: " + ", ".join(f"{n} {q:.3f}" for n, q in chosen.modularity.items()))
        print("   edges within a class: " + ", ".join(f"{n} {share:.3f}" for n, share in purities.items()))
    names = list(dict.fromkeys(name for _, _, name in lines))
    print(f"\nmean over {len(names)} sets of rho and loss where K is about right, and for all K; loss of the worst set")
    for view in (USUAL, "rows", "chosen"):
        for kind in dict.fromkeys(kind for _, kind, _ in lines):
            own = np.array([lines[view, kind, name][0] for name in names])
            mean = " ".join(f"{value:.3f}" for value in own.mean(axis=0))
            print(
                f"{view:20s} {kind:18s} {mean} {own[:, 1].max():.3f} | {' '.join(f'{rho:5.2f}' for rho in own[:, 0])}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("partition", "evaluate"))
    parser.add_argument("--data", required=True, help="folder of NAME.npz files with X and y")
    parser.add_argument("--out", required=True, help="where partitions are kept")
    parser.add_argument("--rows", type=int, default=2000, help="rows of a set at most")
    parser.add_argument("--sets", nargs="*", default=(), help="sets to take; all by default")
    given = parser.parse_args()
    {"partition": partition, "evaluate": evaluate}[given.what](given)


if __name__ == "__main__":
    main()
