"""How well the label-free selector chooses, on data whose classes are known.

    python -m benchmarks.selection search --data DIR --out selection      # trains; sees no classes
    python -m benchmarks.selection evaluate --data DIR --out selection    # reads classes, over frozen searches alone

A case is a data set, a search seed, and K fixed or free. Real sets are NAME.npz files with X and y under --data (those
missing are left out and named); digits comes with scikit-learn; three synthetic families with known structure are made
here. Every case searches as `raydc tune` does with the space of any method, each trial at its full length; no trial is
stopped early, because the order of trials is what is asked about. When a search ends, every criterion's value for
every trial is written to frozen.json, before classes are read. Exponents and constants of the selector are the
package's own: nothing is fitted here.

The cases come in this order: each set once with K fixed, then K free, then further seeds; `--minutes` ends the search,
and the same command goes on. `--quick` runs digits and noise with a few short trials, to see that all works: its
figures say nothing about the selector.
"""

import argparse
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_digits

from raydc.clustering.metrics.external import accuracy, ari, contingency, nmi
from raydc.core.storage import Store
from raydc.search import SearchError, SearchInterrupted, SearchWatch, TuneSettings, criteria, tune
from raydc.search.conclude import candidate
from raydc.search.criteria import Comparison
from raydc.search.evaluation import prepare
from raydc.search.opponents import OPPONENTS
from raydc.search.trial import Record, read_array

REAL = ("pendigits", "coil20", "mnist", "newsgroups20_tfidf2000")
SYNTHETIC = ("unbalanced", "nested", "none")
SETS = ("digits", "pendigits", "coil20", *SYNTHETIC, "mnist", "newsgroups20_tfidf2000")
MEASURES = ("acc", "nmi", "ari")
OF_REPLICAS = ("selector", "stability ami", "stability ari", "stability rand", "fang wang", "prediction strength")
"""Criteria that need replicas, with consensus; all others take a trial's one training."""
QUICK = {
    "method.network.hidden": (128, 128),
    "method.pretrain.length": "20 steps",
    "method.cluster.length": "20 steps",
    "training.batch_size": 128,
}
RESAMPLES = 2000


class Case(NamedTuple):
    name: str
    seed: int
    mode: str
    """Number of clusters: fixed (the number of classes), or free (from half to twice that)."""

    @property
    def folder(self) -> str:
        return f"{self.name}-{self.seed}-{self.mode}"


def synthetic(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows [1500, 20] and their classes: six unequal groups, three pairs of near groups, or none at all."""
    rng = np.random.default_rng(7)
    if name == "none":
        mix = rng.standard_normal((20, 20)) * np.linspace(2, 0.2, 20)
        return (rng.standard_normal((1500, 20)) @ mix).astype(np.float32), np.zeros(1500, np.int64)
    shares = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]) if name == "unbalanced" else np.full(6, 1 / 6)
    y = rng.choice(6, 1500, p=shares)
    centres = 1.6 * rng.standard_normal((6, 20))
    if name == "nested":
        centres = np.repeat(2.5 * rng.standard_normal((3, 20)), 2, axis=0) + 0.8 * rng.standard_normal((6, 20))
    return (centres[y] + rng.standard_normal((1500, 20))).astype(np.float32), y


def load(name: str, given: argparse.Namespace) -> tuple[np.ndarray, np.ndarray] | None:
    """At most --rows rows [N, D] and their classes [N]; None where the set is not there."""
    if name == "digits":
        digits = load_digits()
        x, y = digits.data, digits.target
    elif name in SYNTHETIC:
        x, y = synthetic(name)
    elif given.data is None or not (Path(given.data) / f"{name}.npz").exists():
        return None
    else:
        with np.load(Path(given.data) / f"{name}.npz", allow_pickle=False) as file:
            x, y = file["X"], file["y"]
    chosen = np.sort(np.random.default_rng(0).permutation(len(y))[: given.rows])
    return x[chosen].reshape(len(chosen), -1).astype(np.float32), np.unique(y[chosen], return_inverse=True)[1]


def cases(given: argparse.Namespace) -> list[Case]:
    sets = ("digits", "none") if given.quick else given.sets
    seeds = range(1 if given.quick else given.seeds)
    return [Case(name, seed, mode) for seed in seeds for mode in ("fixed", "free") for name in sets]


def search(given: argparse.Namespace) -> None:
    """Run every case that is not finished. Classes are left behind here: a search is given a file of rows alone."""
    out, stop = Path(given.out).absolute(), threading.Event()
    out.mkdir(parents=True, exist_ok=True)
    clock = threading.Timer(60 * given.minutes, stop.set)
    clock.daemon = True
    clock.start()
    for case in cases(given):
        found = load(case.name, given)
        if found is None:
            print(f"{case.folder}: no {case.name}.npz with X and y under --data: left out")
            continue
        if not (out / f"{case.name}.npy").exists():
            np.save(out / f"{case.name}.npy", found[0])
        k = 6 if case.name == "none" else len(np.unique(found[1]))
        settings = settings_of(case, k, out, given)
        try:
            summary = tune(settings, SearchWatch(stop=stop))
        except SearchInterrupted:
            print(f"{case.folder}: out of time; the same command goes on")
            return
        except SearchError as problem:
            print(f"{case.folder}: failed: {problem}")
            continue
        freeze(case, settings, summary)
        winner = summary["winner"]
        print(f"{case.folder}: trial {winner['number']} ({winner['method']}), K {winner['n_clusters']}", flush=True)


def settings_of(case: Case, k: int, out: Path, given: argparse.Namespace) -> TuneSettings:
    values = {
        "data": {"path": str(out / f"{case.name}.npy")},
        "space": "idec" if given.quick else "any",
        "n_clusters": k if case.mode == "fixed" else f"{max(2, k // 2)}..{2 * k}",
        "trials": 3 if given.quick else given.trials,
        "fixed": QUICK if given.quick else {},
        "concurrent": given.concurrent,
        "seed": case.seed,
        "replicas": 1 if given.quick else 2,
        "finalists": given.replicated,
        "early_stopping": False,
        "evaluation_rows": given.rows,
        "out": str(out / case.folder),
    }
    return TuneSettings.model_validate(values)


def freeze(case: Case, settings: TuneSettings, summary: Mapping[str, Any]) -> None:
    """Write what each criterion says of each trial of a finished search, once; evaluation adds classes to that."""
    store = Store(settings.out)
    if store.exists("frozen.json"):
        return
    context = prepare(settings)
    records = [r for entry in summary["trials"] if (r := Record.read(store, entry["number"])) is not None]
    again = {r.number: [Record.read(store, r.number, i + 1) for i in range(settings.replicas)] for r in records}
    found = [candidate(context, r, [one for one in again[r.number] if one is not None]) for r in records]
    guarded = [r.number for r in records if r.status != "finished"]
    able = [one for one in found if one is not None and one.number not in guarded]
    several = [one for one in able if len(one.labels) > 1]
    alone = [replace(one, labels=one.labels[:1], guarded=0) for one in able]
    names = [*criteria.OWN]
    replicated = [name for name in names if name in (*OF_REPLICAS, "consensus")]
    single = [name for name in names if name not in replicated]
    asked, again_asked = Comparison(alone, context.graph, context.reference), Comparison(several, context.graph)
    values = {name: (alone, own) for name, own in criteria.values_of(asked, single).items()}
    values |= {name: (several, own) for name, own in criteria.values_of(again_asked, replicated).items()}
    said = {
        name: {str(one.number): float(value) for one, value in zip(whom, own, strict=True) if np.isfinite(value)}
        for name, (whom, own) in values.items()
    }
    losses = {str(r.number): -r.loss for r in records if r.loss is not None and r.number not in guarded}
    about = {
        "case": [*case],
        "trials": [r.number for r in records],
        "replicas": settings.replicas,
        "criteria": said | {"lowest loss": losses},
        "guarded": guarded,
        "baselines": summary["baselines"],
        "winner": summary["winner"]["number"],
        "n_clusters": summary["winner"]["n_clusters"],
        "structure": summary["structure"],
        "trainings": summary["cost"]["trainings"],
        "seconds": summary["cost"]["seconds of trials"] + summary["cost"]["seconds of replicas"],
    }
    store.write_text("frozen.json", json.dumps(about, indent=1))


def true_scores(store: Store, number: int, replicas: int, classes: NDArray[np.int64]) -> dict[str, float] | None:
    """ACC, NMI and ARI of a trial: means over its trainings; None where it has no labels."""
    found = []
    for replica in range(replicas + 1):
        record = Record.read(store, number, replica)
        labels = None if record is None else read_array(store, f"{record.folder}/labels.npy")
        if labels is not None:
            table = contingency(labels.astype(np.int64), classes, int(labels.max()) + 1, int(classes.max()) + 1)
            found.append({"acc": accuracy(table), "nmi": nmi(table), "ari": ari(table)})
    return {name: float(np.mean([one[name] for one in found])) for name in MEASURES} if found else None


def rate(values: Mapping[int, float], truth: Mapping[int, float], guarded: Sequence[int]) -> dict[str, float]:
    """Rank correlations of a criterion with the truth over a case's trials, and what its first choice loses.

    Guarded trials are last under every criterion in `rho` and `tau`, and left out in `rho unguarded`. Trials without
    replicas, where only the best have some, are not ranked by criteria that need them.
    """
    own = [n for n in truth if n in values]
    worst = min(values[n] for n in own) - 1
    every = own + [n for n in truth if n in guarded and n not in values]
    said, true = [values.get(n, worst) for n in every], [truth[n] for n in every]
    best, mean = max(truth.values()), float(np.mean([*truth.values()]))
    pick = max(own, key=lambda n: values[n])
    lost = best - truth[pick]
    return {
        "trials": len(every),
        "rho": _correlation(stats.spearmanr, said, true),
        "tau": _correlation(stats.kendalltau, said, true),
        "rho unguarded": _correlation(stats.spearmanr, [values[n] for n in own], [truth[n] for n in own]),
        "regret": lost,
        "normalised": lost / (best - mean) if best > mean else 0.0,
        "top": float(truth[pick] >= sorted(truth.values())[-min(3, len(truth))]),
    }


def _correlation(index: Any, said: Sequence[float], true: Sequence[float]) -> float:
    return float(index(said, true).statistic) if np.ptp(said) and np.ptp(true) else 0.0


def judge(frozen: Mapping[str, Any], store: Store, classes: NDArray[np.int64]) -> dict[str, Any]:
    """Every criterion and opponent of one case, against its classes."""
    each = {n: true_scores(store, n, frozen["replicas"], classes) for n in frozen["trials"]}
    scores = {n: found for n, found in each.items() if found is not None}
    baselines = frozen["baselines"]
    shallow = {name: baselines.index(name) for name in OPPONENTS}
    able = {n: found for n, found in scores.items() if n not in shallow.values()}
    lines: dict[str, Any] = {}
    for name, said in frozen["criteria"].items():
        values = {int(n): value for n, value in said.items()}
        if len(values) > 2:
            lines[name] = {m: rate(values, {n: s[m] for n, s in able.items()}, frozen["guarded"]) for m in MEASURES}
    opponents = {"what tune returns": frozen["winner"], "default configuration": 0} | shallow
    opponents |= {"raw k-means": baselines.index("kmeans"), "AE + k-means": baselines.index("ae_kmeans")}
    best = {m: max(s[m] for s in able.values()) for m in MEASURES}
    for name, number in opponents.items():
        if number in scores:
            lines[name] = {m: {"regret": best[m] - scores[number][m]} for m in MEASURES}
    lines["random trial"] = {m: {"regret": best[m] - float(np.mean([s[m] for s in able.values()]))} for m in MEASURES}
    return {"lines": lines, "best": best, "returned": scores[frozen["winner"]]}


def evaluate(given: argparse.Namespace) -> None:
    """The only part that reads classes: tables over all frozen searches, and every failure by name."""
    out = Path(given.out).absolute()
    found: dict[str, Any] = {}
    for case in cases(given):
        store, rows = Store(str(out / case.folder)), load(case.name, given)
        if rows is None or not store.exists("frozen.json"):
            continue
        frozen = json.loads(store.read_text("frozen.json"))
        line = frozen | {"set": case.name, "K": case.mode, "true K": int(rows[1].max()) + 1}
        if case.name != "none":
            line |= judge(frozen, store, rows[1])
        found[case.folder] = line
    text = tables(found)
    (out / "evaluation.json").write_text(json.dumps(found, indent=1))
    (out / "table.md").write_text(text)
    print(text)


def interval(lines: Sequence[Mapping[str, Any]], values: Sequence[float]) -> str:
    """Mean, with a 95 % bootstrap interval over data sets (a set's cases stay together) from three sets on."""
    names = sorted({line["set"] for line in lines})
    mean = f"{np.mean(values):.3f}"
    if len(names) < 3:
        return mean
    of_set = [[v for line, v in zip(lines, values, strict=True) if line["set"] == name] for name in names]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(names), (RESAMPLES, len(names)))
    draws = [np.mean(np.concatenate([of_set[i] for i in sets])) for sets in drawn]
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{mean} [{low:.2f}, {high:.2f}]"


def tables(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Ranking and regret, K fixed and free apart; then what was said of K and of structure, and every failure."""
    text: list[str] = []
    for mode in ("fixed", "free"):
        own = [line for line in found.values() if line["K"] == mode and "lines" in line]
        if own:
            names = dict.fromkeys(name for line in own for name in line["lines"])
            text += [f"## K {mode}: {len(own)} cases of {len({line['set'] for line in own})} sets", ""]
            text += ranking(own, [name for name in names if name in own[0]["criteria"]])
            text += regrets(own, [*names])
    trainings, hours = (
        sum(line["trainings"] for line in found.values()),
        sum(line["seconds"] for line in found.values()),
    )
    free = [line for line in found.values() if line["K"] == "free" and line["set"] != "none"]
    right = sum(line["n_clusters"] == line["true K"] for line in free)
    said = sum(line["structure"] == (line["set"] != "none") for line in found.values())
    text += [
        f"K right in {right} of {len(free)} cases with K free. "
        f"Structure, or none, said rightly in {said} of {len(found)} cases. "
        f"{trainings} trainings, {hours / 3600:.2f} hours.",
        "",
        "Failures:",
        "",
        *(failures(found) or ["- none"]),
    ]
    return "\n".join(text) + "\n"


def ranking(own: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """Rank correlation of each criterion with the truth over the trials of a case: means over cases."""
    head = "| criterion | cases | trials |" + "".join(f" {m.upper()} rho | tau | rho unguarded |" for m in MEASURES)
    lines = ["Ranking of trials (Spearman's rho, Kendall's tau):", "", head, "|---" * (3 + 9) + "|"]
    for name in names:
        has = [line for line in own if name in line["lines"]]
        cells = [name, str(len(has)), f"{np.mean([line['lines'][name]['acc']['trials'] for line in has]):.0f}"]
        for measure in MEASURES:
            each = [line["lines"][name][measure] for line in has]
            cells += [interval(has, [one["rho"] for one in each])]
            cells += [f"{np.mean([one[key] for one in each]):.3f}" for key in ("tau", "rho unguarded")]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def regrets(own: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """What the first choice of each criterion, and each opponent, loses against the best trial: means over cases."""
    head = "| choice | cases |" + "".join(f" {m.upper()} regret | p | of mean | top 3 |" for m in MEASURES)
    lines = [
        "Regret (best trial less chosen; p: Wilcoxon signed-rank against the default configuration; of mean: regret",
        "over that of the mean trial; top 3: share of cases in which the choice is one of the three best):",
        "",
        head,
        "|---" * (2 + 12) + "|",
    ]
    for name in names:
        has = [line for line in own if name in line["lines"] and "default configuration" in line["lines"]]
        cells = [name, str(len(has))]
        for measure in MEASURES:
            each = [line["lines"][name][measure] for line in has]
            default = [line["lines"]["default configuration"][measure]["regret"] for line in has]
            lost = [one["regret"] for one in each]
            differ = np.ptp(np.subtract(lost, default)) > 0
            p = f"{stats.wilcoxon(lost, default, zero_method='zsplit').pvalue:.2f}" if differ else "-"
            rest = [f"{np.mean([one[k] for one in each]):.2f}" if k in each[0] else "-" for k in ("normalised", "top")]
            cells += [interval(has, lost), p, *rest]
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def failures(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where the search returned less than the default configuration, the wrong K, or was wrong about structure."""
    lines = []
    for name, line in found.items():
        if line["structure"] != (line["set"] != "none"):
            lines.append(f"- {name}: said {'structure' if line['structure'] else 'no structure'}")
        if line["K"] == "free" and line["set"] != "none" and line["n_clusters"] != line["true K"]:
            lines.append(f"- {name}: chose K = {line['n_clusters']}, the classes are {line['true K']}")
        for measure in MEASURES if "lines" in line else ():
            regret = {
                who: line["lines"][who][measure]["regret"] for who in ("what tune returns", "default configuration")
            }
            worse = regret["what tune returns"] - regret["default configuration"]
            if worse > 0:
                lines.append(f"- {name}: {measure.upper()} {worse:.3f} below the default configuration's")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["search", "evaluate"])
    parser.add_argument("--data", help="folder with NAME.npz (X, y) of " + ", ".join(REAL))
    parser.add_argument("--out", default="selection", help="where cases are kept [selection]")
    parser.add_argument(
        "--sets", type=lambda text: text.split(","), default=SETS, help=f"some of {','.join(SETS)} [all]"
    )
    parser.add_argument("--rows", type=int, default=4000, help="rows of a set at most [4000]")
    parser.add_argument("--seeds", type=int, default=3, help="search seeds [3]")
    parser.add_argument("--trials", type=int, default=24, help="trials beside the baselines [24]")
    parser.add_argument("--replicated", type=float, default=1 / 3, help="share of trials that get two replicas [1/3]")
    parser.add_argument("--minutes", type=float, default=1e6, help="when to end the search, to go on another time")
    parser.add_argument("--concurrent", type=int, default=0, help="trials at once; 0: one by one in this process [0]")
    parser.add_argument("--quick", action="store_true", help="digits and noise, few short trials")
    given = parser.parse_args(arguments)
    {"search": search, "evaluate": evaluate}[given.command](given)


if __name__ == "__main__":
    main()
