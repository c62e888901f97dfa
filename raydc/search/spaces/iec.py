"""IEC: the basic partitions, and the layers that fuse them."""

from typing import Any


def space(trial: Any) -> dict[str, Any]:
    trial.suggest_int("method.partitions", 20, 200, log=True)
    trial.suggest_float("method.most", 1.0, 4.0)
    trial.suggest_int("method.layers", 1, 5)
    trial.suggest_float("method.corruption", 0.1, 0.5)
    return {"method.name": "iec"}
