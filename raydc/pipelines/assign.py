"""Batch assignment: the clusters of any number of rows by a registered model, Parquet in, Parquet out.

The rows are cut into chunks that depend on the data alone. Each chunk becomes one file, which appears complete or not
at all and says in its footer whose rows it holds; a repeated run makes only the files that are missing. So it does not
matter which worker did what, or where an earlier run was killed.
"""

import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raydc.clustering.distances import FAR
from raydc.core.fault_injection import failpoint
from raydc.core.settings import SettingsError
from raydc.core.storage import Store
from raydc.data import DataError, DataSettings, Source, open_source, opened
from raydc.data.encoding import Encoding
from raydc.data.faults import bad_cells, complaint
from raydc.data.marginals import without_place
from raydc.data.open import by_position
from raydc.data.profile import checksum, joined
from raydc.data.source import OtherShape, dense
from raydc.distributed import ray_cluster
from raydc.pipelines import chunks
from raydc.pipelines.chunks import Chunk
from raydc.pipelines.counting import Counted, counts_of
from raydc.training.labels import NOWHERE, Asked
from raydc.training.model import AS_THEY_ARE, TRUST, ClusteringModel
from raydc.training.model_files import weights_hash
from raydc.training.worker_job import trusted

MANIFEST, SUMMARY = "_assignment.json", "_summary.json"
"""Readers of a folder of Parquet pass over names that begin like this."""
WHOSE = ("model", "data", "ids", "asked")
"""What a file of assignments is made from, in the manifest and in each file."""
CHUNK_ROWS = 2**17
"""Rows of an output file, about; it holds whole pieces of the data."""


def assign(
    model_uri: str,
    data: DataSettings,
    out: str,
    workers: int = 0,
    tracking_uri: str | None = None,
    chunk_rows: int = CHUNK_ROWS,
    poll: Callable[[], None] = lambda: None,
    allow_code: Collection[str] = (),
    asked: Asked = AS_THEY_ARE,
    counted: bool = False,
) -> dict[str, Any]:
    """Write row, id, cluster and the columns of `model.TRUST` of every row of `data` into `out`; what it came to.

    A column is null where the model has no such number. The cluster is -1 of a row that belongs nowhere: of a cluster
    that was dropped, or an outlier where they are `asked` for.

    Where it is to be `counted` how rows are spread, what `Counted` says of each file lies beside it.

    Runs in this process or in `workers` Ray actors; `poll` is called before and between chunks, and ends it by what it
    raises. `allow_code` names methods that do not come with raydc and whose code the model may have imported. Raises
    RegistryError, ModelError, DataError or ValueError before any work if the model or the rows cannot be used together,
    or `out` holds other assignments; and as `ray_cluster.check` does.
    """
    started = time.time()
    if workers < 0:
        raise SettingsError(f"--workers: expected 0 (this process) or more, got {workers}")
    store = Store(out).directory()
    if not store.exists(MANIFEST):
        store.only()
    if workers:
        ray_cluster.check()
    from raydc.tracking import registry  # here, so that workers need not wait for MLflow to be imported

    model = registry.load(model_uri, tracking_uri, allow_code)
    if model.refuses:
        raise ValueError(f"{model_uri}: a {model.method_name} model assigns no new rows: {model.refuses}")
    model.check(asked)
    source, ids = opened_for(data, model)
    if source.n_features != model.n_features:
        raise DataError(_other_features(data, source.n_features, model))
    parts = chunks.cut(source.pieces, chunk_rows)
    manifest = {
        "model": identity(model),
        "data": source.fingerprint,
        "ids": source.identified,
        "asked": vars(asked),
        "files": [chunk.name for chunk in parts],
        **({"counted": True} if counted else {}),
    }
    times = [*source.times.values()]
    before = _claim(store, manifest, f"{model_uri}, {data.path}")
    sure, ended = before == times, before is not None
    drop = source.settings.on_bad_row == "drop"
    abouts = [_held(store, chunk, manifest) for chunk in parts]
    missing = [
        chunk
        for chunk, held in zip(parts, abouts, strict=True)
        if held is None or (held["dropped"] and not drop) or not sure
    ]
    if workers == 0:
        accelerate(model)
        for chunk in missing:
            poll()
            _write(chunk, source, model, store, manifest | {"ended": ended})
    elif missing:
        made_from = (model.files(), model.method_name, source.settings, store, manifest | {"ended": ended})
        chunks.on_ray(_Assigner, made_from, missing, workers, poll)
    store.write_text(MANIFEST, json.dumps(manifest | {"times": times}, indent=1))
    made = {"ids": ids, "written": abouts.count(None), "seconds": time.time() - started}
    return _summarise(store, parts, manifest, model, source, made | {"asked": vars(asked)})


def notes_of(model: ClusteringModel, source: Source) -> list[str]:
    """What was noted of the rows that the model was trained on, and what rounding does to these."""
    blurred = f"rows are stored as {source.dtype}, too far from 0 for the model's unit: store them as float64"
    return [*model.notes.get("rows", []), *([blurred] if model.scaling.blurs(source.dtype) else [])]


def _other_features(data: DataSettings, values: int, model: ClusteringModel) -> str:
    return f"{data.path}: rows have {values} features, the model was trained on {model.n_features}"


OF_ENCODINGS = ("types", "missing")
"""Settings by which columns become numbers in training."""


def opened_for(data: DataSettings, model: ClusteringModel) -> tuple[Source, str]:
    """The rows as the model takes them, and what their ids are, in words.

    They are of the column that the training's were of, where there is one of that name and the user names none.
    DataError if the rows would be encoded and the model's were not: statistics of their own would be its features.
    """
    try:
        source = open_source(for_model(data, model))
    except OtherShape as problem:
        if data.shape is not None:
            raise
        raise DataError(_other_features(data, problem.values, model)) from None
    if model.encoding is None and source.encoding is not None:
        others = [column.name for column in source.encoding.columns if column.stored not in ("integer", "number")]
        raise DataError(
            "the model learned from numbers as they are, and these rows would be encoded by statistics of their own: "
            "leave out data.types, data.missing and data.encoder"
            + (f", and give numbers in: {', '.join(others)}" if others else "")
        )
    remembered = data.id_column is None and model.id_column is not None and model.id_column in source.names
    if remembered:
        source = open_source(source.settings.model_copy(update={"id_column": model.id_column}))
    if source.identified is None:
        return source, "row numbers"
    return source, f"column {source.identified}" + (", as in the model's training" if remembered else "")


def for_model(data: DataSettings, model: ClusteringModel) -> DataSettings:
    """Settings that take the model's own columns and shape where the user names none, and always its encoding.

    Columns of other names stand for the model's by their place. DataError if one of the model's is named in another's
    place, or not all that the encoding reads are named, as it reads its own whatever is named; and for settings of an
    encoding where the model has its own.
    """
    if data.encoder is not None and model.encoding is not None:
        _require_same_encoder(data.encoder, model.encoding)
        data = data.model_copy(update={"encoder": None})
    idle = [f"data.{name}" for name in OF_ENCODINGS if getattr(data, name) != DataSettings.model_fields[name].default]
    if model.encoding is not None and data.encoding != model.encoding and idle:  # a search's rows are encoded already
        raise DataError(
            f"{', '.join(idle)}: no effect, as the model encodes rows as those it learned from; leave it out"
        )
    unread = [] if model.encoding is None else [name for name in model.columns if name not in (data.columns or [name])]
    if unread:
        raise DataError(
            f"data.columns: the model encodes {', '.join(model.columns)}, and {', '.join(data.columns or ())} lacks "
            f"{', '.join(unread)}; leave --columns out"
        )
    changes: dict[str, Any] = {}
    if model.columns and not by_position(data):
        changes["columns"] = _in_order(data.columns, model.columns)
    if data.shape is None and len(model.shape) == 3:
        changes["shape"] = model.shape
    return data.model_copy(update=changes).with_encoding(model.encoding)


def _require_same_encoder(named: str, own: Encoding) -> None:
    """DataError where the model's vectors are of another encoder than the one that is named for the rows."""
    if {named} != {code.encoder for code in own.encoders}:
        raise DataError(f"data.encoder: {named}, but the model was trained on vectors by {own.by}; leave it out")


def _in_order(named: Sequence[str] | None, own: Sequence[str]) -> tuple[str, ...]:
    """The columns to read, in the order of the model's own."""
    if named is None or {*named} == {*own}:
        return tuple(own)
    for at, name in enumerate(named):
        if name in own and own.index(name) != at:
            raise DataError(
                f"data.columns: {name} is column {own.index(name) + 1} of the model's {', '.join(own)}, and column "
                f"{at + 1} of {', '.join(named)}; name columns in the model's order, or leave --columns out"
            )
    return tuple(named)


def identity(model: ClusteringModel) -> str:
    """sha256 of all that decides what is said of a row."""
    rest = [model.method_name, model.config, model.shape, model.columns, model.scaling.to_json()]
    hashes = [weights_hash(method) for method in (model.method, *(replica.method for replica in model.replicas))]
    rest += [hashes, [replica.names.tolist() for replica in model.replicas]]
    rest.append([] if model.distances is None else [model.distances.digest()])
    rest.append(model.labels.model_dump(mode="json", exclude={"suggested"}))
    rest.append([] if model.encoding is None else [model.encoding.digest])
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def accelerate(model: ClusteringModel) -> None:
    """Move a network to this process's GPU, where there is one; rows follow the model's parameters."""
    if torch.cuda.is_available() and any(True for _ in model.method.parameters()):
        model.to("cuda")


def _claim(store: Store, manifest: dict[str, Any], what: str) -> list[str] | None:
    """Mark the directory as that of this model and these rows; SettingsError if it is that of others.

    Rows that were corrected take the place of those before, as long as no assignment of those has ended. Returns when
    the rows' files had been written as its last assignment ended; None where none has ended.
    """
    if store.exists(MANIFEST):
        before = json.loads(store.read_text(MANIFEST))
        changed = [name for name in manifest if before.get(name) != manifest[name]]
        if before.get("model") == manifest["model"] and "times" not in before:
            for name in {name for name in store.list() if name.endswith(".parquet")} - {*manifest["files"]}:
                store.delete(name)
            store.write_text(MANIFEST, json.dumps(manifest, indent=1))
        elif changed:
            words = {
                "model": "another model",
                "data": "other rows",
                "ids": "ids of another column",
                "asked": "another level or share of outliers",
            }
            held = " and ".join(words[name] for name in changed if name in words) or "files of another size"
            raise SettingsError(f"{store.root} holds assignments of {held} than {what}; name another --out")
        return before.get("times")
    store.write_text(MANIFEST, json.dumps(manifest, indent=1))
    return None


def _held(store: Store, chunk: Chunk, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """What the chunk's file says of itself, if it is there and complete, and made from what the manifest names."""
    about = chunks.said(store, chunk)
    return about if about and all(about.get(name) == manifest[name] for name in WHOSE) else None


def _write(chunk: Chunk, source: Source, model: ClusteringModel, store: Store, manifest: dict[str, Any]) -> None:
    """Make the chunk's file. DataError names the first bad rows, unless they are to be dropped.

    Where it is there, of files that may have been written anew, the rows are read to see whether they are the same.
    """
    failpoint("assign")
    drop = source.settings.on_bad_row == "drop"
    held = _held(store, chunk, manifest)
    if held is not None and (drop or not held["dropped"]):
        if held["checksum"] == joined(checksum(source.read(piece)) for piece in chunk.pieces):
            return
        if manifest["ended"]:
            raise DataError(
                f"{store.root} holds assignments of rows whose values have changed since; name another --out"
            )
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("row", "id", "cluster", *TRUST)}
    dropped: list[int] = []
    checksums: list[int] = []
    unseen, counts = Counter[str](), list[Counted]()
    for piece in chunk.pieces:
        block = source.read(piece)
        checksums.append(checksum(block))
        unseen.update({} if model.encoding is None else without_place(model.encoding, block))
        bad = bad_cells(block)
        rows = np.arange(piece.rows) if bad is None else np.flatnonzero(~bad.any(axis=1))
        if bad is not None and not drop:
            raise DataError(complaint(source, piece, block, bad))
        dropped += (piece.start + np.setdiff1d(np.arange(piece.rows), rows)).tolist()
        found = model.assign(dense(block.x[rows]), Asked(**manifest["asked"]))
        columns["row"].append(piece.start + rows)
        columns["id"].append(block.ids[rows])
        columns["cluster"].append(found.clusters)
        for name in TRUST:
            columns[name].append(getattr(found, name))
        if manifest.get("counted"):
            counts.append(Counted.of(model, block, bad, found))
    whole: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    about = {
        **{name: manifest[name] for name in WHOSE},
        "dropped": dropped,
        "checksum": joined(checksums),
        "sizes": np.bincount(whole["cluster"] - NOWHERE, minlength=model.clusters[-1] + 1 - NOWHERE).tolist(),
        "membership": float(whole["membership"].sum(dtype=np.float64)),
        "agreement": float(whole["agreement"].sum(dtype=np.float64)) if model.replicas else None,
        "far": int((whole["distance"] > FAR).sum()),
        "unseen": unseen,
    }
    whole |= trusted(*(whole[name] for name in TRUST))
    if whole["id"].dtype == object:
        whole["id"] = pa.array(whole["id"], pa.string())  # also where no row is left
    table = pa.table(whole).replace_schema_metadata({"raydc": json.dumps(about)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, write_page_checksum=True)
    if counts:  # before the file that says that the chunk is made
        store.write_bytes(counts_of(chunk.name), reduce(Counted.merged, counts).written())
    store.write_bytes(chunk.name, buffer.getvalue())
    failpoint("assigned")


def _summarise(
    store: Store,
    parts: Sequence[Chunk],
    manifest: dict[str, Any],
    model: ClusteringModel,
    source: Source,
    made: dict[str, Any],
) -> dict[str, Any]:
    """Counts from the files' own footers, each row once; written beside them."""
    held = [_held(store, chunk, manifest) for chunk in parts]
    if any(about is None for about in held):
        raise RuntimeError(f"files of {store.root} have vanished while it was written; run the same command again")
    abouts = [about for about in held if about is not None]
    nowhere, *sizes = np.sum([about["sizes"] for about in abouts], axis=0).astype(int).tolist()
    rows = nowhere + sum(sizes)
    voted, asked = rows > 0 and abouts[0]["agreement"] is not None, Asked(**manifest["asked"])
    dropped = [row for about in abouts for row in about["dropped"]]
    summary = {
        "rows": rows,
        "dropped": len(dropped),
        "dropped_rows": dropped[:100],
        "clusters": model.labels.clusters_at(asked.level),
        "names": model.labels.names_at(asked.level),
        "suggested": model.labels.suggested_at(asked.level),
        "sizes": sizes,
        "nowhere": nowhere,
        "dropped_clusters": len({*model.labels.cells.ids} & {NOWHERE}) > 0,
        "notes": notes_of(model, source),
        "membership": sum(about["membership"] for about in abouts) / max(1, rows),
        "agreement": sum(about["agreement"] for about in abouts) / rows if voted else None,
        "far": sum(about["far"] for about in abouts),
        "unseen": dict(sum((Counter(about["unseen"]) for about in abouts), Counter[str]())),
        "files": len(parts),
        "out": store.root,
        **made,
    }
    store.write_text(SUMMARY, json.dumps(summary, indent=1))
    return summary


class _Assigner:
    """Makes chunks in a Ray actor, reading their rows itself."""

    def __init__(
        self, files: dict[str, bytes], method_name: str, settings: DataSettings, store: Store, manifest: dict[str, Any]
    ) -> None:
        """`files` are the model, of this method. DataError where the rows are not those that the driver saw."""
        self._source = opened(settings, manifest["data"])
        self._model = ClusteringModel.of(files, allow_code=[method_name])
        self._store, self._manifest = store, manifest
        accelerate(self._model)

    def __call__(self, chunk: Chunk) -> None:
        _write(chunk, self._source, self._model, self._store, self._manifest)


def read(out: str) -> Iterator[pa.Table]:
    """The assignments in `out`, a table a file, in the order of the data."""
    store = Store(out)
    for name in store.list():
        if name.endswith(".parquet"):
            yield pq.read_table(io.BytesIO(store.read_bytes(name)))
