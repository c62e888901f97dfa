"""Rows: opened, checked, scaled and dealt to workers."""

from raydc.data.arrays import ArraySource
from raydc.data.inputs import rows_of
from raydc.data.load import SparseRows, load_shard, read_group, read_labels
from raydc.data.open import open_source, opened
from raydc.data.parquet import ParquetSource
from raydc.data.profile import (
    Fault,
    Seen,
    Survey,
    dropped_table,
    look,
    recalled,
    require,
    require_same,
    survey,
    written,
)
from raydc.data.scaling import Scaling
from raydc.data.settings import DataSettings, ScalingKind, Storage
from raydc.data.shard import Batch, DenseRows, RowGroup, Rows, Shard, deal, split
from raydc.data.source import DataError, DataWarning, Source, changes, features_named

__all__ = [
    "ArraySource",
    "Batch",
    "DataError",
    "DataSettings",
    "DataWarning",
    "DenseRows",
    "Fault",
    "ParquetSource",
    "RowGroup",
    "Rows",
    "Scaling",
    "ScalingKind",
    "Seen",
    "Shard",
    "Source",
    "SparseRows",
    "Storage",
    "Survey",
    "changes",
    "deal",
    "dropped_table",
    "features_named",
    "load_shard",
    "look",
    "open_source",
    "opened",
    "read_group",
    "read_labels",
    "recalled",
    "require",
    "require_same",
    "rows_of",
    "split",
    "survey",
    "written",
]
