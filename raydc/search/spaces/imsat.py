"""IMSAT: the perturbation, the weight of the marginal entropy, and how fast it learns."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_float("method.balance", 1.0, 8.0, log=True)
    perturbation = trial.suggest_categorical("method.perturbation", ["vat", "rpt"])
    trial.suggest_float("method.radius", 0.05, 1.0, log=True)
    if perturbation == "vat":  # a random direction is not looked for
        trial.suggest_float("method.probe", 0.03, 1.0, log=True)
    trial.suggest_float("method.cluster.optimizer.lr", 3e-4, 5e-3, log=True)
    return {"method.name": "imsat"}
