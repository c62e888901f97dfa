"""Rows that a trained model is asked about: frames and arrays of any number type, checked."""

import difflib
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from torch import Tensor

from raydc.data.source import DataError, channels_last, is_real, usable


def rows_of(rows: Any, columns: Sequence[str], shape: Sequence[int], n_features: int | None = None) -> np.ndarray:
    """A DataFrame (columns by name) or array of rows as [B, *shape], in the data's units and precision.

    `columns` are the model's feature columns, empty if it learned from an array; an image may come with its channels
    last. Raises DataError if a column is missing, the number of features differs, or a value is unusable.
    """
    shape = tuple(shape)
    expected = prod(shape) if n_features is None else n_features
    if isinstance(rows, pd.DataFrame):
        values = _from_frame(rows, list(columns), expected)
    elif isinstance(rows, Tensor):
        values = rows.detach().cpu().numpy()
    elif sparse.issparse(rows):
        values = rows.toarray()
    else:
        values = _numbers(rows, "the rows")
    if not is_real(values.dtype):
        raise DataError(f"the rows hold {values.dtype}, expected numbers (integers or floats)")
    if values.ndim < 2 or prod(values.shape[1:]) != expected:
        raise DataError(f"the rows have shape {values.shape}, expected [rows, {expected}] or [rows, {_listed(shape)}]")
    if len(shape) == 3 and values.shape[1:] != shape and channels_last(values.shape[1:]):
        values = values.transpose(0, 3, 1, 2)
    x = values.reshape(len(values), expected)
    good = usable(x)
    if not good.all():
        row, feature = (int(i) for i in np.argwhere(~good)[0])
        name = columns[feature] if len(columns) == expected else f"{columns[0] if columns else 'X'}[{feature}]"
        bad = int((~good.all(axis=1)).sum())
        raise DataError(f"row {row}, column {name}: {x[row, feature]:g}; {bad} row(s) cannot be used, leave them out")
    return np.ascontiguousarray(x).reshape(-1, *shape)


def _from_frame(frame: pd.DataFrame, columns: list[str], n_features: int) -> np.ndarray:
    if not columns:
        columns = list(frame.columns)
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        known = [str(name) for name in frame.columns]
        near = difflib.get_close_matches(missing[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {_listed(known[:12])}"
        raise DataError(f"the frame lacks {len(missing)} of {len(columns)} columns, such as {missing[0]}; {hint}")
    chosen = frame[columns]
    if len(columns) == 1 and (n_features > 1 or pd.api.types.is_object_dtype(chosen.dtypes.iloc[0])):
        cells = [np.asarray(cell) for cell in chosen.iloc[:, 0]]
        shapes = {cell.shape for cell in cells}
        if len(shapes) > 1:
            row = next(i for i, cell in enumerate(cells) if cell.shape != cells[0].shape)
            raise DataError(f"row {row}, column {columns[0]}: shape {cells[row].shape}, row 0 has {cells[0].shape}")
        return _numbers(np.stack(cells) if cells else np.zeros((0, n_features)), f"column {columns[0]}")
    texts = [name for name, kind in chosen.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
    for name in texts:
        _numbers(chosen[name].to_numpy(), f"column {name}")
    return chosen.to_numpy(dtype=np.float64, na_value=np.nan)


def _numbers(values: Any, what: str) -> np.ndarray:
    """As a numeric array; objects only if every one is a number."""
    try:
        array = np.asarray(values)
        if array.dtype == object:
            array = np.asarray([np.asarray(row, dtype=np.float64) for row in array])
    except (TypeError, ValueError) as error:
        raise DataError(f"{what}: expected numbers in rows of equal length: {error}") from error
    if not is_real(array.dtype):
        raise DataError(f"{what}: expected numbers, got {array.dtype}")
    return array


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names))
