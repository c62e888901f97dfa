"""From what the user names as data to a source."""

import os
from functools import lru_cache, partial

import pyarrow as pa
import pyarrow.fs as pafs

from raydc.data.arrays import open_array, open_digits
from raydc.data.columnar import ColumnFile
from raydc.data.delimited import Index
from raydc.data.files import open_columns
from raydc.data.listing import listed
from raydc.data.settings import DataSettings
from raydc.data.source import DataError, RowsChanged, Source
from raydc.data.table import TableSource, careful


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
        raise DataError(f"data.path: nothing at {path}; expected a file, a folder of files, or digits")
    if info.type == pafs.FileType.File and inner.lower().endswith((".npy", ".npz")):
        return open_array(settings, filesystem, info)
    listing = careful(partial(listed, filesystem, info), settings.path)
    return TableSource(settings, listing, partial(_columns, filesystem, settings))


def _columns(filesystem: pafs.FileSystem, settings: DataSettings, path: str, index: Index | None) -> ColumnFile:
    return open_columns(filesystem, path, {}, settings.null_values, index)


@lru_cache(maxsize=1)
def opened(settings: DataSettings, fingerprint: str) -> Source:
    """The same, once in a process: footers of thousands of files need not be read for each pass or trial.

    Raises RowsChanged if their fingerprint is another now, or here.
    """
    source = open_source(settings)
    if source.fingerprint != fingerprint:
        raise RowsChanged(f"{settings.path}: the data have changed since they were checked; start again")
    return source
