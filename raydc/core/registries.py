"""What others add to raydc by name: methods, sources of rows, criteria of a search, and search spaces.

A package offers them by entry points, a group for each kind; a notebook or a script registers them by
`raydc.api.plugins`.
Names are read from the packages' metadata: nothing of a package is imported before it is asked for by name.
"""

import functools
import importlib.util
import os
import sys
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")
ALLOW_CODE = "RAYDC_ALLOW_CODE"
"""Environment variable: names of methods and encoders from elsewhere, parted by commas, whose code models may run."""
PREFIX = "raydc."
"""Of the groups of entry points."""
_registered: dict[tuple[str, str], Any] = {}
"""What this process registered, by group and name."""


class PluginError(ValueError):
    """Something that a package offers and that cannot be had: the message names it, the package, and what to do."""


@dataclass(frozen=True)
class Offer:
    """An entry point, and whose it is."""

    entry: metadata.EntryPoint
    package: str
    """Name and version, such as my-package 1.0."""
    metadata: str | None
    """The folder in which its metadata lie, where it is one."""


@dataclass(frozen=True)
class Registered:
    """Something that this process registered; a process that unpickles it has it registered as well."""

    group: str
    name: str
    thing: Any

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.group, self.name, self.thing)


@dataclass(frozen=True)
class Registry(Generic[T]):
    """What others offer in one group, by name."""

    group: str
    """Of entry points, such as raydc.methods."""
    noun: str
    """What one of them is called in messages."""

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*(name for group, name in _registered if group == self.group), *self._offers()})

    def __contains__(self, name: object) -> bool:
        return (self.group, name) in _registered or name in self._offers()

    def register(self, name: str, thing: T) -> None:
        """Have it under this name in this process, in place of what had it before, as a notebook runs a cell again."""
        _registered[self.group, name] = thing

    def forget(self, name: str) -> None:
        """What this process registered under this name goes."""
        del _registered[self.group, name]

    def load(self, name: str) -> T:
        """What has this name. PluginError where there is none, several packages have one, or it cannot be imported."""
        if (self.group, name) in _registered:
            thing: T = _registered[self.group, name]
            return thing
        offers = self._offers().get(name, [])
        if not offers:
            raise PluginError(f"no installed package has a {self.noun} {name!r}; install the one that has it")
        if len(offers) > 1:
            raise PluginError(self._several(name, offers))
        (offer,) = offers
        try:
            found: T = offer.entry.load()
            return found
        except Exception as problem:  # somebody else's code
            raise PluginError(
                f"the {self.noun} {name!r} of {offer.package} cannot be had: {offer.entry.value}: "
                f"{type(problem).__name__}: {problem}; mend that package, or uninstall it"
            ) from problem

    def package_of(self, name: str) -> str:
        """Name and version of the package that has it; empty where this process registered it, or nobody has it."""
        offers = self._of_packages(name)
        return offers[0].package if offers else ""

    def module_of(self, name: str) -> str | None:
        """The module in which a package has it; None where it is no package's."""
        offers = self._of_packages(name)
        return offers[0].entry.value.partition(":")[0].strip() if offers else None

    def metadata_of(self, name: str) -> list[str]:
        """The folder of metadata of the package that has it, as a model's code needs it to have its method by name."""
        return [offer.metadata for offer in self._of_packages(name) if offer.metadata is not None]

    def notes(self, taken: Collection[str]) -> list[str]:
        """What cannot be had, and why: names that raydc has `taken` itself or that several packages have, and those of
        modules that are not there. Nothing is imported for it.
        """
        found = []
        for name, offers in sorted(self._offers().items()):
            (entry, package), problem = (offers[0].entry, offers[0].package), ""
            if name in taken:
                problem = "raydc has one of that name"
            elif importlib.util.find_spec(entry.value.partition(":")[0].partition(".")[0].strip()) is None:
                problem = (
                    f"there is no module {entry.value.partition(':')[0]}; install the package anew, or uninstall it"
                )
            if problem:
                found.append(f"the {self.noun} {name!r} of {package} cannot be had: {problem}")
            elif len(offers) > 1:
                found.append(self._several(name, offers))
        return found

    def _several(self, name: str, offers: list[Offer]) -> str:
        packages = " and ".join(offer.package for offer in offers)
        return f"the {self.noun} {name!r} is had by {packages}: uninstall all but one"

    def _of_packages(self, name: str) -> list[Offer]:
        return [] if (self.group, name) in _registered else self._offers().get(name, [])

    def _offers(self) -> dict[str, list[Offer]]:
        return _installed(tuple(sys.path))[0].get(self.group, {})


def allowed(name: str, allow_code: Collection[str]) -> bool:
    """Whether the user has named this code from elsewhere, by `allow_code` or in the environment."""
    return name in {*allow_code, *os.environ.get(ALLOW_CODE, "").split(",")}


def how_to_allow(name: str) -> str:
    """Words that end a message."""
    return (
        f"to have its code imported and run, name it by --allow-code {name}, allow_code=[{name!r}] or "
        f"{ALLOW_CODE}={name}"
    )


def registered() -> tuple[Registered, ...]:
    """All that this process registered, to be sent to processes that work for it."""
    return tuple(Registered(*key, thing) for key, thing in _registered.items())


def _received(group: str, name: str, thing: Any) -> Registered:
    _registered[group, name] = thing
    return Registered(group, name, thing)


def unreadable() -> tuple[str, ...]:
    """Installed packages whose metadata cannot be read, with the reason."""
    return _installed(tuple(sys.path))[1]


@functools.cache
def _installed(path: tuple[str, ...]) -> tuple[dict[str, dict[str, list[Offer]]], tuple[str, ...]]:
    """What packages on the path offer, by group and name, and notes on packages that cannot be read."""
    found: dict[str, dict[str, list[Offer]]] = {}
    problems, seen = [], set[str]()
    for package in metadata.distributions(path=[*path]):
        try:
            text = package.read_text("entry_points.txt") or ""
            # the cheapest look first: hundreds of packages are installed, and few offer anything
            if f"[{PREFIX}" not in text:
                continue
            if package.name in seen:  # hidden by the one before it on the path
                continue
            seen.add(package.name)
            said = [file for file in package.files or () if file.name == "entry_points.txt"]
            folder = str(Path(str(said[0].locate())).parent) if said else None
            for entry in package.entry_points:
                if entry.group.startswith(PREFIX):
                    offer = Offer(entry, f"{package.name} {package.version}", folder)
                    found.setdefault(entry.group, {}).setdefault(entry.name, []).append(offer)
        except Exception as problem:  # whatever lies on the path
            problems.append(f"{getattr(package, '_path', 'a package')}: its entry points cannot be read: {problem}")
    return found, tuple(problems)
