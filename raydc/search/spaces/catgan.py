"""CatGAN: noise of the generator and dropout of the critic, and how fast both players learn."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.noise", 16, 128, log=True)
    trial.suggest_float("method.network.dropout", 0.0, 0.6)
    trial.suggest_float("method.network.noise", 0.0, 0.5)
    trial.suggest_float("method.adversarial.optimizer.lr", 5e-5, 1e-3, log=True)
    trial.suggest_float("method.adversarial.alpha", 0.3, 0.8)
    return {"method.name": "catgan"}
