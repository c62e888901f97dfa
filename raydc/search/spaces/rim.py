"""RIM: the weights of the marginal entropy and of weight decay, and how fast it learns."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_float("method.balance", 0.5, 4.0, log=True)
    trial.suggest_float("method.weight_decay", 1e-4, 3e-2, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 3e-4, 5e-3, log=True)
    return {"method.name": "rim"}
