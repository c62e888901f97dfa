"""AnnData files (.h5ad), backed: cells are rows, read a piece at a time from HDF5, sparse ones as they lie.

What is read is the format as it is documented (anndata.readthedocs.io, on-disk format): matrices as arrays or CSR
groups, columns as arrays, or categories and codes.
"""

from typing import Any

import numpy as np
import pyarrow.fs as pafs
from scipy import sparse

from raydc.data.columnar import glance
from raydc.data.decoded import DecodedSource
from raydc.data.settings import DataSettings
from raydc.data.source import Block, DataError, Layout, Piece, cut, is_real, texts, weights_of

SUFFIX = ".h5ad"
KINDS = ("encoding-type", "h5sparse_format")
"""Attributes that say how a matrix lies, in files of today and of before 2020."""


class AnnDataSource(DecodedSource):
    """The matrix `data.matrix` of an open file, X by default; ids are the names of observations.

    Features of X, raw/X and layers are known by the names of variables, those of obsm by their position. Labels, ids
    and weights may be columns of obs. DataError where there are no such matrix, columns or names.
    """

    def __init__(self, settings: DataSettings, path: str, file: Any) -> None:
        _require_possible(settings)
        self.settings, self._file = settings, file
        self._matrix = _matrix(file, settings)
        kind = _kind(self._matrix)
        if kind not in ("array", "csr"):
            raise DataError(
                f"data.matrix: {settings.matrix} of {path} lies as {kind}, which has no rows to read one after the "
                "other; write it as CSR: adata.X = adata.X.tocsr()"
            )
        self.kind = "sparse" if kind == "csr" else "array"
        held = self._matrix["data"] if kind == "csr" else self._matrix
        rows, width = self._matrix.attrs["shape"] if kind == "csr" else self._matrix.shape
        if not is_real(held.dtype) or min(rows, width) < 1:
            raise DataError(f"{path}: {settings.matrix} is {rows} x {width} of {held.dtype}, expected rows of numbers")
        self.dtype = held.dtype
        self._places: np.ndarray | None = None
        self._name_features(path, int(width))
        self.layout = Layout.of((int(width) if self._places is None else len(self._places),))
        index = _index_of(file["obs"])
        self.names = (index, *(name for name in file["obs"] if name != index), *self.columns)
        self.identified, self.weights = settings.id_column or index, settings.weight_column
        self._ids = _column(file["obs"], self.identified, "id_column", path)
        if self._ids.dtype.kind not in "iu":
            self._ids = texts(self._ids)
        self._weights = None if self.weights is None else _column(file["obs"], self.weights, "weight_column", path)
        if self._weights is not None and not is_real(self._weights.dtype):
            raise DataError(f"data.weight_column: {self.weights} in {path} holds text, expected numbers")
        if settings.label_column is not None:
            _column(file["obs"], settings.label_column, "label_column", path)
        self.pieces = cut([(path, 0, int(rows))], self.n_features)
        if settings.matrix == "X":
            others = [f"{place}/{name}" for place in ("layers", "obsm") for name in file.get(place, ())]
            self.notes = (f"rows are X; others by --data.matrix: {', '.join(others)}",) if others else ()

    def decode(self, piece: Piece) -> Block:
        """The rows of one piece, sparse where they lie so."""
        rows = slice(piece.start, piece.start + piece.rows)
        if self.kind == "sparse":
            ends = self._matrix["indptr"][rows.start : rows.stop + 1].astype(np.int64)
            inside = slice(int(ends[0]), int(ends[-1]))
            parts = (self._matrix["data"][inside], self._matrix["indices"][inside], ends - ends[0])
            x: Any = sparse.csr_array(parts, shape=(piece.rows, int(self._matrix.attrs["shape"][1])))
        else:
            x = self._matrix[rows]
        if self._places is not None:
            x = x[:, self._places]
        block = Block(x, self._ids[rows])
        if self._weights is not None and self.weights is not None:
            block.weights = weights_of(self._weights[rows], self.weights, block.broken)
        return block

    def labels(self) -> np.ndarray | None:
        """The column of obs that data.label_column names."""
        label = self.settings.label_column
        return None if label is None else _column(self._file["obs"], label, "label_column", self.settings.path)

    def _name_features(self, path: str, width: int) -> None:
        """The columns, and at which places of the matrix they are where these are not all in their order."""
        asked = self.settings.columns
        if not has_names(self.settings):
            if asked is not None:
                raise DataError(
                    f"data.columns: features of {self.settings.matrix} in {path} have no names; leave it out"
                )
            return
        about = self._file["raw/var"] if self.settings.matrix == "raw/X" else self._file["var"]
        known = _column(about, _index_of(about), "columns", path).tolist()
        if len(known) != width or len({*known}) != width:
            raise DataError(
                f"{path}: expected a name of its own for each of {width} variables; adata.var_names_make_unique()"
            )
        self.columns = tuple(known)
        if asked is not None and asked != self.columns:
            places = {name: place for place, name in enumerate(known)}
            if missing := [name for name in asked if name not in places]:
                raise DataError(f"data.columns: {path} has no variable {missing[0]} ({len(missing)} of {len(asked)})")
            self.columns, self._places = asked, np.array([places[name] for name in asked])


def open_anndata(settings: DataSettings, filesystem: pafs.FileSystem, info: pafs.FileInfo) -> AnnDataSource:
    """A local .h5ad file. DataError where it cannot be read, lies elsewhere, or h5py is missing."""
    path = info.path
    if not isinstance(filesystem, pafs.LocalFileSystem):
        raise DataError(f"{settings.path}: HDF5 is read from a disk of this machine; copy the file")
    try:
        import h5py
    except ImportError as problem:
        raise DataError(f"{path}: h5py is missing ({problem}); install it: pip install 'raydc[anndata]'") from problem
    try:
        with filesystem.open_input_file(path) as stream:
            mark = glance(stream)
        source = AnnDataSource(settings, path, h5py.File(path, "r"))
    except (OSError, KeyError, AttributeError) as problem:
        raise DataError(
            f"{path}: cannot be read as AnnData: {problem}; write it again: adata.write_h5ad(PATH)"
        ) from problem
    source.files, source.times = {path: mark}, {path: f"{info.size} {info.mtime_ns}"}
    return source


def has_names(settings: DataSettings) -> bool:
    """Whether features of the matrix have names, as variables have."""
    return not settings.matrix.startswith("obsm/")


def _require_possible(settings: DataSettings) -> None:
    """DataError where settings name what AnnData has not."""
    for name in ("types", "missing", "encoder", "shape"):
        if getattr(settings, name) != DataSettings.model_fields[name].default:
            raise DataError(f"data.{name}: {settings.path} is AnnData, whose rows are numbers already; leave it out")


def _matrix(file: Any, settings: DataSettings) -> Any:
    there = [
        "X" if "X" in file else "",
        *(f"{place}/{name}" for place in ("layers", "obsm") for name in file.get(place, ())),
    ]
    if settings.matrix not in file or settings.matrix.split("/")[0] not in ("X", "layers", "obsm", "raw"):
        raise DataError(
            f"data.matrix: {settings.path} has no {settings.matrix}; there are {', '.join(filter(None, there))}"
        )
    return file[settings.matrix]


def _kind(matrix: Any) -> str:
    """array, csr, csc, or what else it says of itself."""
    found = next((str(matrix.attrs[name]) for name in KINDS if name in matrix.attrs), "array")
    return found.removesuffix("_matrix")


def _index_of(frame: Any) -> str:
    """What the names of a data frame's rows are called."""
    return str(frame.attrs.get("_index", "index"))


def _column(frame: Any, name: str, setting: str, path: str) -> np.ndarray:
    """A column of a data frame: numbers, or text as objects; categories by their names, None where there is none."""
    if name not in frame:
        raise DataError(f"data.{setting}: {path} has no column {name} in obs; its columns: {', '.join(frame)}")
    found = frame[name]
    if "codes" in found:
        codes = found["codes"][:]
        return _with_none(
            _values(found["categories"])[codes.clip(0)] if codes.max(initial=-1) >= 0 else codes, codes < 0
        )
    if "values" in found:  # may lack values, which a mask says
        return _with_none(_values(found["values"]), found["mask"][:])
    return _values(found)


def _with_none(values: np.ndarray, missing: np.ndarray) -> np.ndarray:
    held = values.astype(object)
    held[missing] = None
    return held


def _values(found: Any) -> np.ndarray:
    values: np.ndarray = found.asstr()[:] if found.dtype.kind in "OS" else found[:]
    return values
