"""The method too: those that take any rows and label new ones, each with its own space."""

from pathlib import Path
from typing import Any

from raydc.search.space import load_space

METHODS = ("idec", "dec", "dcn", "ae_kmeans", "vade", "imsat", "rim")


def space(trial: Any) -> dict[str, Any]:
    name = trial.suggest_categorical("method.name", METHODS)
    return load_space(Path(__file__).with_name(f"{name}.py"))(trial) or {}
