"""A composed method: which losses it has and how much each weighs, how centroids follow, and how it is trained."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 50, log=True)
    trial.suggest_categorical("method.features", ["code", "layers"])
    trial.suggest_categorical("method.memberships", ["student", "gaussian"])
    trial.suggest_categorical("method.centroids", ["descent", "running", "kmeans"])
    trial.suggest_float("method.hardening.weight", 0.1, 10.0, log=True)
    for loss in ("kmeans", "balance", "classification"):
        trial.suggest_categorical(f"method.{loss}.weight", [0.0, 0.1, 1.0])
    trial.suggest_float("method.cluster.alpha", 0.02, 0.9)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.pretrain.optimizer.lr", 3e-4, 3e-3, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-4, 1e-3, log=True)
    trial.suggest_categorical("method.cluster.length", ["50 epochs", "100 epochs"])
    return {"method.name": "custom"}
