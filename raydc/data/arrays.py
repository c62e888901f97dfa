"""Rows in arrays: in memory, in .npy and .npz files, sparse or dense, and scikit-learn's digits."""

import hashlib
import io
import math
import os
import zipfile
from collections.abc import Hashable
from functools import partial
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import torch
from scipy import sparse

from raydc.data.load import free_memory
from raydc.data.settings import DataSettings
from raydc.data.source import (
    Block,
    DataError,
    Layout,
    Piece,
    Source,
    bytes_of,
    cut,
    is_real,
    resolve_layout,
    texts,
    weights_of,
)

UNNAMED = "arr_0"
"""What numpy.savez calls the first array that it is given without a name."""


class ArraySource(Source):
    """x [N, D], [N, height, width] or [N, channels, height, width] (or channels last), or a sparse matrix [N, D].

    y [N] are known classes, ids [N] integers or text, weights [N] how much rows count; `files` and `times` tell of the
    file that it came from as `Source` has them, by default of its values.
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        ids: Any = None,
        *,
        weights: Any = None,
        settings: DataSettings | None = None,
        files: dict[str, str] | None = None,
        times: dict[str, str] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.settings = settings or DataSettings(path="array")
        name = self.settings.path
        if self.settings.columns is not None:
            raise DataError(f"data.columns: {name} is an array, whose features have no names; leave data.columns out")
        if self.settings.types or self.settings.missing != "error" or self.settings.encoder is not None:
            raise DataError(
                f"data.types, data.missing and data.encoder are of columns of a table, and {name} is an array; leave "
                "them out"
            )
        self.kind = "sparse" if sparse.issparse(x) else "array"
        self._x = sparse.csr_array(x) if sparse.issparse(x) else _array(x)
        if not is_real(self._x.dtype):
            raise DataError(f"{name}: X holds {self._x.dtype}, expected numbers (integers, floats or truth values)")
        if self._x.ndim < 2:
            raise DataError(f"{name}: X has shape {self._x.shape}, expected rows x features or rows of images")
        if 0 in self._x.shape:
            raise DataError(f"{name}: X has shape {self._x.shape}, so there is nothing to cluster")
        self.dtype = self._x.dtype
        self.layout = resolve_layout(Layout.of(self._x.shape[1:]), self.settings)
        if ids is None and self.settings.id_column is not None:
            raise DataError(f"data.id_column: {name} is an array without ids; leave data.id_column out")
        if weights is None and self.settings.weight_column is not None:
            raise DataError(f"data.weight_column: {name} is an array without weights; leave data.weight_column out")
        self._weights = None
        if weights is not None:
            self.weights = self.settings.weight_column or "weights"
            self._weights = _one_each(np.asarray(weights), self._x.shape[0], self.weights, name)
            if not is_real(self._weights.dtype):
                raise DataError(f"{name}: {self.weights} holds {self._weights.dtype}, expected numbers")
        self._y = None if y is None else _classes(np.asarray(y), self._x.shape[0], name)
        self._ids = None if ids is None else _identifiers(np.asarray(ids), self._x.shape[0], name)
        self.files = files or {name: _digest(self._x)} | (
            {} if weights is None else {"weights": _digest(self._weights)}
        )
        self.times = times or {}
        self.identified = None if ids is None else (self.settings.id_column or "ids")
        self.notes = notes
        self.pieces = cut([(name, 0, self._x.shape[0])], self.n_features)

    def read(self, piece: Piece) -> Block:
        """The rows of one piece, as stored."""
        rows = slice(piece.start, piece.start + piece.rows)
        x = self._x[rows] if self.kind == "sparse" else self.layout.arrange(np.asarray(self._x[rows]))
        block = Block(x, np.arange(rows.start, rows.stop) if self._ids is None else self._ids[rows])
        if self.weights and self._weights is not None:
            block.weights = weights_of(self._weights[rows], self.weights, block.broken)
        return block

    def labels(self) -> np.ndarray | None:
        """Known classes of all rows."""
        return self._y


def open_digits(settings: DataSettings) -> ArraySource:
    """scikit-learn's 1797 handwritten digits of 8x8 pixels, with their labels."""
    from sklearn.datasets import load_digits

    images = load_digits()
    note = "digits is scikit-learn's set; the file or folder of that name here is spelled ./digits"
    return ArraySource(
        images.images, images.target, settings=settings, notes=(note,) if os.path.exists("digits") else ()
    )


def open_array(settings: DataSettings, filesystem: pafs.FileSystem, info: pafs.FileInfo) -> ArraySource:
    """A .npy file, an .npz file with X (and y, ids), or a sparse matrix as SciPy saves it."""
    path, local = info.path, isinstance(filesystem, pafs.LocalFileSystem)
    try:
        with filesystem.open_input_file(path) as stream:
            size = stream.size()
            edge = hashlib.sha256(stream.read(min(size, 1024)))
            stream.seek(max(0, size - 65536))  # holds the directory of an archive, with the checksums of its members
            edge.update(stream.read(65536))
            stream.seek(0)
            held = None if local else io.BytesIO(stream.read())
        files, times = {path: f"{size} {edge.hexdigest()[:16]}"}, {path: f"{size} {info.mtime_ns}"}
        if path.lower().endswith(".npy"):
            x = np.load(held or path, mmap_mode="r" if local else None, allow_pickle=False)
            if settings.label_column or settings.id_column or settings.weight_column:
                raise DataError(f"{path}: a .npy file holds no labels, ids or weights; use .npz with X and those")
            return ArraySource(x, settings=settings, files=files, times=times)
        return _open_npz(held or path, settings, files, times)
    except DataError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: cannot be read as a NumPy file: {error}; write it again with np.save or np.savez"
        ) from error


def _open_npz(file: Any, settings: DataSettings, files: dict[str, str], times: dict[str, str]) -> ArraySource:
    path = settings.path
    with np.load(file, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: is a .npy file by content; name it .npy")
        assert archive.zip is not None
        _require_room(archive.zip, path)
        names = archive.files
        label = settings.label_column or ("y" if "y" in names else None)
        identity = settings.id_column or next((name for name in ("ids", "id") if name in names), None)
        weight = settings.weight_column
        for setting, name in (("label_column", label), ("id_column", identity), ("weight_column", weight)):
            if name is not None and name not in names:
                raise DataError(f"data.{setting}: {path} has no array {name}; its arrays: {', '.join(names)}")
        y = archive[label] if label else None
        ids = archive[identity] if identity else None
        weights = archive[weight] if weight else None
        build = partial(ArraySource, settings=settings, files=files, times=times, weights=weights)
        if {"format", "data", "shape"} <= set(names):
            if isinstance(file, io.BytesIO):
                file.seek(0)
            return build(sparse.load_npz(file), y, ids)
        if names == [UNNAMED]:
            return build(archive[UNNAMED], notes=(f"rows are {UNNAMED}, the one array of {path}",))
        if "X" not in names:
            raise DataError(
                f"{path}: has no array X; its arrays: {', '.join(names) or 'none'}; write numpy.savez(PATH, X=rows), "
                "with y= for classes and ids= for ids"
            )
        return build(archive["X"], y, ids)


def _require_room(archive: zipfile.ZipFile, path: str) -> None:
    """DataError, before anything is unpacked, where arrays are larger than the archive holds or the memory that is
    free.
    """
    for member in archive.infolist():
        if not member.filename.endswith(".npy"):
            continue
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
        if math.prod(shape) * dtype.itemsize > member.file_size and not dtype.hasobject:
            raise DataError(
                f"{path}: {member.filename} says that it has shape {shape} of {dtype}, and holds "
                f"{member.file_size:,} bytes; write it again with np.savez"
            )
    total, free = sum(member.file_size for member in archive.infolist()), free_memory()
    if total > free:
        raise DataError(
            f"{path}: {total / 1e9:,.1f} GB unpacked, and {free / 1e9:,.1f} GB of memory are free; write X with "
            "np.save as .npy, which is not loaded whole, or as Parquet"
        )


def _array(x: Any) -> np.ndarray:
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().numpy()
    return x if isinstance(x, np.ndarray) else np.asarray(x)


def _one_each(values: np.ndarray, rows: int, what: str, name: str) -> np.ndarray:
    if values.shape != (rows,):
        raise DataError(f"{name}: {what} has shape {values.shape}, expected one value for each of {rows} rows")
    return values


def _classes(y: np.ndarray, rows: int, name: str) -> np.ndarray:
    y = _one_each(y, rows, "y", name)
    if (
        y.dtype == object
        and (unfit := next((label for label in y if not isinstance(label, Hashable)), None)) is not None
    ):
        raise DataError(f"{name}: y holds a {type(unfit).__name__}, expected one class in each row: a number or text")
    return y


def _identifiers(ids: np.ndarray, rows: int, name: str) -> np.ndarray:
    ids = _one_each(ids, rows, "ids", name)
    if ids.dtype.kind in "iu":
        return ids.astype(np.uint64 if ids.dtype == np.uint64 else np.int64)
    if ids.dtype.kind in "UO":
        return texts(ids)
    if ids.dtype.kind in "SM":
        return texts(value.hex() if isinstance(value, bytes) else value for value in ids)
    raise DataError(f"{name}: ids are {ids.dtype}; expected integers, text, bytes or times")


def _digest(x: Any) -> str:
    digest = hashlib.sha256(f"{x.shape} {x.dtype}".encode())
    for part in bytes_of(x):
        digest.update(part)
    return digest.hexdigest()
