"""Lines of text as rows: CSV and TSV, and JSON Lines, compressed or not.

A file is read once from begin to end when it is opened: cut into stretches of whole lines, each of which is parsed by
itself, so that memory stays bounded and any stretch is found again; what all stretches hold tells the types.
"""

import codecs
import csv
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson

from raydc.data.columnar import ColumnFile, glance, rows_at_a_time
from raydc.data.kinds import common, is_text
from raydc.data.source import DataError

STRETCH = 2**22
"""Bytes that are parsed together, about."""
LONGEST = 2**26
"""Bytes of a row at most; more is taken for quotation marks that do not close."""
CODECS = {"gz": "gzip", "bz2": "bz2", "zst": "zstd"}
"""Compressions by what a file's name ends in."""
DELIMITERS = ",;\t|"
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
QUOTE, NEWLINE = ord('"'), ord("\n")
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
"""What files begin with that Windows calls Unicode."""
Types = Mapping[str, pa.DataType]


class Rows(Protocol):
    """How lines of a file become rows."""

    quoted: ClassVar[bool]
    """Whether what lies between two quotation marks may go over an end of line."""

    def parsed(self, lines: bytes, row: int, types: Types, columns: Sequence[str] | None = None) -> pa.Table:
        """Lines, of which the first is this row of the file, as a table of these columns, or of all.

        Values tell the types that are not given. DataError says which row does not go with the others.
        """

    def together(self, name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
        """The type of a column whose values tell one in some stretches and another in others."""


Begin = Callable[[bytes, str], tuple[Rows, int]]
"""From the first lines of a file and its path: how its rows are read, and how many bytes come before them."""


@dataclass(frozen=True)
class Stretch:
    """Whole lines of a file."""

    offset: int
    """Of the first byte, uncompressed."""
    length: int
    row: int
    """Number of the first row in the file, from 0."""
    rows: int


@dataclass(frozen=True)
class Index:
    """What one reading of a file found, so that it need not be read again to be opened again."""

    edges: str
    """What a glance told of it."""
    mark: str
    schema: pa.Schema
    stretches: tuple[Stretch, ...]
    how: Rows


class LineColumns(ColumnFile):
    """A file of lines; its groups are stretches of them.

    `types` are those of columns that values are not to tell, `index` is what an earlier opening found. Raises DataError
    for lines that do not go together, and pyarrow's errors.
    """

    def __init__(
        self,
        filesystem: pafs.FileSystem,
        path: str,
        kind: type[Rows],
        begin: Begin,
        types: Types,
        index: Index | None = None,
    ) -> None:
        self._filesystem, self._path, self._kind = filesystem, path, kind
        with filesystem.open_input_file(path) as stream:
            edges = glance(stream)
        if index is not None and index.edges != edges:
            raise DataError(f"{path}: has been replaced since it was opened; start again")
        self.index = index or self._survey(edges, begin, types)
        self.mark, self.schema = self.index.mark, self.index.schema
        self.groups = tuple(stretch.rows for stretch in self.index.stretches)
        self._stream: Any = None
        self._at = 0
        """Bytes of the stream that have been taken."""

    def batches(self, group: int, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        stretch = self.index.stretches[group]
        types = {name: self.schema.field(name).type for name in columns}
        return rows_at_a_time(self.index.how.parsed(self._lines(stretch), stretch.row, types, columns), rows)

    def _survey(self, edges: str, begin: Begin, types: Types) -> Index:
        digest, stretches = hashlib.sha256(), list[Stretch]()
        kinds: dict[str, pa.DataType] = {}
        how: Rows | None = None
        at = row = 0
        for lines in _cut(self._opened(), self._path, self._kind.quoted):
            digest.update(lines)
            _require_utf8(lines, self._path, at)
            head = 0
            if how is None:
                how, head = begin(lines, self._path)
            table = how.parsed(lines[head:], row, types)
            for field in table.schema:
                known = kinds.get(field.name, field.type)
                kinds[field.name] = known if known == field.type else how.together(field.name, known, field.type)
            if table.num_rows:
                stretches.append(Stretch(at + head, len(lines) - head, row, table.num_rows))
            at, row = at + len(lines), row + table.num_rows
        mark = f"{at} {digest.hexdigest()[:16]}"
        return Index(edges, mark, pa.schema([*kinds.items()]), tuple(stretches), how or JsonRows(self._path))

    def _opened(self) -> Any:
        codec = CODECS.get(self._path.rsplit(".", 1)[-1].lower())
        stream = self._filesystem.open_input_file(self._path)
        return stream if codec is None else pa.CompressedInputStream(stream, codec)

    def _lines(self, stretch: Stretch) -> bytes:
        if self._stream is None or self._at > stretch.offset:
            self._stream, self._at = self._opened(), 0
        if self._stream.seekable():
            self._stream.seek(stretch.offset)
            self._at = stretch.offset
        while self._at < stretch.offset:  # compressed: what lies before must be unpacked
            self._at += len(self._take(min(STRETCH, stretch.offset - self._at)))
        found = self._take(stretch.length)
        self._at += len(found)
        return found

    def _take(self, size: int) -> bytes:
        found: bytes = self._stream.read(size)
        if len(found) < size:
            raise DataError(f"{self._path}: is shorter than when it was opened; start again")
        return found


@dataclass(frozen=True)
class CsvRows:
    """A row a line; UTF-8, quoted as RFC 4180 has it.

    A column that holds numbers in some rows and text in others is text. An empty cell is null, and so are, in columns
    that are not text, NA, NaN, null and the like.
    """

    path: str
    delimiter: str
    names: tuple[str, ...]
    nulls: tuple[str, ...]
    """Texts that stand for no value in any column."""
    quoted: ClassVar[bool] = True

    @staticmethod
    def begin(lines: bytes, path: str, nulls: Sequence[str] = ()) -> tuple["CsvRows", int]:
        """Of a file whose first line holds the names of columns, parted by what it has most of: commas, semicolons,
        tabs or bars (tabs in any .tsv).
        """
        ends = _ends(lines, True)
        end = int(ends[0]) + 1 if len(ends) else len(lines)
        text = lines[:end].decode("utf-8-sig").rstrip("\r\n")
        bare = re.sub(r'"[^"]*"', "", text)
        delimiter = "\t" if ".tsv" in path.lower() else max(DELIMITERS, key=bare.count)
        names = tuple(name.strip() for name in next(csv.reader([text], delimiter=delimiter), []))
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise DataError(f"{path}: several columns are called {', '.join(twice)}; give each a name of its own")
        if names and all(map(NUMBER.fullmatch, names)):
            raise DataError(
                f"{path}: its first line holds numbers ({text[:60]}), where names of columns are expected; put a line "
                "of names before it"
            )
        return CsvRows(path, delimiter, names, tuple(nulls)), end

    def parsed(self, lines: bytes, row: int, types: Types, columns: Sequence[str] | None = None) -> pa.Table:
        if not lines.strip():
            return pa.table({name: pa.array([], types.get(name, pa.null())) for name in columns or self.names})
        unfit: list[pacsv.InvalidRow] = []

        def note(found: pacsv.InvalidRow) -> str:
            unfit.append(found)
            return "error"

        usual = pacsv.ConvertOptions().null_values
        try:
            table = pacsv.read_csv(
                pa.BufferReader(lines),
                pacsv.ReadOptions(column_names=[*self.names], use_threads=False, block_size=len(lines) + 1),
                pacsv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True, invalid_row_handler=note),
                pacsv.ConvertOptions(
                    column_types={name: kind for name, kind in types.items() if name in self.names},
                    include_columns=None if columns is None else [*columns],
                    null_values=[*usual, *self.nulls],
                ),
            )
        except pa.ArrowInvalid as problem:
            if not unfit:
                raise
            first = unfit[0]
            raise DataError(
                f"{self.path}, row {row + (first.number or 1) - 1}: {first.actual_columns} cells where "
                f"{first.expected_columns} are expected ({first.text[:60]!r}); give each row a cell for each column, "
                "with cells that hold the delimiter or a quotation mark in quotation marks"
            ) from problem
        return _with_nulls(table, ["", *self.nulls])

    def together(self, name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
        kinds = (one, other)
        if any(map(pa.types.is_null, kinds)):
            return other if pa.types.is_null(one) else one
        if any(map(pa.types.is_boolean, kinds)):  # true and 1 are written differently
            return pa.string()
        if any(map(pa.types.is_date, kinds)) and all(pa.types.is_temporal(kind) for kind in kinds):
            return next(kind for kind in kinds if not pa.types.is_date(kind))
        return common(one, other) or pa.string()


@dataclass(frozen=True)
class JsonRows:
    """An object a line, whose keys name the columns. A text that is a date in all rows is one."""

    path: str
    quoted: ClassVar[bool] = False

    @staticmethod
    def begin(lines: bytes, path: str) -> tuple["JsonRows", int]:
        """Of a file of JSON Lines."""
        if lines.lstrip()[:1] == b"[":
            raise DataError(
                f"{path}: is one JSON array, where an object a line is expected; convert it: "
                f'pandas.read_json({path!r}).to_json("rows.jsonl", orient="records", lines=True)'
            )
        return JsonRows(path), 0

    def parsed(self, lines: bytes, row: int, types: Types, columns: Sequence[str] | None = None) -> pa.Table:
        if not lines.strip():
            return pa.table({name: pa.array([], types[name]) for name in columns or ()})
        # JSON tells numbers from text by itself; columns that are asked for are there, if need be as nulls
        known, beyond = (None, "infer") if columns is None else (pa.schema([*types.items()]), "ignore")
        try:
            table = pajson.read_json(
                pa.BufferReader(lines),
                pajson.ReadOptions(use_threads=False, block_size=len(lines) + 1),
                pajson.ParseOptions(explicit_schema=known, unexpected_field_behavior=beyond),
            )
        except pa.ArrowInvalid as problem:
            place = re.search(r"in row (\d+)", str(problem))
            where = f", row {row + int(place[1])}" if place else f", after row {row}"
            raise DataError(
                f"{self.path}{where}: {problem}; write an object a line, with values of one type under each key"
            ) from problem
        return table if columns is None else table.select([*columns])

    def together(self, name: str, one: pa.DataType, other: pa.DataType) -> pa.DataType:
        dated = any(map(pa.types.is_timestamp, (one, other)))
        if (found := common(one, other)) is not None:
            return found
        if dated and any(map(is_text, (one, other))):
            return pa.string()
        raise DataError(
            f"{self.path}: column {name} is {one} in some rows and {other} in others; write values of one type"
        )


def _with_nulls(table: pa.Table, texts: Sequence[str]) -> pa.Table:
    """The table with null in place of these texts."""
    for at, field in enumerate(table.schema):
        if is_text(field.type):
            values = table.column(at)
            none = pc.is_in(values, pa.array(texts, field.type))
            table = table.set_column(at, field, pc.if_else(none, pa.scalar(None, field.type), values))
    return table


def _cut(stream: Any, path: str, quoted: bool) -> Iterator[bytes]:
    """A stream as stretches of whole rows, about STRETCH bytes each."""
    held = b""
    while part := stream.read(STRETCH):
        held += part
        ends = _ends(held, quoted)
        if len(ends):
            end = int(ends[-1]) + 1
            yield held[:end]
            held = held[end:]
        elif len(held) > LONGEST:
            raise DataError(
                f"{path}: no row ends within {LONGEST:,} bytes after {held[:60]!r}; is a quotation mark not closed?"
            )
    if held:
        yield held


def _ends(lines: bytes, quoted: bool) -> np.ndarray:
    """int64, positions of the ends of lines; of those that lie outside quotation marks where these count."""
    data = np.frombuffer(lines, np.uint8)
    ends = data == NEWLINE
    return np.flatnonzero(ends & ~np.bitwise_xor.accumulate(data == QUOTE) if quoted else ends)


def _require_utf8(lines: bytes, path: str, at: int) -> None:
    try:
        lines.decode()
    except UnicodeDecodeError as problem:
        found = "UTF-16" if at == problem.start == 0 and lines.startswith(UTF16) else None
        line = lines[: problem.start].rsplit(b"\n", 1)[-1].decode(errors="replace")
        what = f"is {found}" if found else f"byte {at + problem.start} is not UTF-8, after {line[-40:]!r}"
        raise DataError(
            f"{path}: {what}; write it again as UTF-8: iconv -f {found or 'LATIN1'} -t UTF-8 {path!r}"
            + ("" if found else ", or whichever encoding it has")
        ) from None
