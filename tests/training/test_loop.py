"""When a phase ends, what a batch is, and in which precision labels are made."""

import math

import numpy as np
import pytest
import torch

from raydc.clustering.collective import CollectiveClusters
from raydc.core.schedule import Optimizer
from raydc.core.settings import build, unflatten
from raydc.data import Shard
from raydc.data.shard import DenseRows
from raydc.distributed import collectives
from raydc.methods import load
from raydc.methods.base import Group, Method
from raydc.testing.cases import K, blobs, loop_over
from raydc.training.loop import Loop, rate_at, step_rule


def clustering_steps(x, **cluster: object) -> int:
    """Steps of DEC's clustering phase, in batches of 50 rows."""
    settings = {"network.hidden": (16,), "pretrain.length": "10 steps"}
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
    settings = {"network.hidden": (16,), "pretrain.length": "10 steps"}
    settings["cluster.length"] = "3 epochs"
    clusters = {} if load(name).finds_clusters() else {"n_clusters": K}
    config = build(load(name).Config, clusters | unflatten(settings), at="method")
    shard = Shard.of(x)
    loop = Loop(load(name)(config, tuple(x.shape[1:])), shard, CollectiveClusters(shard, 0), 50)
    next(progress for progress in loop if progress.phase == "cluster")
    moments = loop.optimizers["all"].state
    assert {int(moments[p]["step"]) for p in loop.method.net.encoder.parameters()} == {kept + loop.phase_step}


def loop_of(name: str, x: torch.Tensor, **settings: object) -> Loop:
    """In batches of 50 rows, over a small network."""
    changes = {"network.hidden": (16,), "network.channels": (4,), "pretrain.length": "4 steps"}
    own = {path: value for path, value in changes.items() if path not in load(name).Config().idle(tuple(x.shape[1:]))}
    config = build(load(name).Config, {"n_clusters": K} | unflatten(own | settings), at="method")
    shard = Shard.of(x)
    torch.manual_seed(0)
    return Loop(load(name)(config, tuple(x.shape[1:])), shard, CollectiveClusters(shard, 0), 50)


@pytest.mark.parametrize("name", ["dec", "idec", "dcn", "vade", "dbc", "aljalbout"])
def test_a_reset_keeps_its_share_of_the_hidden_layers_and_makes_clusters_and_moments_anew(name, monkeypatch):
    x, _ = blobs(load(name))
    loop = loop_of(name, x, **{"cluster.length": "24 steps", "reset.every": "1 epochs", "reset.keep": 0.6})
    made, reset, init = [], loop.method.reset_network, loop.method.init_clusters

    def spied_reset() -> None:
        before = {key: value.clone() for key, value in loop.method.net.named_parameters()}
        reset()
        hidden = {id(p) for layer in loop.method.net.hidden_layers() for p in layer.parameters()}
        for key, value in loop.method.net.named_parameters():
            drawn = (value - 0.6 * before[key]) / 0.4
            if id(value) not in hidden:
                assert torch.equal(value, before[key])
            elif value.dim() > 1:
                bound = (6 / value[0].numel()) ** 0.5
                assert 0.9 * bound < drawn.abs().max() < bound + 1e-5
            else:
                assert drawn.std() > 0
        made.append(("reset", loop.phase_step))

    def spied_init(shard: Shard, clusters: CollectiveClusters) -> torch.Tensor:
        made.append(("clusters", loop.phase_step))
        return init(shard, clusters)

    monkeypatch.setattr(loop.method, "reset_network", spied_reset)
    monkeypatch.setattr(loop.method, "init_clusters", spied_init)
    for progress in loop:
        if progress.phase == "cluster" and not progress.last:
            moments = loop.optimizers["all"].state[next(loop.method.net.parameters())]
    assert made == [("clusters", 0), ("reset", 8), ("clusters", 8), ("reset", 16), ("clusters", 16)]
    assert int(moments["step"]) == 8 if "step" in moments else moments["momentum_buffer"].any()


@pytest.mark.parametrize(("every", "steps"), [("0 epochs", 144), ("10 epochs", 200)])
def test_what_settles_before_a_reset_to_come_ends_no_phase(every, steps):
    x, _ = blobs(load("dec"))
    loop = loop_of("dec", x, **{"cluster.length": "25 epochs", "cluster.tolerance": 0.9, "reset.every": every})
    for _ in loop:
        pass
    assert loop.step - 4 == steps


def test_momentum_rises_from_where_moments_were_cleared():
    """As in DEC's Caffe code, whose solver begins anew at each refresh of the target."""
    x, _ = blobs(load("dec"))
    given = {f"cluster.optimizer.{key}": value for key, value in {"name": "sgd", "lr": 0.01, "momentum": 0.9}.items()}
    given |= {
        "cluster.length": "12 steps",
        "cluster.update_every": "5 steps",
        "cluster.optimizer.momentum_ramp": "4 steps",
    }
    for cleared, expected in ((False, [0, 1, 2, 3] + 8 * [4]), (True, [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1])):
        loop, seen = loop_of("dec", x, clear_moments=cleared, **given), []
        train_step = loop._train_step

        def spied(*args: object, loop: Loop = loop, seen: list = seen, train_step: object = train_step) -> None:
            train_step(*args)
            seen.append(loop.optimizers["all"].param_groups[0].get("momentum", 0.0) / 0.9 * 4)

        loop._train_step = spied
        for _ in loop:
            pass
        assert seen[4:] == pytest.approx(expected)


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


def test_a_rate_warms_up_and_adamw_decays_what_it_is_told_to():
    rates = [
        rate_at(Optimizer(lr=2.0, warm_up="4 steps", floor=1.0, schedule="cosine"), step, 8, 8) for step in (0, 3, 7)
    ]
    assert rates == pytest.approx([0.5, 1.0 + math.cos(3 * math.pi / 8), 1.0])
    weight, bias = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = step_rule(
        Optimizer(name="adamw", lr=0.1, weight_decay=0.5), [Group([weight]), Group([bias], decays=False)]
    )
    weight.grad, bias.grad = torch.zeros(2), torch.zeros(2)
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.95, 0.95]) and bias.tolist() == [1.0, 1.0]
