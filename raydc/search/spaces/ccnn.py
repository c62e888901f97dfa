"""CCNN: the network's size, its rate, and how fast centroids follow."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.channels", 16, 64, log=True)
    trial.suggest_int("method.network.latent", 20, 320, log=True)
    trial.suggest_float("method.first_count", 10.0, 1000.0, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-3, 0.1, log=True)
    trial.suggest_categorical("method.cluster.length", ["20 epochs", "50 epochs"])
    return {"method.name": "ccnn"}
