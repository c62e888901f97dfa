"""DEN: the code's groups, how the autoencoder learns, and the weights of its constraints."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.group_size", 1, 5)
    trial.suggest_float("method.pretrain.corruption", 0.0, 0.4)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.pretrain.optimizer.lr", 3e-4, 3e-3, log=True)
    trial.suggest_int("method.neighbours", 2, 15)
    trial.suggest_float("method.locality", 0.05, 5.0, log=True)
    trial.suggest_float("method.sparsity", 0.05, 2.0, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-4, 1e-3, log=True)
    return {"method.name": "den"}
