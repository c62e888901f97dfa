"""TEMI: how many neighbours, how far from mutual information, and how fast the heads learn."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_categorical("method.neighbours.count", [10, 25, 50])
    trial.suggest_float("method.power", 0.5, 0.8)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-4, 2e-3, log=True)
    trial.suggest_categorical("method.consensus.length", ["0 epochs", "20 epochs"])
    return {"method.name": "temi"}
