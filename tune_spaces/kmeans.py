"""k-means: positions or directions, and how many starts."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_categorical("method.spherical", [False, True])
    trial.suggest_int("method.restarts", 5, 40)
    trial.suggest_categorical("data.scaling", ["power", "standard"])
    return {"method.name": "kmeans"}
