"""LESC: how the autoencoder learns, and how the embedding follows its code."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 50, log=True)
    trial.suggest_float("method.pretrain.corruption", 0.0, 0.4)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.pretrain.optimizer.lr", 3e-4, 3e-3, log=True)
    trial.suggest_float("method.freedom", 0.5, 4.0, log=True)
    trial.suggest_float("method.weight", 0.1, 10.0, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-4, 1e-3, log=True)
    trial.suggest_categorical("method.cluster.length", ["10 epochs", "50 epochs"])
    return {"method.name": "lesc"}
