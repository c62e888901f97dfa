"""One pass over all rows before any work: every unusable value found, and the statistics that scaling needs."""

import csv
import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from zipfile import BadZipFile

import numpy as np
from scipy import sparse

from raydc.data.settings import DataSettings
from raydc.data.shard import RowBlock, partition
from raydc.data.sketch import KEPT, Ids
from raydc.data.source import HUGE, Block, DataError, Piece, RowsChanged, Source, bytes_of, changes, usable

SHOWN = 5
TAIL = 20.0
"""Standard deviations from the mean from which on a value decides clusters by itself."""
COMPARED = 256
"""Columns up to which it is looked whether two are the same."""
FINE = 1e-150
"""Spreads up to this are not scaled: their squares are no numbers any more."""


@dataclass(frozen=True)
class Fault:
    """A row that cannot be used, by the first of its unusable cells."""

    file: str
    row_group: int
    row: int
    """Its position in the data, from 0."""
    column: str
    value: str
    cells: int
    """Unusable cells in the row."""
    row_in_file: int

    def __str__(self) -> str:
        more, place = f" (and {self.cells - 1} more cells)" if self.cells > 1 else "", f"row {self.row_in_file}"
        return f"{self.file}, row group {self.row_group}, {place}, column {self.column}: {self.value}{more}"


LISTED = ("file", "row_group", "row", "column", "value", "cells")
"""What a table of dropped rows says of each."""


@dataclass(frozen=True)
class DataProfile:
    """What one pass found; the same bits however many workers train afterwards."""

    fingerprint: str
    """Of the source, and below what it tells of its files."""
    files: dict[str, str]
    times: dict[str, str]
    rows: int
    """Rows that are used."""
    groups: tuple[RowBlock, ...]
    """Of the rows that are used; to be dealt to workers."""
    pieces: tuple[Piece, ...]
    """Where each group is stored."""
    checksums: tuple[int, ...]
    """CRC-32 of each piece's values, so that data that change later are noticed."""
    dropped: tuple[Fault, ...]
    """The first rows left out; `dropped_table` names all of them."""
    dropped_rows: np.ndarray
    """int64, ascending: numbers in the data set of the rows left out."""
    lowest: np.ndarray
    """float64 [D], the smallest value of each feature."""
    highest: np.ndarray
    """float64 [D]"""
    mean: np.ndarray
    """float64 [D]"""
    variance: np.ndarray
    """float64 [D], divided by the number of rows."""
    ids: tuple[int, int]
    """Ids that were looked at, and those of them that name several rows; 0 where the data have none."""
    empty: dict[str, tuple[str, ...]]
    """Columns without a usable value in any row of a file, by file; of files whose rows are all left out."""
    same: tuple[tuple[int, int], ...]
    """Features that have the values of an earlier one in all rows, and that one; in tables of columns alone."""
    eps: float
    """Relative rounding of the values as they are stored."""
    notes: tuple[str, ...]

    @property
    def contents(self) -> dict[str, str]:
        """Of each file what tells its content from any other: what a glance told, and a checksum of its values."""
        found: dict[str, list[int]] = {}
        for piece, value in zip(self.pieces, self.checksums, strict=True):
            found.setdefault(piece.file, []).append(value)
        return {name: f"{mark} {joined(found.get(name, [])):08x}" for name, mark in self.files.items()}

    @property
    def identity(self) -> str:
        """sha256 of the rows themselves, wherever and whenever their files were written."""
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update(np.array(self.checksums, np.uint32).tobytes())
        digest.update(self.dropped_rows.tobytes())
        return digest.hexdigest()

    def positions(self, used: np.ndarray) -> np.ndarray:
        """int64 [n], positions in the data of rows that are given by their places among those that are used."""
        before = self.dropped_rows - np.arange(len(self.dropped_rows))  # rows used before each that is not
        return used + np.searchsorted(before, used, side="right")

    def places(self, positions: np.ndarray) -> np.ndarray:
        """int64 [n], the places among the rows that are used of rows that are given by their positions in the data."""
        return positions - np.searchsorted(self.dropped_rows, positions)

    @property
    def minimum(self) -> float:
        """The smallest value of all."""
        return float(self.lowest.min())

    @property
    def maximum(self) -> float:
        """The largest value of all."""
        return float(self.highest.max())

    @property
    def constant(self) -> np.ndarray:
        """bool [D]: features whose spread is none, or rounding in the precision that they are stored in."""
        return np.sqrt(self.variance) <= np.maximum(self.eps * np.abs(self.mean), FINE)


@dataclass(frozen=True)
class Moments:
    """Mean, sum of squared deviations, smallest and largest value of each feature, in float64."""

    count: int
    mean: np.ndarray
    squares: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray

    @staticmethod
    def of(x: Any) -> "Moments":
        """Of rows [n, D], numpy or CSR."""
        rows = x.shape[0]
        if rows == 0:
            nothing = np.full(x.shape[1], np.inf)
            return Moments(0, np.zeros(x.shape[1]), np.zeros(x.shape[1]), nothing, -nothing)
        if sparse.issparse(x):
            x = x.astype(np.float64)
            mean = np.asarray(x.sum(axis=0)).ravel() / rows
            squares = np.maximum(np.asarray(x.multiply(x).sum(axis=0)).ravel() - rows * mean**2, 0.0)
            lowest, highest = (end.toarray().ravel() for end in (x.min(axis=0), x.max(axis=0)))
        else:
            mean = x.sum(axis=0, dtype=np.float64) / rows
            deviations = x - mean
            squares = np.einsum("ij,ij->j", deviations, deviations)
            lowest, highest = (end.astype(np.float64) for end in (x.min(axis=0), x.max(axis=0)))
        return Moments(rows, mean, squares, lowest, highest)

    def merged(self, other: "Moments") -> "Moments":
        """Of both (Chan, Golub and LeVeque, The American Statistician 1983): without cancellation."""
        total = self.count + other.count
        if other.count == 0:
            return self
        step = other.mean - self.mean
        return Moments(
            total,
            self.mean + step * (other.count / total),
            self.squares + other.squares + step**2 * (self.count * other.count / total),
            np.minimum(self.lowest, other.lowest),
            np.maximum(self.highest, other.highest),
        )


@dataclass(frozen=True)
class Seen:
    """What a piece holds, as far as a profile needs to know; found by any process."""

    bad: np.ndarray
    """int64, ascending: numbers in the data set of the rows that cannot be used."""
    faults: tuple[Fault, ...]
    """The first of them."""
    checksum: int
    moments: Moments
    """Of the rows that can be used."""
    ids: Ids | None
    """Theirs, where the data have any."""
    heaviest: float
    """The largest of their weights as it is stored; infinite where rows have none, or none can be used."""
    empty: tuple[str, ...]
    """Columns without a usable value in any row."""
    columns: tuple[int, ...] = ()
    """CRC-32 of each feature's values, of tables of few columns."""


def look(source: Source, piece: Piece) -> Seen:
    """Read one piece."""
    block = source.read(piece)
    bad = bad_cells(block)
    broken = np.zeros(piece.rows, bool) if bad is None else bad.any(axis=1)
    x, ids, weights = block.x, block.ids, block.weights
    faults: tuple[Fault, ...] = ()
    rows = np.flatnonzero(broken)
    if bad is not None and len(rows):
        faults = tuple(_fault(source, piece, block, bad, int(row)) for row in rows[:SHOWN])
        x, ids, weights = x[~broken], ids[~broken], None if weights is None else weights[~broken]
    return Seen(
        bad=piece.start + rows,
        faults=faults,
        checksum=checksum(block),
        moments=Moments.of(x),
        ids=Ids.of(ids) if source.identified else None,
        heaviest=np.inf if weights is None or not len(weights) else float(weights.max()),
        empty=() if bad is None or len(rows) < piece.rows else _empty(source, block, bad),
        columns=_columns(x) if source.kind == "table" and 1 < len(source.columns) and x.shape[1] <= COMPARED else (),
    )


def _columns(x: np.ndarray) -> tuple[int, ...]:
    """CRC-32 of each column of rows [n, D]."""
    return tuple(zlib.crc32(column.data) for column in np.ascontiguousarray(x.T))


def _empty(source: Source, block: Block, bad: np.ndarray) -> tuple[str, ...]:
    """Columns without a usable value in any row of a block whose rows are all unusable."""
    if not block.broken:
        return tuple(source.name_of(int(j)) for j in np.flatnonzero(bad.all(axis=0)))
    columns = {column for column, _ in block.broken.values()}
    return tuple(columns) if len(block.broken) == len(bad) and len(columns) == 1 else ()


def profile_rows(
    source: Source, settings: DataSettings | None = None, seen: Iterable[Seen] | None = None
) -> DataProfile:
    """Reads everything once, a piece at a time; or joins what others have `seen`, in the order of the pieces.

    Raises DataError naming the first unusable cells (null, NaN, infinite, beyond 1e15, rows of another length), or, if
    `on_bad_row` is drop, leaves their rows out; and where no row has a weight that float32 tells from 0.
    """
    drop = (settings or source.settings).on_bad_row == "drop"
    faults: list[Fault] = []
    gone: list[np.ndarray] = []
    checksums: list[int] = []
    moments = Moments.of(np.zeros((0, source.n_features)))
    ids: Ids | None = None
    heaviest, empty = 0.0, dict[str, list[str]]()
    columns: list[tuple[int, ...]] = []
    for piece, one in zip(source.pieces, seen or (look(source, piece) for piece in source.pieces), strict=True):
        gone.append(one.bad)
        faults += one.faults[: SHOWN - len(faults)]
        empty[piece.file] = [name for name in empty.get(piece.file, one.empty) if name in one.empty]
        if one.moments.count:
            checksums.append(one.checksum)
            columns.append(one.columns)
            moments = moments.merged(one.moments)
            heaviest = max(heaviest, one.heaviest)
            ids = one.ids if ids is None or one.ids is None else ids.merged(one.ids)
    dropped_rows = np.concatenate(gone)
    without = {file: tuple(names) for file, names in empty.items() if names}
    if len(dropped_rows) and not drop:
        raise DataError(_report(source, faults, len(dropped_rows), without))
    if moments.count == 0:
        lines = [f"{source.settings.path}: no usable rows; all {source.n_rows} were dropped. {_first(faults)}"]
        raise DataError("\n".join([*lines, *_without(source, without)]))
    _require_weight(source, heaviest)
    return _profiled(
        source,
        faults,
        dropped_rows,
        checksums,
        (moments.lowest, moments.highest),
        moments.mean,
        moments.squares / moments.count,
        (0, 0) if ids is None else (len(ids.hashes), ids.repeated),
        without,
        _same(columns),
    )


def _same(columns: Sequence[tuple[int, ...]]) -> tuple[tuple[int, int], ...]:
    """Features whose checksums are those of an earlier one in all pieces, and that one."""
    first: dict[tuple[int, ...], int] = {}
    found = [(feature, first.setdefault(sums, feature)) for feature, sums in enumerate(zip(*columns, strict=True))]
    return tuple((feature, earlier) for feature, earlier in found if feature != earlier)


def _require_weight(source: Source, heaviest: float) -> None:
    """Raises DataError where no row has a weight that float32, in which weights count, tells from 0."""
    if source.weights is None or np.float32(heaviest) > 0:
        return
    where = f"{source.settings.path}, column {source.weights}"
    if heaviest > 0:
        raise DataError(
            f"{where}: weights underflow: the largest is {heaviest:g}, and float32, in which they count, takes it for "
            f"0; multiply all by one factor, such as {1 / heaviest:.0e}, which changes no cluster"
        )
    raise DataError(f"{where}: every weight is 0, so no row counts; give some rows a weight above 0")


def _profiled(
    source: Source,
    faults: Sequence[Fault],
    dropped_rows: np.ndarray,
    checksums: Sequence[int],
    span: tuple[np.ndarray, np.ndarray],
    mean: np.ndarray,
    variance: np.ndarray,
    ids: tuple[int, int],
    empty: dict[str, tuple[str, ...]],
    same: tuple[tuple[int, int], ...],
) -> DataProfile:
    groups: list[RowBlock] = []
    pieces: list[Piece] = []
    at = 0
    for piece in source.pieces:
        low, high = np.searchsorted(dropped_rows, [piece.start, piece.start + piece.rows])
        if kept := piece.rows - int(high - low):
            pieces.append(piece)
            groups.append(RowBlock(len(groups), at, at + kept))
            at += kept
    result = DataProfile(
        fingerprint=source.fingerprint,
        files=dict(source.files),
        times=dict(source.times),
        rows=at,
        groups=tuple(groups),
        pieces=tuple(pieces),
        checksums=tuple(checksums),
        dropped=tuple(faults),
        dropped_rows=dropped_rows,
        lowest=span[0],
        highest=span[1],
        mean=mean,
        variance=variance,
        ids=ids,
        empty=empty,
        same=same,
        eps=float(np.finfo(np.float32 if source.dtype in (np.float32, np.float16) else np.float64).eps),
        notes=(),
    )
    return _with_notes(source, result)


def written(found: DataProfile) -> bytes:
    """A profile as .npz, without what the opened data tell by themselves."""
    about = {
        "fingerprint": found.fingerprint,
        "times": found.times,
        "dropped": [asdict(fault) for fault in found.dropped],
        "ids": found.ids,
        "empty": found.empty,
        "same": found.same,
    }
    file = io.BytesIO()
    np.savez(
        file,
        about=np.array(json.dumps(about)),
        dropped_rows=found.dropped_rows,
        checksums=np.array(found.checksums, np.uint32),
        lowest=found.lowest,
        highest=found.highest,
        mean=found.mean,
        variance=found.variance,
    )
    return file.getvalue()


def recalled(data: bytes, source: Source) -> DataProfile | None:
    """The profile of `source` that was written, to the bit; None if it is that of other data, or damaged, or if a file
    was written since: only its values then tell whether it is the same.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            about = json.loads(str(kept["about"]))
            if about["fingerprint"] != source.fingerprint or about["times"] != source.times:
                return None
            (known, repeated), empty = about["ids"], {file: tuple(names) for file, names in about["empty"].items()}
            same = tuple((feature, earlier) for feature, earlier in about["same"])
            faults = [Fault(**fault) for fault in about["dropped"]]
            checksums, span = kept["checksums"].tolist(), (kept["lowest"], kept["highest"])
            dropped_rows, mean, variance = kept["dropped_rows"], kept["mean"], kept["variance"]
    except (BadZipFile, zlib.error, EOFError, OSError, KeyError, ValueError, TypeError, NotImplementedError):
        return None
    return _profiled(source, faults, dropped_rows, checksums, span, mean, variance, (known, repeated), empty, same)


def require(found: DataProfile, n_clusters: int | None, workers: int) -> None:
    """Raises DataError if there are fewer rows than clusters, or than two, or too few row groups for the workers."""
    if found.rows < 2:
        raise DataError(f"{found.rows} usable row cannot be clustered; at least 2 are needed")
    if n_clusters is not None and found.rows < n_clusters:
        raise DataError(f"{found.rows} rows cannot form {n_clusters} clusters; lower method.n_clusters or add rows")
    if not all(partition(found.groups, workers)):
        most = max(w for w in range(1, workers) if all(partition(found.groups, w)))
        raise DataError(
            f"{workers} workers, but {found.rows} rows in {len(found.groups)} row groups feed at most {most}; "
            f"set training.workers to {most} or less"
        )


def require_same(before: str, files: dict[str, str], source: Source) -> None:
    """Raises RowsChanged saying which files changed since their fingerprint was `before` and they were `files`."""
    if source.fingerprint != before:
        what = changes(files, source.files) or "other columns or another shape are asked for"
        raise RowsChanged(f"{source.settings.path}: the data have changed:\n{what}\nPut them back, or start a new run.")


def dropped_table(source: Source, found: DataProfile) -> str:
    """Every row that was left out, as CSV (file, row_group, row, column, value, cells), where row is its position in
    the data; reads their pieces again.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(LISTED)
    for piece in source.pieces:
        low, high = np.searchsorted(found.dropped_rows, [piece.start, piece.start + piece.rows])
        if low < high and (bad := bad_cells(block := source.read(piece))) is not None:
            rows = np.flatnonzero(bad.any(axis=1))
            faults = [asdict(_fault(source, piece, block, bad, int(row))) for row in rows]
            writer.writerows([fault[name] for name in LISTED] for fault in faults)
    return text.getvalue()


def bad_cells(block: Block) -> np.ndarray | None:
    """bool [n, D] of the unusable cells; None where every row can be used. A row broken as a whole has them all."""
    values = block.x.data if sparse.issparse(block.x) else block.x
    fine = not block.broken and block.nulls is None
    if fine and (values.size == 0 or (usable(values.min()) and usable(values.max()))):
        return None
    if sparse.issparse(block.x):
        bad = np.zeros(block.x.shape, bool)
        entries = block.x.tocoo()
        wrong = ~usable(entries.data)
        bad[entries.row[wrong], entries.col[wrong]] = True
    else:
        bad = ~usable(values)
    bad[list(block.broken)] = True
    return bad


def complaint(source: Source, piece: Piece, block: Block, bad: np.ndarray) -> str:
    """What is wrong with the unusable rows of one piece, and what to do about them."""
    rows = np.flatnonzero(bad.any(axis=1))
    return _report(source, [_fault(source, piece, block, bad, int(row)) for row in rows[:SHOWN]], len(rows))


def checksum(block: Block) -> int:
    """CRC-32 of a piece's values and weights."""
    value = 0
    for x in (block.x, block.weights):
        for part in () if x is None else bytes_of(x):
            value = zlib.crc32(part, value)
    return value


def joined(checksums: Iterable[int]) -> int:
    """One checksum of several."""
    return zlib.crc32(np.array([*checksums], np.uint32).tobytes())


def _fault(source: Source, piece: Piece, block: Block, bad: np.ndarray, row: int) -> Fault:
    if row in block.broken:
        column, value = block.broken[row]
        return Fault(piece.file, piece.row_group, piece.start + row, column, value, 1, piece.row + row)
    first = int(bad[row].argmax())
    value = "null"
    if block.nulls is None or not block.nulls[row, first]:
        cell = block.x[row, first]
        value = f"{cell:g}" + (f" (beyond {HUGE:g})" if np.isfinite(cell) else "")
    cells = int(bad[row].sum())
    name = source.name_of(first)
    return Fault(piece.file, piece.row_group, piece.start + row, name, value, cells, piece.row + row)


def _first(faults: Sequence[Fault]) -> str:
    return f"The first: {faults[0]}" if faults else ""


def _without(source: Source, empty: dict[str, tuple[str, ...]]) -> list[str]:
    """A line for each of the first files that have columns without a usable value."""
    rows = Counter[str]()
    for piece in source.pieces:
        rows[piece.file] += piece.rows
    return [
        f"  {file}: no usable value in any of its {rows[file]} rows: {', '.join(names[:SHOWN])}; to leave a column "
        "out, name the others with --columns"
        for file, names in [*empty.items()][:SHOWN]
    ]


def _report(source: Source, faults: Sequence[Fault], rows: int, empty: dict[str, tuple[str, ...]] | None = None) -> str:
    lines = [f"  {fault}" for fault in faults]
    if rows > len(faults):
        lines.append(f"  and {rows - len(faults)} more rows")
    head = f"{source.settings.path}: {rows} of {source.n_rows} rows cannot be used:"
    last = "Correct them, or leave such rows out with --on-bad-row drop."
    if len(source.columns) > 1 and any(fault.value == "null" and fault.column in source.columns for fault in faults):
        last = (
            "Correct them, leave such rows out with --on-bad-row drop, or train with --data.missing impute or "
            "indicate, which take the mean."
        )
    return "\n".join([head, *lines, *_without(source, empty or {}), last])


def _with_notes(source: Source, found: DataProfile) -> DataProfile:
    notes = [*source.notes]
    dropped = len(found.dropped_rows)
    if dropped:
        lines = [str(fault) for fault in found.dropped]
        more = [f"and {dropped - len(lines)} more"] if dropped > len(lines) else []
        head = f"dropped {dropped} of {source.n_rows} rows:"
        notes.append("\n  ".join([head, *lines, *more, *map(str.strip, _without(source, found.empty))]))
    known, repeated = found.ids
    if repeated:
        among = f"{known:,} ids" + (" looked at" if known == KEPT else "")
        notes.append(
            f"ids repeat: {repeated:,} of {among} name several rows; column row of the assignments tells those apart"
        )
    spread, size = np.sqrt(found.variance), np.abs(found.mean)
    blurred = found.constant & (spread > np.maximum(4 * np.finfo(np.float64).eps * size, FINE))
    still = found.constant & ~blurred
    if source.encoding is not None:
        still &= ~source.encoding.spare
    stored = "float64" if found.eps < 1e-15 else "float32"
    if still.all():
        notes.append("every row is the same: there is one cluster at most")
    elif still.any():
        notes.append(f"{still.sum()} of {len(still)} features never change, such as {source.some(still)}")
    if blurred.any():
        notes.append(
            f"{stored}, as they are stored, loses the differences in {source.some(blurred)}: too far from 0 for them; "
            "subtract an offset before they are stored"
        )
    coarse = ~found.constant & (spread < 1000 * found.eps * size)
    if coarse.any():
        notes.append(
            f"{stored}, as they are stored, keeps few digits of {source.some(coarse)}: far from 0 for their spread; "
            "subtract an offset before they are stored"
        )
    return replace(found, notes=(*notes, *_oddities(source, found)))


def _oddities(source: Source, found: DataProfile) -> Iterator[str]:
    """What is odd of columns of a table: a few values that outweigh all others, and columns that are there twice."""
    changing = ~found.constant
    if doubled := [(feature, earlier) for feature, earlier in found.same if changing[feature]]:
        named = ", ".join(f"{source.name_of(one)} is {source.name_of(other)}" for one, other in doubled[:SHOWN])
        more = f" and {len(doubled) - SHOWN} more" if len(doubled) > SHOWN else ""
        yield f"the same in all rows, and so counted twice: {named}{more}; leave one of each out"
    if source.kind != "table" or len(source.columns) < 2:
        return
    amounts = changing & ~((found.lowest == 0) & (found.highest == 1))  # rare truth values are no amounts
    if source.encoding is not None:
        amounts &= source.encoding.amounts
    beyond = np.maximum(found.highest - found.mean, found.mean - found.lowest) / np.sqrt(
        found.variance, where=changing, out=np.ones_like(found.variance)
    )
    if (far := amounts & (beyond > TAIL)).any():
        yield (
            f"heavy tails: values of {source.some(far)} lie up to {beyond[far].max():,.0f} standard deviations from "
            "the mean, and a few such rows may be clusters of their own; write amounts as logarithms"
        )
