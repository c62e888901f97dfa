"""One pass over all rows before any work: every unusable value found, and the statistics that scaling needs."""

import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any
from zipfile import BadZipFile

import numpy as np

from raydc.data.faults import SHOWN, Fault, bad_cells, fault_in, faults_report, first_of, without_values
from raydc.data.marginals import Drawn, Inputs, joined_inputs
from raydc.data.moments import FINE, Moments
from raydc.data.profile_notes import notes_on
from raydc.data.settings import DataSettings
from raydc.data.shard import RowBlock, partition
from raydc.data.sketch import Ids
from raydc.data.source import Block, DataError, Piece, RowsChanged, Source, bytes_of, changes

INPUTS = "inputs."
"""Before the names of arrays of inputs, in a profile that is written."""
COMPARED = 256
"""Columns up to which it is looked whether two are the same."""


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
    zeros: int
    """Rows whose values are all 0."""
    ids: tuple[int, int]
    """Ids that were looked at, and those of them that name several rows; 0 where the data have none."""
    empty: dict[str, tuple[str, ...]]
    """Columns without a usable value in any row of a file, by file; of files whose rows are all left out."""
    same: tuple[tuple[int, int], ...]
    """Features that have the values of an earlier one in all rows, and that one; in tables of columns alone."""
    inputs: Inputs
    """How the values of each input are spread, for those who compare other rows with these."""
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
    inputs: Drawn
    """Of the inputs."""
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
        faults = tuple(fault_in(source, piece, block, bad, int(row)) for row in rows[:SHOWN])
        x, ids, weights = x[~broken], ids[~broken], None if weights is None else weights[~broken]
    return Seen(
        bad=piece.start + rows,
        faults=faults,
        checksum=checksum(block),
        moments=Moments.of(x),
        ids=Ids.of(ids) if source.identified else None,
        heaviest=np.inf if weights is None or not len(weights) else float(weights.max()),
        empty=() if bad is None or len(rows) < piece.rows else _empty(source, block, bad),
        inputs=Drawn.of(source, piece, block, bad),
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
    inputs: list[Drawn] = []
    for piece, one in zip(source.pieces, seen or (look(source, piece) for piece in source.pieces), strict=True):
        gone.append(one.bad)
        inputs.append(one.inputs)
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
        raise DataError(faults_report(source, faults, len(dropped_rows), without))
    if moments.count == 0:
        lines = [f"{source.settings.path}: no usable rows; all {source.n_rows} were dropped. {first_of(faults)}"]
        raise DataError("\n".join([*lines, *without_values(source, without)]))
    _require_weight(source, heaviest)
    return _profiled(
        source,
        faults,
        dropped_rows,
        checksums,
        (moments.lowest, moments.highest),
        moments.mean,
        moments.squares / moments.count,
        moments.zeros,
        (0, 0) if ids is None else (len(ids.hashes), ids.repeated),
        without,
        _same(columns),
        joined_inputs(source, inputs, moments.lowest, moments.highest),
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
    zeros: int,
    ids: tuple[int, int],
    empty: dict[str, tuple[str, ...]],
    same: tuple[tuple[int, int], ...],
    inputs: Inputs,
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
        zeros=zeros,
        ids=ids,
        empty=empty,
        same=same,
        inputs=inputs,
        eps=float(np.finfo(np.float32 if source.dtype in (np.float32, np.float16) else np.float64).eps),
        notes=(),
    )
    return replace(result, notes=tuple(notes_on(source, result)))


def written(found: DataProfile) -> bytes:
    """A profile as .npz, without what the opened data tell by themselves."""
    inputs, arrays = found.inputs.parts()
    about = {
        "fingerprint": found.fingerprint,
        "times": found.times,
        "dropped": [asdict(fault) for fault in found.dropped],
        "zeros": found.zeros,
        "ids": found.ids,
        "empty": found.empty,
        "same": found.same,
        "inputs": inputs,
    }
    file = io.BytesIO()
    named: dict[str, Any] = {
        "about": np.array(json.dumps(about)),
        "dropped_rows": found.dropped_rows,
        "checksums": np.array(found.checksums, np.uint32),
        "lowest": found.lowest,
        "highest": found.highest,
        "mean": found.mean,
        "variance": found.variance,
        **{f"{INPUTS}{name}": array for name, array in arrays.items()},
    }
    np.savez(file, **named)
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
            zeros, (known, repeated), empty = (
                about["zeros"],
                about["ids"],
                {file: tuple(names) for file, names in about["empty"].items()},
            )
            same = tuple((feature, earlier) for feature, earlier in about["same"])
            faults = [Fault(**fault) for fault in about["dropped"]]
            checksums, span = kept["checksums"].tolist(), (kept["lowest"], kept["highest"])
            dropped_rows, mean, variance = kept["dropped_rows"], kept["mean"], kept["variance"]
            arrays = {name.removeprefix(INPUTS): kept[name] for name in kept.files if name.startswith(INPUTS)}
            inputs = Inputs.whole(about["inputs"], arrays)
    except (BadZipFile, zlib.error, EOFError, OSError, KeyError, ValueError, TypeError, NotImplementedError):
        return None
    ids = known, repeated
    return _profiled(source, faults, dropped_rows, checksums, span, mean, variance, zeros, ids, empty, same, inputs)


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
