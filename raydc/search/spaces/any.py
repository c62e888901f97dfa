"""The method too: every one that fits the rows, also of other packages, each with its own space."""

from functools import lru_cache
from typing import Any

from raydc.search.kinds import Rows, methods_for
from raydc.search.space import space_of

FIRST = {"embeddings": "temi"}
"""The method whose default configuration is tried first, by what the rows are; of all others idec."""


@lru_cache
def choices(rows: Rows) -> list[str]:
    first = FIRST.get(rows.kind, "idec")
    return [first, *(name for name in methods_for(rows) if name != first)]


def space(trial: Any, rows: Rows) -> dict[str, Any]:
    name = trial.suggest_categorical("method.name", choices(rows))
    return space_of(name)(trial, rows) or {}
