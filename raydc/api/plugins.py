"""Methods, sources, encoders, criteria and search spaces of one's own, under a name; for this process and its workers.

    from raydc.api import plugins

    @plugins.method("soft_dec")
    class SoftDEC(DEC): ...

From then on the name is taken wherever one of raydc's own is: in Python, by `raydc.train` and `raydc.tune`. What is to
be had in every process, also on the command line, is offered by a package: the same names as entry points of the groups
`raydc.methods`, `raydc.sources`, `raydc.encoders`, `raydc.criteria` and `raydc.spaces`.
"""

import re
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

from raydc import methods
from raydc.core.registries import Registry, unreadable
from raydc.data.settings import ENCODERS, SOURCES, TAKEN, DataSettings
from raydc.search.settings import CRITERIA, SPACES

if TYPE_CHECKING:
    from raydc.data.encoders import Encoder
    from raydc.data.source import Source
    from raydc.methods.base import Method
    from raydc.search.criteria import Criterion

C = TypeVar("C", bound="type[Method]")
F = TypeVar("F", bound="Callable[[DataSettings], Source]")
E = TypeVar("E", bound="Callable[[], Encoder]")
V = TypeVar("V", bound="Callable[..., float] | Criterion")
S = TypeVar("S", bound="Callable[..., dict[str, Any] | None]")
NAME = re.compile(r"\.?[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def method(name: str) -> Callable[[C], C]:
    """Register a class derived from `raydc.methods.base.Method`. ValueError if raydc has a method of that name."""
    return _decorator(methods.PLUGINS, name, methods.builtin())


def source(name: str) -> Callable[[F], F]:
    """Register a function of `DataSettings` that opens a `raydc.data.Source`: NAME opens the paths NAME and NAME://...,
    .NAME those that end so. ValueError if raydc opens such paths itself.
    """
    return _decorator(SOURCES, name, TAKEN)


def encoder(name: str) -> Callable[[E], E]:
    """Register a class derived from `raydc.data.encoders.Encoder`, or a function without arguments that gives such an
    encoder. ValueError if raydc has an encoder of that name.
    """
    from raydc.data.encoders import BUILTIN

    return _decorator(ENCODERS, name, BUILTIN)


def criterion(name: str) -> Callable[[V], V]:
    """Register what may choose among the finalists of a search, higher is better: a function of the labels [n] of one
    training and the rows' neighbour graph, or a `raydc.search.criteria.Criterion`. ValueError if raydc has one.
    """
    from raydc.search.criteria import OWN

    return _decorator(CRITERIA, name, OWN)


def space(name: str) -> Callable[[S], S]:
    """Register a search space, a function of an Optuna trial as in a file; the space of a method has its name."""
    return _decorator(SPACES, name, ())


def listing() -> dict[str, dict[str, str]]:
    """What others add, by its kind and name: the package, by name and version, or "this process"."""
    registries: list[Registry[Any]] = [methods.PLUGINS, SOURCES, ENCODERS, CRITERIA, SPACES]
    return {
        registry.noun: {name: registry.package_of(name) or "this process" for name in registry.names()}
        for registry in registries
    }


def notes() -> list[str]:
    """What packages offer and that cannot be had, with the reason. Nothing of theirs is imported for it."""
    taken: list[tuple[Registry[Any], Collection[str]]] = [
        (methods.PLUGINS, methods.builtin()),
        (SOURCES, TAKEN),
        (ENCODERS, ()),  # raydc's own are known where encoders are, which a list does without: they come first there
        (CRITERIA, ()),  # raydc's own are known to `criteria`, which a list does without: it says so itself
        (SPACES, ()),
    ]
    return [*unreadable(), *(note for registry, names in taken for note in registry.notes(names))]


def _decorator(registry: Registry[Any], name: str, taken: Collection[str]) -> Callable[[Any], Any]:
    if not NAME.fullmatch(name) or name.endswith(".py"):
        raise ValueError(
            f"expected a name of letters, digits, '_', '-' and '.', such as my_{registry.group[6:]}, got {name!r}"
        )
    if name in taken:
        raise ValueError(f"raydc has a {registry.noun} {name!r} itself: take another name")

    def register(thing: Any) -> Any:
        registry.register(name, thing)
        return thing

    return register
