"""Tuning without labels: Ray Tune and Optuna over a score that no label sees, and a choice that may say no."""

from raydc.search.conclude import tune
from raydc.search.driver import SearchError, SearchInterrupted, SearchState, SearchWatch
from raydc.search.record import tune_and_record
from raydc.search.settings import TuneSettings

__all__ = ["SearchError", "SearchInterrupted", "SearchState", "SearchWatch", "TuneSettings", "tune", "tune_and_record"]
