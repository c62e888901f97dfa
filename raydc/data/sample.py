"""Some rows of any number: evenly spaced, as stored, without those that have values which are no numbers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydc.data.faults import bad_cells
from raydc.data.source import Source, dense

PIECES = 64
"""Stretches of rows that are read, unless more are needed to have as many rows; evenly spaced."""


@dataclass(frozen=True)
class Sample:
    """Rows of a source."""

    x: NDArray[Any]
    """[n, D], as stored."""
    ids: NDArray[Any]
    """[n]"""
    positions: NDArray[np.int64]
    """[n], ascending, in the data."""
    stored: pa.Table | None = None
    """Their feature columns before they were encoded; None where they are not encoded."""


def spaced_rows(source: Source, size: int) -> Sample:
    """About `size` rows, the same whenever they are drawn."""
    enough = max(PIECES, -(-size * len(source.pieces) // source.n_rows))
    spaced = np.unique(np.linspace(0, len(source.pieces) - 1, min(enough, len(source.pieces))).round().astype(int))
    pieces = [source.pieces[i] for i in spaced]
    total = sum(piece.rows for piece in pieces)
    generator = np.random.default_rng(0)
    rows, ids, places, stored = [], [], [], []
    for piece in pieces:
        block = source.read(piece)
        bad = bad_cells(block)
        usable = np.arange(piece.rows) if bad is None else np.flatnonzero(~bad.any(axis=1))
        share = min(len(usable), max(1, round(size * piece.rows / total)))
        chosen = np.sort(generator.choice(usable, share, replace=False))
        rows.append(dense(block.x[chosen]))
        ids.append(block.ids[chosen])
        places.append(piece.start + chosen)
        stored += [] if block.stored is None else [block.stored.take(chosen)]
    whole = pa.concat_tables(stored, promote_options="permissive") if stored else None
    return Sample(np.concatenate(rows), np.concatenate(ids), np.concatenate(places), whole)
