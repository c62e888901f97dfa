"""k-means: positions or directions, where they start, and how rows are scaled."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_categorical("method.spherical", [False, True])
    trial.suggest_categorical("method.start", ["k-means++", "k-means||"])
    trial.suggest_categorical("data.scaling", ["power", "standard"])
    return {"method.name": "kmeans"}
