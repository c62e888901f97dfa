"""Rows in columns: files of one format, wherever pyarrow's file systems reach, or a table in memory."""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydc.data.columnar import ColumnFile
from raydc.data.columns import INDEX, KEY, KEY_ROWS, PARTITION, PARTLY, Columns, choose, is_key, pandas_index
from raydc.data.decoded import DecodedSource
from raydc.data.delimited import Index, LineColumns
from raydc.data.embedded import EXCERPT, VECTORS, Embedded, embedded
from raydc.data.encoders import EncoderError
from raydc.data.encoding import Encoding
from raydc.data.fitting import fit
from raydc.data.kinds import (
    UUID,
    differences,
    extension_of,
    is_binary,
    is_list,
    is_number,
    is_text,
    is_wide_integer,
    numpy_type,
    plain,
    storage_of,
    unified,
)
from raydc.data.listing import Listing, partition_fields, partition_value
from raydc.data.settings import DataSettings
from raydc.data.source import Block, DataError, Layout, Piece, cut, resolve_layout, texts, weights_of

T = TypeVar("T")

CHUNK_VALUES = 2**23
"""Values that are decoded together, about: 32 MB as float32."""
WIDE = 16
"""Columns that are put side by side together: a line of the cache of float32."""
TOGETHER = 2**13
"""Rows that are decoded together of columns that are gone through once."""
PLACES, PLACE_ROWS = 8, 256
"""Places all over the data, and rows in each at most, where the length of lists is looked up."""


Open = Callable[[str, Index | None], ColumnFile]
"""Opens a file by its path and what an earlier opening found."""


class TableSource(DecodedSource):
    """A fixed-size-list, list or tensor column, or columns of numbers, texts and dates, in the files of a listing.

    Opening reads what the files say of themselves (files of lines from begin to end), where lengths of lists or keys
    must be told a few rows, and where columns are to be encoded and the settings do not say how, these; raises
    DataError if the files cannot be read, hold no rows, or do not go together.
    """

    kind = "table"

    def __init__(self, settings: DataSettings, listing: Listing, open_file: Open) -> None:
        self.settings = settings
        self._open_file = open_file
        self._open: tuple[str, ColumnFile] | None = None
        self._cursor: _Cursor | None = None
        self._chunk: tuple[tuple[str, int, int], Block] | None = None
        self._encodes: Encoding | None = None
        """What makes features of the columns that are read; none where they are features already."""
        self._excerpts: str | None = None
        """The column that excerpts beside vectors are of, where there are some."""
        self.files, self.times, self._partitions = {}, {}, {}
        self._indices: dict[str, Index] = {}
        schemas: dict[str, pa.Schema] = {}
        row_groups: list[tuple[str, int, int]] = []
        known: dict[bytes, pa.Schema] = {}
        for found, partition in zip(listing.files, listing.partitions, strict=True):
            file = careful(partial(open_file, found.path, None), found.path)
            self.files[found.path], self.times[found.path] = file.mark, f"{found.size} {found.mtime_ns}"
            self._partitions[found.path] = partition
            if isinstance(file, LineColumns):
                self._indices[found.path] = file.index
            row_groups += [(found.path, i, rows) for i, rows in enumerate(file.groups)]
            if any(file.groups):
                schemas[found.path] = known.setdefault(file.schema.serialize().to_pybytes(), file.schema)
        if not schemas:
            raise DataError(f"{settings.path}: no rows in {len(self.files)} file(s)")
        self.notes = listing.notes
        self._choose(schemas, [*known.values()], [group for group in row_groups if group[2]])
        if empty := [path for path in self.files if path not in schemas]:
            self.notes += (f"{len(empty)} of {len(self.files)} files hold no rows, such as {empty[0]}",)
        self.layout = resolve_layout(self._layout() or self._measure(row_groups), settings)
        self.pieces = cut(row_groups, self.n_features)
        size = max(piece.rows for piece in self.pieces)
        # what texts take before they are encoded is not known, so they are decoded a piece at a time
        many = 1 if self._encodes is not None else max(1, CHUNK_VALUES // (size * self.n_features))
        self._chunk_rows = size * many

    def _choose(
        self, schemas: dict[str, pa.Schema], distinct: Sequence[pa.Schema], row_groups: Sequence[tuple[str, int, int]]
    ) -> None:
        """The parts that the columns play in all files together; raises DataError where those that count differ."""
        inside = {name for schema in distinct for name in schema.names}
        folders = [field for field in partition_fields([*self._partitions.values()]) if field.name not in inside]
        self._schema = pa.schema([*unified(distinct), *folders])
        self.names = tuple(self._schema.names)
        made = embedded(distinct, self.settings.path)
        self._folders = {field.name for field in folders}
        apart = {name: INDEX for schema in distinct for name in sorted(pandas_index(schema))}
        apart |= {field.name: PARTITION for field in folders}
        everywhere = set.intersection(*(set(schema.names) for schema in distinct))
        apart |= {
            name: PARTLY
            for name in sorted(inside - everywhere - {*self.settings.typed})
            if name.lower() == "id" or not is_number(self._schema.field(name).type)
        }
        known = self.settings.encoding
        if made is not None and (known is not None or self.settings.columns in (None, (VECTORS,))):
            self._take_vectors(made, apart)
            self._compare(schemas)
            return
        named = self.settings if known is None else self.settings.model_copy(update={"columns": known.names})
        self._take(choose(self._schema, named, apart))
        self._compare(schemas)
        if named.columns is None and not self._chosen.listed:
            keys = [name for name in self._keys(row_groups) if name not in named.typed]
            if len(keys) < len(self.columns):
                self._take(choose(self._schema, named, apart | dict.fromkeys(keys, KEY)))
        self.notes += self._chosen.notes
        if known is None and self._chosen.encoded:
            features = pa.schema([self._schema.field(name) for name in self.columns])
            found = fit(partial(self._all, row_groups), features, named)
            self.notes += found.notes
            known = found.encoding
            if known is None:  # recorded, so that others who open these rows need not go through all of them
                self.settings = self.settings.model_copy(update={"columns": found.columns})
                self._take(choose(self._schema, self.settings, apart))
        if known is not None:
            self.settings, self.encoding, self._encodes = self.settings.with_encoding(known), known, known
            self._read, self.columns, self.dtype = known.names, known.names, np.dtype(np.float32)

    def _take(self, chosen: Columns) -> None:
        self._chosen, self._read = chosen, chosen.features
        self.columns, self.weights, self.identified = chosen.features, chosen.weight, chosen.id
        if not chosen.encoded:
            kinds = [storage_of(self._schema.field(name)) for name in chosen.features]
            self.dtype = numpy_type([kind.value_type if is_list(kind) else kind for kind in kinds])

    def _take_vectors(self, made: Embedded, apart: Mapping[str, str]) -> None:
        """The vectors that files hold of rows that were encoded before; EncoderError if by another encoding."""
        known, encoding = self.settings.encoding, made.encoding
        if known is not None and known != encoding:
            raise EncoderError(
                f"{self.settings.path} holds vectors by {encoding.by}, and the model takes those by "
                f"{known.by}: give the raw rows, or embed them by that"
            )
        chosen = {"columns": (VECTORS,), "id_column": self.settings.id_column or made.id_column}
        self._take(choose(self._schema, self.settings.model_copy(update=chosen), apart))
        self.notes += (f"rows are vectors by {encoding.by}; the model takes raw rows, too",)
        self.settings, self.encoding, self.columns = self.settings.with_encoding(encoding), encoding, encoding.names
        texts = [column.name for column in encoding.columns if column.stored == "text"]
        if texts == [*encoding.names] and EXCERPT in self.names:
            self._excerpts = texts[0]

    def _layout(self) -> Layout | None:
        return self._chosen.layout if self._encodes is None else Layout.of((len(self._encodes.features),))

    def _all(self, row_groups: Sequence[tuple[str, int, int]], names: Sequence[str]) -> Iterator[pa.Table]:
        """All rows of these columns, some at a time."""
        for path, number, _ in row_groups:
            for batch in self._batches(path, number, names):
                yield self._with_folders(pa.Table.from_batches([batch]), path, names)

    def _batches(self, path: str, number: int, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        inside = [name for name in names if name not in self._folders]
        batches = careful(lambda: self._file(path).batches(number, inside, TOGETHER), path)
        while (batch := careful(lambda: next(batches, None), path)) is not None:
            yield batch

    def _with_folders(self, table: pa.Table, path: str, names: Iterable[str]) -> pa.Table:
        """The table, with those of the columns that folders' names give."""
        for name in self._folders.intersection(names):
            table = table.append_column(name, self._of_folder(path, name, table.num_rows))
        return table

    def _keys(self, row_groups: Sequence[tuple[str, int, int]]) -> list[str]:
        """Features of integers that number or name the rows, by a few rows from all over the data."""
        wide = [name for name in self.columns if is_wide_integer(self._schema.field(name))]
        if wide:
            path, number, _ = row_groups[0]
            narrow = careful(lambda: self._file(path).narrow(number), path)
            wide = [name for name in wide if name not in narrow]
        if not wide:
            self._open = None
            return []
        among = row_groups[:: -(-len(row_groups) // PLACES)]
        self._chunk_rows = -(-KEY_ROWS // len(among))
        tables = [careful(partial(self._table, path, number, 0, wide), path) for path, number, _ in among]
        self._cursor = self._open = None
        total = sum(rows for _, _, rows in row_groups)
        values = {name: [_one(table[name]) for table in tables] for name in wide}
        whole = {name: parts for name, parts in values.items() if not any(part.null_count for part in parts)}
        return [name for name, parts in whole.items() if is_key(np.concatenate([*map(np.asarray, parts)]), total)]

    def decode(self, piece: Piece) -> Block:
        """The rows of one piece; raises DataError if the file cannot be read or has been replaced."""
        first = piece.offset // self._chunk_rows * self._chunk_rows
        key = (piece.file, piece.row_group, first)
        if self._chunk is None or self._chunk[0] != key:
            self._chunk = None
            self._chunk = (key, careful(partial(self._decode, *key), f"{piece.file}, row group {piece.row_group}"))
        chunk = self._chunk[1]
        rows = slice(piece.offset - first, piece.offset - first + piece.rows)
        return Block(
            chunk.x[rows],
            chunk.ids[rows] if self.identified else np.arange(piece.start, piece.start + piece.rows),
            None if chunk.nulls is None or not chunk.nulls[rows].any() else chunk.nulls[rows],
            {row - rows.start: what for row, what in chunk.broken.items() if rows.start <= row < rows.stop},
            None if chunk.weights is None else chunk.weights[rows],
            None if chunk.stored is None else chunk.stored.slice(rows.start, piece.rows),
            {name: values[rows] for name, values in chunk.taken.items()},
        )

    def labels(self) -> np.ndarray | None:
        """Known classes of all rows, from the label column alone."""
        name = self._chosen.label
        if name is None:
            return None
        parts: list[np.ndarray] = []
        for path in dict.fromkeys(piece.file for piece in self.pieces):
            parts += careful(partial(self._labels, path, name), path)
        return np.concatenate(parts)

    def _compare(self, schemas: dict[str, pa.Schema]) -> None:
        """Raises DataError listing the files whose columns, as far as they count, do not go with the first file's."""
        chosen, first = self._chosen, next(iter(schemas))
        used = {*chosen.features, chosen.label, chosen.id, chosen.weight} - self._folders
        judged: dict[int, list[str]] = {}
        for schema in schemas.values():
            if id(schema) not in judged:
                judged[id(schema)] = differences(schema, schemas[first], used)
        lines = [
            f"  {path}: {', '.join(parts[:5])}" for path, schema in schemas.items() if (parts := judged[id(schema)])
        ]
        if lines:
            more = f"\n  and {len(lines) - 5} more files" if len(lines) > 5 else ""
            raise DataError(
                f"{self.settings.path}: columns differ from those of {first} in {len(lines)} file(s):\n"
                + "\n".join(lines[:5])
                + f"{more}\nWrite all files with the same features, or name common ones with --columns."
            )

    def _file(self, path: str) -> ColumnFile:
        """The open file; the last one is kept."""
        if self._open is None or self._open[0] != path:
            file = self._open_file(path, self._indices.get(path))
            if file.mark != self.files[path]:
                raise DataError(f"{path}: has been replaced since it was opened; start again")
            self._open = (path, file)
        return self._open[1]

    def _labels(self, path: str, name: str) -> list[np.ndarray]:
        """A file's labels in batches, in each of which equal texts are one object."""
        file = self._file(path)
        if name in self._folders:
            batches: Iterable[pa.Array] = [self._of_folder(path, name, sum(file.groups))]
        else:
            groups = (file.batches(group, [name], TOGETHER) for group, rows in enumerate(file.groups) if rows)
            batches = (batch[name] for group in groups for batch in group)
        return [np.asarray(_plain(batch).to_pandas(integer_object_nulls=True)) for batch in batches]

    def _of_folder(self, path: str, name: str, rows: int) -> pa.Array:
        """The value that a file's folders give to a column, in each row."""
        kind = self._schema.field(name).type
        return pa.repeat(partition_value(self._partitions[path].get(name), kind), rows)

    def _decode(self, path: str, row_group: int, first: int) -> Block:
        """A chunk of a row group: several pieces, as decoding many columns a few rows at a time is slow."""
        beside = (self.identified, self.weights, self._excerpts and EXCERPT)
        names = [*dict.fromkeys([*self._read, *filter(None, beside)])]
        table = self._table(path, row_group, first, [name for name in names if name not in self._folders])
        table = self._with_folders(table, path, names)
        broken: dict[int, tuple[str, str]] = {}
        taken: dict[str, Any] = {}
        if self._encodes is not None:
            found = self._encodes.encode(table)
            x, nulls, broken, taken = found.x, found.nulls if found.nulls.any() else None, found.broken, found.taken
        elif self._chosen.listed:
            x, nulls = _lists(table[self._read[0]], self._read[0], self.n_features, self.dtype, broken)
            x = self.layout.arrange(x)
            nulls = None if nulls is None else self.layout.arrange(nulls)
        else:
            x, nulls = _numbers(table, self._read, self.dtype)
        ids = np.zeros(len(x), np.int64)
        if self.identified:
            ids = _ids(_one(table[self.identified]), self._schema.field(self.identified), broken)
        weights = None
        if self.weights:
            values, missing = _values(_one(table[self.weights]))
            weights = weights_of(values, self.weights, broken, missing)
        stored = None if self._encodes is None else table.select(self._encodes.names)
        if self._excerpts is not None:
            stored = pa.table({self._excerpts: table[EXCERPT]})
        return Block(x, ids, nulls, broken, weights, stored, taken)

    def _table(self, path: str, row_group: int, first: int, names: list[str]) -> pa.Table:
        try:
            if self._cursor is None or not self._cursor.reaches(path, row_group, first):
                self._cursor = _Cursor(self._file(path), path, row_group, self._chunk_rows, names)
            return self._cursor.take(first)
        except Exception:
            self._cursor = self._open = None  # neither can be trusted after an error
            raise

    def _measure(self, row_groups: Sequence[tuple[str, int, int]]) -> Layout:
        """The most frequent length of rows looked at all over the data, for list columns, whose type does not tell.

        Raises DataError if most of those rows have other lengths.
        """
        name, pieces, parts = self._read[0], cut(row_groups), []
        begin = [piece for piece in pieces if piece.offset == 0]  # what lies within a row group costs all before it
        among = begin if len(begin) >= PLACES else pieces
        self._chunk_rows = PLACE_ROWS
        for piece in among[:: -(-len(among) // PLACES)]:
            read = partial(self._table, piece.file, piece.row_group, piece.offset, [name])
            lists = _one(careful(read, piece.file)[name])[: piece.rows]
            parts.append(pc.list_value_length(lists).fill_null(0).to_numpy())
        self._cursor = None
        lengths = np.concatenate(parts)
        counts = np.bincount(lengths)
        counts[0] = 0
        filled, most = int(counts.sum()), int(counts.argmax())
        if filled == 0:
            raise DataError(f"{self.settings.path}: column {name} holds no values in the {len(lengths)} rows looked at")
        if 2 * counts[most] < filled:
            raise DataError(
                f"{self.settings.path}: column {name} holds lists of {np.count_nonzero(counts)} lengths, and the most "
                f"frequent, {most}, is that of {counts[most]} of {filled} rows; write rows of one length"
            )
        return Layout.of((most,))


class _Cursor:
    """Chunks of one row group; each row is decoded once as long as they are asked for in order."""

    def __init__(self, file: ColumnFile, path: str, row_group: int, rows: int, names: list[str]) -> None:
        self._place, self._rows = (path, row_group), rows
        self._total = file.groups[row_group]
        self._batches = file.batches(row_group, names, rows)
        self._at = 0
        """Rows of the row group that have been decoded."""

    def reaches(self, path: str, row_group: int, first: int) -> bool:
        return self._place == (path, row_group) and self._at <= first

    def take(self, first: int) -> pa.Table:
        """The chunk from this row on; rows before it are passed over."""
        start, stop = self._at, min(first + self._rows, self._total)
        batches: list[pa.RecordBatch] = []
        while self._at < stop:
            batch = next(self._batches, None)
            if batch is None:
                raise DataError(f"{self._place[0]}, row group {self._place[1]}: fewer rows than it says of itself")
            self._at += batch.num_rows
            if self._at <= first:
                start = self._at
            else:
                batches.append(batch)
        return pa.Table.from_batches(batches).slice(first - start, stop - first)


def careful(action: Callable[[], T], what: str, tries: int = 3) -> T:
    """The result of reading something, tried again if storage hesitates; what still fails is a DataError."""
    for attempt in range(tries):
        try:
            return action()
        except (FileNotFoundError, PermissionError) as error:
            raise DataError(f"{what}: cannot be read: {error}") from error
        except OSError as error:
            if attempt == tries - 1:
                raise DataError(f"{what}: cannot be read after {tries} tries: {error}") from error
            time.sleep(0.1 * 5**attempt)
        except pa.ArrowException as error:
            raise DataError(f"{what}: cannot be decoded: {error}; write it again") from error
    raise AssertionError("unreachable")


def _values(column: pa.Array) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers as numpy, and which of them were null (they become NaN)."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        column = column.cast(pa.float64())
    if column.null_count == 0:
        return column.to_numpy(zero_copy_only=False), None
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), column.is_null().to_numpy(False)


def _numbers(table: pa.Table, names: tuple[str, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray | None]:
    """Columns of numbers as x [n, D] of the type of all files together, and which cells were null."""
    columns = [_values(_one(table[name])) for name in names]
    x = np.empty((table.num_rows, len(names)), _holding([mask for _, mask in columns], dtype))
    nulls = None if all(mask is None for _, mask in columns) else np.zeros(x.shape, bool)
    for at in range(0, len(columns), WIDE):
        x[:, at : at + WIDE] = np.stack([values for values, _ in columns[at : at + WIDE]]).T
    for at, (_, mask) in enumerate(columns):
        if nulls is not None and mask is not None:
            nulls[:, at] = mask
    return x, nulls


def _holding(masks: Sequence[np.ndarray | None], dtype: np.dtype) -> np.dtype:
    """The type of numbers of which some are NaN in place of null: float64."""
    return dtype if all(mask is None for mask in masks) else np.dtype(np.float64)


def _lists(
    column: pa.ChunkedArray, name: str, width: int, dtype: np.dtype, broken: dict[int, tuple[str, str]]
) -> tuple[np.ndarray, np.ndarray | None]:
    """A list column as x [n, width], and which cells were null; rows that do not fit are put into `broken`."""
    lists = _one(column)
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    fits = lengths == width
    if fits.all():
        values, mask = _values(lists.flatten())
        values = values.astype(_holding([mask], dtype), copy=False)
        return values.reshape(-1, width), None if mask is None else mask.reshape(-1, width)
    for row in np.flatnonzero(~fits):
        text = "null" if lengths[row] < 0 else f"{lengths[row]} values where {width} are expected"
        broken[int(row)] = (name, text)
    values, mask = _values(lists.filter(pa.array(fits)).flatten())
    x = np.full((len(lists), width), np.nan)
    x[fits] = values.reshape(-1, width)
    if mask is None:
        return x, None
    nulls = np.zeros(x.shape, bool)
    nulls[fits] = mask.reshape(-1, width)
    return x, nulls


def _ids(ids: pa.Array, field: pa.Field, broken: dict[int, tuple[str, str]]) -> np.ndarray:
    """Integers as they are; anything else as the text that it is written down as: uuids with dashes, bytes as hex."""
    for row in np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False)):
        broken.setdefault(int(row), (field.name, "null"))
    if pa.types.is_integer(plain(field.type)):
        kind = pa.uint64() if plain(field.type) == pa.uint64() else pa.int64()
        return ids.cast(kind).fill_null(0).to_numpy()
    if extension_of(field) == UUID:
        return texts("" if value is None else uuid.UUID(bytes=value) for value in ids.to_pylist())
    if is_binary(field.type):
        return texts("" if value is None else value.hex() for value in ids.to_pylist())
    kind = pa.string() if is_text(field.type) else plain(field.type)
    return texts(ids.cast(kind).cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return _plain(pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0))


def _plain(values: pa.Array) -> pa.Array:
    """Values without their dictionary or extension type."""
    values = values.storage if isinstance(values, pa.ExtensionArray) else values
    return values.dictionary_decode() if isinstance(values, pa.DictionaryArray) else values
