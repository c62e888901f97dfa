"""DAC-H: the code, how long it is pretrained, and how fast the players learn."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.network.latent", 5, 30, log=True)
    trial.suggest_categorical("method.pretrain.length", ["50 epochs", "150 epochs", "300 epochs"])
    trial.suggest_float("method.adversarial.optimizer.lr", 1e-4, 2e-3, log=True)
    trial.suggest_float("method.encoder_rate", 0.02, 1.0, log=True)
    return {"method.name": "dac_h"}
