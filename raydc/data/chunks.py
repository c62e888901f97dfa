"""Rows in chunks, each gone through several times before the next one begins."""

from dataclasses import dataclass

import torch

from raydc.data.shard import Batch, Shard


@dataclass(frozen=True)
class Chunks:
    """How large chunks of the rows of all workers are, and how often each is gone through."""

    rows: int
    passes: int

    def batches(self, total: int, batch_size: int) -> int:
        """Batches of `batch_size` rows at most in an epoch, in which every row comes `passes` times."""
        per_pass = -(-min(self.rows, total) // batch_size)
        return self._many(total) * self.passes * per_pass

    def batch(self, shard: Shard, seed: int, index: int, count: int) -> Batch:
        """Batch `index` of `count`, shuffled by `seed`; with a chunk's first batch come all its rows.

        They are in `extra`, of this worker's rows "chunk" [C] and "chunk_rows" [C, ...].
        """
        total, many = shard.total, self._many(shard.total)
        at, turn = divmod(index, max(1, count // many))
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
        chunk = order[at * total // many : (at + 1) * total // many]
        per_pass = max(1, count // many // self.passes)
        passed, turn = divmod(turn, per_pass)
        draw = torch.Generator().manual_seed((seed + 1 + at * self.passes + passed) % 2**63)
        mixed = chunk[torch.randperm(len(chunk), generator=draw)]
        positions = mixed[turn * len(chunk) // per_pass : (turn + 1) * len(chunk) // per_pass].sort().values
        if passed or turn:
            return shard.batch(positions)
        whole = shard.batch(chunk.sort().values)
        return shard.batch(positions, chunk=whole.row, chunk_rows=whole.x)

    def _many(self, total: int) -> int:
        return -(-total // self.rows)
