"""DEC: how the autoencoder learns, how hard targets are, and how fast clusters form."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 50, log=True)
    trial.suggest_float("method.pretrain.corruption", 0.0, 0.4)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.pretrain.optimizer.lr", 3e-4, 3e-3, log=True)
    trial.suggest_float("method.nu", 0.5, 2.0)
    trial.suggest_float("method.power", 1.5, 3.0)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-5, 1e-3, log=True)
    trial.suggest_categorical("method.cluster.update_every", ["1 epochs", "3 epochs", "10 epochs"])
    return {"method.name": "dec"}
