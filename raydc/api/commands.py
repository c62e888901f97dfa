"""The commands as functions: what `raydc train`, `tune` and `assign` do, with results to go on with.

Settings have the dotted names that they have everywhere. Arguments of the functions are the short forms of the most
frequent ones; the others go into `settings`.
"""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raydc.core.settings import SettingsError, build, flatten, unflatten
from raydc.data.settings import DataSettings
from raydc.pipelines import assign as assignment
from raydc.pipelines import embed as embedding
from raydc.pipelines import watch as watching
from raydc.pipelines.train import train_and_record
from raydc.search import SearchWatch, TuneSettings, tune_and_record
from raydc.tracking import registry
from raydc.training.config import RunConfig
from raydc.training.labels import Asked
from raydc.training.model import ClusteringModel

if TYPE_CHECKING:
    import pandas as pd

    from raydc.training.loop import Progress
    from raydc.training.worker_job import Job

Place = str | PathLike[str]
Settings = Mapping[str, Any]
"""Dotted settings, such as {"method.network.latent": 5, "training.device": "cpu"}; nested ones are taken, too."""
log = logging.getLogger("raydc")


class _Assigned:
    """Assignments in a directory."""

    assignments: str

    def table(self) -> "pd.DataFrame":
        """All rows that were assigned, in the order of the data: row, id, cluster, and how far each can be trusted."""
        import pyarrow as pa

        return pa.concat_tables(assignment.read(self.assignments)).sort_by("row").to_pandas()

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Cluster of each row [n], in the order of the data, without those that were dropped."""
        return self.table()["cluster"].to_numpy(np.int64)


@dataclass(frozen=True)
class Result(_Assigned):
    """A finished run or search, as its output directory holds it."""

    out: str
    """Its output directory."""
    summary: dict[str, Any]
    """What summary.json, or of a search search.json, holds: sizes, measures, verdict, notes."""
    paths: dict[str, str]
    """Where everything is, also in MLflow; `registered as` is the model's name and version, if it has any."""
    method: str
    """The name of the model's method."""

    @property
    def assignments(self) -> str:  # type: ignore[override]
        return f"{self.out}/assignments"

    @property
    def report(self) -> str:
        """The page to look at."""
        return f"{self.out}/report/index.html"

    @cached_property
    def model(self) -> ClusteringModel:
        """The trained model, which assigns new rows."""
        return registry.load(self.out, allow_code=[self.method])

    @property
    def n_clusters(self) -> int:
        return self.model.n_clusters


@dataclass(frozen=True)
class Assignment(_Assigned):
    """Rows that were assigned to the clusters of a model."""

    assignments: str
    """The directory that holds them, as Parquet."""
    summary: dict[str, Any]
    """What they came to."""


def train(
    data: Place,
    method: str = "dec",
    n_clusters: int | None = None,
    *,
    out: Place,
    label_column: str | None = None,
    encoder: str | None = None,
    workers: int | str | None = None,
    seed: int | None = None,
    register_as: str | None = None,
    tracking_uri: str | None = None,
    settings: Settings | None = None,
) -> Result:
    """Train a method on rows, draw the report, and record and register the model, as `raydc train` does.

    With `workers` 0 it works in this process, else under Ray; an `encoder` makes vectors of texts or pictures first, as
    `embed` does, and the model takes these raw; what is None has the command's default. Called again with the same
    `out`, it repeats nothing, and goes on with what was interrupted. Raises SettingsError or DataError before any work,
    and as `raydc.pipelines.train.train_and_record` does.
    """
    short = {
        "data.path": _place("data", data),
        "data.label_column": label_column,
        "data.encoder": encoder,
        "method.name": method,
        "method.n_clusters": n_clusters,
        "training.workers": workers,
        "training.seed": seed,
        "output.out": _place("out", out),
        "output.register_as": register_as,
        "output.tracking_uri": tracking_uri,
    }
    config = RunConfig.of(_together(short, settings))
    view = _Logged()
    summary = train_and_record(config, view)
    return Result(view.paths["output"], summary, view.paths, config.method_name)


def tune(
    data: Place,
    space: Place = "any",
    n_clusters: int | tuple[int, int] | str | None = None,
    *,
    out: Place,
    encoder: str | None = None,
    trials: int | None = None,
    concurrent: int | None = None,
    criterion: str | None = None,
    time_budget: float | str | None = None,
    seed: int | None = None,
    register_as: str | None = None,
    tracking_uri: str | None = None,
    fixed: Settings | None = None,
    settings: Settings | None = None,
) -> Result:
    """Search a method's settings without labels, and record and register the winner, as `raydc tune` does.

    `n_clusters` is a number or a range (2, 30); an `encoder` is as in `train`; `fixed` are settings that every trial
    has; with `concurrent` 0 it works in this process, else under Ray; what is None has the command's default. Called
    again with the same `out`, it repeats nothing. Raises as `raydc.search.tune_and_record` does.
    """
    short = {
        "data.path": _place("data", data),
        "data.encoder": encoder,
        "space": _place("space", space),
        "n_clusters": n_clusters,
        "out": _place("out", out),
        "trials": trials,
        "concurrent": concurrent,
        "criterion": criterion,
        "time_budget": time_budget,
        "seed": seed,
        "register_as": register_as,
        "tracking_uri": tracking_uri,
    }
    values = _together(short, settings) | ({} if fixed is None else {"fixed": flatten(fixed)})
    summary, paths = tune_and_record(build(TuneSettings, values), SearchWatch(note=_note))
    return Result(paths["output"], summary, paths, summary["winner"]["method"])


def embed(
    data: Place, encoder: str, out: Place, *, workers: int = 0, settings: Settings | None = None
) -> dict[str, Any]:
    """Make a vector of each text or picture by a frozen network, as `raydc embed` does: Parquet in `out`.

    What it came to: `rows`, their `width`, how many were `dropped`, `by` which encoder. `out` is then `data` for
    `train` and `tune`, whose models take the raw rows again. `encoder` is a name such as "wordllama" or
    "efficientnet-lite0", or module:NAME of your own. Raises as `raydc.pipelines.embed.embed` does.
    """
    values = _together({"data.path": _place("data", data), "data.encoder": encoder}, settings)
    for name in values.keys() - {"data"}:
        raise SettingsError(f"{name}: embed takes settings of data alone")
    return embedding.embed(build(DataSettings, values["data"], at="data"), _place("out", out), workers)


def assign(
    model: Place,
    data: Place,
    out: Place,
    *,
    level: int | None = None,
    outliers: float | None = None,
    workers: int = 0,
    allow_code: Collection[str] = (),
    tracking_uri: str | None = None,
    settings: Settings | None = None,
) -> Assignment:
    """Assign rows to the clusters of a model, as `raydc assign` does: Parquet in `out`.

    `level` cuts the model's tree to as many clusters; `outliers` is the share of the training rows beyond which a row
    is labelled -1. `model` is models:/NAME@champion or the like, a run's output directory, or a model's folder. Raises
    as `raydc.pipelines.assign.assign` does.
    """
    values = _together({"data.path": _place("data", data)}, settings)
    for name in values.keys() - {"data"}:
        raise SettingsError(f"{name}: assign takes settings of data alone")
    place = _place("out", out)
    summary = assignment.assign(
        _place("model", model),
        build(DataSettings, values["data"], at="data"),
        place,
        workers=workers,
        tracking_uri=tracking_uri,
        allow_code=allow_code,
        asked=Asked(level, outliers),
    )
    return Assignment(place, summary)


def watch(
    model: Place,
    data: Place,
    out: Place,
    *,
    workers: int = 0,
    allow_code: Collection[str] = (),
    tracking_uri: str | None = None,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """Compare rows with those that a model was trained on, as `raydc watch` does; what watch.json holds.

    `drifted` says whether they differ, `said` in what, and `checks` has every comparison. Raises as
    `raydc.pipelines.watch.watch` does.
    """
    values = _together({"data.path": _place("data", data)}, settings)
    for name in values.keys() - {"data"}:
        raise SettingsError(f"{name}: watch takes settings of data alone")
    return watching.watch(
        _place("model", model),
        build(DataSettings, values["data"], at="data"),
        _place("out", out),
        workers=workers,
        tracking_uri=tracking_uri,
        allow_code=allow_code,
    )


def load(model: Place, *, tracking_uri: str | None = None, allow_code: Collection[str] = ()) -> ClusteringModel:
    """The model of models:/NAME@champion or the like, of a run's output directory, or of a model's folder.

    It assigns rows: arrays, or tables with the columns that it was trained on. Raises RegistryError or ModelError.
    """
    return registry.load(_place("model", model), tracking_uri, allow_code)


class _Logged:
    """Shows a run by the log "raydc" alone, and keeps where everything is."""

    def __init__(self) -> None:
        self.paths: dict[str, str] = {}

    def start(self, job: "Job", phases: dict[str, int]) -> None:
        """Nothing: the plan is the command line's."""

    def progress(self, progress: "Progress") -> None:
        log.debug("%s", progress)

    def note(self, text: str) -> None:
        _note(text)

    def finish(self, summary: dict[str, Any], paths: dict[str, str]) -> None:
        self.paths = dict(paths)


def _note(text: str) -> None:
    log.info("%s", text)


def _place(name: str, value: Place) -> str:
    """A path or URI as text. SettingsError where it is neither."""
    try:
        return fspath(value)
    except TypeError:
        hint = "; save an array as .npy, or take DeepClustering, which works on arrays" if name == "data" else ""
        raise SettingsError(f"{name}: expected a path or a URI, got {type(value).__name__}{hint}") from None


def _together(short: Settings, settings: Settings | None) -> dict[str, Any]:
    """Nested settings: those of the arguments that are given, and the others. SettingsError for one given twice."""
    given = {name: value for name, value in short.items() if value is not None}
    others = flatten(settings or {})
    for name in given.keys() & others.keys():
        raise SettingsError(f"{name}: is given twice, as an argument and in settings")
    return unflatten(others | given)
