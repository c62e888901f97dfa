"""DCN: how the autoencoder learns, the weight of the k-means loss, and how centroids follow."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 50, log=True)
    trial.suggest_float("method.pretrain.corruption", 0.0, 0.4)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.pretrain.optimizer.lr", 3e-4, 3e-3, log=True)
    trial.suggest_float("method.weight", 0.01, 2.0, log=True)
    trial.suggest_float("method.first_count", 10.0, 1000.0, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-5, 1e-3, log=True)
    return {"method.name": "dcn"}
