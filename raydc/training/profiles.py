"""What sets each cluster apart: its features in their own units, and the terms of its texts; and names from those."""

import io
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raydc.clustering.metrics.contrast import Contrast, contrast, direction, of_sums, strongest, suggested
from raydc.clustering.metrics.terms import class_tf_idf
from raydc.core.storage import Store
from raydc.data import Source
from raydc.data.described import describe
from raydc.data.sample import spaced_rows
from raydc.data.tfidf import Vocabulary, counted
from raydc.training.labels import NOWHERE
from raydc.training.model_files import relabel
from raydc.training.summary import labels_at
from raydc.training.worker_job import Job

FILE = "profiles.parquet"
ROWS, VALUES = 2**14, 2**24
"""Rows that are looked at, and values in them; at most."""
FEATURES, TERMS = 200, 50
"""Features, and terms of each column of texts, that are told of each cluster, at most."""
NAMING = 3
"""Terms at most in a suggested name."""

SCHEMA = pa.schema(
    [
        ("cluster", pa.int64()),
        ("name", pa.string()),
        ("rows", pa.int64()),
        ("kind", pa.string()),
        ("feature", pa.string()),
        ("mean", pa.float64()),
        ("rest", pa.float64()),
        ("effect", pa.float64()),
        ("direction", pa.string()),
        ("weight", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Terms:
    """Words of a column of texts, V, in K clusters."""

    words: tuple[str, ...]
    found: Contrast
    """Of the share of texts that have each word."""
    weight: NDArray[np.float64]
    """[K, V], class-based tf-idf; 0 of a word that is not more frequent in the cluster than elsewhere."""

    def of(self, place: int, most: int) -> list[int]:
        """The words of a cluster with the largest weights, the largest first."""
        return [word for word in strongest(self.weight[place], most) if self.weight[place, word] > 0]


def write(job: Job, store: Store, summary: dict[str, Any]) -> dict[str, Any]:
    """Write profiles.parquet of a trained run, and suggested names into its model and its summary; the summary."""
    named = suggest(job.opened(), store)
    told = summary | {"suggested": {str(cluster): name for cluster, name in named.items()}}
    store.write_text("summary.json", json.dumps(told, indent=1))
    return told


def suggest(source: Source, store: Store) -> dict[int, str]:
    """Write profiles.parquet of the model and the assignments in `store`, and suggested names into the model; these.

    Names are suggested where features have names of their own, or rows have texts.
    """
    drawn = spaced_rows(source, min(ROWS, VALUES // source.n_features))
    labels = labels_at(store, drawn.positions)
    known = np.flatnonzero(labels != NOWHERE)
    rows, ids = describe(drawn, source), labels[known]
    found = contrast(rows.values[known], ids)
    texts = {name: of_texts(values[known].tolist(), ids) for name, values in rows.texts.items()}
    own = drawn.stored is not None or (source.encoding is None and len(source.columns) == source.n_features)
    shares = {*range(len(rows.names))}.difference(rows.numbers)
    named = names(suggested(found, rows.names, shares) if own else {}, found.clusters, [*texts.values()])
    labelled = relabel(store / "model", lambda before: before.with_suggested(named))
    sizes, buffer = np.unique(ids, return_counts=True)[1], io.BytesIO()
    pq.write_table(
        table(found, sizes, rows.names, shares, texts, labelled.suggested | dict(labelled.cells.names)), buffer
    )
    store.write_bytes(FILE, buffer.getvalue())
    return named


def of_texts(texts: Sequence[str], labels: NDArray[np.int64]) -> Terms:
    """The words of texts [n] in clusters [n], of those that count in tf-idf; in more than half they tell nothing."""
    texts_with = Counter[str]()
    for text in texts:
        counted(texts_with, text, 1)
    vocabulary = Vocabulary.of(texts_with, len(texts))
    often = vocabulary.occurrences(texts)
    clusters, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    members = np.zeros((len(clusters), len(texts)))
    members[place, np.arange(len(texts))] = 1
    having = members @ (often > 0)
    found = of_sums(clusters, np.broadcast_to(sizes[:, None], having.shape), having, having)
    return Terms(vocabulary.words, found, np.where(found.effect > 0, class_tf_idf(members @ often), 0.0))


def names(
    of_features: Mapping[int, str], clusters: NDArray[np.int64], texts: Sequence[Terms], most: int = NAMING
) -> dict[int, str]:
    """Names by cluster: of its features, and then the terms with the largest weights."""
    told = {}
    for place, cluster in enumerate(clusters.tolist()):
        own = [of_features[cluster]] if cluster in of_features else []
        own += [terms.words[word] for terms in texts for word in terms.of(place, most)]
        if own:
            told[cluster] = ", ".join(own)
    return told


def table(
    found: Contrast,
    sizes: NDArray[np.int64],
    features: Sequence[str],
    shares: Collection[int],
    texts: Mapping[str, Terms],
    named: dict[int, str],
) -> pa.Table:
    """A line for each cluster and feature, the largest effects of each cluster first, and then for each term."""
    lines: list[dict[str, Any]] = []
    for place, cluster in enumerate(found.clusters.tolist()):
        about = {"cluster": cluster, "name": named.get(cluster), "rows": int(sizes[place])}
        for kind, name, differs, at, weight in _told(found, place, features, shares, texts):
            effect = float(differs.effect[place, at])
            lines.append(
                about
                | {
                    "kind": kind,
                    "feature": name,
                    "mean": float(differs.mean[place, at]),
                    "rest": float(differs.rest[place, at]),
                    "effect": effect,
                    "direction": direction(effect) if effect else "same",
                    "weight": weight,
                }
            )
    return pa.Table.from_pylist(lines, SCHEMA)


def _told(
    found: Contrast, place: int, features: Sequence[str], shares: Collection[int], texts: Mapping[str, Terms]
) -> Iterator[tuple[str, str, Contrast, int, float | None]]:
    """Kind, name, contrast, place in it, and weight of all that is told of a cluster."""
    for feature in strongest(found.effect[place], FEATURES):
        yield "share" if feature in shares else "feature", features[feature], found, feature, None
    for column, terms in texts.items():
        for word in terms.of(place, TERMS):
            name = terms.words[word] if len(texts) == 1 else f"{column}: {terms.words[word]}"
            yield "term", name, terms.found, word, float(terms.weight[place, word])
