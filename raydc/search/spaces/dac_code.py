"""DAC as published: where the threshold of pairs begins and ends, and how fast the network learns."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_float("method.upper", 0.75, 0.95)
    trial.suggest_float("method.lower", 0.3, 0.7)
    trial.suggest_int("method.chunk", 256, 2000, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 1e-4, 3e-3, log=True)
    trial.suggest_categorical("method.cluster.length", ["5 epochs", "10 epochs", "20 epochs"])
    return {"method.name": "dac_code"}
