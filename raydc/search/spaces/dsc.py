"""DSC-Nets: the weights of self-expression, and how coefficients become an affinity."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_float("method.expression", 10.0, 1000.0, log=True)
    trial.suggest_float("method.penalty", 0.1, 10.0, log=True)
    trial.suggest_float("method.kept", 0.01, 0.5, log=True)
    trial.suggest_int("method.dimension", 3, 20)
    trial.suggest_float("method.power", 2.0, 12.0)
    trial.suggest_categorical("method.cluster.length", ["30 epochs", "100 epochs", "300 epochs"])
    return {"method.name": "dsc"}
