"""Where rows stand among their cluster's training rows: by hand, by exact ranks, and over any number of workers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raydc.clustering.distances import BINS, FAR, QUANTILES, Counts, Distances, centres_of, merge, of_shard, to_nearest
from raydc.data import Shard
from raydc.data.shard import DenseRows, partition, split
from raydc.distributed import collectives
from tests.training.test_workers import together

K = 3


def flat(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1)


def rows(many: int = 700, dim: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [many, dim] of clusters of different spread, in no order, and their labels."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(K, size=many)
    x = 9 * draw.normal(size=(K, dim))[labels] + draw.normal(size=(many, dim)) * np.array([1, 0.1, 7])[labels, None]
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def ranks(distances: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Exact share of the cluster's other rows that are nearer."""
    found = np.zeros(len(labels))
    for k in range(K):
        own = labels == k
        found[own] = distances[own].argsort().argsort() / max(1, own.sum() - 1)
    return found


def test_a_row_stands_where_so_many_are_nearer_by_hand():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0]])
    x = torch.tensor([[1.0, 0], [0, 2], [-3, 0], [0, -4], [5, 0], [10, 1]])
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    found, own = of_shard(flat, Shard.of(x), labels, 2, centres)
    torch.testing.assert_close(own, torch.tensor([0, 0.25, 0.5, 0.75, 1, 0.5]))
    new = torch.tensor([[0.0, 0], [1.5, 0], [0, 4.5], [0, 5.1], [1e30, 0], [10, 1], [10, 0.9], [10, 1.1]])
    expected = torch.tensor([0, 0.125, 0.875, 1, 1, 0.5, 0, 1])
    torch.testing.assert_close(found.of(new, torch.tensor([0] * 5 + [1] * 3)), expected)


def measured(x: torch.Tensor, labels: torch.Tensor, group_rows: int | None = None) -> tuple[Distances, torch.Tensor]:
    shard = Shard.of(x, group_rows)
    return of_shard(flat, shard, labels, K, centres_of(flat, shard, K, 0))


def test_training_rows_are_spread_evenly_in_every_cluster():
    x, labels = rows(9000)
    found, own = measured(x, labels)
    torch.testing.assert_close(found.of(x, labels), own)
    for k in range(K):
        stands = own[labels == k].numpy()
        assert np.abs(np.sort(stands) - np.linspace(0, 1, len(stands))).max() < 1 / (QUANTILES - 1)
        assert 0.007 < (stands > FAR).mean() < 0.013
    assert np.abs(own.numpy() - ranks(to_nearest(x, found.centres).numpy(), labels.numpy())).max() < 0.01


def test_centres_are_of_all_rows_and_a_cluster_may_have_several():
    x, _ = rows(6000)
    centres = centres_of(flat, Shard.of(x), K, 0)
    assert centres.shape == (64, 6)  # of 6,000 rows; of fewer, one for each 64
    assert centres_of(flat, Shard.of(x[:640]), K, 0).shape == (10, 6)
    assert centres_of(flat, Shard.of(x[:100]), K, 0).shape == (K, 6)
    assert centres_of(flat, Shard.of(x[:2]), K, 0).shape == (2, 6)
    expected = torch.cdist(x.double(), centres.double()).amin(1).float()
    torch.testing.assert_close(to_nearest(x, centres), expected)
    update, draw = torch.linspace(0, 6.28, 6000), torch.Generator().manual_seed(0)
    ring = torch.stack([update.cos(), update.sin()], 1) + 0.02 * torch.randn(6000, 2, generator=draw)
    shard, whole = Shard.of(ring), torch.zeros(6000, dtype=torch.int64)
    found, _ = of_shard(flat, shard, whole, 1, centres_of(flat, shard, 1, 0))
    assert found.of(torch.zeros(1, 2), whole[:1]).item() == 1  # amid a ring, where its mean lies, there is no row


def test_a_cluster_without_training_rows_is_far_away():
    x, labels = rows()
    found, _ = of_shard(flat, Shard.of(x), labels, K + 1, x[:5])
    assert (found.quantiles[K] == 0).all()
    assert found.of(x[5:7], torch.tensor([K, K])).tolist() == [1, 1]


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e6, 1e12])
def test_units_change_nothing(scale):
    x, labels = rows()
    _, plain = measured(x, labels)
    _, scaled = measured(x * scale, labels)
    torch.testing.assert_close(scaled, plain, atol=1e-4, rtol=0)


def test_a_far_origin_changes_nothing_that_float32_still_tells_apart():
    x, labels = rows()
    x = (x * 64).round() / 64  # so that no digit is lost by the shift itself
    _, plain = measured(x, labels)
    _, moved = measured(x + 2.0**10, labels)
    torch.testing.assert_close(moved, plain, atol=0.005, rtol=0)  # centres are float32


def test_equal_distances_stand_in_their_middle():
    x = torch.cat([torch.zeros(50, 2), torch.ones(50, 2)])
    labels = torch.arange(2).repeat_interleave(50)
    found, own = of_shard(flat, Shard.of(x), labels, 2, x[[0, 50]])
    assert (own == 0.5).all()  # all of a cluster's rows are the same one
    assert found.of(torch.tensor([[0.0, 1e-6]]), torch.tensor([0])).tolist() == [1]


def test_a_row_alone_stands_the_same_as_among_others():
    x, labels = rows(3000)
    found, own = measured(x, labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    assert torch.equal(found.of(x[order], labels[order]), found.of(x, labels)[order])
    one = torch.cat([found.of(x[i : i + 1], labels[i : i + 1]) for i in range(20)])
    assert torch.equal(one, own[:20])


def parts(many: int, dealt: list[int]) -> Iterator[Counts]:
    draw = np.random.default_rng(many)
    labels = draw.integers(K, size=many)
    distances = (draw.normal(size=many) ** 2 * 10.0 ** (3 * labels)).astype(np.float32)
    owner = np.array(dealt)[draw.integers(len(dealt), size=many)]
    for own in sorted({*dealt}):
        yield Counts.of(labels[owner == own], distances[owner == own], K)


@given(st.sampled_from([0, 1, 50, 6 * BINS, 20 * BINS]), st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_counts_merge_to_the_same_in_any_order(many, dealt):
    """Bits are cut off by what is counted at the end, not by what was seen on the way."""
    (whole,) = parts(many, [0])
    found = [*parts(many, dealt)]
    if len({*dealt}) == 1:
        found = [merge(found)]
    for order in (found, found[::-1]):
        merged = merge([merge(order[:2]), *order[2:]])
        for name, value in vars(whole).items():
            assert np.array_equal(getattr(merged, name), value), name
    assert whole.rows.sum() == many and np.bincount(whole.cluster, minlength=K).max(initial=0) <= BINS


def test_quantiles_are_near_the_exact_ones_and_exact_for_few_rows():
    draw = np.random.default_rng(0)
    for many, rtol in ((BINS, 1e-6), (50 * BINS, 2e-3)):
        distances = (5 + draw.normal(size=many) ** 2).astype(np.float32)
        found = Counts.of(np.zeros(many, np.int64), distances, 1).quantiles()
        np.testing.assert_allclose(found[0], np.quantile(distances, np.linspace(0, 1, QUANTILES)), rtol=rtol)


def measure(place: str, x: torch.Tensor, labels: torch.Tensor) -> None:
    groups = partition(split(len(x), 64), collectives.workers())
    if collectives.workers() == 3:  # unequal shards, one of them empty
        groups = [groups[0], groups[1] + groups[2], ()]
    sizes = tuple(sum(map(len, group)) for group in groups)
    rank = collectives.rank()
    mine = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    shard = Shard(DenseRows(x[mine].clone(), x.device), groups[rank], sizes)
    found, own = of_shard(flat, shard, labels[mine], K, centres_of(flat, shard, K, 0))
    torch.save({**vars(found), "own": own}, f"{place}.{rank}")


@pytest.mark.parametrize("workers", [2, 3])
def test_the_same_bits_on_any_number_of_workers(workers, tmp_path: Path):
    x, labels = rows(9 * BINS)  # more rows than are counted exactly
    found, own = measured(x, labels, 64)
    together(tmp_path / "a", workers, measure, str(tmp_path / "out"), x, labels)
    parts = [torch.load(f"{tmp_path}/out.{rank}", weights_only=True) for rank in range(workers)]
    assert torch.equal(torch.cat([part["own"] for part in parts]), own)
    for part in parts:
        assert Distances(part["centres"], part["quantiles"]).digest() == found.digest()
