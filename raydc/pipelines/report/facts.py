"""What a report shows, gathered from a run's files and a sample of its rows."""

import io
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from raydc.core.settings import build
from raydc.core.storage import Store
from raydc.data import DataError, DataSettings, Source, open_source
from raydc.data.sample import spaced_rows
from raydc.training.model import ClusteringModel

SAMPLE = 5000
"""Rows that are looked at, at most."""


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
    profiles: pa.Table | None = None
    """A line for each cluster and feature, as `raydc.training.profiles` writes them; None where it was not written."""


def gather(
    store: Store,
    settings: DataSettings | None = None,
    allow_code: Collection[str] = (),
    source: Source | None = None,
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
    missing: list[str] = []
    sample, names = None, [f"feature {i}" for i in range(model.n_features)]
    try:
        given = settings or build(DataSettings, config["data"], at="data")
        source = source or open_source(given.with_encoding(model.encoding))
        names = [source.name_of(i) for i in range(source.n_features)]
        sample = draw(source, store, model)
    except DataError as problem:
        missing.append(f"pictures of rows: {problem}")
    title = f"{model.method_name}, {summary['found']} clusters of {summary['rows']:,} rows"
    return Facts(
        title, model, config, summary, [json.loads(line) for line in lines], sample, names, missing, _profiles(store)
    )


def of_winner(store: Store, winner: Mapping[str, Any], data: DataSettings) -> Facts:
    """Facts of the winner of the search in `store`, as far as its model and its assignments tell them."""
    model = ClusteringModel.stored(store / "model", [winner["method"]])
    labels = [pq.read_table(io.BytesIO(store.read_bytes(name)))["cluster"] for name in _parts(store)]
    ids = np.concatenate([np.zeros(0, np.int64), *(part.to_numpy() for part in labels)])
    sizes = np.bincount(ids[ids >= 0], minlength=model.n_clusters)
    summary = {"n_clusters": len(sizes), "sizes": sizes.tolist(), "found": int((sizes > 0).sum()), "rows": len(ids)}
    missing: list[str] = []
    sample, names = None, [f"feature {i}" for i in range(model.n_features)]
    try:
        source = open_source(data)
        names = [source.name_of(i) for i in range(source.n_features)]
        sample = draw(source, store, model)
    except DataError as problem:
        missing.append(f"pictures of rows: {problem}")
    title = f"{model.method_name}, {summary['found']} clusters of {len(ids):,} rows"
    about = summary | {"measures": winner["measures"]}
    return Facts(title, model, winner["settings"], about, [], sample, names, missing, _profiles(store))


def _profiles(store: Store) -> pa.Table | None:
    return pq.read_table(io.BytesIO(store.read_bytes("profiles.parquet"))) if store.exists("profiles.parquet") else None


def _parts(store: Store) -> list[str]:
    """Files of the assignments."""
    return [name for name in store.list("assignments") if name.endswith(".parquet")]


def draw(source: Source, store: Store, model: ClusteringModel, size: int = SAMPLE) -> Sample:
    """Rows drawn evenly from the data, without those that were dropped; DataError if none has an assignment."""
    drawn = spaced_rows(source, size)
    x, names = drawn.x, drawn.ids
    table = _assignments(store, drawn.positions)
    if table is None and model.refuses:
        raise DataError(f"no assignments are stored, and the model cannot make them: {model.refuses}")
    if table is None:
        found = model.assign(x)
        labels, membership, distance, initial = found.clusters, found.membership, found.distance, None
    else:
        known = table["at"].to_numpy()
        x, names = x[known], names[known]
        labels, membership, distance = (table[name].to_numpy() for name in ("cluster", "membership", "distance"))
        initial = table["initial"].to_numpy() if "initial" in table.column_names else None
    if not len(x):
        raise DataError(
            f"{source.settings.path}: none of its rows is among the run's assignments; have the data moved?"
        )
    return Sample(x, names, labels.astype(np.int64), membership, distance, initial, _embed(model, x))


def project(embedding: NDArray[Any], seed: int = 0) -> dict[str, NDArray[Any]]:
    """Two dimensions of an embedding [n, D] by PCA, and by UMAP where it is installed."""
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
    if len(points) > 15:
        found["UMAP"] = UMAP(random_state=seed, n_jobs=1).fit_transform(points)
    return found


def typical(sample: Sample, n_clusters: int, most: int) -> dict[int, tuple[NDArray[Any], NDArray[Any]]]:
    """Positions of each cluster's most and least typical rows.

    Most typical: nearest to the cluster's mean in the embedding. Least: the smallest largest membership, or, where the
    method has none, farthest from that mean.
    """
    space = sample.rows if sample.embedding is None else sample.embedding
    found = {}
    for cluster in range(n_clusters):
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
