"""From a file of rows in columns to what reads it."""

from collections.abc import Mapping, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.fs as pafs

from raydc.data.arrow import ArrowColumns, OrcColumns
from raydc.data.columnar import ColumnFile
from raydc.data.delimited import CsvRows, Index, JsonRows, LineColumns
from raydc.data.formats import format_of
from raydc.data.parquet import ParquetColumns


def open_columns(
    filesystem: pafs.FileSystem,
    path: str,
    types: Mapping[str, pa.DataType],
    nulls: Sequence[str] = (),
    index: Index | None = None,
) -> ColumnFile:
    """A file of a format that its name tells, else of Parquet.

    `types` are those of columns of CSV that values are not to tell, `nulls` its texts that stand for no value, and
    `index` what an earlier opening of a file of lines found. Raises DataError and pyarrow's errors if it cannot be
    read.
    """
    kind = format_of(path)
    if kind == "CSV":
        return LineColumns(filesystem, path, CsvRows, partial(CsvRows.begin, nulls=nulls), types, index)
    if kind == "JSON Lines":
        return LineColumns(filesystem, path, JsonRows, JsonRows.begin, types, index)
    readers = {"Arrow": ArrowColumns, "ORC": OrcColumns}
    return readers.get(kind or "", ParquetColumns)(filesystem, path)
