"""Rows as people know them: features in their own units, and texts as they were written, whatever was clustered."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raydc.data.encoding import APART, DAY, MISSING, CategoryCode, CodedColumn, DateCode, Encoding, NumberCode, held
from raydc.data.sample import Sample
from raydc.data.source import Source

YEAR = 365.2425
"""Days, on average."""


@dataclass(frozen=True)
class Described:
    """Of n rows."""

    names: tuple[str, ...]
    """Of the features [F]."""
    values: NDArray[Any]
    """[n, F]; NaN where there is none. A category is 1 where it is the row's, else 0; a date is its year, with the part
    of it that has passed."""
    numbers: tuple[int, ...]
    """Which of the features are numbers, or dates; means of the others are shares."""
    categories: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    """[n], by column; what is missing is called so."""
    texts: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    """[n], by column; empty where there is none."""

    def take(self, which: NDArray[np.int64]) -> "Described":
        """The rows at these positions."""
        categories, texts = (
            {name: values[which] for name, values in columns.items()} for columns in (self.categories, self.texts)
        )
        return replace(self, values=self.values[which], categories=categories, texts=texts)


def describe(drawn: Sample, source: Source) -> Described:
    """Rows drawn from a source."""
    if source.encoding is None or drawn.stored is None:
        names = tuple(source.name_of(i) for i in range(source.n_features))
        return Described(names, drawn.x, tuple(range(len(names))))
    return described(drawn.stored, source.encoding)


def described(table: pa.Table, encoding: Encoding) -> Described:
    """Rows of a table before they are encoded."""
    names, columns, numbers = list[str](), list[NDArray[np.float64]](), list[int]()
    categories, texts = dict[str, NDArray[np.object_]](), dict[str, NDArray[np.object_]]()
    for column in encoding.columns:
        values = held(table[column.name], column.name, column.stored)
        if isinstance(column.code, CategoryCode):
            categories[column.name] = _texts(values, MISSING)
        elif is_text(column):
            texts[column.name] = _texts(values, "")
        elif isinstance(column.code, (NumberCode, DateCode)):
            numbers.append(len(names))
        for name, found in _features(column, values):
            names.append(name)
            columns.append(found)
    together = np.column_stack([np.empty((table.num_rows, 0)), *columns])
    return Described(tuple(names), together, tuple(numbers), categories, texts)


def is_text(column: CodedColumn) -> bool:
    """Whether a column holds texts, and not categories."""
    return column.stored == "text" and not isinstance(column.code, CategoryCode)


def _features(column: CodedColumn, values: pa.Array) -> Iterator[tuple[str, NDArray[np.float64]]]:
    code = column.code
    match code:
        case NumberCode():
            yield column.name, _numbers(values.cast(pa.float64(), safe=False))
        case DateCode():
            days = _numbers(values.cast(pa.int64()).cast(pa.float64())) / DAY
            yield f"year of {column.name}", 1970 + days / YEAR
        case CategoryCode():
            shares = code.encode(values) / APART
            yield from ((f"{column.name}{part}", shares[:, i]) for i, part in enumerate(code.parts))
    if column.indicated:
        yield f"{column.name} {MISSING}", values.is_null().to_numpy(zero_copy_only=False).astype(np.float64)


def _texts(values: pa.Array, missing: str) -> NDArray[np.object_]:
    return np.array(values.cast(pa.string()).fill_null(missing).to_pylist(), object)


def _numbers(values: pa.Array) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.fill_null(math.nan).to_numpy(zero_copy_only=False)
    return found
