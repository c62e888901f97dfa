"""The method too: every one that can take the rows, also of other packages, each with its own space."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from raydc.search.space import Rows, methods_for, space_of

FIRST = "idec"
"""The method whose default configuration is tried first."""


@lru_cache
def choices(rows: Rows) -> list[str]:
    return [FIRST, *(name for name in methods_for(rows) if name != FIRST)]


def space(trial: Any, rows: Rows) -> dict[str, Any]:
    name = trial.suggest_categorical("method.name", choices(rows))
    return space_of(name, Path(__file__).parent)(trial, rows) or {}
