"""From what the user names as data to a source."""

import os
from functools import lru_cache

import pyarrow as pa
import pyarrow.fs as pafs

from raydc.data.arrays import open_array, open_digits
from raydc.data.parquet import ParquetSource
from raydc.data.settings import DataSettings
from raydc.data.source import DataError, RowsChanged, Source


def open_source(settings: DataSettings) -> Source:
    """The rows that `settings.path` names, opened and checked by their footers.

    Raises DataError if there is nothing there, it cannot be read, holds no rows, or leaves a choice of columns open.
    """
    path = settings.path
    if path == "digits":
        return open_digits(settings)
    try:
        if "://" in path:
            filesystem, inner = pafs.FileSystem.from_uri(path)
        else:
            inner = os.path.abspath(os.path.expanduser(path))
            filesystem, settings = pafs.LocalFileSystem(), settings.model_copy(update={"path": inner})
        info = filesystem.get_file_info(inner)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"data.path: cannot reach {path}: {error}") from error
    if info.type == pafs.FileType.NotFound:
        raise DataError(f"data.path: nothing at {path}; expected a file, a directory of Parquet files, or digits")
    if info.type == pafs.FileType.File and inner.lower().endswith((".npy", ".npz")):
        return open_array(settings, filesystem, info)
    return ParquetSource(settings, filesystem, info)


@lru_cache(maxsize=1)
def opened(settings: DataSettings, fingerprint: str) -> Source:
    """The same, once in a process: footers of thousands of files need not be read for each pass or trial.

    Raises RowsChanged if their fingerprint is another now, or here.
    """
    source = open_source(settings)
    if source.fingerprint != fingerprint:
        raise RowsChanged(f"{settings.path}: the data have changed since they were checked; start again")
    return source
