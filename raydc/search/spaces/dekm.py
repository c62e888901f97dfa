"""DEKM: how the autoencoder learns, and how long its code is sharpened."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 50, log=True)
    trial.suggest_float("method.pretrain.corruption", 0.0, 0.4)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.pretrain.optimizer.lr", 3e-4, 3e-3, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-4, 2e-3, log=True)
    trial.suggest_categorical("method.cluster.update_every", ["10 steps", "40 steps", "160 steps"])
    return {"method.name": "dekm"}
