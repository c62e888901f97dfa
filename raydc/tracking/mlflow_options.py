"""MLflow's options for what one thread asks of it.

MLflow reads them from the environment of the whole process each time that it needs one. What raydc needs otherwise
holds for its own requests alone: other threads, and whatever else the process does with MLflow, see nothing of it.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from mlflow import environment_variables

RETRIES = environment_variables.MLFLOW_HTTP_REQUEST_MAX_RETRIES
TIMEOUT = environment_variables.MLFLOW_HTTP_REQUEST_TIMEOUT
PROGRESS_BAR = environment_variables.MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
IN_BACKGROUND = environment_variables.MLFLOW_ENABLE_ASYNC_LOGGING
NO_LINKS = environment_variables.MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT
PICKLES = environment_variables.MLFLOW_ALLOW_PICKLE_DESERIALIZATION

_here: ContextVar[Mapping[str, Any]] = ContextVar("raydc_mlflow_options", default=MappingProxyType({}))


@contextmanager
def options(retries: int) -> Iterator[None]:
    """Requests of this thread are repeated so often, are sent before the call returns, and read no pickle.

    MLflow prints and logs nothing of them: what goes wrong it raises as well.
    """
    values = {RETRIES.name: retries, IN_BACKGROUND.name: False, PICKLES.name: False, NO_LINKS.name: True}
    unless_set = {TIMEOUT.name: 20, PROGRESS_BAR.name: False}
    values |= {name: value for name, value in unless_set.items() if name not in os.environ}
    token = _here.set(values)
    try:
        yield
    finally:
        _here.reset(token)


def _look_here_first(option: Any) -> None:
    of_the_process = option.get

    def get() -> Any:
        values = _here.get()
        return values[option.name] if option.name in values else of_the_process()

    option.get = get


def _unless_asking(record: logging.LogRecord) -> bool:
    return not _here.get()


for _option in (RETRIES, TIMEOUT, PROGRESS_BAR, IN_BACKGROUND, NO_LINKS, PICKLES):
    _look_here_first(_option)
for _handler in logging.getLogger("mlflow").handlers:
    _handler.addFilter(_unless_asking)
