"""When a phase ends, what a batch is, and in which precision labels are made."""

import numpy as np
import pytest
import torch

from raydc.clustering.collective import CollectiveClusters
from raydc.data import Shard
from raydc.data.shard import DenseRows
from raydc.distributed import collectives
from raydc.methods import load
from raydc.methods.base import Method
from raydc.settings import build, unflatten
from raydc.training.loop import Loop
from tests.support.method_cases import K, blobs, loop_over


def clustering_steps(x, **cluster: object) -> int:
    """Steps of DEC's clustering phase, in batches of 50 rows."""
    settings = {"network.hidden": (16,), "denoise.length": "0 steps", "pretrain.length": "10 steps"}
    settings |= {f"cluster.{key}": value for key, value in cluster.items()}
    config = build(load("dec").Config, {"n_clusters": K} | unflatten(settings), at="method")
    shard = Shard.of(x)
    loop = Loop(load("dec")(config, tuple(x.shape[1:])), shard, CollectiveClusters(shard, 0), 50)
    for _ in loop:
        pass
    return loop.step - 10


@pytest.mark.parametrize(
    "rows, settings, steps",
    [
        (400, {"tolerance": 0.9}, 144),  # the first epoch of 8 steps that is over 140 steps later
        (7500, {"tolerance": 0.9}, 150),  # an epoch
        (400, {"tolerance": 0.9, "update_every": "90 steps"}, 180),
        (400, {"tolerance": 0.9, "length": "100 steps"}, 100),
        (400, {"tolerance": 0.0, "length": "300 steps"}, 300),
    ],
)
def test_the_stop_rule_compares_labels_that_had_time_to_change(rows, settings, steps):
    x, _ = blobs(load("dec"), rows)
    assert clustering_steps(x, **settings) == steps


@pytest.mark.parametrize(("name", "kept"), [("dec", 10), ("vade", 0), ("dsc", 0), ("dcc", 0)])
def test_a_phase_keeps_moments_unless_its_loss_is_on_another_scale(name, kept):
    x, _ = blobs(load(name))
    settings = {"network.hidden": (16,), "denoise.length": "0 steps", "pretrain.length": "10 steps"}
    settings["cluster.length"] = "3 epochs"
    clusters = {} if load(name).finds_clusters() else {"n_clusters": K}
    config = build(load(name).Config, clusters | unflatten(settings), at="method")
    shard = Shard.of(x)
    loop = Loop(load(name)(config, tuple(x.shape[1:])), shard, CollectiveClusters(shard, 0), 50)
    next(progress for progress in loop if progress.phase == "cluster")
    moments = loop.optimizers["all"].state
    assert {int(moments[p]["step"]) for p in loop.method.net.encoder.parameters()} == {kept + loop.phase_step}


@pytest.mark.parametrize("sizes", [(100, 100), (40, 160), (25,) * 8, (70, 61, 69), (8, 8)])
@pytest.mark.parametrize("batch", [8, 10, 50])
def test_batches_of_all_workers_have_like_sizes(monkeypatch, sizes, batch):
    count = -(-sum(sizes) // batch)
    seen, totals = [[] for _ in sizes], []
    for index in range(count):
        got = []
        for rank, size in enumerate(sizes):
            monkeypatch.setattr(collectives, "rank", lambda rank=rank: rank)
            shard = Shard(DenseRows(torch.zeros(size, 1), torch.device("cpu")), (), sizes, np.arange(size))
            picked = Method.sample_batch(None, shard, "train", 5, index, count)
            seen[rank] += picked.row.tolist()
            got.append((len(picked.row), picked.total, picked.sizes))
        assert {one[1:] for one in got} == {(sum(n for n, *_ in got), tuple(n for n, *_ in got))}
        totals.append(got[0][1])
    assert [sorted(rows) for rows in seen] == [[*range(size)] for size in sizes]
    assert max(totals) - min(totals) <= 3 and min(totals) > 0


@pytest.mark.parametrize("name", ["ae_kmeans", "dcn", "dec", "rim"])
def test_final_labels_are_those_of_the_saved_model_also_with_autocast(name):
    x, _ = blobs(load(name))
    loop = loop_over(name, x)
    loop.bf16 = True
    for _ in loop:
        pass
    labels = loop.finish()
    method = loop.method.eval()
    assert torch.equal(labels, method.assign(x).argmax(1))


def test_vade_keeps_its_clusters_apart_while_the_mixture_is_fitted_again():
    x, _ = blobs(load("vade"))
    loop = loop_over("vade", x)
    changed = [progress.changed for progress in loop if progress.phase == "cluster"]
    assert max(share for share in changed if share is not None) < 0.2


def test_vades_noise_begins_small_beside_its_clusters():
    x, _ = blobs(load("vade"))
    loop = loop_over("vade", x)
    with torch.no_grad():
        for layer in (loop.method.net.encoder[-1], loop.method.net.log_variance):
            layer.weight *= 10  # codes, and clusters of them, ten times as wide
        shard = Shard.of(x)
        loop.method.init_clusters(shard, CollectiveClusters(shard, 0))
        noise = loop.method.net.distribution(x)[1].mean(0)
    torch.testing.assert_close(noise, loop.method.log_variances.mean(0) - 4, atol=0.1, rtol=0)


@pytest.mark.parametrize("name", ["dec", "dsc"])
def test_rows_changed_cluster_only_where_the_company_is_another(name, monkeypatch):
    """DSC's spectral step numbers its clusters anew each time; a method that does not is told by their numbers."""
    x, _ = blobs(load(name))
    kind, update, turns = load(name), load(name).update_clusters, iter(range(1, 100))

    def turned(self, *given):
        return (update(self, *given) + next(turns)) % K

    monkeypatch.setattr(kind, "update_clusters", turned)
    loop = loop_over(name, x)
    changed = [entry.changed for entry in loop if entry.phase == "cluster" and entry.changed is not None]
    assert changed and (min(changed) > 0.5 if name == "dec" else max(changed) < 0.5)


def test_jule_finds_more_clusters_than_there_are_chains():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    method = load("jule")
    config = build(method.Config, {"n_clusters": 30, "cluster": {"length": "1 epochs"}, "neighbours": 5}, at="method")
    shard = Shard.of(x)
    loop = Loop(method(config, (6,)), shard, CollectiveClusters(shard, 0), 20)
    for _ in loop:
        pass
    assert len(loop.finish().unique()) == 30
