"""Sources whose rows take time to decode: a run that passes over them several times decodes what fits once."""

import sys
from abc import abstractmethod
from dataclasses import replace

import numpy as np
from scipy import sparse

from raydc.data.load import free_memory
from raydc.data.source import Block, Piece, Source

SHARE = 1 / 8
"""Of the memory that is free, for decoded pieces: what trains on the rows keeps them again, scaled."""


class DecodedSource(Source):
    """A source that may keep pieces as they were decoded."""

    _room = 0.0
    """Bytes of pieces that may still be kept."""
    _kept: dict[Piece, Block] | None = None
    """None where nobody asked for it."""

    def keep_decoded(self) -> None:
        """Keep the first pieces that are read from now on and fit; none where `data.storage` is disk.

        For a process that passes over the rows several times.
        """
        self._room, self._kept = 0.0 if self.settings.storage == "disk" else SHARE * free_memory(), {}

    def read(self, piece: Piece) -> Block:
        """As `decode`, or what that gave before where it is kept; not to be written to."""
        if self._kept is None:
            return self.decode(piece)
        if piece not in self._kept:
            block = self.decode(piece)
            if (size := size_of(block)) > self._room:
                return block
            self._kept[piece], self._room = replace(block, taken={}), self._room - size
        return self._kept[piece]

    @abstractmethod
    def decode(self, piece: Piece) -> Block:
        """The rows of one piece; cheapest in the order of `pieces`."""


def size_of(block: Block) -> int:
    """Bytes that a block takes."""
    arrays = [block.ids, block.nulls, block.weights]
    arrays += [block.x.data, block.x.indices, block.x.indptr] if sparse.issparse(block.x) else [block.x]
    return sum(bytes_of(each) for each in arrays if each is not None)


def bytes_of(values: np.ndarray) -> int:
    """Bytes that an array takes, with its objects where it holds such."""
    return values.nbytes + (sum(map(sys.getsizeof, values)) if values.dtype == object else 0)
