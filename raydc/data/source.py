"""A data set as it lies in files or memory: opened and checked by its footers, read a piece at a time."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from raydc.data.settings import DataSettings
from raydc.data.shard import split

if TYPE_CHECKING:
    from raydc.data.encoding import Encoding

HUGE = np.float64(1e15)
"""Values beyond this have no useful square in float32, so they count as unusable."""

WIDEST = 64
"""Characters of an id, of which numpy keeps 4 bytes each for the longest of all, up to which ids are kept like that."""


class DataError(ValueError):
    """Data that cannot be used: the message names the file, the place, the value, and what to do."""


class UnusableRow(DataError):
    """A row that cannot be used, and in which column; none where it is the row as a whole."""

    def __init__(self, message: str, row: int, column: str | None = None) -> None:
        super().__init__(message)
        self.row, self.column = row, column

    def __reduce__(self) -> tuple[type["UnusableRow"], tuple[str, int, str | None]]:
        return UnusableRow, (str(self), self.row, self.column)


class RowsChanged(DataError):
    """Data that are no longer those that were checked, or are others on this machine."""


class OtherShape(DataError):
    """Rows that do not hold as many values as `data.shape` says, but `values`."""

    def __init__(self, message: str, values: int) -> None:
        super().__init__(message)
        self.values = values


class DataWarning(UserWarning):
    """Something about the rows that one should know of, such as features that never change."""


@dataclass(frozen=True)
class Piece:
    """Rows that are read together: a stretch of one Parquet row group or of an array.

    Where pieces begin depends on the data alone, so that two workers can share a file of one row group.
    """

    file: str
    row_group: int
    offset: int
    """Of its first row in the row group."""
    row: int
    """Its first row's number in the file."""
    start: int
    """Its first row's number in the data set, before bad rows are dropped."""
    rows: int


@dataclass
class Block:
    """The rows of one piece as they were stored."""

    x: Any
    """[n, D] numpy or CSR, any real type; NaN where nothing usable stood."""
    ids: np.ndarray
    """[n], int64, uint64 or text; the rows' positions in the data where it has none."""
    nulls: np.ndarray | None = None
    """bool [n, D]: the cells that were null rather than NaN."""
    broken: dict[int, tuple[str, str]] = field(default_factory=dict)
    """(column, what stood there) of rows that are unusable as a whole: a null list, one of another length, no id."""
    weights: np.ndarray | None = None
    """[n] float64 as stored, 0 or more but in broken rows; None where all rows count alike."""
    stored: pa.Table | None = None
    """The feature columns before they were encoded; None where they are not encoded."""
    taken: Mapping[str, Any] = field(default_factory=dict)
    """Of each column that a network encoded what it took, as `encoding.Encoded` has it."""


@dataclass(frozen=True)
class Layout:
    """How a stored row becomes an image: reshaped to `stored`, then its axes put in the order `axes`."""

    stored: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(D,) of a plain row, (channels, height, width) of an image."""
        shape = tuple(self.stored[axis] for axis in self.axes)
        return (1, *shape) if len(shape) == 2 else shape

    @staticmethod
    def of(stored: Sequence[int], order: Sequence[int] | None = None) -> "Layout":
        """Two dimensions are an image of one channel; of three, a last one of 1, 3 or 4 holds the channels.

        `order` are the logical axes where they are stored in another order (Arrow's permuted tensors).
        """
        axes = tuple(order or range(len(stored)))
        logical = [stored[axis] for axis in axes]
        if len(stored) > 3:
            raise DataError(f"rows have shape {tuple(stored)}: expected features, height x width, or channels first")
        if channels_last(logical):
            axes = (axes[2], axes[0], axes[1])
        return Layout(tuple(stored), axes)

    def arrange(self, x: np.ndarray) -> np.ndarray:
        """Rows [n, ...] as stored to [n, D], channels first."""
        if self.axes != tuple(range(len(self.stored))):
            x = x.reshape(len(x), *self.stored).transpose(0, *(1 + axis for axis in self.axes))
        return x.reshape(len(x), prod(self.stored))


def channels_last(shape: Sequence[int]) -> bool:
    """Whether a row of this shape is height x width x channels, going by 1, 3 or 4 being numbers of channels."""
    return len(shape) == 3 and shape[2] in (1, 3, 4) and shape[0] not in (1, 3, 4)


class Source(ABC):
    """Rows that have been opened. Reading is streaming and in order: never the whole data set at once."""

    settings: DataSettings
    """As given, with the path made absolute: opening it elsewhere opens the same data."""
    kind: str
    """table, array or sparse."""
    names: tuple[str, ...] = ()
    """All columns that there are; empty for arrays."""
    columns: tuple[str, ...] = ()
    """Feature columns by name; empty for arrays, whose features go by position."""
    weights: str | None = None
    """What the rows' weights are called, where they have any."""
    identified: str | None = None
    """What the rows' ids are called, where they have any."""
    encoding: "Encoding | None" = None
    """How columns became numbers, where they are encoded: features are the encoding's then, and of one unit."""
    layout: Layout
    dtype: np.dtype
    files: dict[str, str]
    """Of each file, in the order of reading, what a glance tells of its content: its size and a hash of its ends."""
    times: dict[str, str]
    """When each file was last written: while that is the same, its content is taken to be."""
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...] = ()
    """What was decided for the user, such as columns left out; to be shown."""

    @property
    def n_rows(self) -> int:
        """Rows before any is dropped."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def n_features(self) -> int:
        """D."""
        return prod(self.layout.stored)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a row: (D,) or (channels, height, width)."""
        return self.layout.shape

    @property
    def fingerprint(self) -> str:
        """sha256 of what a glance tells of the files' content and of what is read from them, wherever they lie.

        Other values may have the same: a profile's checksums tell those apart.
        """
        weights = [self.weights] if self.weights else []
        encoded = [self.encoding.digest] if self.encoding else []
        lines = [*self.files.values(), *self.columns, *weights, *encoded, str(self.layout)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def file_of(self, piece: Piece, row: int) -> str | None:
        """The file that a row of a piece is, of a source whose rows are files; else None."""
        return None

    def name_of(self, feature: int) -> str:
        """What a feature is called in messages."""
        if self.encoding is not None:
            return self.encoding.features[feature]
        if len(self.columns) > 1:
            return self.columns[feature]
        return f"{self.columns[0] if self.columns else 'X'}[{feature}]"

    def some(self, which: np.ndarray, most: int = 5) -> str:
        """The first of the features that a mask [D] tells, for messages."""
        return ", ".join(self.name_of(int(feature)) for feature in np.flatnonzero(which)[:most])

    @abstractmethod
    def read(self, piece: Piece) -> Block:
        """The rows of one piece; cheapest in the order of `pieces`."""

    @abstractmethod
    def labels(self) -> np.ndarray | None:
        """Known classes of all rows [n_rows] of any type, None where there are none; missing ones are None or NaN."""


def features_named(columns: Sequence[str], shape: Sequence[int], most: int = 8) -> str:
    """What is clustered, in words: how many features, and the first of them by name."""
    values = prod(shape)
    if 1 < len(columns) < values:
        return f"features: {values:,}, of {features_named(columns, [len(columns)], most).removeprefix('features: ')}"
    if len(columns) == 1 and values > 1:
        return f"features: {values:,}, the values of column {columns[0]}"
    if not columns:
        return f"features: {values:,}, the values of each row of an array"
    more = f" and {len(columns) - most:,} more" if len(columns) > most else ""
    return f"features: {len(columns):,}: {', '.join(columns[:most])}{more}"


def changes(before: Mapping[str, str], after: Mapping[str, str], most: int = 5) -> str:
    """What differs between two states of `Source.files`, in words; empty when nothing does."""
    lines = [f"removed: {name}" for name in before if name not in after]
    lines += [f"added: {name}" for name in after if name not in before]
    lines += [f"changed: {name}" for name in before if name in after and before[name] != after[name]]
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return "\n".join(lines[:most] + more)


def resolve_layout(layout: Layout, settings: DataSettings) -> Layout:
    """The layout that the data have, or the one asked for by `shape`, which must hold as many values."""
    if settings.shape is None:
        return layout
    if prod(settings.shape) != prod(layout.stored):
        raise OtherShape(
            f"data.shape {','.join(map(str, settings.shape))} holds {prod(settings.shape)} values, "
            f"but rows of {settings.path} hold {prod(layout.stored)}",
            prod(layout.stored),
        )
    return Layout.of(settings.shape)


def cut(row_groups: Sequence[tuple[str, int, int]], n_features: int = 1) -> tuple[Piece, ...]:
    """Pieces of the row groups (file, number in the file, rows), each cut by the rule of `shard.split`."""
    total = sum(rows for _, _, rows in row_groups)
    if total == 0:
        return ()
    size = len(split(total, n_features=n_features)[0])
    pieces: list[Piece] = []
    at, row, last = 0, 0, ""
    for file, number, rows in row_groups:
        row = row if file == last else 0
        for part in split(rows, size):
            pieces.append(Piece(file, number, part.start, row + part.start, at + part.start, len(part)))
        at, row, last = at + rows, row + rows, file
    return tuple(pieces)


def usable(values: Any) -> Any:
    """Which values are finite and not huge; in float64, as half precision would take 1e15 for infinity."""
    return (values >= -HUGE) & (values <= HUGE)


def texts(values: Iterable[Any]) -> np.ndarray:
    """Texts [n] of objects: in places of equal width, but one by one where one is much longer or holds a NUL, at which
    a place of equal width would end.
    """
    words = [str(value) for value in values]
    apart = any(len(word) > WIDEST or "\0" in word for word in words)
    return np.array(words, object if apart else str)


def weights_of(
    values: np.ndarray, name: str, broken: dict[int, tuple[str, str]], nulls: np.ndarray | None = None
) -> np.ndarray:
    """Weights as float64 [n]; rows whose weight is negative, unusable or null are put into `broken`."""
    for row in np.flatnonzero(~(usable(values) & (values >= 0))):
        what = "null" if nulls is not None and nulls[row] else f"{values[row]:g}"
        broken.setdefault(int(row), (name, f"{what}, where a weight of 0 or more is expected"))
    return values.astype(np.float64)


def is_real(dtype: np.dtype) -> bool:
    """Whether values of this type are numbers a network can take."""
    return dtype.kind in "biuf"


def bytes_of(x: Any) -> Iterator[memoryview]:
    """The values of numpy or CSR as bytes, to be hashed."""
    for part in (x.data, x.indices, x.indptr) if sparse.issparse(x) else (x,):
        yield np.ascontiguousarray(part).reshape(-1).view(np.uint8).data


def dense(x: Any) -> np.ndarray:
    """[n, D] numpy or CSR as a dense array of the same type."""
    return x.toarray() if sparse.issparse(x) else np.asarray(x)
