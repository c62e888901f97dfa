"""Communities of a neighbour graph, by Leiden (Traag, Waltman and van Eck, Scientific Reports 2019)."""

import numpy as np
from graspologic_native import leiden_csr
from numpy.typing import NDArray
from scipy import sparse

from raydc.clustering.metrics.graph import NeighbourGraph

Labels = NDArray[np.int64]
RESOLUTIONS: tuple[float, ...] = tuple(np.geomspace(0.02, 12, 24).tolist())
"""From few communities to many."""


def leiden(graph: NeighbourGraph, resolution: float = 1.0, seed: int = 0) -> Labels:
    """Community [N] of each row, 0 the largest; -1 for rows without an edge.

    Maximises modularity by shares of edge ends, in which chance counts `resolution` times (Reichardt and Bornholdt,
    Physical Review E 2006): the higher, the more communities. Same graph and seed, same communities.
    """
    ends = np.concatenate([graph.left, graph.right]), np.concatenate([graph.right, graph.left])
    linked = np.bincount(ends[0], minlength=graph.n_rows) > 0
    matrix = sparse.csr_array((np.ones(len(ends[0])), ends), shape=(graph.n_rows, graph.n_rows))
    matrix.sort_indices()
    _, found = leiden_csr(
        matrix.indptr.astype(np.int64),
        matrix.indices.astype(np.int32),
        matrix.data.astype(np.float64),
        graph.n_rows,
        resolution=resolution,
        iterations=2,
        seed=seed,
    )
    community = np.array([found[row] for row in range(graph.n_rows)], np.int64)
    return _by_size(community, linked)


def _by_size(community: Labels, linked: NDArray[np.bool_]) -> Labels:
    """Ids from 0 on without gaps, the largest first and of equal ones the lower id; -1 where not linked."""
    labels = np.full(len(community), -1, np.int64)
    names, ids, sizes = np.unique(community[linked], return_inverse=True, return_counts=True)
    rank = np.empty(len(names), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(names))
    labels[linked] = rank[ids]
    return labels
