"""Rows: opened, checked, scaled and dealt to workers."""

from raydc.data.shard import Batch, RowGroup, Rows, Shard

__all__ = ["Batch", "RowGroup", "Rows", "Shard"]
