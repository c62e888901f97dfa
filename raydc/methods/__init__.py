"""Deep clustering methods, one file each; the file's name is the method's name.

Others have a name that an installed package offers or this process registered (`PLUGINS`), or are named by their file
(path/to/my_method.py), which travels to the workers and into the model, or by a module that is installed wherever it is
needed (my_package.my_method). `:MyMethod` behind a file or a module names one class of several.
"""

import difflib
import importlib
import importlib.util
import pkgutil
import re
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from raydc.core import source_file
from raydc.core.registries import PluginError, Registry
from raydc.core.settings import SettingsError
from raydc.core.source_file import SourceFile
from raydc.methods import index

if TYPE_CHECKING:
    from raydc.methods.base import Method

PLUGINS: "Registry[type[Method]]" = Registry("raydc.methods", "method")
"""Methods that others add by name."""
NO_METHODS = ("base", "blocks", "composed", "index")
"""Modules beside the methods."""
NAME = re.compile(rf"(?P<place>.+?)(?:@(?P<digest>[0-9a-f]{{{source_file.DIGITS}}}))?(?::(?P<cls>\w+))?")
"""A file's hash behind its path: that text and no other."""


@cache
def builtin() -> tuple[str, ...]:
    """Names of the methods that come with raydc, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in NO_METHODS))


def available() -> list[str]:
    """Names of all methods: those that come with raydc, then those that others add."""
    own = builtin()
    return [*own, *(name for name in PLUGINS.names() if name not in own)]


def describe(name: str) -> index.Entry:
    """What the index says of a method; SettingsError as `load`. Without importing it, if it comes with raydc."""
    return index.read().get(name) or index.entry_of(load(name))


def load(name: str) -> "type[Method]":
    """The method of that name: of raydc, of `PLUGINS`, of a file, or of a module. SettingsError if there is none."""
    from raydc.methods.base import Method

    place, _, cls = _parts(name)
    if cls is None and _added(place):
        return _plugin(place)
    source = source_of(name)
    module = _imported(place) if source is None else _run(source)
    if cls is not None:
        named = vars(module).get(cls)
        if not (isinstance(named, type) and issubclass(named, Method)):
            raise SettingsError(f"method.name: {place} has no Method {cls!r}; it defines {_listed(module)}")
        return named
    found = _defined(module)
    if len(found) != 1:
        which = f"name one of them, as {place}:{found[0].__name__}" if found else "derive a class from it"
        raise SettingsError(f"method.name: {place} must define one Method, it defines {_listed(module)}; {which}")
    return found[0]


def source_of(name: str) -> SourceFile | None:
    """The file of a method that is named by one, or that lies in the working directory; else None.

    SettingsError where it cannot be read, or where it is not the text that the name's hash stands for.
    """
    place, digest, _ = _parts(name)
    if not place.endswith(".py"):
        here = place.isidentifier() and place not in available() and source_file.there(f"{place}.py")
        return _read(f"{place}.py") if here else None
    known = source_file.known(digest) if digest else None
    if known is not None:
        return known
    found = _read(place)
    if digest not in (None, found.digest):
        raise SettingsError(
            f"method.name: {place} has changed: its hash was {digest} and is {found.digest}; put the file back, or "
            f"take it as it is now by --method {place}"
        )
    return found


def full_name(name: str) -> str:
    """The method's name for records and models: of a file, its own name and its hash, wherever it lies.

    The file is run, so that from now on this process knows it by that name.
    """
    source = source_of(name)
    if source is None:
        return name
    _run(source)
    file = _parts(name)[0].rpartition("/")[2].removesuffix(".py")
    return _joined(f"{file}.py@{source.digest}", name)


def path_of(name: str) -> str:
    """The method's name for files of settings: with the path at which its file was read."""
    source = source_of(name)
    return name if source is None else _joined(f"{source.path}@{source.digest}", name)


def receive(name: str, text: str) -> None:
    """Run the code of this method that a model brings. ValueError if it is not what the name's hash stands for."""
    place, digest, _ = _parts(name)
    found = SourceFile(place, text)
    if found.digest != digest:
        raise ValueError(f"the code beside it has the hash {found.digest}")
    found.module()


def module_of(name: str) -> str | None:
    """The module, from elsewhere, that a method comes from and that must be installed where it is used."""
    place, digest, _ = _parts(name)
    if _added(place):
        return PLUGINS.module_of(place)
    return None if digest or place.endswith(".py") or place in builtin() else place


def package_of(name: str) -> str:
    """The package, by name and version, that offers the method; empty for any other."""
    return PLUGINS.package_of(name) if _added(name) else ""


def metadata_of(name: str) -> list[str]:
    """The folder that says which package offers the method; none for any other."""
    return PLUGINS.metadata_of(name) if _added(name) else []


def _joined(place: str, name: str) -> str:
    _, _, cls = _parts(name)
    return place if cls is None else f"{place}:{cls}"


def _parts(name: str) -> tuple[str, str | None, str | None]:
    """A name's module or file, the file's hash, and the class."""
    found = NAME.fullmatch(name)
    if found is None:
        raise SettingsError(f"method.name: expected one of {', '.join(available())}, a file or a module, got {name!r}")
    return found["place"], found["digest"], found["cls"]


def _read(path: str) -> SourceFile:
    try:
        return source_file.read(path)
    except ValueError as problem:
        raise SettingsError(f"method.name: {problem}") from None


def _run(source: SourceFile) -> ModuleType:
    try:
        return source.module()
    except ValueError as problem:
        raise SettingsError(f"method.name: {problem}") from problem


def _added(place: str) -> bool:
    """Whether others have added a method of this name; raydc's own come first."""
    return place in PLUGINS and place not in builtin()


def _plugin(name: str) -> "type[Method]":
    from raydc.methods.base import Method

    try:
        found = PLUGINS.load(name)
    except PluginError as problem:
        raise SettingsError(f"method.name: {problem}") from problem
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise SettingsError(
            f"method.name: {name!r}: expected a class derived from raydc.methods.base.Method, got {found!r}"
        )
    return found


def _imported(place: str) -> ModuleType:
    if "." not in place and place not in available() and not _installed(place):
        near = difflib.get_close_matches(place, available(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SettingsError(
            f"method.name: no method {place!r}; {hint}there are {', '.join(available())}; a method of your own is "
            "named by its file (path/to/my_method.py) or its module (my_package.my_method)"
        )
    try:
        return importlib.import_module(f"{__name__}.{place}" if place in builtin() else place)
    except ModuleNotFoundError as missing:
        raise SettingsError(
            f"method.name: cannot import {place!r} ({missing}); install it on every node, or name its file, which "
            "travels: path/to/my_method.py"
        ) from None


def _installed(module: str) -> bool:
    return module.isidentifier() and importlib.util.find_spec(module) is not None


def _defined(module: ModuleType) -> "list[type[Method]]":
    from raydc.methods.base import Method

    own = [m for m in vars(module).values() if isinstance(m, type) and m.__module__ == module.__name__]
    return [m for m in own if issubclass(m, Method)]


def _listed(module: ModuleType) -> str:
    return ", ".join(cls.__name__ for cls in _defined(module)) or "none"
