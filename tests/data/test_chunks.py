"""Chunks: every row comes as often as was asked, and any number of workers has the same batches."""

import torch

from raydc.data import Shard
from raydc.data.chunks import Chunks
from raydc.testing.parallel import FIRST, ROWS, shard_of


def test_a_chunk_is_gone_through_before_the_next_begins() -> None:
    x = torch.arange(50.0)[:, None]
    shard, chunks = Shard.of(x), Chunks(20, 3)
    count = chunks.batches(50, 8)
    assert count == 3 * 3 * 3
    batches = [chunks.batch(shard, 7, index, count) for index in range(count)]
    assert max(batch.total for batch in batches) <= 8
    for at in range(3):
        of_chunk = batches[9 * at : 9 * at + 9]
        whole = of_chunk[0].extra
        assert torch.equal(whole["chunk_rows"], x[whole["chunk"]])
        assert not any(batch.extra for batch in of_chunk[1:])
        passes = [torch.cat([batch.row for batch in of_chunk[turn : turn + 3]]) for turn in (0, 3, 6)]
        assert all(torch.equal(rows.sort().values, whole["chunk"]) for rows in passes)
        assert not torch.equal(*passes[:2])
    assert torch.equal(torch.cat([batch.extra["chunk"] for batch in batches[::9]]).sort().values, torch.arange(50))


def test_two_workers_have_the_batches_of_one() -> None:
    x, chunks = torch.randn(ROWS, 2), Chunks(20, 2)
    one, first = Shard.of(x), shard_of(x, 2, 0)
    count = chunks.batches(ROWS, 8)
    for index in range(count):
        both, own = (chunks.batch(shard, 3, index, count) for shard in (one, first))
        assert torch.equal(own.row, both.row[both.row < FIRST])
        assert own.total == both.total and own.sizes == (len(own.row), both.total - len(own.row))
