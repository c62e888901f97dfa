"""DEPICT: how noisy the noisy path is, the target, and how fast it learns."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_categorical("method.target", ["code", "paper"])
    trial.suggest_float("method.noise", 0.0, 0.4)
    trial.suggest_float("method.hidden_weight", 0.01, 1.0, log=True)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.cluster.optimizer.lr", 1e-5, 1e-3, log=True)
    return {"method.name": "depict"}
