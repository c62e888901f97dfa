"""What is fixed for a whole search: the rows that every trial is scored on, and the graph of their neighbours."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from raydc import methods
from raydc.clustering.metrics import graph
from raydc.core.registries import Registered, registered
from raydc.core.settings import unflatten
from raydc.core.source_file import SourceFile, loaded
from raydc.core.storage import Store
from raydc.data import (
    DataError,
    DataProfile,
    DataSettings,
    RowBlock,
    Scaling,
    ScalingKind,
    Source,
    open_source,
    opened,
    profile_rows,
    read_group,
    units,
)
from raydc.data.source import dense
from raydc.distributed import ray_cluster
from raydc.search.kinds import Kind, Rows, kind_of
from raydc.search.opponents import GRAPH_OPPONENTS, OPPONENTS, Proposal, proposals
from raydc.search.reference import Reference, of_embedding, of_rows
from raydc.search.settings import TuneSettings
from raydc.search.space import method_settings
from raydc.training.config import RunConfig
from raydc.training.loop import seed_of
from raydc.training.worker_job import Job

Labels = NDArray[np.int64]
ROWS_OF_A_CLUSTER = 10
"""Rows for each of the most clusters that are tried where nobody gives a number."""
CURVE = 32
"""Numbers of clusters, evenly spaced in their logarithm, for which raw k-means is tried first."""


@dataclass(frozen=True)
class Task:
    """One training: of a trial (replica 0), or of one of its replicas."""

    number: int
    replica: int
    point: dict[str, Any]
    """Dotted settings, with `method.name`, of the method that is trained."""

    @property
    def folder(self) -> str:
        return f"trials/{self.number:04d}" + (f"/replica-{self.replica}" if self.replica else "")


@dataclass(frozen=True)
class Context:
    code: tuple[SourceFile | Registered, ...]
    """Files of methods that the space may name, and what this process registered; first, so that a process that gets
    them has their modules."""
    settings: TuneSettings
    """With absolute paths."""
    profile: DataProfile
    shape: tuple[int, ...]
    columns: tuple[str, ...]
    id_column: str | None
    chosen: NDArray[np.int64]
    """Positions of the evaluation rows among all that are used."""
    rows: NDArray[Any]
    """[n, D], the evaluation rows as stored."""
    ids: NDArray[Any]
    """[n], theirs."""
    space: Reference
    """Where neighbours count, and their graph."""
    scalings: Mapping[ScalingKind, ScalingKind]
    """What suits these rows in place of a method's usual scaling."""
    kind: Kind
    """What the rows are."""

    @property
    def store(self) -> Store:
        return Store(self.settings.out)

    @property
    def about(self) -> Rows:
        """What a space is told of the rows."""
        return Rows(self.profile.rows, self.shape, self.kind)

    @property
    def numbers(self) -> NDArray[np.int64]:
        """[n], positions of the evaluation rows in the data."""
        return self.profile.positions(self.chosen)

    @property
    def reference(self) -> NDArray[np.float32]:
        """[n, F], the evaluation rows in the space in which neighbours count."""
        return self.space.rows

    @property
    def graph(self) -> graph.NeighbourGraph:
        """Of neighbours in that space."""
        return self.space.graph

    @property
    def reference_name(self) -> str:
        """Which space that is, with a hash: scores of another space are not comparable."""
        return units.space_named(self.space.name, self.reference)

    @property
    def reference_digest(self) -> str:
        return hashlib.sha256(self.reference.tobytes()).hexdigest()[:16]

    def seed(self, task: Task, what: str) -> int:
        return seed_of(self.settings.seed, what, task.number, task.replica) % 2**31

    def kept(self, task: Task) -> NDArray[np.bool_]:
        """[N] rows that this task is trained on: all, or a replica's own subsample."""
        keep = np.ones(self.profile.rows, bool)
        if task.replica:
            rng = np.random.default_rng(self.seed(task, "subsample"))
            out = round((1 - self.settings.subsample) * len(keep))
            keep[rng.choice(len(keep), out, replace=False)] = False
        return keep

    def job(self, task: Task) -> Job:
        """What a task trains. As `planned`; raises RowsChanged where the rows are no longer those that were checked."""
        planned, settings = self.planned(task), self.settings
        alone = settings.workers_per_trial == 1
        return replace(planned, source=opened(settings.data, self.profile.fingerprint)) if alone else planned

    def planned(self, task: Task) -> Job:
        """What a task trains, without its rows.

        Raises SettingsError or DataError where its method cannot take these.
        """
        settings, store = self.settings, self.store / task.folder
        kind = methods.load(str(task.point["method.name"]))
        chosen = task.point | method_settings(kind, settings.settled, self.shape)
        values = unflatten({key: value for key, value in chosen.items() if not key.startswith("data.")})
        workers = settings.workers_per_trial
        training = {"seed": self.seed(task, "training"), "workers": 0 if workers == 1 else workers}
        asked = chosen.get("data.scaling", settings.data.scaling)
        scaling = self.scalings.get(kind.scaling, kind.scaling) if asked == "auto" else asked
        values["data"] = settings.data.model_copy(update={"scaling": scaling}).model_dump()
        values["training"] = values.get("training", {}) | training
        values["output"] = {"out": (store / "run").root}
        config = RunConfig.of(values)
        data = config.data.with_encoding(settings.data.encoding)
        config = replace(config, method=kind.settled(config.method, self.shape), data=data)
        found = subsample(self.profile, self.kept(task)) if task.replica else self.profile
        scaled = Scaling.of(scaling, self.profile)
        job = Job(config, found, scaled, self.shape, self.columns, self.id_column)
        job.checked(here=settings.concurrent == 0 or not ray_cluster.joined())
        return job

    def check_method(self, name: str) -> None:
        """DataError or SettingsError where the method, with which the search begins, cannot take these rows."""
        clusters = {} if methods.load(name).finds_clusters() else {"method.n_clusters": self.settings.n_clusters[0]}
        self.planned(Task(0, 0, {"method.name": name, **clusters}))


def prepare(settings: TuneSettings, profiled: Callable[[Source, DataSettings], DataProfile] = profile_rows) -> Context:
    """Open and profile the rows, and build the neighbour graph. DataError says what is wrong with them."""
    source = open_source(settings.data)
    found = profiled(source, source.settings)
    trained = round(found.rows * settings.subsample)
    if "n_clusters" not in settings.model_fields_set:
        most = max(2, min(settings.n_clusters[1], min(trained, settings.evaluation_rows) // ROWS_OF_A_CLUSTER))
        settings = settings.model_copy(update={"n_clusters": (2, most)})
    most = settings.n_clusters[1]
    if trained < most:
        raise DataError(f"{found.rows} rows, of which replicas take {trained}, cannot form {most} clusters")
    chosen = graph.drawn_rows(found.rows, settings.evaluation_rows, seed_of(settings.seed, "evaluation rows"))
    if len(chosen) < most:
        raise DataError(
            f"{len(chosen)} evaluation rows cannot form {most} clusters; take more of them (evaluation_rows), or fewer "
            "clusters"
        )
    rows, ids = stored_rows(source, found, chosen)
    seed = seed_of(settings.seed, "views")
    if settings.reference is None:
        scaling = units.reference(found, source)
        space = of_rows(scaling.apply(rows).numpy(), rows, scaling.kind, settings.neighbours, seed)
    else:
        given = _embedding(settings.reference, found.rows, chosen)
        space = of_embedding(given, settings.reference, settings.neighbours, seed)
    settings = settings.model_copy(update={"data": source.settings, "out": Store(settings.out).root})
    scalings = {usual: units.suited("auto", usual, found, source) for usual in units.APART}
    asked = settings.data.scaling
    told = units.remarks(asked, scalings["power"] if asked == "auto" else asked, found, source)
    found = replace(found, notes=(*found.notes, *told, *space.warnings))
    read = (source.shape, tuple(source.columns), source.identified)
    return Context(
        (*loaded(), *registered()), settings, found, *read, chosen, rows, ids, space, scalings, kind_of(source, rows)
    )


def stored_rows(source: Source, found: DataProfile, chosen: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows [n, D] at these ascending positions, as stored, and their ids, reading only the groups that hold them."""
    parts, ids = [], []
    for group in found.groups:
        inside = chosen[(chosen >= group.start) & (chosen < group.stop)] - group.start
        if len(inside):
            block = read_group(source, found, group)
            parts.append(dense(block.x[inside]))
            ids.append(np.asarray(block.ids)[inside])
    return np.concatenate(parts), np.concatenate(ids)


def subsample(found: DataProfile, keep: NDArray[np.bool_]) -> DataProfile:
    """The profile of those rows [N] that are kept; its statistics stay those of all rows."""
    numbers = found.positions(np.arange(found.rows))
    groups: list[RowBlock] = []
    pieces, checksums, at = [], [], 0
    for group in found.groups:
        n = int(keep[group.start : group.stop].sum())
        if n:
            groups.append(RowBlock(len(groups), at, at + n))
            pieces.append(found.pieces[group.id])
            checksums.append(found.checksums[group.id])
            at += n
    dropped = np.sort(np.concatenate([found.dropped_rows, numbers[~keep]]))
    return replace(
        found, rows=at, groups=tuple(groups), pieces=tuple(pieces), checksums=tuple(checksums), dropped_rows=dropped
    )


def kmeans_curve(context: Context) -> dict[int, float]:
    """Stage-one score of raw k-means on the evaluation rows by number of clusters.

    Of every number where there are few, else of some, and of those between the best and the next ones.
    """
    low, high = context.settings.n_clusters
    numbers = range(low, high + 1)
    tried = numbers if len(numbers) <= CURVE else np.geomspace(low, high, CURVE).round().astype(int).tolist()
    curve: dict[int, float] = {}
    while tried:
        curve |= {
            k: graph.neighbour_score(plain_kmeans(context.reference, k, 0), context.graph) for k in dict.fromkeys(tried)
        }
        tried = halfway(curve)
    return dict(sorted(curve.items()))


def halfway(curve: Mapping[int, float]) -> list[int]:
    """Numbers of clusters halfway between the best one and the next ones tried; none where those are its neighbours."""
    tried = sorted(curve)
    at = tried.index(max(tried, key=lambda k: curve[k]))
    middle = ((one + other) // 2 for one, other in pairwise(tried[max(at - 1, 0) : at + 2]))
    return [k for k in middle if k not in curve]


def plain_kmeans(rows: NDArray[Any], n_clusters: int, seed: int) -> Labels:
    """Labels [N] of scikit-learn's k-means."""
    return KMeans(n_clusters, n_init=3, random_state=seed).fit_predict(rows).astype(np.int64)


def leiden_proposals(context: Context) -> list[Proposal]:
    """Partitions that Leiden proposes, the best first; of a number of clusters that is free."""
    low, high = context.settings.n_clusters
    return proposals(context.graph, (low, high), seed_of(context.settings.seed, "leiden") % 2**31) if low < high else []


def baselines(context: Context, default: str, curve: Mapping[int, float]) -> list[dict[str, Any]]:
    """The trials that every search runs first, whatever its space: points by dotted settings.

    Where the number of clusters is free, they take the one that suits raw k-means best, and the opponents that follow
    the graph the one that Leiden proposes.
    """
    suits = max(curve, key=lambda n: curve[n])
    proposes = next((one.n_clusters for one in leiden_proposals(context)), suits)
    numbers = dict.fromkeys([default, "kmeans", "ae_kmeans", *OPPONENTS], suits)
    numbers |= dict.fromkeys(GRAPH_OPPONENTS, proposes)
    free = [name for name in numbers if methods.load(name).finds_clusters()]
    seen = {name: _seen_by(context, name) for name in numbers if name in OPPONENTS}
    return [
        {"method.name": n} | ({} if n in free else {"method.n_clusters": k}) | seen.get(n, {})
        for n, k in numbers.items()
    ]


def _seen_by(context: Context, opponent: str) -> dict[str, Any]:
    """Where an opponent sees the rows: as the scores do, unless the user gave an embedding."""
    view = {} if context.settings.reference else {"method.view": context.space.chosen.view.name}
    return view | ({"method.neighbours": context.settings.neighbours} if opponent in GRAPH_OPPONENTS else {})


def _embedding(path: str, rows: int, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """The chosen rows [n, F] of a file, which is not read whole."""
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise DataError(f"reference: {path} cannot be read as a .npy file: {problem}") from problem
    if not isinstance(values, np.ndarray) or values.ndim != 2 or len(values) != rows or values.dtype.kind not in "fiu":
        what = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "an archive"
        raise DataError(f"reference: expected numbers [{rows}, F], one row for each row that is used, got {what}")
    found = np.array(values[chosen], np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"reference: {path} holds values that are not finite")
    return found
