"""What every method must do. A new file in raydc/methods is tested here without touching this one."""

import ast
import functools
import inspect
from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

import raydc.training.loop
from raydc.clustering import Clusters
from raydc.clustering.collective import CollectiveClusters
from raydc.data import Batch, Shard
from raydc.losses.reconstruction import mean_squared_error
from raydc.losses.robust_continuous import geman_mcclure, linked_pairs
from raydc.methods import available, load
from raydc.methods.base import Method, Parts, Player, StepState
from raydc.methods.dcc import DCC
from raydc.networks.augment import Augment
from raydc.settings import Settings, SettingsError, build, fields, flatten, unflatten
from raydc.training.loop import Progress
from tests.support.method_cases import BATCH, K, blobs, flat, loop_over, make, quick_for, restored, saved, settings

every_method = pytest.mark.parametrize("name", available())


@dataclass
class Run:
    method: Method
    labels: Tensor
    epochs: list[Progress]
    state: dict[str, Any]
    clustered: list[Any]
    half: bytes
    """State after half the epochs."""
    half_epoch: int
    trained: set[str]
    """Parameters that had a gradient other than zero in some step."""
    played: set[str]
    """Parameters that some player named."""


def names_of(method: Method) -> dict[int, str]:
    named = dict(method.named_parameters()) | {f"rows.{key}": value for key, value in method.rows.items()}
    return {id(parameter): name for name, parameter in named.items()}


def train(name: str, state: bytes | None = None, cut: int = -1) -> Run:
    """Train on the blobs, from `state` if given, and keep the state after `cut` epochs."""
    x, _ = blobs(load(name))
    loop = loop_over(name, x) if state is None else restored(name, x, state)
    trained: set[str] = set()
    played: set[str] = set()
    share = raydc.training.loop.share_gradients

    def spy(player: Player) -> None:
        share(player)
        names = names_of(loop.method)
        for parameter in (p for group in player.groups for p in group.parameters):
            played.add(names[id(parameter)])
            if parameter.grad is not None and bool((parameter.grad != 0).any()):
                trained.add(names[id(parameter)])

    epochs, half = [], saved(loop)
    raydc.training.loop.share_gradients = spy
    try:
        for progress in loop:
            epochs.append(progress)
            if len(epochs) == cut:
                half = saved(loop)
        labels = loop.finish()
    finally:
        raydc.training.loop.share_gradients = share
    state_now = flat({"shared": loop.shared_state(), "rows": loop.row_state()})
    clustered = loop.shared_state()["clustered"]
    return Run(loop.method, labels, epochs, state_now, clustered, half, cut, trained, played)


@functools.cache
def whole(name: str) -> Run:
    x, _ = blobs(load(name))
    loop = loop_over(name, x)
    epochs = sum(-(-steps // loop.method.batches(loop.shard, BATCH, phase)) for phase, steps in loop.plan().items())
    return train(name, cut=epochs // 2)


@functools.cache
def resumed(name: str) -> Run:
    return train(name, whole(name).half)


@every_method
def test_finds_the_blobs(name: str) -> None:
    _, y = blobs(load(name))
    assert adjusted_rand_score(y, whole(name).labels) > 0.9


@every_method
def test_labels_are_int64_in_range(name: str) -> None:
    labels, clusters = whole(name).labels, whole(name).method.config.n_clusters
    assert labels.dtype == torch.int64 and labels.shape == (400,)
    assert 0 <= labels.min() and labels.max() < (clusters or len(labels))


@every_method
def test_same_seed_same_result_and_a_resumed_run_ends_as_the_whole_one(name: str) -> None:
    first, second = whole(name), resumed(name)
    assert second.epochs == first.epochs[len(first.epochs) - len(second.epochs) :]
    assert bool(first.epochs) == bool(first.half_epoch > 0) and len(second.epochs) < max(len(first.epochs), 1)
    assert torch.equal(second.labels, first.labels)
    assert second.state.keys() == first.state.keys()
    for path, value in first.state.items():
        same = torch.equal(value, second.state[path]) if isinstance(value, Tensor) else value == second.state[path]
        assert same, f"{path} differs after a resume"


@every_method
def test_every_players_parameters_get_gradients(name: str) -> None:
    run = whole(name)
    assert run.played - run.trained == set()
    assert {parameter for parameter, _ in run.method.named_parameters()} - run.played == set()


@every_method
def test_collapse_is_reported(name: str) -> None:
    run = whole(name)
    changed, alive, largest = run.clustered
    sizes = torch.bincount(run.labels)
    assert alive == (sizes > 0).sum() and largest == pytest.approx(sizes.max() / len(run.labels))
    assert changed is None or 0 <= changed <= 1
    clustering = [p for p in run.epochs if p.alive is not None]
    assert all(1 <= p.alive and 0 < p.largest <= 1 for p in clustering if p.alive and p.largest)
    if run.method.info.clustering_loss != "none" and run.epochs:
        assert clustering, "an epoch with a clustering loss reports the clusters alive and the largest one's share"


@every_method
def test_assigns_new_rows_or_says_why_not(name: str) -> None:
    run = whole(name)
    x, y = blobs(load(name), rows=100, seed=1)
    run.method.eval()
    if run.method.info.refuses:
        with pytest.raises(NotImplementedError) as refusal:
            run.method.assign(x)
        assert run.method.info.refuses in str(refusal.value)
        return
    with torch.no_grad():
        memberships = run.method.assign(x)
    assert memberships.shape[0] == len(x) and (memberships >= 0).all()
    torch.testing.assert_close(memberships.sum(1), torch.ones(len(x), dtype=memberships.dtype))
    assert adjusted_rand_score(y, memberships.argmax(1)) > 0.9


@every_method
def test_samples_have_the_shape_of_rows(name: str) -> None:
    method = whole(name).method
    with torch.no_grad():
        drawn = method.samples(3)
    if drawn is not None:
        assert drawn.shape == (K, 3, *method.shape) and drawn.isfinite().all()


@every_method
def test_settings_out_of_range_are_named(name: str) -> None:
    config = load(name).Config
    tried = 0
    for path, field in fields(config):
        wrong: list[Any] = []
        for bound in field.metadata:
            wrong += [bound.ge - 1] if hasattr(bound, "ge") else []
            wrong += [bound.gt] if hasattr(bound, "gt") else []
            wrong += [bound.le + 1] if hasattr(bound, "le") else []
            wrong += [bound.lt] if hasattr(bound, "lt") else []
        wrong += ["-5 epochs"] if path.endswith(".length") else []
        for value in wrong:
            tried += 1
            with pytest.raises(SettingsError, match=rf"method\.{path}: .*got"):
                build(config, unflatten({path: value}), at="method")
    assert tried


@pytest.mark.parametrize(
    "name, recipe", [(name, recipe) for name in available() for recipe in load(name).Config.recipes]
)
def test_every_recipe_trains_through_all_its_phases(name: str, recipe: str) -> None:
    """Two epochs of each, with the recipe's own optimizers, from whose state the next phase begins."""
    kind = load(name)
    x, _ = blobs(kind, 120)
    known = {path for path, _ in fields(kind.Config)}
    small = {path: value for path, value in kind.quick.items() if path in known and path.startswith("network.")}
    short = {path: "2 epochs" for path in known if path.endswith(".length")}
    given = {} if kind.finds_clusters() else {"n_clusters": K}
    config = build(kind.Config, unflatten({"recipe": recipe} | given | small | short), at="method")
    shard = Shard.of(x)
    torch.manual_seed(0)
    loop = raydc.training.loop.Loop(kind(config, tuple(x.shape[1:])), shard, CollectiveClusters(shard, 0), 60)
    phases = {progress.phase for progress in loop}
    assert phases == set(kind(config, tuple(x.shape[1:])).phases())


def short_run(name: str, changed: dict[str, Any]) -> dict[str, Tensor]:
    """What six steps of every phase come to, with some settings changed."""
    kind = load(name)
    x, _ = blobs(kind, 160)
    known = {path for path, _ in fields(kind.Config)}
    quick = {path: value for path, value in kind.quick.items() if path in known}
    short = {path: "6 steps" for path in known if path.endswith(".length")}
    short |= {path: "2 steps" for path in known if path.endswith(".update_every")}
    given = {} if kind.finds_clusters() else {"n_clusters": K}
    shard = Shard.of(x)
    torch.manual_seed(0)
    method = kind(build(kind.Config, unflatten(quick | short | given | changed), at="method"), tuple(x.shape[1:]))
    loop = raydc.training.loop.Loop(method, shard, CollectiveClusters(shard, 0), 40)
    assert loop.phases, "a method without phases trains nothing"
    assert {progress.phase for progress in loop} == {*loop.phases}
    return {"labels": loop.finish(), **method.state_dict(), **method.rows}


LATER = {
    "dcc.settled": "a stop rule",
    "jule.final": "a merge that few steps do not reach",
    "jule.margin": "a loss between merges that few steps do not reach",
    "jule.nearest": "the order of merges, on which blobs far apart do not turn: a test of its own",
    "jule.neighbours": "the same",
}
"""Settings that six steps do not show, and why."""


@pytest.mark.parametrize("name", [name for name in available() if name != "kmeans"])
def test_no_setting_is_without_effect(name: str) -> None:
    """Beside lengths, intervals and stop rules, and groups with tests of their own."""
    plain, checked = short_run(name, {}), 0
    layers = load(name)(settings(name), tuple(blobs(load(name), 4)[0].shape[1:])).phases()
    for path, field in fields(load(name).Config):
        group, _, leaf = path.partition(".")
        own = (
            group not in ("network", "augment", "generator", "recipe", "n_clusters", "reset")
            and "optimizer" not in leaf
        )
        reached = path not in (f.removeprefix(f"{name}.") for f in LATER) and (
            group != "layerwise" or "layer 1" in layers
        )
        if not own or not reached or leaf in ("length", "update_every", "tolerance"):
            continue
        value = field.default
        choices = [choice for choice in get_args(field.annotation) if choice != value]
        others = [choices[0] if isinstance(value, str) else not value]
        if isinstance(value, float):
            others = [0.7 if value < 0.5 else 1.5 * value if leaf == "" and value >= 1 else 0.7 * value]
        elif isinstance(value, int) and not isinstance(value, bool):
            others = [value + 1, max(value // 4, 1), 1]  # the next may make no difference to a few rows
        differ = (not same(plain, short_run(name, {path: other})) for other in others)
        assert any(differ), f"{path} {value} and {others} come to the same"
        checked += 1
    assert checked


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    "path", ["dcn.cluster.alpha", "dcc.cluster.ramp", "dec.pretrain.alpha", "dac.cluster.corruption"]
)
def test_a_phase_has_no_setting_that_would_do_nothing(path: str) -> None:
    name, _, setting = path.partition(".")
    with pytest.raises(SettingsError, match=f"method.{setting}: no such setting"):
        build(load(name).Config, unflatten({setting: 0.2}), at="method")


@every_method
def test_unknown_settings_are_refused_and_recipes_are_valid(name: str) -> None:
    config = load(name).Config
    with pytest.raises(SettingsError, match="no such setting"):
        build(config, {"no_such_setting": 1}, at="method")
    for recipe in config.recipes:
        assert build(config, {"recipe": recipe}, at="method").recipe == recipe
    known = {path for path, _ in fields(config)}
    assert set(load(name).quick) <= known, "quick settings must be settings"
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


@every_method
def test_the_state_is_all_there_is(name: str) -> None:
    """A fresh method with the state of a trained one assigns alike."""
    run = whole(name)
    if run.method.info.refuses:
        return
    x, _ = blobs(load(name), rows=50, seed=2)
    fresh = make(name, run.method.shape)
    fresh.load_state_dict(run.method.state_dict())
    with torch.no_grad():
        assert torch.equal(fresh.eval().assign(x), run.method.eval().assign(x))


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


def another(value: Any, choices: tuple[Any, ...]) -> Any:
    """A value of a setting other than this one, that it may have."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return type(value)(value / 2) or 1 if value >= 1 else 0.25 if value != 0.25 else 0.5
    if isinstance(value, tuple):
        return tuple(2 * size or 1 for size in value)
    named = [choice for choice in choices if choice != value]
    return named[0] if named else "7 steps"


@every_method
@pytest.mark.parametrize("shape", [(16,), (1, 8, 8)], ids=["vectors", "images"])
def test_a_setting_that_training_never_reads_is_refused_by_name(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, read = load(name), set[tuple[int, str]]()
    known = {path for path, _ in fields(kind.Config)}
    given = quick_for(kind, shape) | ({} if kind.finds_clusters() else {"n_clusters": K})
    usual = flatten(build(kind.Config, unflatten(given), at="method").model_dump())
    given |= {path: "1 epochs" for path in known if path.endswith(".update_every")}
    given |= {p: "2 epochs" for p, length in usual.items() if p.endswith(".length") and not length.startswith("0 ")}
    config = build(kind.Config, unflatten(given), at="method")

    def spy(self: Settings, name: str) -> Any:
        if name in type(self).model_fields:
            read.add((id(self), name))
        return object.__getattribute__(self, name)

    draw = torch.Generator().manual_seed(0)
    x = torch.rand(K, *shape, generator=draw).repeat(30, *(1 for _ in shape))
    x = x / 2 + torch.rand(x.shape, generator=draw) / 2
    monkeypatch.setattr(Settings, "__getattribute__", spy)
    shard = Shard.of(x)
    loop = raydc.training.loop.Loop(kind(config, shape), shard, CollectiveClusters(shard, 0), 40)
    for _ in loop:
        pass
    loop.finish()
    monkeypatch.undo()

    options = set(kind.streamed(loop.method) or ())
    for path, field in fields(kind.Config):
        *groups, leaf = path.split(".")
        owner = functools.reduce(getattr, groups, config)
        if (id(owner), leaf) in read or path in options | {"recipe"} or f"{name}.{path}" in UNREAD:
            continue
        value = another(getattr(owner, leaf), get_args(field.annotation))
        with pytest.raises(SettingsError, match=f"{leaf}|augment"):
            kind.check_settings(build(kind.Config, unflatten(given | {path: value}), at="method"), shape)
