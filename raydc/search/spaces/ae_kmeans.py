"""Autoencoder and k-means: the code, and how the autoencoder learns."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 50, log=True)
    trial.suggest_float("method.pretrain.corruption", 0.0, 0.4)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.pretrain.optimizer.lr", 3e-4, 3e-3, log=True)
    return {"method.name": "ae_kmeans"}
