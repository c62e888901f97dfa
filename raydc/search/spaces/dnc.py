"""DNC: the deep belief network, and how readily clusters begin; it finds the number of clusters itself."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 20, 200, log=True)
    trial.suggest_categorical("method.layerwise.length", ["50 epochs", "100 epochs", "200 epochs"])
    trial.suggest_float("method.layerwise.optimizer.lr", 3e-4, 1e-2, log=True)
    trial.suggest_float("method.sharpness", 10.0, 100.0, log=True)
    trial.suggest_float("method.concentration", 0.1, 1e4, log=True)
    trial.suggest_float("method.step", 0.01, 0.3, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-5, 1e-3, log=True)
    return {"method.name": "dnc"}
