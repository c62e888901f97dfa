"""From what the user names as data to a source."""

import os
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs

from raydc.core.registries import PluginError
from raydc.data import encoders
from raydc.data.anndata import SUFFIX, has_names, open_anndata
from raydc.data.arrays import open_array, open_digits
from raydc.data.arrow import HeldColumns
from raydc.data.columnar import ColumnFile
from raydc.data.delimited import Index
from raydc.data.encoding import ARROW
from raydc.data.files import open_columns
from raydc.data.inputs import table_of, to_arrow
from raydc.data.listing import Listing, listed
from raydc.data.settings import SOURCES, TAKEN, DataSettings
from raydc.data.source import DataError, RowsChanged, Source
from raydc.data.table import TableSource, careful

WEIGHTS = "sample_weight"
"""The column of weights that are given beside a table in memory."""


def open_source(settings: DataSettings) -> Source:
    """The rows that `settings.path` names, opened and checked by their footers.

    Raises DataError if there is nothing there, it cannot be read, holds no rows, or leaves a choice of columns open.
    """
    path = settings.path
    if settings.encoder is not None:
        encoders.permit(settings.encoder)
    if settings.matrix != DataSettings.model_fields["matrix"].default and not path.lower().endswith(SUFFIX):
        raise DataError(f"data.matrix: {path} is no AnnData file ({SUFFIX}); leave it out")
    if path == "digits":
        return open_digits(settings)
    added = added_by(path)
    if added is not None:
        return _open_added(added, settings)
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
    if info.type == pafs.FileType.File and inner.lower().endswith(SUFFIX):
        return open_anndata(settings, filesystem, info)
    listing = careful(partial(listed, filesystem, info), settings.path)
    if listing.format == "images":
        from raydc.data.images import EncodedImages, ImageSource  # here: few rows are pictures, and Pillow takes time

        kind = EncodedImages if settings.encoder or settings.encoding else ImageSource
        return kind(settings, filesystem, listing)
    return TableSource(settings, listing, partial(_columns, filesystem, settings))


def open_frame(rows: Any, settings: DataSettings, weights: np.ndarray | None = None) -> TableSource:
    """The rows of a table in memory, as `raydc.data.rows_of` takes one, with how much each counts; else as files are.

    Raises DataError as `open_source` does.
    """
    table = to_arrow(table_of(rows))
    if weights is not None:
        if WEIGHTS in table.column_names:
            raise DataError(f"the rows have a column {WEIGHTS}; name it data.weight_column, or call it otherwise")
        table = table.append_column(WEIGHTS, pa.array(weights, pa.float64()))
        settings = settings.model_copy(update={"weight_column": WEIGHTS})
    listing = Listing((pafs.FileInfo(settings.path, pafs.FileType.File, mtime_ns=0, size=table.nbytes),), ({},))
    return TableSource(settings, listing, lambda path, index: HeldColumns(table))


def _columns(filesystem: pafs.FileSystem, settings: DataSettings, path: str, index: Index | None) -> ColumnFile:
    types = {name: pa.string() for name, kind in settings.typed.items() if kind in ("category", "text")}
    if settings.encoding is not None:
        types |= {one.name: ARROW[one.stored] for one in settings.encoding.columns if one.stored != "date"}
    return open_columns(filesystem, path, types, settings.null_values, index)


def added_by(path: str) -> str | None:
    """The name of the source, of those that others add, that opens this path; None where raydc does.

    NAME opens the paths NAME and NAME://..., and .NAME those that end so; of several the longest.
    """
    scheme, lower = path.partition("://")[0], path.lower()
    found = [name for name in SOURCES.names() if (lower.endswith(name) if name.startswith(".") else name == scheme)]
    return max((name for name in found if name not in TAKEN), key=len, default=None)


def _open_added(name: str, settings: DataSettings) -> Source:
    """The rows by a source that others add; DataError says what is wrong, and whose it is."""
    if name.startswith(".") and "://" not in settings.path:
        settings = settings.model_copy(update={"path": os.path.abspath(os.path.expanduser(settings.path))})
    try:
        source = SOURCES.load(name)(settings)
    except DataError:
        raise
    except Exception as problem:  # somebody else's code
        said = str(problem) if isinstance(problem, PluginError) else f"{type(problem).__name__}: {problem}"
        raise DataError(f"data.path: {settings.path} cannot be opened by the source {name!r}: {said}") from problem
    if not isinstance(source, Source):
        raise DataError(f"data.path: the source {name!r}: expected it to open a raydc.data.Source, got {source!r}")
    return source


def by_position(settings: DataSettings) -> bool:
    """Whether features go by their position, as in arrays, and not by names of columns."""
    if added_by(settings.path) is not None:
        return not open_source(settings).names
    if settings.path.lower().endswith(SUFFIX):
        return not has_names(settings)
    return settings.path == "digits" or settings.path.endswith((".npy", ".npz"))


@lru_cache(maxsize=1)
def opened(settings: DataSettings, fingerprint: str) -> Source:
    """The same, once in a process: footers of thousands of files need not be read for each pass or trial.

    Raises RowsChanged if their fingerprint is another now, or here.
    """
    source = open_source(settings)
    if source.fingerprint != fingerprint:
        raise RowsChanged(f"{settings.path}: the data have changed since they were checked; start again")
    return source
