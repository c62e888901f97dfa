"""Row blocks that a process keeps as they were read: decoded, checked and scaled once, not in every pass."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import Tensor

from raydc.data.decoded import bytes_of
from raydc.data.load import free_memory
from raydc.data.settings import Storage
from raydc.data.shard import RowBlock
from raydc.data.source import Block

Scaled = tuple[Tensor, Block]
"""Rows [n, ...] as a method takes them, float32; and their ids and weights."""


class BlockCache:
    """The first row blocks that were asked for and fit into `room` bytes; the others are read each time.

    None gives way to another: in passes that take all blocks in one order, the block that was read last is the one
    that is needed last. Whoever takes rows from here must not write to them. A copy that another process receives is
    that process's own: empty at first, one for each `key`, and of as many bytes as `room_of` finds there.
    """

    def __init__(self, key: str, storage: Storage, workers: int) -> None:
        self.given = (key, storage, workers)
        self.room = room_of(storage, workers)
        self.size = 0
        """Bytes of the blocks that are kept."""
        self._blocks: dict[int, Scaled] = {}

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _here, self.given

    def holds(self, block: int) -> bool:
        """Whether the block of this id is kept."""
        return block in self._blocks

    def take(self, block: RowBlock, read: Callable[[RowBlock], Scaled]) -> Scaled:
        """What `read` gives for the block, now or when it was taken before."""
        if block.id in self._blocks:
            return self._blocks[block.id]
        found = read(block)
        if self.size + (size := _size_of(found)) <= self.room:
            self._blocks[block.id], self.size = found, self.size + size
        return found


@lru_cache(maxsize=1)
def _here(key: str, storage: Storage, workers: int) -> BlockCache:
    """What this process keeps, for the run it works for."""
    return BlockCache(key, storage, workers)


def room_of(storage: Storage, workers: int) -> float:
    """Bytes of row blocks that each of the workers may keep: none where rows stay on disk, all where memory is asked
    for, else half of what is free, shared out as if all workers were on this machine.
    """
    asked = {"disk": 0.0, "memory": math.inf}
    return asked.get(storage, free_memory() / 2 / max(workers, 1))


def _size_of(scaled: Scaled) -> int:
    x, block = scaled
    arrays = [each for each in (block.ids, block.weights) if each is not None]
    return x.nbytes + sum(map(bytes_of, arrays))
