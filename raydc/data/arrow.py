"""Arrow's own files (Feather, IPC), ORC, and tables in memory."""

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.orc as orc

from raydc.data.columnar import ColumnFile, glance, rows_at_a_time
from raydc.data.source import DataError

MAGIC = b"ARROW1"
"""Files of Arrow's file format begin with it; those of its stream format and of Feather 1 do not."""


class ArrowColumns(ColumnFile):
    """A Feather or IPC file; its groups are record batches."""

    def __init__(self, filesystem: pafs.FileSystem, path: str) -> None:
        local = isinstance(filesystem, pafs.LocalFileSystem)
        stream = filesystem.open_input_file(path)
        self.mark = glance(stream)
        begin = stream.read(len(MAGIC))
        if begin != MAGIC:
            raise DataError(
                f"{path}: is not of Arrow's file format (a stream, or Feather 1); write it again with "
                "pyarrow.feather.write_feather(table, PATH)"
            )
        stream.seek(0)
        self._reader = pa.ipc.open_file(pa.memory_map(path) if local else stream)
        self.schema = self._reader.schema
        self.groups = tuple(self._reader.get_batch(i).num_rows for i in range(self._reader.num_record_batches))

    def batches(self, group: int, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        return rows_at_a_time(self._reader.get_batch(group).select([*columns]), rows)


class OrcColumns(ColumnFile):
    """An ORC file; its groups are stripes."""

    def __init__(self, filesystem: pafs.FileSystem, path: str) -> None:
        stream = filesystem.open_input_file(path)
        self.mark = glance(stream)
        self._file = orc.ORCFile(stream)
        self.schema = self._file.schema
        first = self.schema.names[:1]
        self.groups = tuple(self._file.read_stripe(i, columns=first).num_rows for i in range(self._file.nstripes))

    def batches(self, group: int, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        return rows_at_a_time(self._file.read_stripe(group, columns=[*columns]).select([*columns]), rows)


class HeldColumns(ColumnFile):
    """A table in memory, of one group."""

    def __init__(self, table: pa.Table) -> None:
        digest = hashlib.sha256(table.schema.serialize().to_pybytes())
        for column in table.itercolumns():
            for chunk in column.chunks:
                for buffer in filter(None, chunk.buffers()):
                    digest.update(buffer)
        self.mark = f"{table.num_rows} {digest.hexdigest()[:16]}"
        self.schema, self.groups, self._table = table.schema, (table.num_rows,), table

    def batches(self, group: int, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        return rows_at_a_time(self._table.select([*columns]), rows)
