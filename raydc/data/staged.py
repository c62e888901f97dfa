"""Pieces of a large row group of Parquet, laid out anew once: a row group is decoded from its begin, so workers that
share one would each decode all that lies before their part, in every pass over the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raydc.core.storage import Store
from raydc.data.profile import DataProfile
from raydc.data.shard import RowBlock
from raydc.data.source import Block, Source, texts

LARGE = 2**26
"""Bytes of a row group from which on decoding it several times costs more than laying it out once."""


@dataclass(frozen=True)
class Staged:
    """The pieces that are laid out, each in a file of its own below `store`, which every worker reaches."""

    store: Store
    groups: frozenset[int] = frozenset()

    def block(self, group: RowBlock) -> Block | None:
        """A piece's rows as the source would read them, but for what is wrong with unusable ones; None if not here."""
        if group.id not in self.groups:
            return None
        try:
            data = self.store.read_bytes(_name(group))
        except FileNotFoundError:
            return None
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        lists = table["x"].chunk(0)
        ids = table["id"].chunk(0)
        return Block(
            lists.values.to_numpy().reshape(len(lists), lists.type.list_size),
            texts(ids.to_pylist()) if pa.types.is_string(ids.type) else ids.to_numpy(),
            weights=table["weight"].to_numpy() if "weight" in table.column_names else None,
        )


def shared_groups(source: Source, found: DataProfile, shares: Sequence[Sequence[RowBlock]]) -> list[list[RowBlock]]:
    """The pieces of each large row group of the source that more than one of the shares has pieces of."""
    if source.kind != "table":
        return []
    pieces: dict[tuple[str, int], list[RowBlock]] = {}
    owners: dict[tuple[str, int], set[int]] = {}
    for owner, share in enumerate(shares):
        for group in share:
            place = (found.pieces[group.id].file, found.pieces[group.id].row_group)
            pieces.setdefault(place, []).append(group)
            owners.setdefault(place, set()).add(owner)
    row = source.n_features * source.dtype.itemsize
    large = [place for place, own in pieces.items() if row * sum(map(len, own)) >= LARGE]
    return [pieces[place] for place in large if len(owners[place]) > 1]


def lay_out(source: Source, found: DataProfile, groups: Sequence[RowBlock], store: Store) -> None:
    """Write the pieces of a row group below `store`, those that are there already excepted."""
    for group in groups:
        if not store.exists(_name(group)):
            store.write_bytes(_name(group), _packed(source.read(found.pieces[group.id])))


def _packed(block: Block) -> memoryview:
    x = np.ascontiguousarray(block.x)
    columns = {"x": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1]), "id": pa.array(block.ids)}
    if block.weights is not None:
        columns["weight"] = pa.array(block.weights)
    table, sink = pa.table(columns), pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _name(group: RowBlock) -> str:
    return f"{group.id:08d}.arrow"
