"""What data to take and how."""

import csv
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast, get_args

from pydantic import AfterValidator, BeforeValidator, PositiveInt, PrivateAttr, field_validator

from raydc.core.registries import Registry
from raydc.core.settings import Settings, public
from raydc.data.formats import FORMATS

if TYPE_CHECKING:
    from raydc.data.encoders import Encoder
    from raydc.data.encoding import Encoding
    from raydc.data.source import Source

SOURCES: "Registry[Callable[[DataSettings], Source]]" = Registry("raydc.sources", "source")
"""Sources of rows that others add: NAME opens the paths NAME and NAME://..., and .NAME those that end so."""
ENCODERS: "Registry[Callable[[], Encoder]]" = Registry("raydc.encoders", "encoder")
"""Encoders that others add: `Encoder` classes, or functions without arguments that give one."""
SCHEMES = ("digits", "file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss")
TAKEN = (*SCHEMES, ".npy", ".npz", ".h5ad", *(suffix for suffixes in FORMATS.values() for suffix in suffixes))
"""Names that sources of others cannot have: what raydc opens itself."""
ScalingKind = Literal["none", "power", "centred", "standard", "unit", "unit_each", "symmetric", "symmetric_each"]
Kind = Literal["number", "category", "text", "date", "picture"]
Missing = Literal["error", "impute", "indicate"]
ScalingSetting = Literal["auto"] | ScalingKind
Storage = Literal["auto", "device", "memory", "disk"]


def _parts(value: Any) -> Any:
    """The text 'a, "b,c"' as ("a", "b,c"), for the command line; anything else as it is."""
    if isinstance(value, str):
        lines = list(csv.reader([value], skipinitialspace=True, strict=True)) if value else [[]]
        return tuple(part.strip() for part in lines[0] if part.strip())
    return (value,) if isinstance(value, int) else value


def _columns(value: Any) -> Any:
    return None if value == "auto" else _parts(value)


def _types(value: Any) -> Any:
    """{"a": "text"} or 'a=text, "b,c"=date' as ("a=text", ...); anything else as it is."""
    return tuple(f"{name}={kind}" for name, kind in value.items()) if isinstance(value, Mapping) else _parts(value)


class DataSettings(Settings):
    """Where the rows are, which columns are features, and what happens to them before a network sees them."""

    path: Annotated[str, AfterValidator(public)]
    """Rows: Parquet, CSV, JSON Lines, Arrow, ORC (a file or a folder of them), a folder of pictures, .npy, .npz (X,
    optional y), SciPy's sparse .npz, AnnData (.h5ad), a URI of one, or digits."""
    columns: Annotated[tuple[str, ...] | None, BeforeValidator(_columns)] = None
    """Feature columns by name: a,b,c, and a name that holds a comma in double quotes: '"a,b",c'; auto: all numbers,
    truth values, dates and texts that do not look like a label, an id or an index."""
    label_column: str | None = None
    """Column of known classes, read for the final scores alone; never a feature."""
    id_column: str | None = None
    """Column that identifies rows in the assignments: integers, or what is written there as text (uuids, bytes as hex,
    decimals, dates, times); by default id, else the row number."""
    weight_column: str | None = None
    """Column of how much each row counts, 0 or more, in a method that takes weights (kmeans); never a feature."""
    shape: Annotated[tuple[PositiveInt, ...] | None, BeforeValidator(_parts)] = None
    """Shape of a row that is an image: height,width or channels,height,width; by default as the data say. Pictures in a
    folder are brought to it (32,32)."""
    types: Annotated[tuple[str, ...], BeforeValidator(_types)] = ()
    """What columns are, where values are not to tell: country=category,note=text; number, category, text, date, or
    picture (bytes of a file, for an encoder)."""
    encoder: str | None = None
    """Network that makes vectors of texts or pictures: wordllama, efficientnet-lite0, LIBRARY/NAME of torchvision,
    timm, sentence-transformers or transformers, or your own as module:NAME; by default there is none, and texts become
    tf-idf, pictures pixels."""
    matrix: str = "X"
    """Which matrix of an AnnData file (.h5ad) is the rows: X, layers/NAME, raw/X, or obsm/NAME such as obsm/X_pca."""
    missing: Missing = "error"
    """What a row without a number or date is, in a table: one that cannot be used (on_bad_row), or taken for the mean
    (impute), with a feature of its own that says so (indicate). A missing category is one of its own, a missing text is
    empty."""
    null_values: Annotated[tuple[str, ...], BeforeValidator(_parts)] = ()
    """Texts of CSV files that stand for no value, such as ?, beside the empty cell and, among numbers, NA and NaN."""
    on_bad_row: Literal["error", "drop"] = "error"
    """What a row with a missing, infinite or unusable value does: stop before training, or be left out and listed."""
    scaling: ScalingSetting = "auto"
    """none; by one factor: power (mean square 1), centred, unit ([0, 1]), symmetric ([-1, 1]); each feature by itself:
    standard, unit_each, symmetric_each; auto: the paper's, or each by itself where columns have units of their own."""
    storage: Storage = "auto"
    """Where a worker keeps its rows: device, memory, local disk (memory-mapped); auto: the first that fits. kmeans
    keeps in memory what half of the free memory has room for, or all (memory), or none (disk), and reads the others
    again in each iteration."""

    _encoding: "Encoding | None" = PrivateAttr(None)

    @property
    def encoding(self) -> "Encoding | None":
        """What was learned of a table's columns: no setting, but it goes with them wherever the rows are opened."""
        return self._encoding

    def with_encoding(self, encoding: "Encoding | None") -> Self:
        """The same settings, of rows that are encoded like this."""
        changed = self.model_copy()
        changed._encoding = encoding
        return changed

    @property
    def typed(self) -> Mapping[str, Kind]:
        """What columns are said to be, by name."""
        pairs = [entry.rpartition("=") for entry in self.types]
        return {name: cast(Kind, kind) for name, _, kind in pairs}

    @field_validator("types")
    @classmethod
    def _a_kind_each(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        for entry in types:
            name, _, kind = entry.rpartition("=")
            if not name or kind not in get_args(Kind):
                raise ValueError(f"expected NAME=KIND with a kind of {', '.join(get_args(Kind))}, got {entry}")
        return types

    @field_validator("shape")
    @classmethod
    def _at_most_three(cls, shape: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if shape is not None and not 1 <= len(shape) <= 3:
            raise ValueError("expected height,width or channels,height,width")
        return shape

    @field_validator("columns")
    @classmethod
    def _distinct(cls, columns: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if columns is not None and len(set(columns)) < max(1, len(columns)):
            raise ValueError("expected at least one column, each named once")
        return columns
