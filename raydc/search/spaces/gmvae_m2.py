"""GMVAE-M2: its code, how far it cools, and how fast it learns."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 128, log=True)
    trial.suggest_float("method.coolest", 0.1, 1.0, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 2e-4, 5e-3, log=True)
    trial.suggest_float("method.cluster.alpha", 0.3, 0.8)
    return {"method.name": "gmvae_m2"}
