"""Deep clustering methods, one file each; the file's name is the method's name."""

import difflib
import importlib
import pkgutil
from typing import TYPE_CHECKING

from raydc.methods import index
from raydc.settings import SettingsError

if TYPE_CHECKING:
    from raydc.methods.base import Method

NO_METHODS = ("base", "index")
"""Modules beside the methods."""


def available() -> list[str]:
    """Names of the methods that come with raydc."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in NO_METHODS)


def describe(name: str) -> index.Entry:
    """What the index says of a method; SettingsError as `load`. Without importing it, if it comes with raydc."""
    return index.read().get(name) or index.entry_of(load(name))


def load(name: str) -> "type[Method]":
    """The method of that name, or of a dotted path such as "my_package.my_method"; SettingsError if there is none."""
    from raydc.methods.base import Method

    if "." not in name and name not in available():
        near = difflib.get_close_matches(name, available(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise SettingsError(f"method.name: no method {name!r}; {hint}there are {', '.join(available())}")
    path = name if "." in name else f"{__name__}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as missing:
        raise SettingsError(
            f"method.name: cannot import {path!r} ({missing}); is it installed on every node?"
        ) from None
    own = [m for m in vars(module).values() if isinstance(m, type) and m.__module__ == module.__name__]
    found = [m for m in own if issubclass(m, Method)]
    if len(found) != 1:
        raise SettingsError(f"method.name: {path} must define one Method, it defines {len(found)}")
    return found[0]
