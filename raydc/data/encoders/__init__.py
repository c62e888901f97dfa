"""Encoders by name: raydc's own, those of well-kept libraries, and those that others add."""

import difflib
import importlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from raydc.core.registries import PluginError, how_to_allow
from raydc.data.encoders.interface import Encoder, EncoderError, Takes, in_batches
from raydc.data.encoders.libraries import LIBRARIES
from raydc.data.settings import ENCODERS

__all__ = [
    "BUILTIN",
    "LIBRARIES",
    "Encoder",
    "EncoderError",
    "Takes",
    "in_batches",
    "installed",
    "load",
    "metadata_of",
    "module_of",
    "permit",
]

Factory = Callable[[], Encoder]
"""Makes an encoder; a class is one."""
BUILTIN: Mapping[str, tuple[str, str]] = {
    "wordllama": ("raydc.data.encoders.static_vectors", "StaticVectors"),
    "efficientnet-lite0": ("raydc.data.encoders.efficientnet", "EfficientNetLite0"),
}
"""Modules and classes of raydc's own."""


def load(name: str) -> Encoder:
    """The encoder of this name, made once in a process. EncoderError says what is missing, or that there is none."""
    return _made(_factory(name))


def permit(name: str) -> None:
    """Have the code of module:NAME imported, here and in processes that work for this one, as the user named it."""
    if ":" not in name or name in ENCODERS:
        return
    module, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        raise EncoderError(
            f"data.encoder: {name} cannot be imported: {problem}; expected module:NAME, an Encoder class or a function "
            "without arguments that gives one"
        ) from problem
    ENCODERS.register(name, factory)


def installed(name: str) -> bool:
    """Whether an encoder is there by intent: raydc's own, a library's, or one that was installed or registered; and
    not by having a module imported.
    """
    return ":" not in name or name in ENCODERS


def module_of(name: str) -> str | None:
    """The module from elsewhere that an encoder comes from, and that must be there where it is used."""
    if ":" in name:
        return name.partition(":")[0]
    return None if name in BUILTIN else ENCODERS.module_of(name)


def metadata_of(name: str) -> list[str]:
    """The folder that says which package offers the encoder; none for any other."""
    return [] if name in BUILTIN or ":" in name else ENCODERS.metadata_of(name)


def _factory(name: str) -> Factory:
    library, slash, model = name.partition("/")
    if name in BUILTIN:
        module, attribute = BUILTIN[name]
        found: Factory = getattr(importlib.import_module(module), attribute)
        return found
    if slash and library in LIBRARIES:
        return _of_library(library, model)
    if name in ENCODERS:
        try:
            return ENCODERS.load(name)
        except PluginError as problem:
            raise EncoderError(f"data.encoder: {problem}") from problem
    if ":" in name:
        raise EncoderError(f"the encoder {name} does not come with raydc: {how_to_allow(name)}")
    near = difflib.get_close_matches(name, [*BUILTIN, *ENCODERS.names()], n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*BUILTIN, *ENCODERS.names()])}"
    raise EncoderError(
        f"data.encoder: no encoder {name!r}; {hint}; of a library: {', '.join(f'{each}/NAME' for each in LIBRARIES)}; "
        "your own: module:NAME"
    )


@lru_cache(maxsize=8)
def _of_library(library: str, model: str) -> Factory:
    return partial(_made_by, library, model)


def _made_by(library: str, model: str) -> Encoder:
    """EncoderError where the library has no such network, or finds no weights for it."""
    try:
        return LIBRARIES[library](model)
    except EncoderError:
        raise
    except (OSError, ValueError, RuntimeError) as problem:  # as each library says it
        raise EncoderError(f"data.encoder: {library} cannot load {model!r}: {problem}") from problem


@lru_cache(maxsize=2)
def _made(factory: Factory) -> Encoder:
    made = factory()
    if not isinstance(made, Encoder):
        raise EncoderError(f"data.encoder: expected {factory!r} to give an Encoder, got {made!r}")
    return made
