"""Rows that a trained model is asked about: frames and arrays of any number type, checked."""

import difflib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import prod
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from scipy import sparse
from torch import Tensor

from raydc.data.source import DataError, UnusableRow, channels_last, is_real, usable


def rows_of(rows: Any, columns: Sequence[str], shape: Sequence[int], n_features: int | None = None) -> np.ndarray:
    """Rows of a table (columns by name) or an array as [B, *shape], in the data's units and precision.

    A table is a DataFrame of pandas or polars, a pyarrow table, a dictionary of columns or a list of dictionaries;
    `columns` are the model's feature columns, empty if it learned from an array. An image may come with its channels
    last. Raises DataError if a column is missing or there twice, the number of features differs, or a value is no
    number; UnusableRow if one is unusable.
    """
    shape = tuple(shape)
    expected = prod(shape) if n_features is None else n_features
    rows = table_of(rows)
    if isinstance(rows, pd.DataFrame):
        values = _from_frame(rows, list(columns), expected)
    elif isinstance(rows, Tensor):
        values = rows.detach().cpu().numpy()
    elif sparse.issparse(rows):
        values = rows.toarray()
    elif isinstance(rows, np.ma.MaskedArray):
        values = _numbers(rows.data, "the rows").astype(np.float64)
        values[np.ma.getmaskarray(rows)] = np.nan
    else:
        values = _numbers(rows, "the rows")
    if not is_real(values.dtype):
        raise DataError(f"the rows hold {values.dtype}, expected numbers (integers or floats)")
    if values.ndim < 2 or prod(values.shape[1:]) != expected:
        wanted = f"[rows, {expected}]" + (f" or [rows, {_listed(shape)}]" if len(shape) > 1 else "")
        hint = "; give one row as [row]" if values.shape == (expected,) else ""
        raise DataError(f"the rows have shape {values.shape}, expected {wanted}{hint}")
    if len(shape) == 3 and values.shape[1:] != shape and channels_last(values.shape[1:]):
        values = values.transpose(0, 3, 1, 2)
    x = values.reshape(len(values), expected)
    good = usable(x)
    if not good.all():
        row, feature = (int(i) for i in np.argwhere(~good)[0])
        name = columns[feature] if len(columns) == expected else f"{columns[0] if columns else 'X'}[{feature}]"
        bad = int((~good.all(axis=1)).sum())
        said = f"row {row}, column {name}: {x[row, feature]:g}; {bad} row(s) cannot be used, leave them out"
        raise UnusableRow(said, row, name)
    return np.ascontiguousarray(x).reshape(-1, *shape)


def is_table(rows: Any) -> bool:
    """Whether these have columns by name."""
    return isinstance(table_of(rows), pd.DataFrame)


def is_mixed(rows: Any) -> bool:
    """Whether these have columns by name, and some that are no numbers."""
    table = table_of(rows)
    return isinstance(table, pd.DataFrame) and not all(map(_is_number, table.dtypes))


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    """The frame without its index; DataError where a column holds values of several types."""
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise DataError(f"the rows: expected values of one type in each column: {error}") from error


def as_frame(rows: Any, columns: Sequence[str]) -> pd.DataFrame:
    """These columns of a table, as `rows_of` takes one; DataError if one is missing or there twice, or it is none."""
    table = table_of(rows)
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"the rows are {type(rows).__name__}, expected a table with columns {_listed(columns[:12])}")
    return _chosen(table, list(columns))


def table_of(rows: Any) -> Any:
    """What has columns by name as a DataFrame; anything else as it is. DataError where it may mean two things."""
    if isinstance(rows, pd.Series):
        raise DataError(
            "the rows are a Series, which may be one row or one column: expected a DataFrame; give "
            "series.to_frame().T for one row, series.to_frame() for rows of one column"
        )
    if hasattr(rows, "to_pandas"):  # of pyarrow or polars
        return rows.to_pandas()
    if isinstance(rows, Mapping) and not sparse.issparse(rows):  # a sparse matrix may be a dictionary of its cells
        single = [str(name) for name, values in rows.items() if np.ndim(values) == 0]
        if single:
            raise DataError(f"column {single[0]}: expected the values of all rows, such as a list, got one value")
        rows = {name: list(values) for name, values in rows.items()}
    elif not (isinstance(rows, list | tuple) and rows and all(isinstance(row, Mapping) for row in rows)):
        return rows
    try:
        return pd.DataFrame(rows)
    except ValueError as error:
        raise DataError(f"the rows: expected as many values in every column: {error}") from error


def _chosen(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    known = [str(name) for name in frame.columns]
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        near = difflib.get_close_matches(missing[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {_listed(known[:12])}"
        raise DataError(f"the frame lacks {len(missing)} of {len(columns)} columns, such as {missing[0]}; {hint}")
    chosen = frame[columns]
    if chosen.shape[1] != len(columns):
        twice = next(name for name in columns if known.count(str(name)) > 1)
        raise DataError(f"the frame has column {twice} {known.count(str(twice))} times: leave one of them")
    return chosen


def _from_frame(frame: pd.DataFrame, columns: list[str], n_features: int) -> np.ndarray:
    chosen = _chosen(frame, columns) if columns else frame
    if chosen.shape[1] == 1 and (n_features > 1 or any(map(np.ndim, chosen.iloc[:1, 0]))):
        name = chosen.columns[0]
        cells = [np.asarray(cell) for cell in chosen.iloc[:, 0]]
        shapes = {cell.shape for cell in cells}
        if len(shapes) > 1:
            row = next(i for i, cell in enumerate(cells) if cell.shape != cells[0].shape)
            raise DataError(f"row {row}, column {name}: shape {cells[row].shape}, row 0 has {cells[0].shape}")
        return _numbers(np.stack(cells) if cells else np.zeros((0, n_features)), f"column {name}")
    if all(_is_number(kind) for kind in chosen.dtypes):
        return chosen.to_numpy(dtype=np.float64, na_value=np.nan)
    return np.column_stack([_column(chosen.iloc[:, i]) for i in range(chosen.shape[1])])


def _is_number(kind: Any) -> bool:
    return pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind)


def _column(values: pd.Series) -> np.ndarray:
    """One column as float64 [B]."""
    if _is_number(values.dtype):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    return _numbers(values.to_numpy(), f"column {values.name}").astype(np.float64)


def _numbers(values: Any, what: str) -> np.ndarray:
    """As a numeric array; of objects only if every one is a number or none at all."""
    try:
        array = np.asarray(values)
        if array.dtype == object and array.ndim == 1 and len(array) and np.ndim(array[0]):
            array = np.stack([_numbers(row, f"{what}, row {i}") for i, row in enumerate(array)])
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{what}: expected numbers in rows of equal length: {error}") from error
    if array.dtype == object:
        array = np.array([_number(value, what) for value in array.flat], np.float64).reshape(array.shape)
    if array.dtype.kind in "US":
        _number(array.flat[0] if array.size else "", what)
    if not is_real(array.dtype):
        raise DataError(f"{what}: expected numbers, got {array.dtype}")
    return array


def _number(value: Any, what: str) -> float:
    """One that stands for itself: text is none, whatever it spells."""
    if value is None or value is pd.NA:
        return np.nan
    if isinstance(value, Real | np.bool_ | Decimal):
        try:
            return float(value)
        except OverflowError:  # an integer beyond all floats
            return np.inf
    kind = "text" if isinstance(value, str) else type(value).__name__
    raise DataError(f"{what}: expected numbers, got {kind} such as {str(value)[:40]!r}")


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names))
