"""What rows are, and which methods fit them: those that a search tries where nobody names one."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

from numpy.typing import NDArray

from raydc import methods
from raydc.core.settings import SettingsError
from raydc.data import Source
from raydc.distributed import ray_cluster
from raydc.methods.base import Method

log = logging.getLogger("raydc")
Kind = Literal["images", "embeddings", "texts", "table"]
NAMED: dict[Kind, str] = {
    "images": "images",
    "embeddings": "embeddings",
    "texts": "texts",
    "table": "a table of numbers",
}
WIDE = 64
"""Numbers in one list from which on it may be an embedding."""


class Rows(NamedTuple):
    """What a space may want to know of the rows."""

    number: int
    shape: tuple[int, ...]
    """Of a row: (D,) or (C, H, W)."""
    kind: Kind = "table"


TABLE, IMAGES = Rows(1000, (16,)), Rows(1000, (1, 16, 16), "images")
"""Rows for which a space is checked before any are read."""


def kind_of(source: Source, rows: NDArray[Any]) -> Kind:
    """What the rows of a source are, by how they lie there and by some of them, [n, D] as stored.

    A list of WIDE numbers or more with some below 0 is an embedding: of what is counted or measured in such lists, such
    as pixels, spectra and words, nothing is below 0.
    """
    if len(source.shape) == 3:
        return "images"
    columns = source.encoding.columns if source.encoding is not None else ()
    if source.kind == "sparse" or any(column.code.kind == "text" for column in columns):
        return "texts"
    one = not columns and len(source.columns) < 2
    return "embeddings" if one and rows.shape[1] >= WIDE and bool((rows < 0).any()) else "table"


def methods_for(rows: Rows) -> list[str]:
    """Methods that fit such rows: networks for images where rows are images, no autoencoders where rows are embeddings,
    which learnt already what is to be kept of the inputs.

    A package's method that cannot be had is left out, with a note.
    """
    able = []
    for name in methods.available():
        try:
            kind = methods.load(name)
        except SettingsError as problem:
            log.warning("%s", problem)
            continue
        try:
            if fits(kind, rows):
                with _unsaid():
                    method = kind(kind.Config(), rows.shape)
                method.check(rows.number)
                if not ray_cluster.joined():  # else others do the work, and their memory is not known here
                    method.check_memory(rows.number)
                able.append(name)
        except (ValueError, MemoryError):  # it says which number is too large
            continue
    return able


@contextmanager
def _unsaid() -> Iterator[None]:
    """Without what a method says of its networks: it is asked here, and trains nothing."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def fits(kind: type[Method], rows: Rows) -> bool:
    """Whether a method is made for rows of this kind."""
    if rows.kind == "embeddings" and "reconstruction" in kind.info.network_loss:
        return False
    return len(rows.shape) == 3 or not (kind.needs_image or kind.info.architecture in ("CNN", "GAN"))
