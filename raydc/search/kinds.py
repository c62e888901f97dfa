"""What rows are, which decides the methods that a search tries where nobody names one."""

from typing import Any, Literal

from numpy.typing import NDArray

from raydc.data import Source

Kind = Literal["images", "embeddings", "texts", "table"]
NAMED: dict[Kind, str] = {
    "images": "images",
    "embeddings": "embeddings",
    "texts": "texts",
    "table": "a table of numbers",
}
WIDE = 64
"""Numbers in one list from which on it may be an embedding."""


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
