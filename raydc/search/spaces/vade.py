"""VaDE: the code, how long it is pretrained, and how fast network and mixture learn."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 50, log=True)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.pretrain.optimizer.lr", 3e-4, 3e-3, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 3e-4, 5e-3, log=True)
    trial.suggest_float("method.cluster.ramp", 0.0, 0.5)
    trial.suggest_float("method.mixture_rate", 0.1, 10.0, log=True)
    return {"method.name": "vade"}
