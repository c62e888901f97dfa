"""The method too: every one that can take the rows, each with its own space."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from raydc.search.space import Rows, load_space, methods_for

FIRST = "idec"
"""The method whose default configuration is tried first."""


@lru_cache
def choices(rows: Rows) -> list[str]:
    return [FIRST, *(name for name in methods_for(rows) if name != FIRST)]


def space(trial: Any, rows: Rows) -> dict[str, Any]:
    name = trial.suggest_categorical("method.name", choices(rows))
    return load_space(Path(__file__).with_name(f"{name}.py"))(trial, rows) or {}
