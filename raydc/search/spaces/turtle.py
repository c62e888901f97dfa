"""TURTLE: how unequal the clusters are, how closely sizes are held to that, and how far the classifiers learn."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_categorical("method.unequal", [0.0, 0.5, 1.0])
    trial.suggest_float("method.balance", 1.0, 20.0, log=True)
    trial.suggest_float("method.inner_rate", 0.3, 3.0, log=True)
    return {"method.name": "turtle"}
