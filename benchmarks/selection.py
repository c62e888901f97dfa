"""How well the label-free selector chooses, on data whose classes are known.

    python -m benchmarks.selection search --data DIR --out selection      # trains; sees no classes
    python -m benchmarks.selection evaluate --out selection               # reads classes, over finished searches alone

Studies: every data set, search seed, and K fixed or free; one mixed space over ae_kmeans, dec, idec and dcn, 24 trials,
all of which get replicas, so that every criterion can rank them. Real sets are NAME.npz files with X and y under --data
(those missing are left out and named); digits comes with scikit-learn; three synthetic families with known structure
are made here. The same command goes on where it was stopped. Exponents and constants of the selector are the
package's own: nothing is fitted here. `--quick` runs digits and noise with a few short trials, to see that all works:
its figures say nothing about the selector.
"""

import argparse
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
from scipy import stats
from sklearn.datasets import load_digits

from raydc.metrics.external import accuracy, ari, contingency, nmi
from raydc.search import SearchError, SearchWatch, TuneSettings, tune
from raydc.search.context import Context, prepare
from raydc.search.finish import candidate
from raydc.search.selector import Candidate, criteria
from raydc.search.settings import Criterion
from raydc.search.trial import Record, read_array

REAL = ("pendigits", "coil20", "mnist", "newsgroups20_tfidf2000")
SYNTHETIC = ("unbalanced", "nested", "none")
ROWS = 4000
SPACE = """from pathlib import Path

from raydc.search.space import load_space


def space(trial):
    name = trial.suggest_categorical("method.name", ("idec", "dec", "dcn", "ae_kmeans"))
    return load_space(Path({spaces!r}) / f"{{name}}.py")(trial)
"""
QUICK = {
    "method.network.hidden": (64, 64),
    "method.denoise.length": "0 steps",
    "method.pretrain.length": "10 epochs",
    "method.cluster.length": "10 epochs",
}


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


def load(name: str, folder: Path | None) -> tuple[np.ndarray, np.ndarray] | None:
    """At most ROWS rows and their classes; None where the set is not there."""
    if name == "digits":
        digits = load_digits()
        return digits.data.astype(np.float32), digits.target
    if name in SYNTHETIC:
        return synthetic(name)
    if folder is None or not (folder / f"{name}.npz").exists():
        return None
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        if "X" not in file.files or "y" not in file.files:
            return None
        chosen = np.sort(np.random.default_rng(0).permutation(len(file["y"]))[:ROWS])
        return file["X"][chosen].astype(np.float32), file["y"][chosen]


def studies(given: argparse.Namespace) -> list[tuple[str, int, str]]:
    sets = ("digits", "none") if given.quick else ("digits", *REAL, *SYNTHETIC)
    seeds = range(1 if given.quick else given.seeds)
    return [(name, seed, k) for name in sets for seed in seeds for k in ("fixed", "free")]


def search(given: argparse.Namespace) -> None:
    """Run every study that is not finished. Classes are left behind here: a search is given a file of rows alone."""
    out = Path(given.out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    space = out / "space.py"
    space.write_text(SPACE.format(spaces=str(Path(given.spaces).absolute())))
    for name, seed, mode in studies(given):
        found = load(name, Path(given.data) if given.data else None)
        if found is None:
            print(f"{name}: no {name}.npz with X and y under --data: left out")
            continue
        if not (out / f"{name}.npy").exists():
            np.save(out / f"{name}.npy", found[0])
            np.save(out / f"{name}.classes.npy", np.unique(found[1], return_inverse=True)[1])
        k = 6 if name == "none" else len(np.unique(found[1]))
        settings = {
            "data": {"path": str(out / f"{name}.npy")},
            "space": str(space),
            "n_clusters": k if mode == "fixed" else f"{max(2, k // 2)}..{2 * k}",
            "trials": 3 if given.quick else 24,
            "fixed": QUICK if given.quick else {},
            "concurrent": given.concurrent,
            "seed": seed,
            "replicas": 1 if given.quick else 2,
            "finalists": 1.0,
            "early_stopping": False,
            "evaluation_rows": 1000 if given.quick else ROWS,
            "out": str(out / f"{name}-{seed}-{mode}"),
        }
        try:
            summary = tune(TuneSettings.model_validate(settings), SearchWatch(note=print))
        except SearchError as problem:
            print(f"{name}, seed {seed}, K {mode}: failed: {problem}")
            continue
        winner = summary["winner"]
        print(f"{name}, seed {seed}, K {mode}: trial {winner['number']} ({winner['method']}), K {winner['n_clusters']}")


def scores(labels: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """ACC, NMI and ARI of labels [n]."""
    table = contingency(labels, classes, int(labels.max()) + 1, int(classes.max()) + 1)
    return {"acc": accuracy(table), "nmi": nmi(table), "ari": ari(table)}


def rate(context: Context, able: list[Candidate], records: list[Record], summary: Any, classes: Any) -> dict[str, Any]:
    """Spearman correlation and regret of every criterion and opponent in one study."""
    each = [[scores(labels, classes) for labels in one.labels] for one in able]
    truth = {
        name: np.array([np.mean([found[name] for found in own]) for own in each]) for name in ("acc", "nmi", "ari")
    }
    values = criteria(able, context.graph, get_args(Criterion), context.reference)
    loss = {record.number: record.loss for record in records}
    values["lowest loss"] = np.array([np.nan if (v := loss[one.number]) is None else -v for one in able])  # type: ignore[index]
    lines: dict[str, Any] = {}
    for name, own in values.items():
        has = np.isfinite(own)
        if has.sum() < 3:
            continue
        lines[name] = {
            measure: {
                "rho": float(stats.spearmanr(own[has], true[has]).statistic)
                if np.ptp(own[has]) and np.ptp(true[has])
                else 0,
                "regret": float(true.max() - true[np.flatnonzero(has)[own[has].argmax()]]),
            }
            for measure, true in truth.items()
        }
    numbers = [one.number for one in able]
    plain = summary["baselines"].index("kmeans")
    for name, number in (("default", 0), ("raw k-means", plain), ("returned", summary["winner"]["number"])):
        if number in numbers:
            lines[name] = {m: {"regret": float(t.max() - t[numbers.index(number)])} for m, t in truth.items()}
    lines["random trial"] = {m: {"regret": float(t.max() - t.mean())} for m, t in truth.items()}
    return lines


def evaluate(given: argparse.Namespace) -> None:
    """The only part that reads classes: tables over all finished studies, and every failure by name."""
    out = Path(given.out).absolute()
    found: dict[str, Any] = {}
    for folder in sorted(path.parent for path in out.glob("*/search.json")):
        about = json.loads((folder / "tune.json").read_text())["settings"]
        summary = json.loads((folder / "search.json").read_text())
        context = prepare(TuneSettings.model_validate(about))
        name, seed, mode = folder.name.rsplit("-", 2)
        classes = np.load(out / f"{name}.classes.npy", allow_pickle=False)[context.chosen]
        records = [Record.read(context.store, entry["number"]) for entry in summary["trials"]]
        whole = [record for record in records if record is not None]
        again = {
            r.number: [Record.read(context.store, r.number, i + 1) for i in range(about["replicas"])] for r in whole
        }
        able = [candidate(context, r, [one for one in again[r.number] if one is not None]) for r in whole]
        usable = [one for one in able if one is not None and one.registrable and len(one.labels) > 1]
        line: dict[str, Any] = {"set": name, "seed": int(seed), "K": mode, "trials": len(usable)}
        line |= {"n_clusters": summary["winner"]["n_clusters"], "structure": summary["structure"]}
        line |= {"true K": int(classes.max()) + 1 if name != "none" else None}
        if name != "none":
            line["criteria"] = rate(context, usable, whole, summary, classes)
            ward = [r for r in whole if r.method == "ward"]
            own = read_array(context.store, f"{ward[0].folder}/labels.npy") if ward else None
            line["ward"] = None if own is None else scores(own.astype(np.int64), classes)
        found[folder.name] = line
    (out / "evaluation.json").write_text(json.dumps(found, indent=1))
    (out / "table.md").write_text(table(found))
    print(table(found))


def table(found: dict[str, Any]) -> str:
    """Means over studies, K fixed and free apart, and what went wrong."""
    lines = []
    for mode in ("fixed", "free"):
        own = [line for line in found.values() if line["K"] == mode and "criteria" in line]
        if not own:
            continue
        lines += [
            f"K {mode}: {len(own)} studies, mean rho / mean regret",
            "",
            "| | ACC | NMI | ARI |",
            "|---|---|---|---|",
        ]
        for name in dict.fromkeys(name for line in own for name in line["criteria"]):
            cells = []
            for measure in ("acc", "nmi", "ari"):
                has = [line["criteria"][name][measure] for line in own if name in line["criteria"]]
                rho = [cell["rho"] for cell in has if "rho" in cell]
                cells.append(f"{np.mean(rho):.2f}" if rho else "-")
                cells[-1] += f" / {np.mean([cell['regret'] for cell in has]):.3f}"
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    for name, line in found.items():
        if line["K"] == "free" and line["true K"] not in (None, line["n_clusters"]):
            lines.append(f"- {name}: chose K = {line['n_clusters']}, true is {line['true K']}")
        if line["structure"] == (line["set"] == "none"):
            lines.append(f"- {name}: {'structure' if line['structure'] else 'no structure'} said, wrongly")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["search", "evaluate"])
    parser.add_argument("--data", help="folder with NAME.npz (X, y) of " + ", ".join(REAL))
    parser.add_argument("--spaces", default="tune_spaces", help="folder of the search spaces [tune_spaces]")
    parser.add_argument("--out", default="selection", help="where studies are kept [selection]")
    parser.add_argument("--seeds", type=int, default=3, help="search seeds [3]")
    parser.add_argument("--concurrent", type=int, default=None, help="trials at once; 0: in this process [all CPUs]")
    parser.add_argument("--quick", action="store_true", help="digits and noise, few short trials")
    given = parser.parse_args()
    {"search": search, "evaluate": evaluate}[given.command](given)


if __name__ == "__main__":
    main()
