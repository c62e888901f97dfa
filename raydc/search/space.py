"""Search spaces: Python files with a function `space(trial)` that asks an Optuna trial for dotted settings.

Those of raydc (`raydc.search.spaces`) have names.

Where it has a second parameter without default, or one called `rows`, that tells of the rows (`Rows`). It returns
constants, of which `method.name` is needed unless the function suggests it. The first choice of a suggested
`method.name` is the method whose default configuration every search runs first.

The file runs in the driver alone. Other processes get the settings of a point, which are plain values, so nothing that
a space is made of needs to pickle.
"""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.machinery import ModuleSpec
from itertools import chain
from pathlib import Path
from types import MappingProxyType, ModuleType, NoneType
from typing import Any

import optuna

from raydc import methods
from raydc.core.registries import PluginError
from raydc.core.settings import Settings, SettingsError, build, fields, flatten, unflatten
from raydc.data.settings import DataSettings
from raydc.methods.base import Method
from raydc.search import spaces
from raydc.search.kinds import IMAGES, TABLE, Rows
from raydc.search.settings import SPACES
from raydc.training.config import Training

log = logging.getLogger("raydc")


Space = Callable[[Any, Rows], dict[str, Any] | None]
CHOICES = 24
"""Choices of a categorical setting that are checked, one by one; more where it has more."""
PACKAGE = "raydc_space"
"""What a space file's folder is called while the space works; the file itself is `MODULE`."""
MODULE = f"{PACKAGE}.__main__"
SCALARS = (NoneType, bool, int, float, str)
SAMPLES = 64
"""Random points of a space that are checked before anything starts, beside its corners."""
OTHERS: dict[str, type[Settings]] = {"data": DataSettings, "training": Training}
OF_TRAINING = ("training.batch_size", "training.precision")
"""Settings that have no effect where no network is trained."""
SEARCHABLE = {"training.batch_size", "data.scaling"}
"""Settings outside of the method that a space may suggest."""


def load_space(path: str | Path) -> Space:
    """The function `space` of a Python file, or the space of this name, raydc's or one that others added.

    What lies beside the file can be imported, by its own name or relatively. SettingsError where there is none.
    """
    file = spaces.file_of(str(path)) or Path(path)
    if file == Path(path) and str(path) in SPACES:
        return _added(str(path))
    if not file.is_file():
        beside = sorted(p.name for p in file.parent.glob("*.py")) if file.parent.is_dir() else []
        hint = f"; there are {', '.join(beside)}" if beside else ""
        named = ", ".join(dict.fromkeys([*spaces.names(), *SPACES.names()]))
        near = difflib.get_close_matches(file.stem, named.split(", "), n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"space: no file {path}{meant or hint}; spaces by name: {named}")
    spec = importlib.util.spec_from_file_location(MODULE, file.absolute())
    if spec is None or spec.loader is None:
        raise SettingsError(f"space: {path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    at_hand = nullcontext if file.parent == spaces.HERE else _Neighbours(file.absolute().parent, module).at_hand
    try:
        with at_hand():
            spec.loader.exec_module(module)
    except Exception as problem:  # somebody else's code
        raise SettingsError(f"space: {path} cannot be loaded: {_told(problem, file)}") from problem
    function = getattr(module, "space", None)
    if not callable(function):
        raise SettingsError(f"space: {path} defines no function space(trial)")
    return _guarded(function, str(path), file, at_hand)


def _added(name: str) -> Space:
    """A space that others added."""
    try:
        function = SPACES.load(name)
    except PluginError as problem:
        raise SettingsError(f"space: {problem}") from problem
    if not callable(function):
        raise SettingsError(f"space: {name!r}: expected a function space(trial), got {function!r}")
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # of an object that can be called
        file = None
    return _guarded(function, name, Path(file or name))


def written(path: str) -> str:
    """What a space's file holds; of one that others added, its name and the code of its function if there is any."""
    file = spaces.file_of(path)
    if file is not None or path not in SPACES:
        return (file or Path(path)).read_text(encoding="utf-8")
    try:
        return f"{path}\n{inspect.getsource(inspect.unwrap(SPACES.load(path)))}"
    except (OSError, TypeError):
        return path


def _guarded(
    function: Callable[..., dict[str, Any] | None],
    name: str,
    file: Path,
    at_hand: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Space:
    """A space as the search calls it: what it raises is a SettingsError that says in which line of its file."""
    takes_rows = _takes_rows(function)

    def space(trial: Any, rows: Rows) -> dict[str, Any] | None:
        try:
            with at_hand():
                return function(trial, rows) if takes_rows else function(trial)
        except (SettingsError, optuna.exceptions.StorageInternalError):
            raise
        except Exception as problem:
            raise SettingsError(f"space: {name}: {_told(problem, file)}") from problem

    return space


def space_of(method: str) -> Space:
    """The space of one method, for a space that chooses among methods: that of its name, else its defaults alone."""
    if method in spaces.names() or method in SPACES:
        return load_space(method)
    return lambda trial, rows: {"method.name": method}


class _Neighbours:
    """Modules of the folder of a space, imported as those beside a script are, and kept apart from all others.

    So spaces of one process may each have a `helper.py`, and a notebook's next search reads an edited one anew. The
    space's own module is among them, where dataclasses look for their annotations.
    """

    def __init__(self, folder: Path, space: ModuleType) -> None:
        package = ModuleType(PACKAGE)
        package.__path__ = [str(folder)]
        self.folder, self.modules = folder, {PACKAGE: package, MODULE: space}

    @contextmanager
    def at_hand(self) -> Iterator[None]:
        """For as long as this lasts, they can be imported, and those that were are there."""
        shadowed = self._own(self.modules)
        for name in shadowed:
            del sys.modules[name]
        there = set(sys.modules)
        sys.modules.update(self.modules)
        sys.path.insert(0, str(self.folder))
        importlib.invalidate_caches()  # of a folder that a file was just written to
        try:
            yield
        finally:
            sys.path.remove(str(self.folder))
            new = [name for name in sys.modules.keys() - there if self._beside(name, sys.modules[name])]
            self.modules = self._own([*self.modules, *new])
            for name in self.modules:
                del sys.modules[name]
            sys.modules.update(shadowed)

    def _own(self, names: Iterable[str]) -> dict[str, ModuleType]:
        """Loaded modules of the same top level as these."""
        tops = {_top(name) for name in names}
        below = tuple(f"{top}." for top in tops)
        found = [name for name in [*sys.modules] if name in tops or name.startswith(below)]
        return {name: sys.modules[name] for name in found}

    def _beside(self, name: str, module: ModuleType) -> bool:
        """Whether it is a module of the top level that lies in the folder."""
        spec = getattr(module, "__spec__", None)  # not all that stands in sys.modules is a module
        if name != _top(name) or not isinstance(spec, ModuleSpec):
            return False
        place = next(iter(spec.submodule_search_locations or ()), spec.origin)
        return place is not None and Path(place).parent == self.folder


def _top(name: str) -> str:
    return name.partition(".")[0]


def _takes_rows(function: Callable[..., Any]) -> bool:
    """Whether it has a second parameter for the rows; one with a default is the space's own."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = [each for each in inspect.signature(function).parameters.values() if each.kind in kinds]
    return any(second.default is second.empty or second.name == "rows" for second in places[1:2])


def _told(problem: Exception, file: Path) -> str:
    """What went wrong, and in which line of the file; a SyntaxError says that itself."""
    frames = traceback.extract_tb(problem.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file.resolve()]
    kind = "" if isinstance(problem, SyntaxError) else f"{type(problem).__name__}: "
    return f"line {lines[-1]}: {kind}{problem}" if lines else f"{kind}{problem}"


def suggest(
    space: Space,
    trial: Any,
    n_clusters: tuple[int, int],
    rows: Rows = TABLE,
    fixed: Mapping[str, Any] = MappingProxyType({}),
    began: Mapping[str, Sequence[Any]] = MappingProxyType({}),
) -> dict[str, Any]:
    """Dotted settings of one point: what `space` suggests and returns, and the number of clusters.

    Settings that are fixed are not asked for, and those that have no effect beside them are left out: nothing is learnt
    from values that nobody uses. `began` are choices that the study knows by Optuna's names.
    """
    captured = _Captor(trial, fixed, began)
    found = _told_by(space, captured, rows)
    if "method.name" in found:
        found["method.name"] = methods.full_name(str(found["method.name"]))
    low, high = n_clusters
    if "method.n_clusters" not in found and takes_clusters(found):
        k = captured.suggest_int("method.n_clusters", low, high, log=high >= 4 * low) if low < high else low
        found["method.n_clusters"] = k
    own = {name: value for name, value in found.items() if name not in fixed or name == "method.name"}
    lost = _idle(found | dict(fixed), rows.shape) - _idle(own, rows.shape) if fixed else set()
    return {name: value for name, value in found.items() if name not in lost}


def _idle(point: Mapping[str, Any], shape: tuple[int, ...]) -> set[str]:
    """Dotted settings without effect at this point, on rows of this shape."""
    kind = methods.load(str(point["method.name"]))
    config = build(kind.Config, unflatten(_of_config(kind, point)).get("method", {}), at="method")
    return {f"method.{path}" for path in config.idle(shape)}


def _of_config(kind: type[Method], settings: Mapping[str, Any]) -> dict[str, Any]:
    known = {path for path, _ in fields(kind.Config, "method")}
    return {path: value for path, value in settings.items() if path in known}


def _told_by(space: Space, captured: "_Captor", rows: Rows) -> dict[str, Any]:
    """Dotted settings that the space suggests and returns, as they are fixed where they are."""
    found: dict[str, Any] = {**(space(captured, rows) or {}), **captured.values}
    found |= {name: value for name, value in captured.fixed.items() if name in found}
    return {name: _plain(name, value) for name, value in found.items()}


def gives_clusters(space: Space) -> bool:
    """Whether the space says the number of clusters itself, for any of its methods."""
    lowest = (_Captor(corner) for corner in _choices(False))
    return any("method.n_clusters" in _told_by(space, corner, TABLE) for corner in lowest)


def method_choices(space: Space, rows: Rows) -> list[str]:
    """Methods among which the space suggests one, in its order; none where it does not suggest the method."""
    found: dict[str, None] = {}
    for corner in _choices(False):
        captured = _Captor(corner)
        _told_by(space, captured, rows)
        if "method.name" in captured.values:
            found[str(captured.values["method.name"])] = None
    return [*found]


def _plain(name: str, value: Any) -> Any:
    """The value as JSON keeps it, which every process and every record of a trial then has. SettingsError if it cannot.

    Numbers of numpy and torch become Python's, tuples lists, members of an enumeration of texts their texts.
    """
    try:
        return json.loads(json.dumps(value, default=lambda other: other.tolist()))
    except (TypeError, ValueError, AttributeError):
        raise SettingsError(
            f"space: {name}: expected a number, a text, true, false, none, or a list of such, "
            f"got {value!r} ({type(value).__name__})"
        ) from None


def known_choices(study: optuna.Study) -> dict[str, Sequence[Any]]:
    """Choices by the names that Optuna knows them by.

    A study never takes others. A space may give others when a search goes on: which methods can take the rows depends
    on the memory that is free.
    """
    asked = (trial.distributions.items() for trial in study.get_trials(deepcopy=False))
    return {name: each.choices for found in asked for name, each in found if hasattr(each, "choices")}


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

    def __init__(
        self,
        trial: Any,
        fixed: Mapping[str, Any] = MappingProxyType({}),
        began: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    ) -> None:
        self.trial, self.fixed, self.began = trial, fixed, began
        self.values: dict[str, Any] = {}

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
        return self._kept(name, lambda own: self.trial.suggest_float(own, low, high, **options))

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
        return self._kept(name, lambda own: self.trial.suggest_int(own, low, high, **options))

    def suggest_categorical(self, name: str, choices: Iterable[Any]) -> Any:
        """One of the choices. Optuna's storage keeps scalars alone: it knows a list by its text."""
        values = [_plain(name, choice) for choice in choices]
        labels = [value if isinstance(value, SCALARS) else json.dumps(value) for value in values]

        def ask(own: str) -> Any:
            found = self.trial.suggest_categorical(own, self.began.get(own, labels))
            return values[labels.index(found)] if found in labels else found

        return self._kept(name, ask)

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
        self.high, self.choice, self.most = high, choice, 0

    def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
        return float(high if self.high else low)

    def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
        return high if self.high else low

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.most = max(self.most, len(choices))
        return choices[self.choice % len(choices)]


def _choices(high: bool) -> Iterator[_Corner]:
    """The lowest or the highest of every number with the choices in turn, until each of those met was had."""
    choice, most = 0, CHOICES
    while choice < most:
        corner = _Corner(high, choice)
        yield corner
        choice, most = choice + 1, max(most, corner.most)


def _corners(rows: Sequence[Rows]) -> Iterator[tuple[_Corner, Rows]]:
    """These of each kind of rows."""
    return ((corner, one) for one in rows for high in (False, True) for corner in _choices(high))


def digest(space: Space, n_clusters: tuple[int, int]) -> str:
    """What the space gives at its corners, hashed: other where a file that the space takes values from is another."""
    points = [suggest(space, corner, n_clusters, rows) for corner, rows in _corners((TABLE, IMAGES))]
    return hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest()


def default_method(space: Space, rows: Rows = TABLE) -> str:
    """The method whose default configuration is the first trial of a search over such rows."""
    return str(suggest(space, _Corner(high=False), (2, 2), rows)["method.name"])


def method_settings(
    kind: type[Method], fixed: Mapping[str, Any], shape: tuple[int, ...] | None = None
) -> dict[str, Any]:
    """Those of the dotted settings that have an effect on the method, and on rows of this shape where that is known."""
    own = _of_config(kind, fixed)
    if shape is not None:
        config = build(kind.Config, unflatten(own).get("method", {}), at="method")
        idle = config.idle(shape)
        own = {key: value for key, value in own.items() if key.removeprefix("method.") not in idle}
    others = {key: value for key, value in fixed.items() if not key.startswith("method.")}
    return own | {key: value for key, value in others.items() if kind.trains or key not in OF_TRAINING}


def check_space(
    space: Space,
    n_clusters: tuple[int, int],
    fixed: Mapping[str, Any] = MappingProxyType({}),
    rows: Rows | None = None,
) -> list[str]:
    """Names that the space suggests, after checking its corners and random points, with what is fixed.

    SettingsError for an unknown setting (with the nearest known one), a value out of range, one that has no effect (on
    these rows, where they are known), or nothing to suggest.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    optuna.logging.set_verbosity(verbosity)
    names: dict[str, None] = {}
    corners = _corners((TABLE, IMAGES) if rows is None else (rows,))
    for trial, one in chain(corners, ((study.ask(), rows or IMAGES) for _ in range(SAMPLES))):
        captor = _Captor(trial)
        try:
            point = suggest(space, captor, n_clusters, one, fixed)
        except (TypeError, ValueError) as problem:
            raise problem if isinstance(problem, SettingsError) else SettingsError(f"space: {problem}") from problem
        kind = methods.load(str(point["method.name"]))
        own = {
            key: value for key, value in method_settings(kind, fixed, one.shape).items() if key.startswith("method.")
        }
        check_point(point | own, None if rows is None else one.shape)
        names |= dict.fromkeys(name for name in captor.values if name not in fixed)
    if not names:
        raise SettingsError("space: it suggests nothing, so there is nothing to search; use raydc train instead")
    return [*names]


def check_point(point: Mapping[str, Any], shape: tuple[int, ...] | None = None) -> None:
    """SettingsError, by name, for settings that do not exist, are out of range, or have no effect (on such rows)."""
    kind = methods.load(str(point["method.name"]))
    rest = {key: value for key, value in point.items() if key != "method.name"}
    nested = unflatten(rest)
    problems = []
    try:
        config = build(kind.Config, nested.pop("method", {}), at="method")
        if shape is not None:
            kind.check_settings(config, shape)
    except SettingsError as problem:
        problems.append(str(problem))
    for key, value in flatten(nested).items():
        section, _, name = key.partition(".")
        if key not in SEARCHABLE:
            problems.append(f"{key}: a space may suggest method.* and {', '.join(sorted(SEARCHABLE))}")
            continue
        if key in OF_TRAINING and not kind.trains:
            problems.append(f"{key}: has no effect on {point['method.name']}, which trains no network")
            continue
        try:
            build(OTHERS[section], {"path": "", name: value} if section == "data" else {name: value}, at=section)
        except SettingsError as problem:
            problems.append(str(problem))
    if problems:
        raise SettingsError("\n".join(f"space: {line}" for problem in problems for line in problem.split("\n")))
