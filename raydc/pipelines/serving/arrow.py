"""Arrow's stream format from strangers: nothing is unpacked to more than was sent, and no extension type is asked."""

import struct
from collections.abc import Collection
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raydc.data.kinds import extension_of, is_list, stored_as
from raydc.data.source import DataError

SCHEMA, DICTIONARY, BATCH = 1, 2, 3
"""Kinds of messages that a stream of tables has, by their numbers in Arrow's Message.fbs."""
KIND, HEADER = 1, 2
"""Fields of a Message: which kind its header is, and the header."""
DATA = 1
"""Field of a DictionaryBatch: its RecordBatch."""
COMPRESSION = 3
"""Field of a RecordBatch: how its buffers are compressed; absent where they are not."""


class TooManyRows(DataError):
    """More rows than are taken at a time."""


def table_in(body: bytes, columns: Collection[str], most_rows: int, most_bytes: int) -> pa.Table:
    """Of the table of a stream those `columns` that it has; all where none are named.

    DataError where it is no stream, is compressed, or a column holds a type that is not taken; TooManyRows where it has
    more than `most_rows`, or a dictionary stands for more than `most_bytes`.
    """
    try:
        _require_plain(body)
        with pa.ipc.open_stream(body) as stream:
            batches, rows = [], 0
            for batch in stream:
                rows += batch.num_rows
                if rows > most_rows:
                    raise TooManyRows(f"expected {most_rows:,} rows at most; send them in several requests")
                batch.validate(full=True)
                batches.append(batch)
            table = pa.Table.from_batches(batches, stream.schema)
        table = table.select([name for name in table.column_names if not columns or name in columns])
    except (pa.ArrowException, OSError, EOFError, struct.error, UnicodeDecodeError) as problem:
        raise DataError(f"the body is no Arrow stream: {problem}") from None
    for field in table.schema:
        if extension_of(field) is not None or not (is_list(field.type) or stored_as(field.type)):
            raise DataError(
                f"column {field.name}: expected numbers, truth values, texts, dates, pictures (bytes) or lists of "
                f"numbers, got {field.type}"
            )
    for name, column in zip(table.column_names, table.columns, strict=True):
        if sum(map(_unpacked, column.chunks)) > most_bytes:
            raise TooManyRows(f"column {name}: expected {most_bytes:,} bytes at most once its dictionary is applied")
    return table


def _require_plain(body: bytes) -> None:
    """DataError where buffers are compressed: a few bytes could stand for more than there is memory."""
    reader = pa.ipc.MessageReader.open_stream(body)
    for message in reader:
        if _is_compressed(message.metadata.to_pybytes()):
            raise DataError("expected an Arrow stream without compression")


def _is_compressed(metadata: bytes) -> bool:
    """Whether a message's buffers are, by its flatbuffer, which the reader has checked.

    pyarrow tells it nowhere, and decompresses as it reads.
    """
    message = _follow(metadata, 0)
    kind_at = _field(metadata, message, KIND)
    kind = metadata[kind_at] if kind_at else 0
    if kind not in (DICTIONARY, BATCH):
        return False
    batch = _follow(metadata, _field(metadata, message, HEADER))
    if kind == DICTIONARY:
        batch = _follow(metadata, _field(metadata, batch, DATA))
    return _field(metadata, batch, COMPRESSION) != 0


def _follow(data: bytes, at: int) -> int:
    """Where an offset that is stored leads to."""
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table is; 0 where it has none."""
    entries = table - int(struct.unpack_from("<i", data, table)[0])
    place = 4 + 2 * number
    size, offset = struct.unpack_from("<H", data, entries)[0], 0
    if place < size:
        offset = struct.unpack_from("<H", data, entries + place)[0]
    return table + offset if offset else 0


def _unpacked(values: Any) -> int:
    """Bytes of text that a column stands for."""
    if not pa.types.is_dictionary(values.type):
        return 0
    try:
        lengths = pc.binary_length(values.dictionary)
    except pa.ArrowException:  # of numbers, which are no longer than their places
        return 0
    return pc.sum(pc.take(lengths, values.indices)).as_py() or 0
