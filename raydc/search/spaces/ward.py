"""Ward: in which view."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_categorical("method.view", ["auto", "principal components", "cosine", "whitened"])
    return {"method.name": "ward"}
