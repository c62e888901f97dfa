"""JULE: the neighbourhoods, how fast clusters are merged, and the triplets."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.neighbours", 10, 40)
    trial.suggest_int("method.nearest", 2, 10)
    trial.suggest_float("method.rate", 0.3, 0.95)
    trial.suggest_float("method.margin", 0.05, 1.0, log=True)
    trial.suggest_categorical("method.final", ["rc", "sf"])
    return {"method.name": "jule"}
