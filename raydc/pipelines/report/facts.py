"""What a report shows, gathered from a run's files and a sample of its rows."""

import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from raydc.core.nouns import counted
from raydc.core.settings import build
from raydc.core.storage import Store
from raydc.data import DataError, DataSettings, Source, open_source
from raydc.data.described import Described, describe
from raydc.data.sample import spaced_rows
from raydc.pipelines.report import words
from raydc.training.model import TRUST, ClusteringModel

SAMPLE = 5000
"""Rows that pictures show, at most."""
LOOKED, VALUES = 4, 2**26
"""Rows that are looked at for each one that the interactive page shows, where there are more; and values in them, at
most."""
UMAP_ROWS = 20_000
"""Rows up to which UMAP takes no minutes."""


@dataclass(frozen=True)
class Sample:
    """Some of a run's rows, with what became of them."""

    rows: NDArray[Any]
    """[n, D], as stored."""
    ids: NDArray[Any]
    labels: NDArray[np.int64]
    membership: NDArray[np.float32]
    """Largest membership; NaN where the method defines none."""
    distance: NDArray[np.float32]
    """Share of the cluster's training rows that are nearer to a centre."""
    initial: NDArray[np.int64] | None
    """Labels when clustering began."""
    embedding: NDArray[np.float32] | None
    """[n, D]; None where the method embeds no rows alone."""
    agreement: NDArray[np.float32]
    """Share of the model's replicas; NaN where it has none."""
    described: Described
    """The rows as people know them."""

    @property
    def space(self) -> NDArray[Any]:
        """Where rows lie [n, D]: in the embedding, where there is one."""
        return self.rows if self.embedding is None else self.embedding

    def take(self, which: NDArray[np.int64]) -> "Sample":
        """The rows at these positions."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        found: dict[str, Any] = {
            name: None if values is None else taken(values, which) for name, values in given.items()
        }
        return Sample(**found)

    def thinned(self, most: int) -> "Sample":
        """At most so many rows, evenly spaced."""
        return self.take(
            np.unique(np.linspace(0, len(self.rows) - 1, min(most, len(self.rows))).round().astype(np.int64))
        )


def taken(values: Any, which: NDArray[np.int64]) -> Any:
    """Rows of what has one of each."""
    return values.take(which) if isinstance(values, Described) else values[which]


@dataclass(frozen=True)
class Facts:
    """All that is drawn and written."""

    title: str
    model: ClusteringModel
    settings: Mapping[str, Any]
    summary: Mapping[str, Any]
    progress: Sequence[Mapping[str, Any]]
    sample: Sample | None
    feature_names: Sequence[str]
    missing: Sequence[str]
    """What could not be shown, and why."""
    named: str
    """What commands call the model, such as its run's directory."""
    after: str
    """What to do now, in one sentence."""
    shown: int = SAMPLE
    """Rows that the interactive page shows, at most."""
    profiles: pa.Table | None = None
    """A line for each cluster and feature, as `raydc.training.profiles` writes them; None where it was not written."""


def gather(
    store: Store,
    settings: DataSettings | None = None,
    allow_code: Collection[str] = (),
    source: Source | None = None,
    shown: int = SAMPLE,
    named: str | None = None,
) -> Facts:
    """Facts of the run in `store`. Raises ValueError if it is not finished, or as `ClusteringModel.of` does.

    Rows that cannot be opened any more are left out of the report, which then says so; `source` has them opened.
    """
    if store.exists("tune.json"):
        raise ValueError(f"{store.root} holds a search that is not finished: end it with the same command first")
    for name in ("config.yaml", "summary.json", "model/model.json"):
        if not store.exists(name):
            raise ValueError(
                f"{store.root} holds no finished run: {name} is missing; end it with the same command first"
            )
    config = yaml.safe_load(store.read_text("config.yaml"))
    model = ClusteringModel.stored(store / "model", allow_code)
    summary = json.loads(store.read_text("summary.json"))
    lines = store.read_text("metrics.jsonl").splitlines() if store.exists("metrics.jsonl") else []
    given = settings or build(DataSettings, config["data"], at="data")
    rows = _rows(given, store, model, shown, source)
    title = f"{model.method_name}, {counted(summary['found'], 'cluster')} of {counted(summary['rows'], 'row')}"
    after = words.after_training(
        summary.get("verdict"),
        data=given.path,
        method=model.method_name,
        n_clusters=summary["n_clusters"],
        model=named or store.root,
        refuses=bool(model.refuses),
    )
    progress = [json.loads(line) for line in lines]
    return Facts(title, model, config, summary, progress, *rows, named or store.root, after, shown, _profiles(store))


def of_winner(
    store: Store, search: Mapping[str, Any], data: DataSettings, *, named: str, after: str, shown: int = SAMPLE
) -> Facts:
    """Facts of the winner of a search in `store`, as far as its model and its assignments tell them.

    `search` is what search.json holds, `named` what commands call its model, and `after` what to do now.
    """
    winner = search["winner"]
    model = ClusteringModel.stored(store / "model", [winner["method"]])
    labels = [pq.read_table(io.BytesIO(store.read_bytes(name)))["cluster"] for name in _parts(store)]
    ids = np.concatenate([np.zeros(0, np.int64), *(part.to_numpy() for part in labels)])
    sizes = np.bincount(ids[ids >= 0], minlength=model.n_clusters)
    summary = {"n_clusters": len(sizes), "sizes": sizes.tolist(), "found": int((sizes > 0).sum()), "rows": len(ids)}
    title = f"{model.method_name}, {counted(summary['found'], 'cluster')} of {counted(len(ids), 'row')}"
    about = summary | {"measures": winner["measures"], "warnings": search["notes"], "verdict": search["verdict"]}
    rows = _rows(data, store, model, shown)
    return Facts(title, model, winner["settings"], about, [], *rows, named, after, shown, _profiles(store))


def _rows(
    data: DataSettings, store: Store, model: ClusteringModel, shown: int, source: Source | None = None
) -> tuple[Sample | None, list[str], list[str]]:
    """A sample of the rows, what their features are called, and what is missing."""
    try:
        source = source or open_source(data.with_encoding(model.encoding))
        names = [source.name_of(i) for i in range(source.n_features)]
        most = shown if source.n_rows <= shown or shown <= SAMPLE else LOOKED * shown
        return draw(source, store, model, max(SAMPLE, min(most, VALUES // source.n_features))), names, []
    except DataError as problem:
        names = [f"feature {i}" for i in range(model.n_features)]
        return None, names, [f"pictures of rows: {problem}"]


def _profiles(store: Store) -> pa.Table | None:
    return pq.read_table(io.BytesIO(store.read_bytes("profiles.parquet"))) if store.exists("profiles.parquet") else None


def _parts(store: Store) -> list[str]:
    """Files of the assignments."""
    return [name for name in store.list("assignments") if name.endswith(".parquet")]


def draw(source: Source, store: Store, model: ClusteringModel, size: int = SAMPLE) -> Sample:
    """Rows drawn evenly from the data, without those that were dropped; DataError if none has an assignment."""
    drawn = spaced_rows(source, size)
    table, rows = _assignments(store, drawn.positions), describe(drawn, source)
    if table is None and model.refuses:
        raise DataError(f"no assignments are stored, and the model cannot make them: {model.refuses}")
    if table is None:
        known, found = np.arange(len(drawn.x)), model.assign(drawn.x)
        columns = {"cluster": found.clusters, **{name: getattr(found, name) for name in TRUST}}
    else:
        known = table["at"].to_numpy()
        columns = {
            name: table[name].to_numpy() for name in ("cluster", *TRUST, "initial") if name in table.column_names
        }
    if not len(known):
        raise DataError(
            f"{source.settings.path}: none of its rows is among the run's assignments; have the data moved?"
        )
    x = drawn.x[known]
    return Sample(
        rows=x,
        ids=drawn.ids[known],
        labels=columns["cluster"].astype(np.int64),
        membership=columns["membership"],
        distance=columns["distance"],
        agreement=columns["agreement"],
        initial=columns.get("initial"),
        embedding=_embed(model, x),
        described=rows.take(known),
    )


def project(embedding: NDArray[Any], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Two dimensions of an embedding [n, D] by PCA, and by UMAP where it is installed and rows are not too many."""
    points = np.asarray(embedding, np.float64).reshape(len(embedding), -1)
    if points.shape[1] < 2:
        points = np.column_stack([points, np.zeros(len(points))])
    if len(points) < 3:
        return {"PCA": points[:, :2]}
    found = {"PCA": PCA(2, svd_solver="randomized", random_state=seed).fit_transform(points)}
    try:
        from umap import UMAP
    except ImportError:
        return found
    if 15 < len(points) <= UMAP_ROWS:
        found["UMAP"] = UMAP(random_state=seed, n_jobs=1).fit_transform(points)
    return found


def typical(sample: Sample, clusters: Iterable[int], most: int) -> dict[int, tuple[NDArray[Any], NDArray[Any]]]:
    """Positions of each cluster's most and least typical rows.

    Most typical: nearest to the cluster's mean in the embedding. Least: the smallest largest membership, or, where the
    method has none, farthest from that mean.
    """
    space, found = sample.space.reshape(len(sample.rows), -1), {}
    for cluster in clusters:
        rows = np.flatnonzero(sample.labels == cluster)
        if len(rows):
            distance = np.linalg.norm(space[rows] - space[rows].mean(axis=0), axis=1)
            doubt = distance if np.isnan(sample.membership[rows]).any() else -sample.membership[rows]
            near = rows[np.argsort(distance, kind="stable")]
            far = rows[np.argsort(-doubt, kind="stable")]
            take = min(most, -(-len(rows) // 2))
            found[cluster] = (near[:take], far[:take])
    return found


def _assignments(store: Store, positions: NDArray[np.int64]) -> pa.Table | None:
    """What is stored of the rows at these ascending positions of the data that have an assignment,
    with their place among them ("at"); None if nothing is.
    """
    parts = []
    for name in _parts(store):
        part = pq.read_table(io.BytesIO(store.read_bytes(name)))
        at = np.searchsorted(positions, part["row"].to_numpy()).clip(max=len(positions) - 1)
        part = part.append_column("at", pa.array(at))
        parts.append(part.filter(pa.array(positions[at] == part["row"].to_numpy())))
    return pa.concat_tables(parts).sort_by("at") if parts else None


def _embed(model: ClusteringModel, x: NDArray[Any]) -> NDArray[np.float32] | None:
    try:
        embedding = model.transform(x)
    except NotImplementedError:
        return None
    return embedding.reshape(len(x), -1)
