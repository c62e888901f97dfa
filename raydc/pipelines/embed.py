"""Rows to vectors by an encoder, once: Parquet that trainings and searches read as embeddings.

The rows are cut into chunks as assignments are, and each becomes one file that appears complete or not at all; a
repeated run makes only the files that are missing. The files say by what they were encoded, so that a model of the
vectors takes the raw rows again.
"""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydc.core.errors import WorkersLost
from raydc.core.fault_injection import failpoint
from raydc.core.nouns import counted
from raydc.core.settings import SettingsError
from raydc.core.storage import VECTORS as FOLDER
from raydc.core.storage import Store, alone
from raydc.data import DataError, DataSettings, Source, open_source, opened
from raydc.data.embedded import EXCERPT, THUMBNAIL, VECTORS, Embedded
from raydc.data.faults import LISTED, bad_cells, complaint, fault_lines
from raydc.data.source import Piece
from raydc.distributed import ray_cluster
from raydc.pipelines import chunks
from raydc.pipelines.chunks import Chunk

MANIFEST, SUMMARY, DROPPED = "_embedding.json", "_summary.json", "_dropped.csv"
"""Readers of a folder of Parquet pass over names that begin like this."""
CHUNK_ROWS, SHARES, FEWEST = 2**11, 32, 64
"""Rows of a file, about, which a killed worker does again; of fewer rows a share of all, for several workers."""
SIDE, LENGTH = 64, 300
"""Height and width of a thumbnail, about, and characters of an excerpt, at most."""


def embed(data: DataSettings, out: str, workers: int = 0, poll: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Write a vector for each row of `data`, by the encoder that it names, into `out`; what it came to.

    Beside the vectors, float32 lists called `embedding`, there are the rows' ids, their label and weight where they
    have such a column, and a `thumbnail` or `excerpt` of what was encoded. Rows that cannot be used stop the run, or
    are left out and listed in _dropped.csv, as `data.on_bad_row` says.

    Runs in this process or in so many `workers`, which are Ray actors, with a GPU where each can have one; `poll` is
    called before and between chunks, and ends it by what it raises. Raises SettingsError before any work if no encoder
    is named or `out` holds something else, DataError if there is nothing to encode; and as `ray_cluster.check` does.
    """
    started = time.time()
    if workers < 0:
        raise SettingsError(f"--workers: expected 0 (this process) or more, got {workers}")
    if data.encoder is None:
        raise SettingsError(
            "data.encoder: expected an encoder, such as wordllama (texts) or efficientnet-lite0 (pictures)"
        )
    store = Store(out).directory()
    if not store.exists(MANIFEST):
        store.only()
    if workers:
        ray_cluster.check()
    source = open_source(data)
    if source.encoding is None:
        raise DataError(f"data.encoder: {data.path} is opened by a source that knows no encoders; leave it out")
    kept = (source.identified, source.settings.label_column, source.weights)
    if taken := {*kept} & {VECTORS, EXCERPT, THUMBNAIL}:
        raise DataError(f"{data.path}: column {taken.pop()} has a name that vectors are written with; rename it")
    parts = chunks.cut(source.pieces, min(CHUNK_ROWS, max(FEWEST, source.n_rows // SHARES)))
    manifest = {
        "encoding": source.encoding.digest,
        "data": source.fingerprint,
        "times": [*source.times.values()],
        "columns": [*kept],
        "files": [chunk.name for chunk in parts],
    }
    _claim(store, manifest, data.path)
    drop = source.settings.on_bad_row == "drop"
    held = [chunks.said(store, chunk) for chunk in parts]
    missing = [
        chunk for chunk, about in zip(parts, held, strict=True) if about is None or (about["dropped"] and not drop)
    ]
    if workers and missing:
        chunks.on_ray(_opened_maker, (source.settings, source.fingerprint, store), missing, workers, poll)
    elif missing:
        make = _Maker(source, store)
        for chunk in missing:
            poll()
            make(chunk)
    return _summarise(store, parts, source, {"written": len(missing), "seconds": time.time() - started})


def with_vectors(
    data: DataSettings, out: str, workers: int, note: Callable[[str], None], poll: Callable[[], None]
) -> DataSettings:
    """Settings of the rows' vectors, made in the directory of a run or search where `data` name an encoder; else
    `data`.

    Raises as `embed` does; Occupied where another process works in that directory, and SettingsError where it holds
    something else.
    """
    if data.encoder is None:
        return data
    store = Store(out).directory()
    if not any(map(store.exists, (f"{FOLDER}/{MANIFEST}", "run.json", "tune.json"))):
        store.only(f"{FOLDER}/")
    with alone(store):
        found = embed(data, (store / FOLDER).root, workers, poll)
    for text in found["notes"]:
        note(text)
    note(f"{found['rows']:,} vectors of {found['width']:,} numbers, by {found['by']}: {found['out']}")
    kept = data.model_dump(include={"label_column", "id_column", "weight_column", "on_bad_row", "scaling", "storage"})
    return DataSettings(path=found["out"], **kept)


class _Maker:
    """Makes files of chunks."""

    def __init__(self, source: Source, store: Store) -> None:
        self._source, self._store, self._labels = source, store, source.labels()

    def __call__(self, chunk: Chunk) -> None:
        """DataError names the first bad rows, unless they are to be left out."""
        source, tables, dropped = self._source, list[pa.Table](), list[list[Any]]()
        for piece in chunk.pieces:
            table, lines = self._table(piece)
            tables.append(table)
            dropped += lines
        assert source.encoding is not None
        metadata = Embedded(source.encoding, source.identified or "id").metadata()
        metadata[b"raydc"] = json.dumps({"dropped": dropped}).encode()
        whole, buffer = pa.concat_tables(tables).replace_schema_metadata(metadata), io.BytesIO()
        pq.write_table(whole, buffer, use_dictionary=False, compression="none", write_page_checksum=True)
        self._store.write_bytes(chunk.name, buffer.getvalue())
        failpoint("embedded")

    def _table(self, piece: Piece) -> tuple[pa.Table, list[list[Any]]]:
        """The rows of a piece, and lines of those that were left out."""
        source = self._source
        block = source.read(piece)
        bad = bad_cells(block)
        if bad is not None and source.settings.on_bad_row != "drop":
            raise DataError(complaint(source, piece, block, bad))
        rows = np.arange(piece.rows) if bad is None else np.flatnonzero(~bad.any(axis=1))
        vectors = pa.array(np.ascontiguousarray(block.x[rows]).reshape(-1))
        columns: dict[str, Any] = {
            source.identified or "id": pa.array(block.ids[rows]),
            VECTORS: pa.FixedSizeListArray.from_arrays(vectors, source.n_features),
        }
        label = source.settings.label_column
        if self._labels is not None and label is not None:
            columns[label] = pa.array(self._labels[piece.start + rows], from_pandas=True)
        if block.weights is not None and source.weights is not None:
            columns[source.weights] = pa.array(block.weights[rows])
        columns |= _shown(block.taken, rows)
        return pa.table(columns), [] if bad is None else fault_lines(source, piece, block, bad)


def _opened_maker(settings: DataSettings, fingerprint: str, store: Store) -> _Maker:
    """In a worker; DataError where the rows are not those that the driver saw."""
    return _Maker(opened(settings, fingerprint), store)


def _shown(taken: Mapping[str, Any], rows: np.ndarray) -> dict[str, pa.Array]:
    """What people see of these rows, by the first column that was encoded of each kind."""
    found: dict[str, pa.Array] = {}
    for values in taken.values():
        if isinstance(values, list):
            found.setdefault(EXCERPT, pa.array([values[row][:LENGTH] for row in rows], pa.string()))
        else:
            found.setdefault(THUMBNAIL, pa.array([_thumbnail(values[row]) for row in rows], pa.binary()))
    return found


def _thumbnail(pixels: np.ndarray) -> bytes:
    """uint8 [3, H, W] as a small JPEG."""
    from PIL import Image  # here, as few rows are pictures and Pillow takes time

    small, buffer = Image.fromarray(pixels.transpose(1, 2, 0)).reduce(max(1, pixels.shape[1] // SIDE)), io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _claim(store: Store, manifest: dict[str, Any], path: str) -> None:
    """Mark the directory as that of these vectors; SettingsError if it is that of others.

    Files that were written anew, with the same size and ends, are encoded again.
    """
    if not store.exists(MANIFEST):
        store.write_text(MANIFEST, json.dumps(manifest, indent=1))
        return
    before = json.loads(store.read_text(MANIFEST))
    changed = [name for name in manifest if before.get(name) != manifest[name]]
    if changed == ["times"]:
        for name in before["files"]:
            store.delete(name)
        store.write_text(MANIFEST, json.dumps(manifest, indent=1))
    elif changed:
        what = "by another encoder" if changed[0] == "encoding" else "of other rows"
        raise SettingsError(f"{store.root} holds vectors {what} than are asked for of {path}; name another --out")


def _summarise(store: Store, parts: Sequence[Chunk], source: Source, made: dict[str, Any]) -> dict[str, Any]:
    """What it came to, also written down; and the list of rows that were left out."""
    held = [chunks.said(store, chunk) for chunk in parts]
    if None in held:
        raise WorkersLost(f"{store.root}: {counted(held.count(None), 'file')} missing; run the same command again")
    dropped = [line for about in held if about is not None for line in about["dropped"]]
    if dropped:
        text = io.StringIO()
        csv.writer(text).writerows([LISTED, *dropped])
        store.write_text(DROPPED, text.getvalue())
    assert source.encoding is not None
    summary = {
        "rows": source.n_rows - len(dropped),
        "dropped": len(dropped),
        "width": source.n_features,
        "by": source.encoding.by,
        "notes": [*source.notes],
        "files": len(parts),
        "out": store.root,
        **made,
    }
    store.write_text(SUMMARY, json.dumps(summary, indent=1))
    return summary
