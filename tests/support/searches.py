"""Small searches for tests."""

from pathlib import Path
from typing import Any

import numpy as np

from raydc.search import TuneSettings
from raydc.search.directory import open_study
from raydc.search.evaluation import prepare

BASELINES = ("kmeans", "ae_kmeans", "ward", "leiden", "spectral")
"""Those of every search, after the default configuration."""
FIXED = {
    "method.network.hidden": (16,),
    "method.denoise.length": "0 steps",
    "method.pretrain.length": "6 epochs",
    "method.cluster.length": "6 epochs",
    "method.cluster.tolerance": 0.0,
    "method.restarts": 3,
    "training.batch_size": 64,
}


def rows(groups: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows [240, 8] in as many groups, and their groups."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(groups), 240 // groups)
    return (4 * rng.standard_normal((groups, 8))[y] + rng.standard_normal((240, 8))).astype(np.float32), y


def written(folder: Path) -> str:
    """A file of them in this folder."""
    x, y = rows()
    np.savez(folder / "rows.npz", X=x, y=y)
    return str(folder / "rows.npz")


def asked(data: str, out: Path, **others: Any) -> TuneSettings:
    values = {"data": {"path": data}, "space": "kmeans", "n_clusters": 4, "trials": 3, "fixed": FIXED}
    return TuneSettings(**{**values, "out": str(out), "concurrent": 0, **others})


def table(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials but for their times and places."""
    lines = [{key: value for key, value in entry.items() if key != "seconds"} for entry in summary["trials"]]
    for line in lines:
        line["settings"] = {k: v for k, v in line["settings"].items() if k not in ("data.path", "output.out")}
    return lines


def states(settings: TuneSettings) -> list[str]:
    return [t.state.name for t in open_study(prepare(settings)).get_trials()]


OWN = {
    "helper.py": "from functools import cache\n\n\n@cache\ndef widths():\n    return [(16,), (16, 16)]\n",
    "ranges/__init__.py": "from .most import MOST\n",
    "ranges/most.py": "MOST = 3\n",
    "space.py": """
from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache, partial

import numpy as np
import torch

from helper import widths
from ranges import MOST

from . import helper

WEIGHTS = torch.tensor([0.5, 2.0])
LOCK = __import__("threading").Lock()


class Name(str, Enum):
    OURS = "dec"


@dataclass(frozen=True)
class Range:
    low: float
    high: float

    @lru_cache
    def of(self, scale: int) -> tuple[float, float]:
        return self.low * scale, self.high * scale


pick = lambda trial, name, between: trial.suggest_float(name, *between)  # noqa: E731


def bounded(name):
    def ask(trial, most):
        import ranges.most

        return trial.suggest_int(name, np.int64(1), min(most, ranges.most.MOST))

    return ask


epochs = partial(bounded("method.cluster.update_every"), most=MOST)


def space(trial, scale=1):
    epochs(trial)
    with LOCK:
        trial.suggest_categorical("method.network.hidden", widths() + helper.widths()[:0])
    pick(trial, "method.nu", Range(0.5, 1.0).of(scale))
    trial.suggest_categorical("training.batch_size", np.array([32, 64]))
    return {"method.name": Name.OURS, "method.power": WEIGHTS[1]}
""",
}
"""A space as a user may write it: what it is made of does not pickle, and lies in several files."""


def own_space(folder: Path) -> Path:
    """Its files in this folder; the space's path."""
    for name, text in OWN.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "space.py"
