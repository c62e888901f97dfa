"""Leiden: how many neighbours tie a row, and in which view."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.neighbours", 5, 30, log=True)
    trial.suggest_categorical("method.view", ["auto", "principal components", "cosine", "whitened"])
    return {"method.name": "leiden"}
