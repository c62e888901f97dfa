"""What is put on record of runs and models, as plain values: nothing here knows MLflow."""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from raydc import methods
from raydc.data import encoders
from raydc.training.model import ClusteringModel
from raydc.training.model_files import ModelFacts

EVIDENCE = {"raydc.stability_score", "raydc.spread"}
"""Tags by which a version is set against another."""
Point = tuple[str, float, int, int]
"""A metric: its name, value, time in milliseconds since 1970, and step."""
PACKAGES = (
    "raydc",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "pyarrow",
    "pandas",
    "ray",
    "mlflow",
    "optuna",
)


def sha256_of(folder: str | Path) -> str:
    """sha256 over the names and bytes of a model folder's files."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def environment() -> dict[str, str]:
    """Versions of Python and of the packages that matter; nothing about the machine."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def example_rows(model: ModelFacts | ClusteringModel, rows: int = 2) -> Any:
    """Made-up rows as the model takes them: a DataFrame where it has columns, else an array."""
    if model.encoding is not None:
        return model.encoding.example(rows)
    x = np.zeros((rows, *model.shape), np.float32)
    if not model.columns:
        return x
    if len(model.columns) == model.n_features:
        return pd.DataFrame(x, columns=list(model.columns))
    return pd.DataFrame({model.columns[0]: x.reshape(rows, -1).tolist()})


def metrics_of(line: Mapping[str, Any]) -> dict[str, float]:
    """An epoch (`loop.Progress` as a dictionary) as metrics by name."""
    named = {f"loss.{name.replace(' ', '.')}": value for name, value in line["losses"].items()}
    named |= {name: line.get(name) for name in ("changed", "alive", "largest", "epoch")}
    return {name: float(value) for name, value in named.items() if value is not None}


def summary_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of summary.json as metrics by name."""
    groups = {"final": summary.get("measures"), "initial": summary.get("initial"), "labels": summary.get("labels")}
    named: dict[str, Any] = {
        f"{group}.{name.replace(' ', '.')}": value
        for group, values in groups.items()
        for name, value in (values or {}).items()
    }
    named |= {name: summary.get(name) for name in ("rows", "n_clusters", "found", "seconds")}
    return {name: float(v) for name, v in named.items() if isinstance(v, (int, float))}


def alignment_tags(aligned: Mapping[str, Any] | None) -> dict[str, str]:
    """Tags of a version that keeps an earlier one's ids: which stayed, with their overlap, and what others became."""
    if aligned is None:
        return {}
    kept = ", ".join(f"{cluster} ({overlap:.2f})" for cluster, overlap in aligned["kept"].items())
    tags = {"raydc.aligned_to": aligned["to"], "raydc.kept": kept or "none"}
    tags |= {f"raydc.{what}": ", ".join(map(str, aligned[what])) for what in ("new", "died") if aligned[what]}
    for what in ("split", "merged"):
        moves = [f"{cluster}: {', '.join(map(str, others))}" for cluster, others in aligned[what].items()]
        tags |= {f"raydc.{what}": "; ".join(moves)} if moves else {}
    return tags


def naming_tags(suggested: Mapping[Any, str] | None) -> dict[str, str]:
    """Tag of a version whose clusters have suggested names, by id."""
    return {"raydc.suggested_names": json.dumps(suggested)} if suggested else {}


def beats(ours: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    """Whether a model's evidence (tags) beats a champion's by more than the replicas' spread, on the same rows."""
    if not_comparable(ours, theirs):
        return False
    gain = float(ours["raydc.stability_score"]) - float(theirs["raydc.stability_score"])
    spread = math.hypot(float(ours["raydc.spread"]), float(theirs["raydc.spread"]))
    return gain > spread


def not_comparable(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """Why a model's evidence (tags) cannot be set against a champion's; empty if it can."""
    spaces = [tags.get("raydc.reference") for tags in (ours, theirs)]
    if spaces[0] != spaces[1]:
        here, there = (f"neighbours in {space}" if space else "no space on record" for space in spaces)
        return f"its score is of {here}, the champion's of {there}: other rows, or another scaling"
    lacking = ["the champion" if tags is theirs else "it" for tags in (ours, theirs) if not EVIDENCE <= tags.keys()]
    who = "neither has a" if len(lacking) == 2 else f"{lacking[0]} has no" if lacking else ""
    return f"{who} score of stability, which a search gives" if who else ""


def code_of(model: ModelFacts) -> list[str]:
    """Code that the model needs where it is loaded: this package, and that of a module from elsewhere.

    Of a package that offers its method by name, what says so comes along. A method's own file is not among it: it lies
    in the model.
    """
    paths = [str(Path(__file__).parents[1]), *_code_at(methods.module_of(model.method_name))]
    paths += methods.metadata_of(model.method_name)
    for code in model.encoding.encoders if model.encoding else ():
        paths += [*_code_at(encoders.module_of(code.encoder)), *encoders.metadata_of(code.encoder)]
    return [*dict.fromkeys(paths)]


def _code_at(module: str | None) -> list[str]:
    """Where the package or the file of a module lies; nowhere for none."""
    spec = None if module is None else importlib.util.find_spec(module.split(".")[0])
    if spec is None or spec.origin is None:
        return []
    origin = Path(spec.origin)
    return [str(origin.parent if origin.name == "__init__.py" else origin)]
