"""Tuning without labels: Ray Tune and Optuna over a score that no label sees, and a choice that may say no."""

from typing import TYPE_CHECKING

from raydc.core.lazy import lazily

if TYPE_CHECKING:
    from raydc.search.conclude import tune
    from raydc.search.errors import SearchError, SearchInterrupted
    from raydc.search.planner import SearchState, SearchWatch
    from raydc.search.record import tune_and_record
    from raydc.search.settings import TuneSettings

__all__ = ["SearchError", "SearchInterrupted", "SearchState", "SearchWatch", "TuneSettings", "tune", "tune_and_record"]
__getattr__ = lazily(
    __name__,
    {
        "conclude": ["tune"],
        "errors": ["SearchError", "SearchInterrupted"],
        "planner": ["SearchState", "SearchWatch"],
        "record": ["tune_and_record"],
        "settings": ["TuneSettings"],
    },
)
