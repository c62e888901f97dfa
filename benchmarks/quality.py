"""How well methods cluster rows whose classes are known: last iterates, mean and spread over seeds, honestly.

    python -m benchmarks.quality --data digits --methods kmeans,ae_kmeans,dec,idec --seeds 3 --out quality/digits

Every (method, seed) goes on from its last checkpoint when the same command is given again. Within a seed, methods with
the same network, scaling and pretraining start from the same pretrained autoencoder; seeds share nothing. Classes
give K, unless it is given, and the final scores, and nothing else. Results so far are in OUT/table.md after every run.
"""

import argparse
import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from sklearn.cluster import AgglomerativeClustering, KMeans, SpectralClustering
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from raydc import methods
from raydc.clustering.metrics.external import accuracy, ari, contingency, nmi
from raydc.core.settings import SettingsError, fields, unflatten
from raydc.core.storage import Store
from raydc.data import ArraySource, DataSettings, Source, open_source
from raydc.methods.base import AutoencoderMethod
from raydc.training.config import RunConfig
from raydc.training.loop import Progress
from raydc.training.worker_job import Job, in_process, prepare

console = Console(width=180)
SUBSAMPLE = 15_000
"""Rows that Ward and spectral clustering take at most; the others get the cluster of their nearest neighbour."""

PUBLISHED = {
    "mnist": {
        "kmeans": "53.2-53.5 / 50-53 / - [P]",
        "ae_kmeans": "81.8 [P]; 88 / 81 [C]",
        "dec": "84.3 [P]; 91 / 87 [C]",
        "idec": "88.1 / 86.7 [P]",
        "dbc": "96.4 / 91.7 [S]",
        "dcn": "83 / 81 / 75 [P]",
        "aljalbout": "96.1 / 92.3 [S]; 85.9 / 82.5 [C]",
        "vade": "94.5 [P]",
        "imsat": "98.4 [P]",
        "rim": "59.6 [P]",
        "depict": "96.5 / 91.7 [P]",
        "infogan": "95 [P]",
        "dac": "97.8 / 93.5 / 94.9 [P]; 98.1 [C]",
        "jule": "96.4 / 91.3 [P]; test part 96.1 / 91.5 [P]",
        "dcc": "96.2 [P]",
        "gmvae": "82.3 with K = 10, 92.8 with K = 30 [T], many to one",
        "dac_h": "94.1, consensus of runs 96.5 [T]",
        "catgan": "90.3 with K = 20 [T], many to one",
        "iec": "60.9 / 54.2 [T]",
    },
    "coil20": {
        "kmeans": "59.7 / 73.5 [T]",
        "ae_kmeans": "73.9 / 82.8 [C]",
        "dbc": "79.3 / 89.5 [S]",
        "aljalbout": "76.2 / 84.8 [S, C]",
        "dsc": "94.9 [P]",
        "jule": "- / 100.0 [P], images of 128 x 128",
    },
    "pendigits": {"dcn": "72 / 69 [P]"},
}
"""ACC / NMI / ARI in % by the data's file name and method."""
SOURCES = (
    "Published: [P] the method's paper, quoted from memory; [C] README of its authors' or a well-known code; "
    "[S] profile of Aljalbout et al. 2018; [T] a third party's table. Networks, inputs and recipes differ from ours."
)


@dataclass
class Result:
    """One finished clustering."""

    name: str
    seed: int
    acc: float
    nmi: float
    ari: float
    found: int
    """Clusters that hold rows."""
    cpu: float
    """CPU-seconds of its own, over all attempts."""
    wall: float
    shared_cpu: float = 0.0
    """CPU-seconds of the pretraining that it started from."""
    key: str = ""
    """Of the job that it came from."""
    epochs: dict[str, int] = field(default_factory=dict)
    """Epochs by phase."""


class Study:
    """Runs of several methods and seeds on the same rows, kept under one directory."""

    def __init__(self, source: Source, settings: dict[str, Any], recipe: str, k: int | None, out: str) -> None:
        """`settings` are dotted and apply to every method that has them; k None stands for the number of classes."""
        labels = source.labels()
        if labels is None:
            raise SystemExit("the rows have no known classes (y), so nothing can be scored")
        self.source, self.settings, self.recipe = source, settings, recipe
        self.store = Store(out)
        names, self.classes = np.unique(labels, return_inverse=True)
        self.k = len(names) if k is None else k
        self.results: list[Result] = []
        self.stopped = False

    def config(self, name: str, seed: int, extra: dict[str, Any] | None = None) -> RunConfig:
        """The run of a method: the settings that it has, and `extra`."""
        kind = methods.load(name).Config
        known = {path for path, _ in fields(kind, "method")}
        flat = {"data.path": self.source.settings.path, "output.out": self.store.root, "training.workers": 0}
        flat |= {key: value for key, value in self.settings.items() if not key.startswith("method.") or key in known}
        flat |= {"method.name": name, "training.seed": seed}
        if not methods.load(name).finds_clusters():
            flat["method.n_clusters"] = self.k
        if self.recipe in kind.recipes:
            flat["method.recipe"] = self.recipe
        return RunConfig.of(unflatten(flat | (extra or {})))

    def pretraining(self, name: str, seed: int) -> RunConfig | None:
        """The run of ae_kmeans whose network `name` starts from; none for methods with a network of another kind."""
        kind, plain = methods.load(name), methods.load("ae_kmeans")
        config = self.config(name, seed)
        if not issubclass(kind, AutoencoderMethod) or type(config.method.network) is not type(plain.Config().network):
            return None
        shared = {
            f"method.{part}": getattr(config.method, part) for part in ("network", "layerwise", "denoise", "pretrain")
        }
        extra: dict[str, Any] = {f"{at}.{key}": value for at, group in shared.items() for key, value in _leaves(group)}
        for path in config.method.idle(self.source.shape):
            extra.pop(f"method.{path}", None)
        extra["method.bias_rate"] = config.method.bias_rate
        extra["data.scaling"] = kind.scaling if config.data.scaling == "auto" else config.data.scaling
        extra["training.batch_size"] = config.training.batch_size or kind.batch_size
        return self.config("ae_kmeans", seed, extra)

    def run(self, name: str, seed: int) -> None:
        """Train a method, or what it starts from and then itself; each only if it has not been."""
        config = self.config(name, seed)
        before = self.pretraining(name, seed)
        shared = 0.0
        if before is not None:
            usual = self.pretraining("ae_kmeans", seed)
            own = name == "ae_kmeans" or before == usual
            base = self._train(before, "ae_kmeans" if own else f"ae_kmeans as {name}")
            if name == "ae_kmeans" or base is None:
                return
            shared = base.cpu
            config = config.with_settings({"training.init_from": f"{self.store.root}/runs/ae_kmeans-{base.key[:12]}"})
        self._train(config, name, shared)

    def shallow(self, name: str, seed: int) -> None:
        """A clustering of the rows themselves by scikit-learn."""
        settings = {
            "seed": seed,
            "k": self.k,
            "data": prepare(self.config("kmeans", seed), self.source).profile.fingerprint,
        }
        done = self._done(f"results/{name}-{seed}.json", json.dumps(settings))
        if done is None:
            cpu, wall = time.process_time(), time.monotonic()
            labels = SHALLOW[name](_matrix(self.source), self.k, seed)
            spent = time.process_time() - cpu, time.monotonic() - wall
            done = self._score(Result(name, seed, *self._scores(labels), *spent, key=json.dumps(settings)))
        self._add(done)

    def _train(self, config: RunConfig, name: str, shared: float = 0.0) -> Result | None:
        seed = config.training.seed
        done = next((r for r in self.results if (r.name, r.seed) == (name, seed)), None)
        if done is not None:
            return done
        job = prepare(config, self.source)
        done = self._done(f"results/{name.replace(' ', '-')}-{seed}.json", job.key)
        if done is None and not self.stopped:
            done = self._work(job, name, shared)
        if done is not None:
            self._add(done)
        return done

    def _work(self, job: Job, name: str, shared: float) -> Result | None:
        seed = job.config.training.seed
        store = self.store / f"runs/{job.config.method_name}-{job.key[:12]}"
        spent = json.loads(store.read_text("spent.json")) if store.exists("spent.json") else {"cpu": 0.0, "wall": 0.0}
        clock, said = (time.process_time(), time.monotonic()), [0.0]

        def cost() -> dict[str, float]:
            now = time.process_time() - clock[0], time.monotonic() - clock[1]
            return {"cpu": spent["cpu"] + now[0], "wall": spent["wall"] + now[1]}

        def on_epoch(progress: Progress) -> bool:
            at = f"{progress.phase} epoch {progress.epoch} of {progress.epochs}"
            store.write_text("spent.json", json.dumps({"name": name, "seed": seed, "at": at, **cost()}))
            if time.monotonic() - said[0] > 30 or progress.last:
                said[0] = time.monotonic()
                losses = ", ".join(f"{key} {value:.4g}" for key, value in progress.losses.items())
                moved = f", {progress.changed:.2%} changed" if progress.changed is not None else ""
                alive = f", {progress.alive} alive" if progress.alive is not None else ""
                console.log(
                    f"{name} seed {seed}: {at}: {losses}{moved}{alive}, {cost()['cpu']:.0f} CPU-s", highlight=False
                )
            return self.stopped

        outcome = in_process(job, store, on_epoch)
        total = cost()
        store.write_text("spent.json", json.dumps({"name": name, "seed": seed, "at": outcome.status, **total}))
        if outcome.status != "finished":
            return None
        epochs: dict[str, int] = {}
        for entry in outcome.history:
            epochs[entry["phase"]] = entry["epoch"]
        scores = self._scores(outcome.labels)
        return self._score(Result(name, seed, *scores, total["cpu"], total["wall"], shared, job.key, epochs))

    def _scores(self, labels: np.ndarray) -> tuple[float, float, float, int]:
        """The only place where classes are looked at."""
        table = contingency(labels, self.classes, int(labels.max()) + 1, int(self.classes.max()) + 1)
        return accuracy(table), nmi(table), ari(table), int((table.sum(axis=1) > 0).sum())

    def _score(self, result: Result) -> Result:
        self.store.write_text(f"results/{result.name.replace(' ', '-')}-{result.seed}.json", json.dumps(vars(result)))
        return result

    def _done(self, name: str, key: str) -> Result | None:
        if not self.store.exists(name):
            return None
        found = Result(**json.loads(self.store.read_text(name)))
        return found if found.key == key else None

    def _add(self, result: Result) -> None:
        self.results.append(result)
        console.log(
            f"{result.name} seed {result.seed}: ACC {result.acc:.1%} NMI {result.nmi:.1%} ARI {result.ari:.1%}, "
            f"{result.found} clusters, {result.cpu:.0f} + {result.shared_cpu:.0f} CPU-s, {result.wall:.0f} s",
            highlight=False,
        )

    def unfinished(self, asked: Iterable[tuple[str, int]] = ()) -> list[str]:
        """Runs (method, seed) that were asked for or have begun, and have not ended, and where they stand."""
        stand = dict.fromkeys(asked, "not begun")
        for name in self.store.list("runs"):
            if name.endswith("/spent.json"):
                spent = json.loads(self.store.read_text(name))
                stand[spent["name"], spent["seed"]] = spent["at"]
        ended = {(result.name, result.seed) for result in self.results}
        return [f"{name} seed {seed} ({at})" for (name, seed), at in stand.items() if (name, seed) not in ended]


def _leaves(group: Any) -> list[tuple[str, Any]]:
    return [(path, _at(group, path)) for path, _ in fields(type(group))]


def _at(group: Any, path: str) -> Any:
    for part in path.split("."):
        group = getattr(group, part)
    return group


def _matrix(source: Source) -> np.ndarray:
    """All rows, float32 [N, D]."""
    parts = [source.read(piece).x for piece in source.pieces]
    dense = [x.toarray() if hasattr(x, "toarray") else np.asarray(x) for x in parts]
    return np.concatenate([x.reshape(len(x), -1) for x in dense]).astype(np.float32)


def _kmeans(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    return KMeans(k, n_init=20, random_state=seed).fit_predict(x)


def _ward(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    return _extended(x, seed, lambda some: AgglomerativeClustering(k, linkage="ward").fit_predict(some))


def _spectral(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    def cluster(some: np.ndarray) -> np.ndarray:
        return SpectralClustering(k, affinity="nearest_neighbors", n_neighbors=10, random_state=seed).fit_predict(some)

    return _extended(x, seed, cluster)


def _extended(x: np.ndarray, seed: int, cluster: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Clusters of at most SUBSAMPLE rows on 50 principal components, given on to the nearest of the other rows."""
    if x.shape[1] > 50:
        x = PCA(50, random_state=seed).fit_transform(x)
    if len(x) <= SUBSAMPLE:
        return cluster(x)
    some = x[np.random.default_rng(seed).choice(len(x), SUBSAMPLE, replace=False)]
    return KNeighborsClassifier(1).fit(some, cluster(some)).predict(x)


SHALLOW = {"scikit-learn k-means": _kmeans, "Ward": _ward, "kNN-spectral": _spectral}


def rows_of_table(study: Study, data: str) -> list[list[str]]:
    """One row a method: mean and spread over its seeds, costs, and the published figure."""
    table = []
    for name in dict.fromkeys(result.name for result in study.results):
        runs = [result for result in study.results if result.name == name]

        def spread(part: str, runs: list[Result] = runs) -> str:
            values = np.array([100 * getattr(run, part) for run in runs])
            return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values.mean():.1f}"

        cpu = np.mean([run.cpu + run.shared_cpu for run in runs])
        shared = np.mean([run.shared_cpu for run in runs])
        wall = np.mean([run.wall for run in runs])
        found = sorted({run.found for run in runs})
        published = PUBLISHED.get(data, {}).get(name, "-")
        epochs = ", ".join(f"{phase} {count}" for phase, count in runs[-1].epochs.items())
        table.append(
            [
                *(name, str(len(runs)), *map(spread, ("acc", "nmi", "ari")), "/".join(map(str, found))),
                *(f"{cpu:.1f} ({shared:.1f})", f"{wall:.1f}", epochs or "-", published),
            ]
        )
    return table


HEADINGS = ["method", "seeds", "ACC %", "NMI %", "ARI %", "clusters found", "CPU-s (shared)", "own wall s", "epochs"]
HEADINGS.append("published ACC / NMI / ARI")


def report(
    study: Study, data: str, about: str, notes: list[str], asked: list[tuple[str, int]], show: bool = False
) -> None:
    """Keep the table so far as OUT/table.md, and print it if asked."""
    rows = rows_of_table(study, data)
    lines = [f"**{about}**", "", "| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    left = study.unfinished(asked)
    notes = [*notes, f"Not finished: {'; '.join(left)}." if left else "All runs are finished."]
    study.store.write_text("table.md", "\n".join([*lines, "", *notes, ""]))
    if show:
        shown = Table(*HEADINGS, title=about)
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
        console.print("\n".join(notes), highlight=False)


def open_rows(path: str, limit: int | None) -> Source:
    """The rows, or `limit` of them drawn at random (the same for every seed)."""
    source = open_source(DataSettings(path=path))
    if limit is None or limit >= sum(piece.rows for piece in source.pieces):
        return source
    x, y = _matrix(source).reshape(-1, *source.shape), source.labels()
    kept = np.sort(np.random.default_rng(0).choice(len(x), limit, replace=False))
    return ArraySource(x[kept], None if y is None else y[kept], settings=DataSettings(path=path))


def settings_of(changes: list[str], names: list[str]) -> dict[str, Any]:
    """Dotted settings from KEY=VALUE; SettingsError if no method has one of them."""
    known = {path for name in names for path, _ in fields(methods.load(name).Config, "method")}
    values: dict[str, Any] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or (key.startswith("method.") and key not in known):
            raise SettingsError(f"--set {change}: expected SETTING=VALUE of a setting that one of the methods has")
        values[key] = yaml.safe_load(value)
    return values


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "benchmarks.quality", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help=".npz with X and y, or digits")
    parser.add_argument("--methods", default="kmeans,ae_kmeans,dec,idec,dbc,dcn,aljalbout")
    parser.add_argument("--n-clusters", type=int, help="K, given to every method; unless given, the number of classes")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method, seeds 0, 1, ...")
    parser.add_argument("--recipe", default="default", help="named recipe of the methods that have it, such as paper")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="such as method.pretrain.length=60"
    )
    parser.add_argument("--limit", type=int, help="take this many rows, at random")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", required=True)
    given = parser.parse_args(arguments)
    names = given.methods.split(",")
    try:
        settings = settings_of(given.set, names) | {"training.threads": given.threads}
        study = Study(
            open_rows(given.data, given.limit), settings, given.recipe, given.n_clusters, os.path.abspath(given.out)
        )
        for name in names:
            study.config(name, 0)
    except ValueError as problem:
        raise SystemExit(str(problem)) from None

    def stop(*_: object) -> None:
        study.stopped = True
        console.log("stopping after this epoch; the same command goes on from there")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    data = Path(given.data).stem
    about = f"{data}: {len(study.classes)} rows, K = {study.k} given, recipe {given.recipe}"
    about += "".join(f", {change}" for change in given.set)
    notes = [
        "Last iterates, transductive. CPU-seconds include pretraining; in brackets the part shared with other methods.",
        f"Shallow methods on raw rows; Ward and kNN-spectral on 50 principal components and at most {SUBSAMPLE} rows, "
        "the others by their nearest neighbour.",
        SOURCES,
    ]
    turns = [(study.run, name, seed) for seed in range(given.seeds) for name in names]
    turns += [(study.shallow, name, seed) for seed in range(given.seeds) for name in SHALLOW]
    asked = [(name, seed) for _, name, seed in turns]
    with threadpool_limits(given.threads):
        for run, name, seed in turns:
            if not study.stopped:
                run(name, seed)
                report(study, data, about, notes, asked)
    report(study, data, about, notes, asked, show=True)


if __name__ == "__main__":
    main()
