"""The base of every configuration: frozen, typed, and strict about names.

A setting has one spelling, a dotted path such as `method.nu`, on the command line, in YAML files, in MLflow parameters
and in search spaces. All of them meet in `build`, which reports every problem at once.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Self, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from raydc.core.redact import holds_secret, redact

T = TypeVar("T", bound="Settings")

SHOWN = 5
"""Settings that a message names, of many that differ."""


class Settings(BaseModel):
    """Frozen settings; the string under a field documents it (and is its `--help`)."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    acts_with: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {}
    """Settings that have an effect only beside some values of another: {setting: (the other one, those values)}."""

    @model_validator(mode="before")
    @classmethod
    def _text_as_written(cls, values: Any) -> Any:
        """Text from a command line: a,b,c for several values, none for no value."""
        if not isinstance(values, dict):
            return values
        return {
            key: _read(value, cls.model_fields[key]) if key in cls.model_fields else value
            for key, value in values.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _keep_the_owners_defaults(cls, values: Any) -> Any:
        """A group that is given in part keeps the rest as its owner has it (a phase of DEC is not a bare Phase)."""
        if not isinstance(values, dict):
            return values
        defaults = {key: field.default for key, field in cls.model_fields.items()}
        return values | {
            key: default.completed(given)
            for key, given in values.items()
            if isinstance(given, dict) and isinstance(default := defaults.get(key), Settings)
        }

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Self:
        for name in self._without_effect(vars(self)):
            if getattr(self, name) != type(self).model_fields[name].default:
                other, values = self.acts_with[name]
                raise ValueError(
                    f"{name} has an effect only where {other} is {' or '.join(map(str, values))}, and it is "
                    f"{getattr(self, other)}: leave it out"
                )
        return self

    @classmethod
    def _without_effect(cls, values: Mapping[str, Any]) -> list[str]:
        return [name for name, (other, at) in cls.acts_with.items() if values[other] not in at]

    def idle(self, shape: tuple[int, ...]) -> dict[str, str]:
        """Dotted settings that have no effect on rows of this shape, (D,) or (C, H, W), and why."""
        inner = {name: getattr(self, name) for name in type(self).model_fields}
        groups = {name: group for name, group in inner.items() if isinstance(group, Settings)}
        return {f"{name}.{path}": why for name, group in groups.items() for path, why in group.idle(shape).items()}

    def completed(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Nested plain values: those given, and the others as they are here, but for those that lose their effect."""
        own = self.model_dump()
        for key, value in given.items():
            inner = getattr(self, key, None)
            own[key] = inner.completed(value) if isinstance(inner, Settings) and isinstance(value, Mapping) else value
        idle = [name for name in self._without_effect(own) if name not in given]
        return own | {name: type(self).model_fields[name].default for name in idle}


def public(uri: str) -> str:
    """The URI, if it holds no password: it will be written down."""
    if holds_secret(uri):
        raise ValueError("expected a URI without names and passwords: give those by the environment or a profile")
    return uri


class SettingsError(ValueError):
    """Settings that cannot be used; the message lists every problem, one a line."""


def _read(value: Any, field: FieldInfo) -> Any:
    kinds = (field.annotation, *get_args(field.annotation))
    reads_itself = any(isinstance(rule, BeforeValidator) for rule in field.metadata)
    several = not reads_itself and any(get_origin(kind) is tuple for kind in kinds)
    if not isinstance(value, str):  # a number in a file is a list of one, as it is on the command line
        return [value] if several and type(value) in (int, float) else value
    if value == "none" and type(None) in kinds and not any("none" in get_args(kind) for kind in kinds):
        return None
    return [part.strip() for part in value.split(",") if part.strip()] if several else value


def build(cls: type[T], values: Mapping[str, Any], *, at: str = "") -> T:
    """`cls` from nested plain `values`; `at` is the dotted path of `cls` inside the run's configuration.

    Raises SettingsError naming every unknown key (with the nearest known one) and every value out of range.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as problems:
        lines = [_explain(cls, problem, at) for problem in _of_their_own(problems.errors())]
        raise SettingsError("\n".join(lines)) from None


def _of_their_own(problems: Sequence[Any]) -> list[Any]:
    """Without those of lists that are too short only because pydantic does not count items with a problem."""
    inside = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
    return [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in inside]


def _explain(cls: type[Settings], problem: Any, at: str) -> str:
    path = ".".join(str(part) for part in problem["loc"])
    name = ".".join(part for part in (at, path) if part)
    if problem["type"] == "extra_forbidden":
        known = [".".join(part for part in (at, key) if part) for key, _ in fields(cls)]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        return f"{name}: no such setting; {hint}"
    if problem["type"] == "missing":
        needed = [pair for pair in fields(cls, at) if pair[0] == name or pair[0].startswith(f"{name}.")]
        told = {leaf: field.description or "" for leaf, field in needed if field.is_required()} or {name: ""}
        return "\n".join(" ".join(f"{leaf}: has to be given. {said}".split()) for leaf, said in told.items())
    if problem["type"] in ("too_short", "too_long"):
        end, least = ("at least", "min_length") if problem["type"] == "too_short" else ("at most", "max_length")
        message = f"expected {end} {problem['ctx'][least]}, got {problem['ctx']['actual_length']}"
        return f"{name}: {message}"
    message = problem["msg"].removeprefix("Value error, ")
    if not name:
        return redact(message)
    said = f", got {problem['input']!r}" if path and not isinstance(problem["input"], Mapping) else ""
    return redact(f"{name}: {message}{said}")


def fields(cls: type[Settings], at: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf setting of `cls` as (dotted path, field), in order of definition."""
    for path, field in _leaves(cls):
        yield f"{at}.{path}" if at else path, field


@cache  # asked for at every point of a search, and copying fields is slow
def _leaves(cls: type[Settings]) -> tuple[tuple[str, FieldInfo], ...]:
    found = list[tuple[str, FieldInfo]]()
    for key, field in cls.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            found += ((f"{key}.{leaf}", info) for leaf, info in _with_defaults(inner, field))
        else:
            found.append((key, field))
    return tuple(found)


def _with_defaults(inner: type[Settings], field: FieldInfo) -> Iterator[tuple[str, FieldInfo]]:
    """The leaves of a nested group, with the defaults that the owner gave it (a phase of DEC is not a bare Phase)."""
    given = field.get_default(call_default_factory=True) if not field.is_required() else None
    for leaf, info in _leaves(inner):
        value = given
        for part in leaf.split("."):
            value = getattr(value, part, None)
        if isinstance(given, Settings):
            info = FieldInfo.merge_field_infos(info, default=value)
        yield leaf, info


def described(cls: type[Settings], at: str = "") -> dict[str, str]:
    """Every leaf setting of `cls` by its dotted path, in order of definition: what it means, and [its default]."""
    return {path: f"{field.description or ''}{_default(field)}" for path, field in fields(cls, at)}


def _default(field: FieldInfo) -> str:
    return "" if field.is_required() else f" [{_plain(field.get_default(call_default_factory=True))}]"


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def differences(before: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str]) -> str:
    """What these settings were and are, the first five of them; without passwords."""
    shown = [f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in names[:SHOWN]]
    more = [f"{len(names) - SHOWN} others differ too"] if len(names) > SHOWN else []
    return redact(", ".join(shown + more))


def flatten(values: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; an empty group stays as it is."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{at}.{key}" if at else str(key)
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, path))
        else:
            flat[path] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}; raises SettingsError if a key is both a group and a value."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *groups, leaf = path.split(".")
        here = nested
        for group in groups:
            here = here.setdefault(group, {})
            if not isinstance(here, dict):
                raise SettingsError(f"{path}: {group} is a value already, so it cannot hold {leaf}")
        if isinstance(here.get(leaf), dict):
            raise SettingsError(f"{path}: is a group of settings, expected one of {', '.join(here[leaf])} inside it")
        here[leaf] = value
    return nested
