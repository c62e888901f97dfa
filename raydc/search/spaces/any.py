"""The method too: every one that fits the rows, also of other packages, each with its own space.

Opponents are among the baselines of every search, so none of its trials is spent on them.
"""

from functools import lru_cache
from typing import Any

from raydc.search.kinds import Rows, methods_for
from raydc.search.opponents import OPPONENTS
from raydc.search.space import space_of

FIRST = {"embeddings": "temi"}
"""The method whose default configuration is tried first, by what the rows are; of all others idec."""


@lru_cache
def choices(rows: Rows) -> list[str]:
    first = FIRST.get(rows.kind, "idec")
    return [first, *(name for name in methods_for(rows) if name not in (first, *OPPONENTS))]


def space(trial: Any, rows: Rows) -> dict[str, Any]:
    name = trial.suggest_categorical("method.name", choices(rows))
    return space_of(name)(trial, rows) or {}
