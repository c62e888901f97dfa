"""What a user is told of rows that can be used, and that may not mean what they seem to."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from raydc.data.faults import SHOWN, without_values
from raydc.data.moments import FINE
from raydc.data.sketch import KEPT
from raydc.data.source import Source

if TYPE_CHECKING:
    from raydc.data.profile import DataProfile

TAIL = 20.0
"""Standard deviations from the mean from which on a value decides clusters by itself."""


def notes_on(source: Source, found: "DataProfile") -> Iterator[str]:
    """A note for each thing that a user should know of the rows that are used."""
    yield from source.notes
    yield from _missing(source, found)
    yield from _differences(source, found)
    yield from _oddities(source, found)


def _missing(source: Source, found: "DataProfile") -> Iterator[str]:
    """Which rows were left out, and ids that tell no rows apart."""
    dropped = len(found.dropped_rows)
    if dropped:
        lines = [str(fault) for fault in found.dropped]
        more = [f"and {dropped - len(lines)} more"] if dropped > len(lines) else []
        head = f"dropped {dropped} of {source.n_rows} rows:"
        yield "\n  ".join([head, *lines, *more, *map(str.strip, without_values(source, found.empty))])
    known, repeated = found.ids
    if repeated:
        among = f"{known:,} ids" + (" looked at" if known == KEPT else "")
        yield f"ids repeat: {repeated:,} of {among} name several rows; column row of the assignments tells those apart"


def _differences(source: Source, found: "DataProfile") -> Iterator[str]:
    """Features without differences, or whose differences the precision that they are stored in keeps badly."""
    spread, size = np.sqrt(found.variance), np.abs(found.mean)
    blurred = found.constant & (spread > np.maximum(4 * np.finfo(np.float64).eps * size, FINE))
    still = found.constant & ~blurred
    if source.encoding is not None:
        still &= ~source.encoding.spare
    stored = "float64" if found.eps < 1e-15 else "float32"
    if still.all():
        yield "every row is the same: there is one cluster at most"
    elif still.any():
        yield f"{still.sum()} of {len(still)} features never change, such as {source.some(still)}"
    if blurred.any():
        yield (
            f"{stored}, as they are stored, loses the differences in {source.some(blurred)}: too far from 0 for them; "
            "subtract an offset before they are stored"
        )
    coarse = ~found.constant & (spread < 1000 * found.eps * size)
    if coarse.any():
        yield (
            f"{stored}, as they are stored, keeps few digits of {source.some(coarse)}: far from 0 for their spread; "
            "subtract an offset before they are stored"
        )


def _oddities(source: Source, found: "DataProfile") -> Iterator[str]:
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
