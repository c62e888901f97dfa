"""Search spaces: Python files with a function `space(trial)` that asks an Optuna trial for dotted settings.

Where it has a second parameter, that tells of the rows (`Rows`). It returns constants, of which `method.name` is needed
unless the function suggests it. The first choice of a suggested `method.name` is the method whose default configuration
every search runs first.
"""

import importlib.util
import inspect
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import optuna

from raydc import methods
from raydc.config import Training
from raydc.data.settings import DataSettings
from raydc.methods.base import Method
from raydc.settings import Settings, SettingsError, build, fields, flatten, unflatten


class Rows(NamedTuple):
    """What a space may want to know of the rows."""

    number: int
    shape: tuple[int, ...]
    """Of a row: (D,) or (C, H, W)."""


TABLE, IMAGES = Rows(1000, (16,)), Rows(1000, (1, 16, 16))
"""Rows for which a space is checked before any are read."""
Space = Callable[[Any, Rows], dict[str, Any] | None]
SAMPLES = 64
"""Random points of a space that are checked before anything starts, beside its corners."""
OTHERS: dict[str, type[Settings]] = {"data": DataSettings, "training": Training}
SEARCHABLE = {"training.batch_size", "data.scaling"}
"""Settings outside of the method that a space may suggest."""


def load_space(path: str | Path) -> Space:
    """The function `space` of a Python file. SettingsError if there is none."""
    file = Path(path)
    if not file.is_file():
        beside = sorted(p.name for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        hint = f"; there are {', '.join(beside)}" if beside else ""
        raise SettingsError(f"space: no file {path}{hint}")
    spec = importlib.util.spec_from_file_location(f"raydc_space_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise SettingsError(f"space: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as problem:  # somebody else's code
        raise SettingsError(f"space: {path} cannot be loaded: {_told(problem, file)}") from problem
    function = getattr(module, "space", None)
    if not callable(function):
        raise SettingsError(f"space: {path} defines no function space(trial)")
    takes_rows = len(inspect.signature(function).parameters) > 1

    def space(trial: Any, rows: Rows) -> dict[str, Any] | None:
        try:
            return function(trial, rows) if takes_rows else function(trial)
        except (SettingsError, optuna.exceptions.StorageInternalError):
            raise
        except Exception as problem:
            raise SettingsError(f"space: {path}: {_told(problem, file)}") from problem

    return space


def _told(problem: Exception, file: Path) -> str:
    """What went wrong, and in which line of the file; a SyntaxError says that itself."""
    frames = traceback.extract_tb(problem.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    kind = "" if isinstance(problem, SyntaxError) else f"{type(problem).__name__}: "
    return f"line {lines[-1]}: {kind}{problem}" if lines else f"{kind}{problem}"


def methods_for(rows: Rows) -> list[str]:
    """Methods that can take such rows; those whose networks are made for images only where rows are images."""
    able = []
    for name in methods.available():
        kind = methods.load(name)
        try:
            if len(rows.shape) == 3 or not (kind.needs_image or kind.card.architecture in ("CNN", "GAN")):
                kind(kind.Config(), rows.shape).check(rows.number)
                able.append(name)
        except ValueError:  # it says which number is too large
            continue
    return able


def suggest(
    space: Space,
    trial: Any,
    n_clusters: tuple[int, int],
    rows: Rows = TABLE,
    fixed: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Dotted settings of one point: what `space` suggests and returns, and the number of clusters.

    Settings that are fixed are not asked for: nothing is learnt from values that nobody uses.
    """
    captured = _Captor(trial, fixed)
    constants = space(captured, rows) or {}
    low, high = n_clusters
    found: dict[str, Any] = {**constants, **captured.values}
    if "method.n_clusters" not in found and takes_clusters(found):
        k = captured.suggest_int("method.n_clusters", low, high, log=high >= 4 * low) if low < high else low
        found["method.n_clusters"] = k
    return found


def takes_clusters(point: Mapping[str, Any]) -> bool:
    """Whether the point's method is told the number of clusters; some find it."""
    if "method.name" not in point:
        raise SettingsError('space: no method.name; return {"method.name": "dec"}, or suggest it')
    return not methods.load(str(point["method.name"])).finds_clusters()


class _Captor:
    """A trial that remembers what it was asked for.

    Once a method is suggested, Optuna knows its settings by names of their own: another method's setting of the same
    name has another range, and another meaning.
    """

    def __init__(self, trial: Any, fixed: Mapping[str, Any] = MappingProxyType({})) -> None:
        self.trial, self.fixed = trial, fixed
        self.values: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
        return self._kept(name, lambda own: self.trial.suggest_float(own, low, high, **options))

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
        return self._kept(name, lambda own: self.trial.suggest_int(own, low, high, **options))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._kept(name, lambda own: self.trial.suggest_categorical(own, choices))

    def __getattr__(self, name: str) -> Any:
        """A point depends on nothing but the answers, so that a search that goes on finds it again."""
        raise AttributeError(f"trial.{name}: a space may ask suggest_float, suggest_int and suggest_categorical alone")

    def _kept(self, name: str, ask: Callable[[str], Any]) -> Any:
        method = self.values.get("method.name")
        own = f"{method}: {name}" if method and name != "method.n_clusters" else name
        self.values[name] = self.fixed[name] if name in self.fixed else ask(own)
        return self.values[name]


class _Corner:
    """A trial that answers with the lowest or the highest value of everything, but for one choice."""

    def __init__(self, high: bool, choice: int = 0) -> None:
        self.high, self.choice = high, choice

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
        return float(high if self.high else low)

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
        return high if self.high else low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[self.choice % len(choices)]


def default_method(space: Space) -> str:
    """The method whose default configuration is the search's first trial."""
    return str(suggest(space, _Corner(high=False), (2, 2))["method.name"])


def method_settings(kind: type[Method], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the dotted settings that the method has, or that belong to another group."""
    known = {path for path, _ in fields(kind.Config, "method")}
    return {key: value for key, value in fixed.items() if not key.startswith("method.") or key in known}


def check_space(space: Space, n_clusters: tuple[int, int]) -> list[str]:
    """Names that the space suggests, after checking its corners and random points.

    SettingsError for an unknown setting (with the nearest known one), a value out of range, or nothing to suggest.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(verbosity)
    corners = [
        (_Corner(high, choice), rows) for high in (False, True) for choice in range(24) for rows in (TABLE, IMAGES)
    ]
    names: dict[str, None] = {}
    for trial, rows in [*corners, *((study.ask(), IMAGES) for _ in range(SAMPLES))]:
        captor = _Captor(trial)
        try:
            point = suggest(space, captor, n_clusters, rows)
        except (TypeError, ValueError) as problem:
            raise problem if isinstance(problem, SettingsError) else SettingsError(f"space: {problem}") from problem
        check_point(point)
        names |= dict.fromkeys(captor.values)
    if not names:
        raise SettingsError("space: it suggests nothing, so there is nothing to search; use raydc train instead")
    return [*names]


def check_point(point: Mapping[str, Any]) -> None:
    """SettingsError, by name, for settings that do not exist or are out of range."""
    kind = methods.load(str(point["method.name"]))
    rest = {key: value for key, value in point.items() if key != "method.name"}
    nested = unflatten(rest)
    problems = []
    try:
        build(kind.Config, nested.pop("method", {}), at="method")
    except SettingsError as problem:
        problems.append(str(problem))
    for key, value in flatten(nested).items():
        section, _, name = key.partition(".")
        if key not in SEARCHABLE:
            problems.append(f"{key}: a space may suggest method.* and {', '.join(sorted(SEARCHABLE))}")
            continue
        try:
            build(OTHERS[section], {"path": "", name: value} if section == "data" else {name: value}, at=section)
        except SettingsError as problem:
            problems.append(str(problem))
    if problems:
        raise SettingsError("\n".join(f"space: {line}" for problem in problems for line in problem.split("\n")))
