"""A file of rows in columns, whatever its format: what a source of tables asks of it."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

EDGES = (2**10, 2**16)
"""Bytes at the begin and at the end of a file that a glance at its content takes in."""


class ColumnFile(ABC):
    """An open file: its names and types, and its rows in groups that are decoded one at a time.

    Where groups begin depends on the file's content alone, so that workers can share a file.
    """

    mark: str
    """What tells this content from another's: size and a hash, of all or of what a glance takes in."""
    schema: pa.Schema
    groups: tuple[int, ...]
    """Rows of each group."""

    @abstractmethod
    def batches(self, group: int, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        """These columns of a group in the order of rows, so many rows at a time; the last batch may have fewer."""

    def narrow(self, group: int) -> set[str]:
        """Columns of integers in whose range, as the file states it, there is no room for all rows to differ."""
        return set()


def glance(stream: Any) -> str:
    """Size of an open file and a hash of its edges, as text; the stream is at its begin afterwards."""
    size, (begin, end) = stream.size(), EDGES
    stream.seek(0)
    edges = hashlib.sha256(stream.read(min(size, begin)))
    stream.seek(max(0, size - end))
    edges.update(stream.read(end))
    stream.seek(0)
    return f"{size} {edges.hexdigest()[:16]}"


def rows_at_a_time(table: pa.Table | pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    """A table in batches of so many rows."""
    whole = pa.Table.from_batches([table]) if isinstance(table, pa.RecordBatch) else table.combine_chunks()
    return iter(whole.to_batches(max_chunksize=rows))
