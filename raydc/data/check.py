"""One pass over all rows before any work: every unusable value found, and the statistics that scaling needs."""

import csv
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from typing import Any
from zipfile import BadZipFile

import numpy as np
from scipy import sparse

from raydc.data.settings import DataSettings
from raydc.data.shard import RowGroup, deal
from raydc.data.source import HUGE, Block, DataError, Piece, Source, bytes_of, changes, usable

SHOWN = 5
FINE = float(np.finfo(np.float32).tiny)
"""Spreads up to this are not scaled: of such numbers float32 keeps few digits or none, and their inverses overflow."""


@dataclass(frozen=True)
class Fault:
    """A row that cannot be used, by the first of its unusable cells."""

    file: str
    row_group: int
    row: int
    """In the file, from 0."""
    column: str
    value: str
    cells: int
    """Unusable cells in the row."""

    def __str__(self) -> str:
        more = f" (and {self.cells - 1} more cells)" if self.cells > 1 else ""
        return f"{self.file}, row group {self.row_group}, row {self.row}, column {self.column}: {self.value}{more}"


@dataclass(frozen=True)
class Survey:
    """What one pass found; the same bits however many workers train afterwards."""

    fingerprint: str
    files: dict[str, str]
    rows: int
    """Rows that are used."""
    groups: tuple[RowGroup, ...]
    """Of the rows that are used; to be dealt to workers."""
    pieces: tuple[Piece, ...]
    """Where each group is stored."""
    checksums: tuple[int, ...]
    """CRC-32 of each piece's values, so that data that change later are noticed."""
    dropped: tuple[Fault, ...]
    """The first rows left out; `dropped_table` names all of them."""
    dropped_rows: np.ndarray
    """int64, ascending: numbers in the data set of the rows left out."""
    minimum: float
    maximum: float
    mean: np.ndarray
    """float64 [D]"""
    variance: np.ndarray
    """float64 [D], divided by the number of rows."""
    notes: tuple[str, ...]

    @property
    def mean_square(self) -> float:
        """Mean of x^2 over all rows and features."""
        return float(np.mean(self.variance + self.mean**2))

    @property
    def constant(self) -> np.ndarray:
        """bool [D]: features whose spread float32 cannot tell from none."""
        return np.sqrt(self.variance) <= np.maximum(np.finfo(np.float32).eps * np.abs(self.mean), FINE)


@dataclass(frozen=True)
class Moments:
    """Mean and sum of squared deviations of each feature in float64, and the range of all."""

    count: int
    mean: np.ndarray
    squares: np.ndarray
    minimum: float
    maximum: float

    @staticmethod
    def of(x: Any) -> "Moments":
        """Of rows [n, D], numpy or CSR."""
        rows = x.shape[0]
        if rows == 0:
            return Moments(0, np.zeros(x.shape[1]), np.zeros(x.shape[1]), np.inf, -np.inf)
        if sparse.issparse(x):
            x = x.astype(np.float64)
            mean = np.asarray(x.sum(axis=0)).ravel() / rows
            squares = np.maximum(np.asarray(x.multiply(x).sum(axis=0)).ravel() - rows * mean**2, 0.0)
        else:
            mean = x.sum(axis=0, dtype=np.float64) / rows
            deviations = x - mean
            squares = np.einsum("ij,ij->j", deviations, deviations)
        return Moments(rows, mean, squares, float(x.min()), float(x.max()))

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
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


@dataclass(frozen=True)
class Seen:
    """What a piece holds, as far as a survey needs to know; found by any process."""

    bad: np.ndarray
    """int64, ascending: numbers in the data set of the rows that cannot be used."""
    faults: tuple[Fault, ...]
    """The first of them."""
    checksum: int
    moments: Moments
    """Of the rows that can be used."""


def look(source: Source, piece: Piece) -> Seen:
    """Read one piece."""
    block = source.read(piece)
    bad = bad_cells(block)
    if bad is None:
        return Seen(np.zeros(0, np.int64), (), checksum(block), Moments.of(block.x))
    broken = bad.any(axis=1)
    rows = np.flatnonzero(broken)
    faults = tuple(_fault(source, piece, block, bad, int(row)) for row in rows[:SHOWN])
    return Seen(piece.start + rows, faults, checksum(block), Moments.of(block.x[~broken]))


def survey(source: Source, settings: DataSettings | None = None, seen: Iterable[Seen] | None = None) -> Survey:
    """Reads everything once, a piece at a time; or joins what others have `seen`, in the order of the pieces.

    Raises DataError naming the first unusable cells (null, NaN, infinite, beyond 1e15, rows of another length), or, if
    `on_bad_row` is drop, leaves their rows out.
    """
    drop = (settings or source.settings).on_bad_row == "drop"
    faults: list[Fault] = []
    gone: list[np.ndarray] = []
    checksums: list[int] = []
    moments = Moments.of(np.zeros((0, source.n_features)))
    for one in seen or (look(source, piece) for piece in source.pieces):
        gone.append(one.bad)
        faults += one.faults[: SHOWN - len(faults)]
        if one.moments.count:
            checksums.append(one.checksum)
            moments = moments.merged(one.moments)
    dropped_rows = np.concatenate(gone)
    if len(dropped_rows) and not drop:
        raise DataError(_report(source, faults, len(dropped_rows)))
    if moments.count == 0:
        raise DataError(f"{source.settings.path}: no usable rows; all {source.n_rows} were dropped. {_first(faults)}")
    span = (moments.minimum, moments.maximum)
    return _surveyed(source, faults, dropped_rows, checksums, span, moments.mean, moments.squares / moments.count)


def _surveyed(
    source: Source,
    faults: Sequence[Fault],
    dropped_rows: np.ndarray,
    checksums: Sequence[int],
    span: tuple[float, float],
    mean: np.ndarray,
    variance: np.ndarray,
) -> Survey:
    groups: list[RowGroup] = []
    pieces: list[Piece] = []
    at = 0
    for piece in source.pieces:
        low, high = np.searchsorted(dropped_rows, [piece.start, piece.start + piece.rows])
        if kept := piece.rows - int(high - low):
            pieces.append(piece)
            groups.append(RowGroup(len(groups), at, at + kept))
            at += kept
    result = Survey(
        fingerprint=source.fingerprint,
        files=dict(source.files),
        rows=at,
        groups=tuple(groups),
        pieces=tuple(pieces),
        checksums=tuple(checksums),
        dropped=tuple(faults),
        dropped_rows=dropped_rows,
        minimum=span[0],
        maximum=span[1],
        mean=mean,
        variance=variance,
        notes=(),
    )
    return _with_notes(source, result)


def written(found: Survey) -> bytes:
    """A survey as .npz, without what the opened data tell by themselves."""
    about = {"fingerprint": found.fingerprint, "dropped": [asdict(fault) for fault in found.dropped]}
    file = io.BytesIO()
    np.savez(
        file,
        about=np.array(json.dumps(about)),
        dropped_rows=found.dropped_rows,
        checksums=np.array(found.checksums, np.uint32),
        span=np.array([found.minimum, found.maximum]),
        mean=found.mean,
        variance=found.variance,
    )
    return file.getvalue()


def recalled(data: bytes, source: Source) -> Survey | None:
    """The survey of `source` that was written, to the bit; None if it is that of other data, or damaged."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            about = json.loads(str(kept["about"]))
            if about["fingerprint"] != source.fingerprint:
                return None
            faults = [Fault(**fault) for fault in about["dropped"]]
            checksums, (low, high) = kept["checksums"].tolist(), kept["span"].tolist()
            dropped_rows, mean, variance = kept["dropped_rows"], kept["mean"], kept["variance"]
    except (BadZipFile, zlib.error, EOFError, OSError, KeyError, ValueError, TypeError, NotImplementedError):
        return None
    return _surveyed(source, faults, dropped_rows, checksums, (low, high), mean, variance)


def require(found: Survey, n_clusters: int | None, workers: int) -> None:
    """Raises DataError if there are fewer rows than clusters, or than two, or too few row groups for the workers."""
    if found.rows < 2:
        raise DataError(f"{found.rows} usable row cannot be clustered; at least 2 are needed")
    if n_clusters is not None and found.rows < n_clusters:
        raise DataError(f"{found.rows} rows cannot form {n_clusters} clusters; lower method.n_clusters or add rows")
    if not all(deal(found.groups, workers)):
        most = max(w for w in range(1, workers) if all(deal(found.groups, w)))
        raise DataError(
            f"{workers} workers, but {found.rows} rows in {len(found.groups)} row groups feed at most {most}; "
            f"set training.workers to {most} or less"
        )


def require_same(before: str, files: dict[str, str], source: Source) -> None:
    """Raises DataError saying which files changed since their fingerprint was `before` and they were `files`."""
    if source.fingerprint != before:
        what = changes(files, source.files) or "other columns or another shape are asked for"
        raise DataError(f"{source.settings.path}: the data have changed:\n{what}\nPut them back, or start a new run.")


def dropped_table(source: Source, found: Survey) -> str:
    """Every row that was left out, as CSV (file, row_group, row, column, value, cells); reads their pieces again."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(field.name for field in fields(Fault))
    for piece in source.pieces:
        low, high = np.searchsorted(found.dropped_rows, [piece.start, piece.start + piece.rows])
        if low < high and (bad := bad_cells(block := source.read(piece))) is not None:
            rows = np.flatnonzero(bad.any(axis=1))
            writer.writerows(astuple(_fault(source, piece, block, bad, int(row))) for row in rows)
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


def _fault(source: Source, piece: Piece, block: Block, bad: np.ndarray, row: int) -> Fault:
    if row in block.broken:
        column, value = block.broken[row]
        return Fault(piece.file, piece.row_group, piece.row + row, column, value, 1)
    first = int(bad[row].argmax())
    value = "null"
    if block.nulls is None or not block.nulls[row, first]:
        cell = block.x[row, first]
        value = f"{cell:g}" + (f" (beyond {HUGE:g})" if np.isfinite(cell) else "")
    cells = int(bad[row].sum())
    return Fault(piece.file, piece.row_group, piece.row + row, source.name_of(first), value, cells)


def _first(faults: Sequence[Fault]) -> str:
    return f"The first: {faults[0]}" if faults else ""


def _report(source: Source, faults: Sequence[Fault], rows: int) -> str:
    lines = [f"  {fault}" for fault in faults]
    if rows > len(faults):
        lines.append(f"  and {rows - len(faults)} more rows")
    head = f"{source.settings.path}: {rows} of {source.n_rows} rows cannot be used:"
    return "\n".join([head, *lines, "Correct them, or leave such rows out with --on-bad-row drop."])


def _with_notes(source: Source, found: Survey) -> Survey:
    notes = [*source.notes]
    dropped = len(found.dropped_rows)
    if dropped:
        lines = [str(fault) for fault in found.dropped]
        more = [f"and {dropped - len(lines)} more"] if dropped > len(lines) else []
        notes.append("\n  ".join([f"dropped {dropped} of {source.n_rows} rows:", *lines, *more]))
    constant = np.flatnonzero(found.constant)
    if len(constant) == source.n_features:
        notes.append("every row is the same: there is one cluster at most")
    elif len(constant):
        some = ", ".join(source.name_of(int(j)) for j in constant[:SHOWN])
        notes.append(f"{len(constant)} of {source.n_features} features never change, such as {some}")
    lost = (found.variance > 0) & (np.sqrt(found.variance) <= FINE)
    if lost.any():
        some = ", ".join(source.name_of(int(j)) for j in np.flatnonzero(lost)[:SHOWN])
        notes.append(f"float32 loses the differences in {some}, which are below {FINE:.0e}: multiply by a factor first")
    coarse = ~found.constant & (np.sqrt(found.variance) < 1e-4 * np.abs(found.mean))
    if coarse.any():
        some = ", ".join(source.name_of(int(j)) for j in np.flatnonzero(coarse)[:SHOWN])
        notes.append(f"float32 keeps few digits of {some}: far from 0 for their spread; subtract an offset first")
    return Survey(**{**vars(found), "notes": tuple(notes)})
