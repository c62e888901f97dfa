"""Rows that cannot be used: which, and how that is told."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import sparse

from raydc.data.source import HUGE, Block, Piece, Source, usable

SHOWN = 5
"""Rows, files or columns that a message names, of many."""


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
    whole: bool = False
    """Whether the row is all of its file, as of pictures."""

    def __str__(self) -> str:
        if self.whole:
            return f"{self.file}: {self.value}"
        more, place = f" (and {self.cells - 1} more cells)" if self.cells > 1 else "", f"row {self.row_in_file}"
        return f"{self.file}, row group {self.row_group}, {place}, column {self.column}: {self.value}{more}"


LISTED = ("file", "row_group", "row", "column", "value", "cells")
"""What a table of dropped rows says of each."""


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
    return faults_report(source, [fault_in(source, piece, block, bad, int(row)) for row in rows[:SHOWN]], len(rows))


def dropped_table(source: Source, dropped_rows: np.ndarray) -> str:
    """Every row that was left out, as CSV (file, row_group, row, column, value, cells), where row is its position in
    the data; reads their pieces again.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(LISTED)
    for piece in source.pieces:
        low, high = np.searchsorted(dropped_rows, [piece.start, piece.start + piece.rows])
        if low < high and (bad := bad_cells(block := source.read(piece))) is not None:
            writer.writerows(fault_lines(source, piece, block, bad))
    return text.getvalue()


def fault_lines(source: Source, piece: Piece, block: Block, bad: np.ndarray) -> list[list[Any]]:
    """A line of that table for each unusable row of a piece."""
    rows = np.flatnonzero(bad.any(axis=1))
    faults = [asdict(fault_in(source, piece, block, bad, int(row))) for row in rows]
    return [[fault[name] for name in LISTED] for fault in faults]


def fault_in(source: Source, piece: Piece, block: Block, bad: np.ndarray, row: int) -> Fault:
    """What is wrong with a row of a block, by its unusable cells `bad` [n, D]."""
    if row in block.broken:
        column, value = block.broken[row]
        own = source.file_of(piece, row)
        place = (own or piece.file, piece.row_group, piece.start + row)
        return Fault(*place, column, value, 1, piece.row + row, whole=own is not None)
    first = int(bad[row].argmax())
    value = "null"
    if block.nulls is None or not block.nulls[row, first]:
        cell = block.x[row, first]
        value = f"{cell:g}" + (f" (beyond {HUGE:g})" if np.isfinite(cell) else "")
    cells = int(bad[row].sum())
    name = source.name_of(first)
    return Fault(piece.file, piece.row_group, piece.start + row, name, value, cells, piece.row + row)


def first_of(faults: Sequence[Fault]) -> str:
    """The first of them in words; nothing where there is none."""
    return f"The first: {faults[0]}" if faults else ""


def without_values(source: Source, empty: dict[str, tuple[str, ...]]) -> list[str]:
    """A line for each of the first files that have columns without a usable value."""
    rows = Counter[str]()
    for piece in source.pieces:
        rows[piece.file] += piece.rows
    return [
        f"  {file}: no usable value in any of its {rows[file]} rows: {', '.join(names[:SHOWN])}; to leave a column "
        "out, name the others with --columns"
        for file, names in [*empty.items()][:SHOWN]
    ]


def faults_report(
    source: Source, faults: Sequence[Fault], rows: int, empty: dict[str, tuple[str, ...]] | None = None
) -> str:
    """Why data are refused: the first faults of as many unusable rows, columns without values, and what to do."""
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
    return "\n".join([head, *lines, *without_values(source, empty or {}), last])
