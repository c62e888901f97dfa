"""Rows of the data taken by a model: a balanced sample, prototypes, or near duplicates of which one would do."""

import io
import json
import math
from collections.abc import Collection, Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydc.clustering.metrics import curation
from raydc.core.fault_injection import failpoint
from raydc.core.settings import SettingsError
from raydc.core.storage import Store
from raydc.data import DataError, DataSettings, Source
from raydc.data.source import dense
from raydc.pipelines import assign
from raydc.tracking import registry
from raydc.training.labels import NOWHERE
from raydc.training.model import ClusteringModel

Kind = Literal["balanced", "prototypes", "near-duplicates"]
SAMPLE, ABOUT = "sample.parquet", "sample.json"
MOST_VALUES = 2**28
"""Values of features that are held to find near duplicates."""


def sample(
    model_uri: str,
    data: DataSettings,
    out: str,
    kind: Kind,
    n: int | None,
    *,
    seed: int = 0,
    workers: int = 0,
    tracking_uri: str | None = None,
    allow_code: Collection[str] = (),
) -> dict[str, Any]:
    """Assign all rows into `out`/assignments, by `workers` Ray actors or in this process, and choose among them.

    `out`/sample.parquet has the row, id, cluster and columns of trust of those that were chosen; of near duplicates all
    of them, with the `group` of those that are alike, and whether to `keep` a row: the most typical one of its group.
    `out`/sample.json says what it holds, as is returned. Rows that belong nowhere take no part. Running it again gives
    the same. Raises as `assign` does, and ValueError for a number of rows below 1 or that is missing.
    """
    if (n is None) != (kind == "near-duplicates"):
        raise SettingsError(f"--n: expected {'none with' if n else 'a number of rows, with'} --{kind}")
    if n is not None and n < 1:
        raise SettingsError(f"--n: expected 1 row or more, got {n}")
    store = Store(out).directory()
    about: dict[str, Any] = {"kind": kind, "n": n, "seed": seed}
    if store.exists(ABOUT):
        before = json.loads(store.read_text(ABOUT))
        if any(before[name] != value for name, value in about.items()):
            raise SettingsError(f"{store.root} holds another sample ({before['kind']}); name another --out")
    else:
        store.only("assignments/", SAMPLE)
    place = (store / "assignments").root
    assign.assign(model_uri, data, place, workers, tracking_uri, allow_code=allow_code)
    model = registry.load(model_uri, tracking_uri, allow_code)
    table = pa.concat_tables(assign.read(place)).sort_by("row")
    table = table.filter(pa.array(table["cluster"].to_numpy() != NOWHERE))
    if kind == "near-duplicates":
        chosen = _grouped(table, model, data)
    else:
        chosen = table.take(pa.array(_chosen(table, model, kind, n or 0, seed)))
    buffer = io.BytesIO()
    pq.write_table(chosen, buffer, write_page_checksum=True)
    store.write_bytes(SAMPLE, buffer.getvalue())
    failpoint("sampled")
    clusters, sizes = np.unique(chosen["cluster"].to_numpy(), return_counts=True)
    about |= {
        "rows": len(chosen),
        "of": len(table),
        "clusters": dict(zip(clusters.tolist(), sizes.tolist(), strict=True)),
    }
    if kind == "near-duplicates":
        about |= {"groups": len(np.unique(chosen["group"].to_numpy())), "kept": int(chosen["keep"].to_numpy().sum())}
    store.write_text(ABOUT, json.dumps(about, indent=1))
    return about | {"out": store.root}


def _chosen(table: pa.Table, model: ClusteringModel, kind: Kind, n: int, seed: int) -> np.ndarray:
    """Places in the table."""
    labels = table["cluster"].to_numpy()
    if kind == "prototypes":
        return curation.prototypes(labels, table["distance"].to_numpy(), table["membership"].to_numpy(), n)
    levels = [labels]
    alive = model.labels.cells.alive
    if model.labels.joins:
        coarse = model.labels.ids_at(math.ceil(math.sqrt(len(alive))))
        of = {model.labels.cells.ids[cell]: coarse[cell] for cell in model.labels.cells.with_rows}
        levels = [np.array([of[cluster] for cluster in labels.tolist()], np.int64), labels]
    return curation.balanced(levels, n, seed)


def _grouped(table: pa.Table, model: ClusteringModel, data: DataSettings) -> pa.Table:
    """The rows that have near duplicates, with their group and whether to keep them."""
    source, _ = assign.opened_for(data, model)
    parts, held = [np.zeros((0, 1), np.float32)], 0
    for part in _features(source, model, table["row"].to_numpy()):
        held += part.size
        if held > MOST_VALUES:
            raise DataError(
                f"near duplicates are found among up to {MOST_VALUES:,} values of features, and {len(table):,} rows of "
                f"{part.shape[1]} have more: take a part of the rows"
            )
        parts.append(part)
    features = np.concatenate(parts[1:] or parts)
    group = curation.near_duplicates(features, table["cluster"].to_numpy())
    table = table.append_column("group", pa.array(group)).filter(pa.array(group >= 0))
    found = table["group"].to_numpy()
    order = np.lexsort((table["row"].to_numpy(), table["distance"].to_numpy(), found))
    keep = np.zeros(len(table), bool)
    keep[order[np.unique(found[order], return_index=True)[1]]] = True
    return table.append_column("keep", pa.array(keep))


def _features(source: Source, model: ClusteringModel, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Features of rows at these ascending positions, part by part."""
    for piece in source.pieces:
        inside = rows[(rows >= piece.start) & (rows < piece.start + piece.rows)] - piece.start
        if len(inside):
            yield model.features(dense(source.read(piece).x[inside]))
