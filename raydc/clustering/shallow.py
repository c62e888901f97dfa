"""Shallow clusterings of a sample of rows, of which none has an answer for further rows: Ward, Leiden, kNN-spectral."""

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering, SpectralClustering
from sklearn.neighbors import KNeighborsClassifier

from raydc.clustering.communities import RESOLUTIONS, leiden
from raydc.clustering.metrics.graph import NeighbourGraph, distinct, neighbour_graph

Labels = NDArray[np.int64]
Rows = NDArray[np.float32]
VOTES = 5
HALVINGS = 12
"""Of the range of resolutions, in which the one of K communities is looked for."""


def ward(rows: Rows, n_clusters: int) -> Labels:
    """Ward's clusters [n] (Ward, JASA 1963) of rows [n, F]; O(n^2) memory."""
    return AgglomerativeClustering(n_clusters).fit_predict(rows).astype(np.int64)


def spectral(rows: Rows, n_clusters: int, neighbours: int, seed: int) -> Labels:
    """Spectral clusters [n] (Ng, Jordan and Weiss, NeurIPS 2001) of the graph of nearest neighbours of rows [n, F]."""
    if len(rows) <= n_clusters:
        return np.arange(len(rows))
    found = SpectralClustering(
        n_clusters,
        affinity="nearest_neighbors",
        n_neighbors=min(neighbours, len(rows) - 1),
        assign_labels="cluster_qr",
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a graph in several parts is what groups far apart look like
        return found.fit_predict(rows).astype(np.int64)


def communities(rows: Rows, n_clusters: int, neighbours: int, seed: int) -> Labels:
    """Leiden's communities [n] of rows [n, F].

    At the resolution at which there are as many, or nearly; where there are more, rows of the smallest ones go where
    their nearest rows are.
    """
    kept = distinct(rows)
    if len(kept) <= max(n_clusters, 1):
        return placed(rows, _apart(len(rows), kept))
    labels = at_number(neighbour_graph(rows, min(neighbours, len(kept) - 1), kept), n_clusters, seed)
    return placed(rows, np.where(labels < n_clusters, labels, -1))


def _apart(n_rows: int, kept: NDArray[np.int64]) -> Labels:
    """Labels [n] of few distinct rows, a cluster each; -1 of those that repeat one. One cluster if none is `kept`."""
    labels = np.full(n_rows, -1 if len(kept) else 0)
    labels[kept] = np.arange(len(kept))
    return labels


def at_number(built: NeighbourGraph, n_clusters: int, seed: int) -> Labels:
    """Communities [n] by halving the range of resolutions until there are `n_clusters`; else nearly as many."""
    low, high = np.log(RESOLUTIONS[0] / 10), np.log(RESOLUTIONS[-1] * 10)
    best: Labels | None = None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = leiden(built, float(np.exp(middle)), seed)
        number = int(found.max()) + 1
        if best is None or abs(number - n_clusters) < abs(int(best.max()) + 1 - n_clusters):
            best = found
        if number == n_clusters:
            break
        low, high = (middle, high) if number < n_clusters else (low, middle)
    assert best is not None
    return best


def placed(rows: Rows, labels: Labels) -> Labels:
    """Labels [n] of rows [n, F] in which those without a label, -1, have that of their nearest rows with one.

    Of VOTES of them, the nearer the weightier; a row that repeats another has its label.
    """
    known = labels >= 0
    if known.all():
        return labels
    whole = labels.copy()
    near = KNeighborsClassifier(min(VOTES, int(known.sum())), weights="distance").fit(rows[known], labels[known])
    whole[~known] = near.predict(rows[~known])
    return whole
