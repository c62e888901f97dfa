"""Row blocks that a process keeps: how many, which, and whose they are."""

import pickle

import numpy as np
import pytest
import torch

from raydc.clustering.centroid_service.actors import Claims
from raydc.data import block_cache, split
from raydc.data.block_cache import BlockCache, room_of
from raydc.data.source import Block

GROUPS = split(40, 10)
EACH = 10 * (3 * 4 + 8)


def read(group):
    return torch.full((len(group), 3), float(group.id)), Block(None, np.arange(group.start, group.stop))


def test_the_first_blocks_that_fit_are_kept_and_the_others_read_each_time(monkeypatch):
    monkeypatch.setattr(block_cache, "free_memory", lambda: 2 * 2 * EACH + 10)
    held, asked = BlockCache("run", "auto", 1), []

    def noted(group):
        asked.append(group.id)
        return read(group)

    for _ in range(2):
        for group in GROUPS:
            x, block = held.take(group, noted)
            assert bool((x == group.id).all()) and block.ids[0] == group.start
    assert asked == [0, 1, 2, 3, 2, 3]
    assert [held.holds(group.id) for group in GROUPS] == [True, True, False, False]
    assert held.size == 2 * EACH <= held.room


def test_long_ids_count():
    held = BlockCache("ids", "memory", 1)
    held.take(GROUPS[0], lambda group: (torch.zeros(10, 3), Block(None, np.array(["x" * 1000] * 10, object))))
    assert held.size > 10_000


def test_a_copy_in_another_process_is_its_own_one_for_each_run():
    held = BlockCache("run", "auto", 2)
    held.take(GROUPS[0], read)
    there = pickle.loads(pickle.dumps(held))
    assert not there.holds(0) and there.given == held.given
    there.take(GROUPS[1], read)
    assert pickle.loads(pickle.dumps(held.holds))(1), "the same process finds its blocks again"
    assert not pickle.loads(pickle.dumps(BlockCache("other", "auto", 2))).holds(1)


@pytest.mark.parametrize(("storage", "room"), [("disk", 0), ("memory", float("inf")), ("auto", 100), ("device", 100)])
def test_the_room_is_a_workers_share_of_half_of_what_is_free(monkeypatch, storage, room):
    monkeypatch.setattr(block_cache, "free_memory", lambda: 800)
    assert room_of(storage, 4) == room


def test_each_part_is_claimed_once_by_who_wants_it():
    claims, parts = Claims(), [0, 1, 2]
    assert claims.take("a", 0, [2, 1], parts) == 2
    assert claims.take("a", 1, [2, 1], parts) == 1
    assert claims.take("a", 1, [], parts) == 1, "a task that is run again keeps its part"
    assert claims.take("a", 2, [2], parts) == 0
    assert claims.take("b", 2, [2], parts) == 2, "another round begins anew"
