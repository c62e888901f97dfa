"""Small searches for tests."""

from pathlib import Path
from typing import Any

import numpy as np

from raydc.search import TuneSettings
from raydc.search.driver import open_study
from raydc.search.evaluation import prepare

SPACES = Path(__file__).parents[2] / "tune_spaces"
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
    values = {"data": {"path": data}, "space": str(SPACES / "kmeans.py"), "n_clusters": 4, "trials": 3, "fixed": FIXED}
    return TuneSettings(**{**values, "out": str(out), "concurrent": 0, **others})


def table(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials but for their times and places."""
    lines = [{key: value for key, value in entry.items() if key != "seconds"} for entry in summary["trials"]]
    for line in lines:
        line["settings"] = {k: v for k, v in line["settings"].items() if k not in ("data.path", "output.out")}
    return lines


def states(settings: TuneSettings) -> list[str]:
    return [t.state.name for t in open_study(prepare(settings)).get_trials()]
