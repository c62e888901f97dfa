"""What every method must do. A new file in raydc/methods is tested here without touching this one."""

import ast
import inspect
import os

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from raydc.clustering import Clusters
from raydc.clustering.collective import CollectiveClusters
from raydc.core.settings import SettingsError, build, unflatten
from raydc.data import Batch, Shard
from raydc.methods import available, load
from raydc.methods.base import Method, Parts, StepState
from raydc.methods.dcc import DCC
from raydc.networks.augment import Augment
from raydc.networks.losses.reconstruction import mean_squared_error
from raydc.networks.losses.robust_continuous import geman_mcclure, linked_pairs
from raydc.testing import RULES, contract
from raydc.testing.cases import K, blobs, loop_over, settings
from raydc.testing.parallel import TOLERANCE, Measured, apart, compare_all, two_workers_are_one
from raydc.training.loop import Loop

every_method = pytest.mark.parametrize("name", available())
ASKED_BELOW = (
    "settings act",
    "settings that are not read are refused",
    "recipes train",
    "two workers are one",
    "one row has one answer",
)
"""Rules with tests of their own: with exceptions, by recipe, for all methods at once, and in test_metamorphic.py."""


RULES_OF_ONE_PROCESS = {said: rule for said, rule in RULES.items() if said not in ASKED_BELOW}


@every_method
@pytest.mark.parametrize("rule", RULES_OF_ONE_PROCESS)
def test_rule(rule: str, name: str) -> None:
    RULES[rule](name)


@pytest.mark.parametrize(
    "name, recipe", [(name, recipe) for name in available() for recipe in load(name).Config.recipes]
)
def test_every_recipe_trains_through_all_its_phases(name: str, recipe: str) -> None:
    contract.recipe_trains(name, recipe)


LATER = {
    "dac_code.lower": "the threshold at the end, when the blobs' pairs are far from any: a test of its own",
    "dcc.settled": "a stop rule",
    **dict.fromkeys(
        ["dnc.concentration", "dnc.sharpness", "dnc.step", "dnc.sweeps"],
        "blobs far apart are found by any sampling: a test of its own (clustering/test_margin.py)",
    ),
    "gmvae.free_bits": "a bound that few steps do not reach: a test of its own (networks/losses/test_mixture.py)",
    "jule.final": "a merge that few steps do not reach",
    "jule.margin": "a loss between merges that few steps do not reach",
    "jule.nearest": "the order of merges, on which blobs far apart do not turn: a test of its own",
    "jule.neighbours": "the same",
    "temi.consensus.agreement": "heads that agree on all of the blobs: a test of its own",
    "temi.neighbours.exact": "cells of so few rows find the same: a test of its own (clustering/test_collective.py)",
    "temi.neighbours.probes": "the same",
    **dict.fromkeys(
        ["leiden.neighbours", "leiden.view", "spectral.neighbours", "spectral.view", "ward.view"],
        "blobs far apart are found in every view: a test of its own",
    ),
    "turtle.spaces": "sizes that must add up to the features: a test of its own",
}
"""Settings that six steps do not show, and why."""


@every_method
def test_no_setting_is_without_effect(name: str) -> None:
    contract.settings_act(name, own_of(LATER, name))


def own_of(exceptions: dict[str, str], name: str) -> list[str]:
    return [path.removeprefix(f"{name}.") for path in exceptions if path.startswith(f"{name}.")]


@pytest.mark.parametrize(
    "path", ["dcn.cluster.alpha", "dcc.cluster.ramp", "dec.pretrain.alpha", "dac.cluster.corruption"]
)
def test_a_phase_has_no_setting_that_would_do_nothing(path: str) -> None:
    name, _, setting = path.partition(".")
    with pytest.raises(SettingsError, match=f"method.{setting}: no such setting"):
        build(load(name).Config, unflatten({setting: 0.2}), at="method")


@every_method
def test_recipes_and_quick_settings_are_valid(name: str) -> None:
    config = load(name).Config
    for recipe in config.recipes:
        assert build(config, {"recipe": recipe}, at="method").recipe == recipe
    settings(name)


@every_method
def test_a_methods_file_is_short(name: str) -> None:
    """Under 100 lines without blank ones, comments and the docstring that tells the paper."""
    source = inspect.getsource(inspect.getmodule(load(name)))  # type: ignore[arg-type]
    module = ast.parse(source)
    assert ast.get_docstring(module), "says what follows the paper"
    docstring = module.body[0].end_lineno or 0
    lines = [line for line in source.splitlines()[docstring:] if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= 100


@pytest.mark.parametrize("name", ["dec", "dcn"])
def test_losses_see_augmented_rows_and_clusters_the_rows_themselves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = blobs(load(name))
    loop = loop_over(name, x)
    changed = loop.method.config.model_copy(update={"augment": Augment(noise=0.1)})
    monkeypatch.setattr(loop.method, "config", changed)
    loss, after_step = loop.method.loss, loop.method.after_step
    seen: dict[str, set[bool]] = {"loss": set(), "after_step": set()}

    def spied_loss(batch: Batch, state: StepState, player: str) -> Parts:
        seen["loss"].add(torch.equal(batch.x, x[batch.row]))
        return loss(batch, state, player)

    def spied_after(batch: Batch, clusters: Clusters, state: StepState) -> None:
        seen["after_step"].add(torch.equal(batch.x, x[batch.row]))
        after_step(batch, clusters, state)

    monkeypatch.setattr(loop.method, "loss", spied_loss)
    monkeypatch.setattr(loop.method, "after_step", spied_after)
    for progress in loop:
        if progress.alive:
            break
    assert seen == {"loss": {False}, "after_step": {True}}


def test_aljalbouts_paper_recipe_weighs_a_sum_over_its_batch_against_a_mean() -> None:
    cluster = build(load("aljalbout").Config, {"recipe": "paper"}, at="method").cluster
    rate = cluster.optimizer.lr
    assert (rate * cluster.alpha, rate * (1 - cluster.alpha)) == pytest.approx(
        (0.01 * load("aljalbout").batch_size, 0.01)
    )


def test_k_means_refuses_augmentation() -> None:
    with pytest.raises(SettingsError, match="leave augment out"):
        build(load("kmeans").Config, {"augment": {"noise": 0.1}}, at="method")


def test_dcc_counts_every_row_and_every_edge_once_an_epoch() -> None:
    x, _ = blobs(DCC, 60)
    shard = Shard.of(x)
    clusters = CollectiveClusters(shard, 0)
    method = DCC(build(DCC.Config, unflatten(DCC.quick | {"edges": 50}), at="method"), tuple(x.shape[1:])).eval()
    method.prepare(shard, clusters)
    method.init_clusters(shard, clusters)
    z = method.features(x)
    u = z + 0.1 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    method.rows["representative"].data.copy_(u)
    count, sums = method.batches(shard, 60, "cluster"), torch.zeros(3)
    assert count > 5
    for index in range(count):
        batch = method.sample_batch(shard, "cluster", 3, index, count)
        parts = method.loss(batch, StepState("cluster", 1.0, 0.0, 0, 0), "all")
        sums += batch.total * torch.stack([weight * loss for weight, loss in parts.values()])
    row_scale, pair_scale = method.scales[0]
    rows = geman_mcclure(z - u, row_scale).sum() / z.shape[1]
    pairs = linked_pairs(u, method.graph.edges, method.graph.weights, pair_scale) / z.shape[1]
    network = mean_squared_error(x.flatten(1), method.net.decode(z)).sum()
    torch.testing.assert_close(sums, torch.stack([network, rows, method.constants[1] * pairs]))


@pytest.mark.parametrize(("setting", "other"), [("neighbours", 8), ("nearest", 2)])
def test_jule_merges_by_its_settings(setting: str, other: int) -> None:
    """Where rows lie close together, the order of merges turns on them."""
    x = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    shard, found = Shard.of(x), []
    for changed in ({}, {setting: other}):
        torch.manual_seed(0)
        kind = load("jule")
        method = kind(build(kind.Config, unflatten({**kind.quick, "n_clusters": 5, **changed}), at="method"), (1, 8, 8))
        found.append(method.eval().finalize_clusters(shard, CollectiveClusters(shard, 0)))
    assert adjusted_rand_score(*found) < 1


UNREAD = {
    "dcc.settled": "a stop rule that a short training does not reach",
    "jule.rate": "merges that a short training does not reach",
}
"""Settings that a short training does not ask for, and why."""


@every_method
@pytest.mark.parametrize("shape", [(16,), (1, 8, 8)], ids=["vectors", "images"])
def test_a_setting_that_training_never_reads_is_refused_by_name(name: str, shape: tuple[int, ...]) -> None:
    contract.unread_is_refused(name, shape, own_of(UNREAD, name))


@pytest.fixture(scope="module")
def measured() -> Measured:
    return compare_all(os.environ.get("RAYDC_TEST_METHODS", "").split() or available())


@every_method
def test_two_workers_are_one(name: str, measured: Measured) -> None:
    if name not in measured.one:
        pytest.skip("not asked for")
    two_workers_are_one(name, measured)


def test_the_comparison_sees_a_local_statistic() -> None:
    """A gradient that is off by a hundredth of a percent is no equal one."""
    reference = {"loss": torch.tensor(1.0), "gradients": [torch.ones(2, dtype=torch.float64)]}
    other = {"loss": torch.tensor(1.0), "gradients": [torch.tensor([1.0, 1.0001], dtype=torch.float64)]}
    assert apart(reference, other)[1] > TOLERANCE


def trained(name: str, x: torch.Tensor, **given: object) -> tuple[Method, torch.Tensor]:
    """A method after a short training on these rows, and its labels."""
    kind = load(name)
    config = build(kind.Config, unflatten(kind.quick | {"n_clusters": K} | given), at="method")
    shard = Shard.of(x)
    torch.manual_seed(0)
    loop = Loop(kind(config, tuple(x.shape[1:])), shard, CollectiveClusters(shard, 0), 100)
    for _ in loop:
        pass
    return loop.method, loop.finish()


def test_dac_codes_threshold_falls_from_chunk_to_chunk() -> None:
    kind = load("dac_code")
    x, _ = blobs(kind, 60)
    shard, clusters = Shard.of(x), CollectiveClusters(Shard.of(x), 0)
    given = kind.quick | {"n_clusters": K, "chunk": 20, "passes": 2, "upper": 0.9, "lower": 0.5}
    method = kind(build(kind.Config, unflatten(given), at="method"), tuple(x.shape[1:]))
    method.eval().init_clusters(shard, clusters)
    method.train()
    count, told = method.batches(shard, 10, "cluster"), []
    for index in range(count):
        batch = method.sample_batch(shard, "cluster", 0, index, count)
        method.clustering_loss(batch, StepState("cluster", 1.0, index / count, 0, index))
        told.append(float(method.threshold))
    assert told == pytest.approx([0.9] * 4 + [0.9 - 0.4 / 3] * 4 + [0.9 - 0.8 / 3] * 4)


def test_temi_answers_by_the_teacher_of_the_lowest_loss_or_by_what_heads_agree_on() -> None:
    x, _ = blobs(load("temi"), 300)
    method, labels = trained("temi", x, **{"consensus.length": "0 epochs", "cluster.length": "3 epochs"})
    with torch.no_grad():
        heads = method.net.teacher(x).argmax(2)
    assert not torch.equal(heads[:, 0], heads[:, 1]), "heads of few steps differ"
    assert torch.equal(labels, heads[:, int(method.net.best)])
    (most, _), (unanimous, labels) = (trained("temi", x, **{"consensus.agreement": share}) for share in (0.5, 1.0))
    taught = unanimous.rows["taught"] > 0
    assert 0 < taught.sum() < (most.rows["taught"] > 0).sum()
    assert (labels == unanimous.rows["vote"])[taught].float().mean() > 0.9


@pytest.mark.parametrize("name", ["leiden", "spectral", "ward"])
def test_a_shallow_method_sees_the_rows_in_its_view(name: str) -> None:
    """Two groups in one column, beside one of noise that is ten times as wide."""
    rng = np.random.default_rng(0)
    y = np.arange(300) % 2
    x = torch.from_numpy(np.stack([2 * y - 1 + 0.1 * rng.standard_normal(300), rng.uniform(-20, 20, 300)], 1)).float()
    known = {v: trained(name, x, n_clusters=2, view=v)[0].rows["known"] for v in ("standardised", "rows")}
    assert adjusted_rand_score(y, known["standardised"]) > 0.95 > 0.2 > adjusted_rand_score(y, known["rows"])


@pytest.mark.parametrize("name", ["leiden", "spectral", "ward"])
@pytest.mark.parametrize("rows", [torch.ones(50, 3), torch.zeros(50, 3), torch.arange(3.0)[:, None]], ids=len)
def test_a_shallow_method_takes_rows_that_are_all_alike_or_few(name: str, rows: torch.Tensor) -> None:
    _, labels = trained(name, rows, n_clusters=2)
    assert labels.shape == (len(rows),) and set(labels.tolist()) <= {0, 1}


def test_leiden_ties_a_row_to_as_many_as_are_asked_for() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((200, 4))).float()
    few, many = (trained("leiden", noise, neighbours=n)[1] for n in (3, 30))
    assert adjusted_rand_score(few, many) < 0.9


def test_rows_out_of_the_sample_learn_what_most_of_their_nearest_ones_are() -> None:
    x, y = blobs(load("leiden"), 600)
    method, labels = trained("leiden", x, most=100)
    assert adjusted_rand_score(y, labels) > 0.95 and float(method.learnt) > 0.95


def test_turtle_takes_several_spaces_whose_sizes_add_up() -> None:
    x, y = blobs(load("turtle"), 300)
    both = torch.cat([x, 1000 * x[:, :6].flip(1)], 1)
    method, labels = trained("turtle", both, spaces=(20, 6))
    assert adjusted_rand_score(y, labels) > 0.9
    assert method.size[1] > 500 * method.size[0], "each space has a unit of its own"
    with pytest.raises(SettingsError, match=r"method.spaces: expected .* 26 features, got 20 \+ 5 = 25"):
        kind = load("turtle")
        kind.check_settings(build(kind.Config, {"spaces": (20, 5)}, at="method"), (26,))


def test_turtle_finds_unequal_clusters_where_they_are_expected() -> None:
    x, y = blobs(load("turtle"), 1200)
    kept = torch.cat([(y == k).nonzero()[:many, 0] for k, many in enumerate((260, 70, 30, 20))])
    scores = [
        adjusted_rand_score(y[kept], trained("turtle", x[kept], unequal=exponent, balance=2.0)[1])
        for exponent in (0.0, 1.7)
    ]
    assert scores[1] > 0.9 and scores[1] > scores[0]
