"""GMVAE: its code and style, what clusters may cost, and how fast it learns."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 10, 200, log=True)
    trial.suggest_int("method.network.style", 2, 150, log=True)
    trial.suggest_float("method.free_bits", 0.1, 1.5)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-4, 2e-3, log=True)
    return {"method.name": "gmvae"}
