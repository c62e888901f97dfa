"""Rows: opened, checked, scaled and dealt to workers."""

from typing import TYPE_CHECKING

from raydc.core.lazy import lazily

if TYPE_CHECKING:
    from raydc.data.arrays import ArraySource
    from raydc.data.faults import Fault, dropped_table
    from raydc.data.inputs import is_mixed, is_table, rows_of
    from raydc.data.load import SparseRows, load_shard, read_group, read_labels
    from raydc.data.open import open_frame, open_source, opened
    from raydc.data.profile import (
        DataProfile,
        Seen,
        look,
        profile_rows,
        recalled,
        require,
        require_same,
        written,
    )
    from raydc.data.scaling import Scaling
    from raydc.data.settings import DataSettings, ScalingKind, ScalingSetting, Storage
    from raydc.data.shard import Batch, DenseRows, RowBlock, Rows, Shard, partition, split
    from raydc.data.source import DataError, DataWarning, RowsChanged, Source, changes, features_named
    from raydc.data.table import TableSource

__all__ = [
    "ArraySource",
    "Batch",
    "DataError",
    "DataProfile",
    "DataSettings",
    "DataWarning",
    "DenseRows",
    "Fault",
    "RowBlock",
    "Rows",
    "RowsChanged",
    "Scaling",
    "ScalingKind",
    "ScalingSetting",
    "Seen",
    "Shard",
    "Source",
    "SparseRows",
    "Storage",
    "TableSource",
    "changes",
    "dropped_table",
    "features_named",
    "is_mixed",
    "is_table",
    "load_shard",
    "look",
    "open_frame",
    "open_source",
    "opened",
    "partition",
    "profile_rows",
    "read_group",
    "read_labels",
    "recalled",
    "require",
    "require_same",
    "rows_of",
    "split",
    "written",
]
__getattr__ = lazily(
    __name__,
    {
        "arrays": ["ArraySource"],
        "faults": ["Fault", "dropped_table"],
        "inputs": ["is_mixed", "is_table", "rows_of"],
        "load": ["SparseRows", "load_shard", "read_group", "read_labels"],
        "open": ["open_frame", "open_source", "opened"],
        "table": ["TableSource"],
        "profile": [
            "DataProfile",
            "Seen",
            "look",
            "profile_rows",
            "recalled",
            "require",
            "require_same",
            "written",
        ],
        "scaling": ["Scaling"],
        "settings": ["DataSettings", "ScalingKind", "ScalingSetting", "Storage"],
        "shard": ["Batch", "DenseRows", "RowBlock", "Rows", "Shard", "partition", "split"],
        "source": ["DataError", "DataWarning", "RowsChanged", "Source", "changes", "features_named"],
    },
)
