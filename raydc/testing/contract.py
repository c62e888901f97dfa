"""What every method must do, a function for each rule. Each takes a method's name and raises AssertionError in words.

The rules train on few rows in well separated groups, with the settings that the method's `quick` says.
"""

import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, get_args

import torch
from pydantic.fields import FieldInfo
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

import raydc.training.loop
from raydc.clustering.collective import CollectiveClusters
from raydc.core.settings import Settings, SettingsError, build, fields, flatten, unflatten
from raydc.data import Shard
from raydc.methods import load
from raydc.methods.base import Method, Player
from raydc.methods.index import MethodInfo
from raydc.testing.cases import BATCH, K, blobs, flat, loop_over, make, quick_for, restored, saved
from raydc.training.loop import Loop, Progress

FOUND = 0.9
"""Adjusted Rand index with the groups from which they count as found."""
OF_SCHEDULES = ("length", "update_every", "tolerance")
"""Settings that say when, not what: a few steps tell nothing of them."""
OF_PARTS = ("network", "augment", "generator", "recipe", "n_clusters", "reset")
"""Groups of settings that belong to parts with tests of their own."""


def require(condition: object, said: str) -> None:
    """AssertionError in these words, also where Python runs without assertions."""
    if not condition:
        raise AssertionError(said)


@dataclass
class Run:
    """A short training, watched."""

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


def _names_of(method: Method) -> dict[int, str]:
    named = dict(method.named_parameters()) | {f"rows.{key}": value for key, value in method.rows.items()}
    return {id(parameter): name for name, parameter in named.items()}


@contextmanager
def _gradients(spy: Callable[[Player], None]) -> Iterator[None]:
    """Every player's gradients are seen, once they are those of all workers."""
    share = raydc.training.loop.share_gradients

    def watched(player: Player) -> None:
        share(player)
        spy(player)

    raydc.training.loop.share_gradients = watched
    try:
        yield
    finally:
        raydc.training.loop.share_gradients = share


def train(name: str, state: bytes | None = None, cut: int = -1) -> Run:
    """Train on the blobs, from `state` if given, and keep the state after `cut` epochs."""
    x, _ = blobs(load(name))
    loop = loop_over(name, x) if state is None else restored(name, x, state)
    trained, played = set[str](), set[str]()
    names = _names_of(loop.method)

    def spy(player: Player) -> None:
        names.update(_names_of(loop.method))
        for parameter in (p for group in player.groups for p in group.parameters):
            played.add(names[id(parameter)])
            if parameter.grad is not None and bool((parameter.grad != 0).any()):
                trained.add(names[id(parameter)])

    epochs, half = [], saved(loop)
    with _gradients(spy):
        for progress in loop:
            epochs.append(progress)
            if len(epochs) == cut:
                half = saved(loop)
        labels = loop.finish()
    state_now = flat({"shared": loop.shared_state(), "rows": loop.row_state()})
    return Run(loop.method, labels, epochs, state_now, loop.shared_state()["clustered"], half, cut, trained, played)


@functools.cache
def whole(name: str) -> Run:
    """One training, for all rules that look at it."""
    x, _ = blobs(load(name))
    loop = loop_over(name, x)
    epochs = sum(-(-steps // loop.method.batches(loop.shard, BATCH, phase)) for phase, steps in loop.plan().items())
    return train(name, cut=epochs // 2)


@functools.cache
def resumed(name: str) -> Run:
    """The same training, gone on with from its half."""
    return train(name, whole(name).half)


def says_what_it_is(name: str) -> None:
    """`info` is a MethodInfo, and `quick` names settings that the method has."""
    kind = load(name)
    require(isinstance(getattr(kind, "info", None), MethodInfo), "give the class `info`, a MethodInfo")
    unknown = set(kind.quick) - {path for path, _ in fields(kind.Config)}
    require(not unknown, f"`quick` names settings that Config has not: {', '.join(sorted(unknown))}")


def losses_are_finite(name: str) -> None:
    """Every part of the loss is a finite number in every epoch."""
    for progress in whole(name).epochs:
        wrong = {part: value for part, value in progress.losses.items() if not torch.isfinite(torch.tensor(value))}
        require(not wrong, f"in epoch {progress.epoch} of {progress.phase}: the loss is not finite: {wrong}")


def finds_the_blobs(name: str) -> None:
    """Well separated groups of rows become the clusters."""
    _, y = blobs(load(name))
    found = adjusted_rand_score(y, whole(name).labels)
    require(found > FOUND, f"of {K} groups far apart it finds too little: adjusted Rand index {found:.2f}, not {FOUND}")


def labels_are_clusters(name: str) -> None:
    """Labels are int64 [N] in 0 to K - 1."""
    labels, k = whole(name).labels, whole(name).method.config.n_clusters
    rows = len(blobs(load(name))[1])
    expected = f"expected labels int64 [{rows}], got {labels.dtype} {list(labels.shape)}"
    require(labels.dtype == torch.int64 and labels.shape == (rows,), expected)
    low, high = int(labels.min()), int(labels.max())
    require(low >= 0 and high < (k or rows), f"expected labels from 0 to {(k or rows) - 1}, got {low} to {high}")


def a_resumed_run_ends_as_the_whole_one(name: str) -> None:
    """The same seed gives the same bits, also where training went on from a checkpoint."""
    first, second = whole(name), resumed(name)
    require(bool(first.epochs) == (first.half_epoch > 0), "a training of no epochs has no half")
    require(len(second.epochs) < max(len(first.epochs), 1), "a resumed run must not begin anew")
    left = first.epochs[len(first.epochs) - len(second.epochs) :]
    require(
        second.epochs == left, "epochs after a resume have other losses: keep all that matters in the state or rows"
    )
    require(torch.equal(second.labels, first.labels), "labels differ after a resume")
    require(second.state.keys() == first.state.keys(), "the state has other entries after a resume")
    for path, value in first.state.items():
        same = torch.equal(value, second.state[path]) if isinstance(value, Tensor) else value == second.state[path]
        require(same, f"{path} differs after a resume")


def every_player_s_parameters_get_gradients(name: str) -> None:
    """Each parameter is some player's, and each player's parameter has a gradient in some step."""
    run = whole(name)
    idle = run.played - run.trained
    require(not idle, f"parameters without any gradient: {', '.join(sorted(idle))}; leave them out of `players`")
    alone = {parameter for parameter, _ in run.method.named_parameters()} - run.played
    require(
        not alone, f"parameters of no player: {', '.join(sorted(alone))}; name them in `players`, or make them buffers"
    )


def collapse_is_reported(name: str) -> None:
    """Where clusters are updated, it is said how many are alive and how large the largest is."""
    run = whole(name)
    changed, alive, largest = run.clustered
    sizes = torch.bincount(run.labels)
    said = f"clusters alive {alive}, of rows the largest {largest}; the labels say {int((sizes > 0).sum())}"
    require(alive == (sizes > 0).sum() and abs(largest - sizes.max() / len(run.labels)) < 1e-6, said)
    require(changed is None or 0 <= changed <= 1, f"share of rows that changed cluster: {changed}")
    clustering = [p for p in run.epochs if p.alive is not None]
    if run.method.info.clustering_loss != "none" and run.epochs:
        require(clustering, "`update_clusters` or `init_clusters` must give labels, so that a collapse is seen")


def assigns_new_rows_or_says_why_not(name: str) -> None:
    """`decide` gives memberships of new rows and finds the groups again, or `info.refuses` says why it cannot."""
    run = whole(name)
    x, y = blobs(load(name), rows=100, seed=1)
    run.method.eval()
    if run.method.info.refuses:
        try:
            run.method.assign(x)
        except NotImplementedError as refusal:
            require(run.method.info.refuses in str(refusal), f"refuses in other words than info.refuses: {refusal}")
            return
        raise AssertionError("info.refuses says why new rows cannot be assigned, and `assign` assigns them")
    with torch.no_grad():
        labels, memberships = run.method.decide(x)
    require(
        memberships.shape[0] == len(x) and bool((memberships >= 0).all()), "memberships are [B, K] and not negative"
    )
    off = float((memberships.sum(1) - 1).abs().max())
    require(off < 1e-4, f"memberships of a row add up to 1, here they are off by {off:.1e}")
    held = memberships.gather(1, labels[:, None])[:, 0] == memberships.max(1).values
    require(held.all(), "a row's label is that of its largest membership")
    found = adjusted_rand_score(y, labels)
    require(found > FOUND, f"new rows of the same groups: adjusted Rand index {found:.2f}, not {FOUND}")


def samples_have_the_shape_of_rows(name: str) -> None:
    """What a method draws is [K, n, ...] and finite."""
    method = whole(name).method
    with torch.no_grad():
        drawn = method.samples(3)
    if drawn is not None:
        expected = (K, 3, *method.shape)
        require(drawn.shape == expected, f"expected samples {list(expected)}, got {list(drawn.shape)}")
        require(drawn.isfinite().all(), "samples must be finite")


def the_state_is_all_there_is(name: str) -> None:
    """A fresh method with the state of a trained one assigns alike."""
    run = whole(name)
    if run.method.info.refuses:
        return
    x, _ = blobs(load(name), rows=50, seed=2)
    fresh = make(name, run.method.shape)
    fresh.load_state_dict(run.method.state_dict())
    with torch.no_grad():
        alike = torch.equal(fresh.eval().assign(x), run.method.eval().assign(x))
    require(alike, "what assigns rows must be a parameter or a buffer: a copy of the state assigns otherwise")


def settings_out_of_range_are_named(name: str) -> None:
    """A value beyond a bound, or of an unknown setting, is refused with the setting's name."""
    config = load(name).Config
    for path, field in fields(config):
        wrong = [*_beyond(field), *(["-5 epochs"] if path.endswith(".length") else [])]
        for value in wrong:
            _refused(config, {path: value}, f"method.{path}: ")
    _refused(config, {"no_such_setting": 1}, "no such setting")


def _beyond(field: FieldInfo) -> Iterator[float]:
    """Values just beyond the bounds of a setting."""
    for bound in field.metadata:
        if hasattr(bound, "ge"):
            yield bound.ge - 1
        if hasattr(bound, "gt"):
            yield bound.gt
        if hasattr(bound, "le"):
            yield bound.le + 1
        if hasattr(bound, "lt"):
            yield bound.lt


def _refused(config: type[Method.Config], given: dict[str, Any], said: str) -> None:
    try:
        build(config, unflatten(given), at="method")
    except SettingsError as problem:
        require(said in str(problem), f"{given} is refused, but not by name: {problem}")
        return
    raise AssertionError(f"{given} is out of range and taken")


def recipes_train_through_all_phases(name: str) -> None:
    """Two epochs of each phase of each recipe but those it leaves out, with the recipe's own optimizers."""
    for recipe in load(name).Config.recipes:
        recipe_trains(name, recipe)


def recipe_trains(name: str, recipe: str) -> None:
    """The same of one recipe, from whose state in one phase the next begins."""
    kind = load(name)
    x, _ = blobs(kind, 120)
    shape = tuple(x.shape[1:])
    known = {path for path, _ in fields(kind.Config)}
    small = {path: value for path, value in kind.quick.items() if path in known and path.startswith("network.")}
    left_out = {path for path, value in kind.Config.recipes[recipe].items() if value == "0 epochs"}
    short = {path: "2 epochs" for path in known - left_out if path.endswith(".length")}
    given = {} if kind.finds_clusters() else {"n_clusters": K}
    config = build(kind.Config, unflatten({"recipe": recipe} | given | small | short), at="method")
    shard = Shard.of(x)
    torch.manual_seed(0)
    phases = {progress.phase for progress in Loop(kind(config, shape), shard, CollectiveClusters(shard, 0), 60)}
    expected = {name for name, phase in kind(config, shape).phases().items() if not phase.left_out}
    require(phases == expected, f"recipe {recipe}: trained {sorted(phases)}, of {sorted(expected)}")


def _short_settings(name: str, changed: dict[str, Any]) -> Method.Config:
    """Six steps of every phase, with some settings changed."""
    kind = load(name)
    known = {path for path, _ in fields(kind.Config)}
    quick = {path: value for path, value in kind.quick.items() if path in known}
    short = {path: "6 steps" for path in known if path.endswith(".length")}
    short |= {path: "2 steps" for path in known if path.endswith(".update_every")}
    given = {} if kind.finds_clusters() else {"n_clusters": K}
    return build(kind.Config, unflatten(quick | short | given | changed), at="method")


def _short_run(name: str, config: Method.Config) -> dict[str, Tensor]:
    """What a short training comes to."""
    x, _ = blobs(load(name), 160)
    shard = Shard.of(x)
    torch.manual_seed(0)
    method = load(name)(config, tuple(x.shape[1:]))
    loop = Loop(method, shard, CollectiveClusters(shard, 0), 40)
    trained = {progress.phase for progress in loop}
    require(trained == {*loop.phases}, f"phases {sorted({*loop.phases} - trained)} are not trained")
    return {"labels": loop.finish(), **method.state_dict(), **method.rows}


def settings_act(name: str, later: Collection[str] = ()) -> None:
    """Another value of a setting comes to another state or is refused, but for when, stop rules and those `later`."""
    if load(name).streamed is not Method.streamed:
        return
    config, without = _short_settings(name, {}), []
    idle = config.idle(tuple(blobs(load(name), 4)[0].shape[1:]))
    plain = _short_run(name, config)
    for path, field in fields(load(name).Config):
        group, _, leaf = path.partition(".")
        own = group not in OF_PARTS and "optimizer" not in leaf and leaf not in OF_SCHEDULES
        asked = own and path not in later and path not in idle
        if asked and all(_without_effect(name, plain, {path: other}) for other in _others(field, leaf)):
            without.append(path)
    require(not without, f"settings without effect: {', '.join(without)}; drop them, or have `idle` say when they are")


def _without_effect(name: str, plain: dict[str, Tensor], changed: dict[str, Any]) -> bool:
    """Whether settings that are taken come to the plain run's state."""
    try:
        config = _short_settings(name, changed)
    except SettingsError:
        return False
    return _same(plain, _short_run(name, config))


def _others(field: FieldInfo, leaf: str) -> list[Any]:
    """Other values of a setting; the next number may make no difference to a few rows."""
    value = field.default
    choices = [choice for choice in get_args(field.annotation) if choice != value]
    if isinstance(value, float):
        return [0.7 if value < 0.5 else 1.5 * value if leaf == "" and value >= 1 else 0.7 * value]
    if isinstance(value, int) and not isinstance(value, bool):
        return [value + 1, max(value // 4, 1), 1]
    if isinstance(value, tuple):
        return [_another(value, ())]
    return [choices[0] if isinstance(value, str) else not value]


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def settings_that_are_not_read_are_refused(name: str, unread: Collection[str] = ()) -> None:
    """A setting that training does not read on vectors, or on images, is refused by name there (`Settings.idle`)."""
    shapes = [(1, 8, 8)] if load(name).needs_image else [(16,), (1, 8, 8)]
    for shape in shapes:
        unread_is_refused(name, shape, unread)


def unread_is_refused(name: str, shape: tuple[int, ...], unread: Collection[str] = ()) -> None:
    """The same on rows of one shape; `unread` are those that a short training does not ask for."""
    kind = load(name)
    known = {path for path, _ in fields(kind.Config)}
    given = quick_for(kind, shape) | ({} if kind.finds_clusters() else {"n_clusters": K})
    usual = flatten(build(kind.Config, unflatten(given), at="method").model_dump())
    given |= {path: "1 epochs" for path in known if path.endswith(".update_every")}
    given |= {p: "2 epochs" for p, length in usual.items() if p.endswith(".length") and not length.startswith("0 ")}
    config = build(kind.Config, unflatten(given), at="method")
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(K, *shape, generator=draw).repeat(30, *(1 for _ in shape))
    x = x / 2 + torch.rand(x.shape, generator=draw) / 2
    shard = Shard.of(x)
    with _reads() as read:
        loop = Loop(kind(config, shape), shard, CollectiveClusters(shard, 0), 40)
        for _ in loop:
            pass
        loop.finish()
    options = set(kind.streamed(loop.method) or ())
    for path, field in fields(kind.Config):
        *groups, leaf = path.split(".")
        owner = functools.reduce(getattr, groups, config)
        if (id(owner), leaf) in read or path in options | {"recipe"} or path in unread:
            continue
        value = _another(getattr(owner, leaf), get_args(field.annotation))
        try:
            kind.check_settings(build(kind.Config, unflatten(given | {path: value}), at="method"), shape)
        except SettingsError as problem:
            said = f"{path} has no effect on rows of shape {shape}, and its refusal names another: {problem}"
            require(leaf in str(problem) or "augment" in str(problem), said)
        else:
            raise AssertionError(f"{path} is not read on rows of shape {shape}: drop it, or let `idle` say why")


@contextmanager
def _reads() -> Iterator[set[tuple[int, str]]]:
    """The settings that are read meanwhile, by their owner's id and their name."""
    read = set[tuple[int, str]]()

    def spy(self: Settings, name: str) -> Any:
        if name in type(self).model_fields:
            read.add((id(self), name))
        return object.__getattribute__(self, name)

    Settings.__getattribute__ = spy  # type: ignore[method-assign, assignment]
    try:
        yield read
    finally:
        del Settings.__getattribute__


def _another(value: Any, choices: tuple[Any, ...]) -> Any:
    """A value of a setting other than this one, that it may have."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return type(value)(value / 2) or 1 if value >= 1 else 0.25 if value != 0.25 else 0.5
    if isinstance(value, tuple):
        return tuple(2 * size or 1 for size in value)
    named = [choice for choice in choices if choice != value]
    return named[0] if named else "7 steps"
