"""InfoGAN: the codes beside the category, and how fast both players learn."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.continuous", 0, 4)
    trial.suggest_int("method.noise", 16, 128, log=True)
    trial.suggest_float("method.generator.lr", 1e-4, 3e-3, log=True)
    trial.suggest_float("method.adversarial.optimizer.lr", 5e-5, 1e-3, log=True)
    trial.suggest_float("method.adversarial.alpha", 0.2, 0.8)
    return {"method.name": "infogan"}
