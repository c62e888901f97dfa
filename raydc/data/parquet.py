"""Parquet files, read through their footers."""

import hashlib
import io
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raydc.data.columnar import ColumnFile
from raydc.data.formats import PARQUET, conversion
from raydc.data.kinds import is_list, storage_of
from raydc.data.source import DataError

MAGIC = b"PAR1"
"""Parquet files begin and end with it."""
WHOLE = 2**27
"""Bytes of a row group up to which it is fetched as a whole; a larger one is read through small buffers."""


class ParquetColumns(ColumnFile):
    """A Parquet file; its groups are row groups. Raises DataError if it is none, and pyarrow's errors."""

    def __init__(self, filesystem: pafs.FileSystem, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        with filesystem.open_input_file(path) as stream:
            size = stream.size()
            if not path.lower().endswith(PARQUET) and (size < 12 or stream.read(4) != MAGIC):
                raise DataError(f"{path}: is no Parquet file; {conversion(path)}")
            if size < 12:
                raise DataError(f"{path}: {size} bytes, so not a Parquet file; write it again")
            stream.seek(size - 8)
            length = int.from_bytes(stream.read(4), "little")
            stream.seek(max(0, size - 8 - length))
            self.mark = f"{size} {hashlib.sha256(stream.read(length)).hexdigest()[:16]}"
            try:
                file = pq.ParquetFile(stream)
            except pa.ArrowException:
                raise
            except ValueError as problem:  # Ray's own reader of tensor columns, where this process has loaded Ray
                raise DataError(
                    f"{path}: its tensor column's metadata is not written as JSON, so it is not read (it may carry"
                    " code); write the file again with Ray 2.55 or newer, or as lists"
                ) from problem
        self._metadata, self.schema = file.metadata, file.schema_arrow
        self.groups = tuple(self._metadata.row_group(i).num_rows for i in range(self._metadata.num_row_groups))
        self._file: pq.ParquetFile | None = None

    def batches(self, group: int, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """As `_as_stored` says where that fits the file."""
        if self._file is None:
            metadata, stored = self._metadata, _as_stored(self.schema)
            if stored != self.schema.remove_metadata():
                metadata = _with_schema(metadata, stored) or metadata
            stream = self._filesystem.open_input_file(self._path)
            reading = {} if _largest(metadata) < WHOLE else {"pre_buffer": False, "buffer_size": 2**20}
            self._file = pq.ParquetFile(stream, metadata=metadata, page_checksum_verification=True, **reading)
        found: Iterator[pa.RecordBatch] = self._file.iter_batches(
            batch_size=rows, row_groups=[group], columns=[*columns]
        )
        return found

    def narrow(self, group: int) -> set[str]:
        """By the statistics of the footer."""
        row_group, found = self._metadata.row_group(group), set()
        for at in range(row_group.num_columns):
            column = row_group.column(at)
            about = column.statistics if column.is_stats_set else None
            if about is not None and about.has_min_max and isinstance(about.min, int) and isinstance(about.max, int):
                if about.max - about.min + 1 < row_group.num_rows:
                    found.add(column.path_in_schema)
        return found


def _largest(metadata: pq.FileMetaData) -> int:
    """Bytes of the largest row group, uncompressed."""
    return max((metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)), default=0)


def _as_stored(schema: pa.Schema) -> pa.Schema:
    """The schema with list-like columns as the plain lists that they are in Parquet.

    pyarrow cannot read a null back into a fixed-size list, and an extension type would be asked to decode itself.
    """
    fields = []
    for field in schema:
        kind = storage_of(field)
        if is_list(kind):
            kind = pa.list_(kind.value_field)
        fields.append(pa.field(field.name, kind, field.nullable))
    return pa.schema(fields)


def _with_schema(metadata: pq.FileMetaData, schema: pa.Schema) -> pq.FileMetaData | None:
    """The same footer without the Arrow schema stored in it, so that columns are read as plain Parquet types.

    None if `schema` does not describe these columns exactly, as with files of other writers.
    """
    empty = io.BytesIO()
    pq.ParquetWriter(empty, schema, store_schema=False, use_compliant_nested_type=False).close()
    bare = pq.read_metadata(io.BytesIO(empty.getvalue()))
    if not bare.schema.equals(metadata.schema):
        return None
    bare.append_row_groups(metadata)
    return bare
