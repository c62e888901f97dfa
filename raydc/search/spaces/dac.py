"""DAC: the thresholds between which pairs are left out, how rows are varied, and how fast it learns."""

from typing import Any

from raydc.search.space import Rows


def space(trial: Any, rows: Rows) -> dict[str, Any]:
    trial.suggest_float("method.upper", 0.8, 0.99)
    trial.suggest_float("method.lower", 0.2, 0.6)
    if len(rows.shape) == 3:
        trial.suggest_float("method.augment.rotate", 0.0, 20.0)
        trial.suggest_float("method.augment.shift", 0.0, 0.15)
    else:
        trial.suggest_float("method.augment.noise", 0.0, 0.3)
    trial.suggest_float("method.cluster.optimizer.lr", 2e-4, 3e-3, log=True)
    return {"method.name": "dac"}
