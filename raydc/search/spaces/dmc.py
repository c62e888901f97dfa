"""DMC-style: how the autoencoder learns, and the weights of neighbours and centres."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 50, log=True)
    trial.suggest_float("method.pretrain.corruption", 0.0, 0.4)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.pretrain.optimizer.lr", 3e-4, 3e-3, log=True)
    trial.suggest_int("method.neighbours", 2, 15)
    trial.suggest_float("method.locality", 0.05, 5.0, log=True)
    trial.suggest_float("method.proximity", 0.005, 1.0, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-5, 1e-3, log=True)
    return {"method.name": "dmc"}
