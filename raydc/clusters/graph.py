"""Sparse graphs over all rows, from neighbour lists: edges, components, spectra. Pure functions of numpy arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.sparse.linalg import eigsh

Integers = NDArray[np.int64]
Reals = NDArray[np.floating[Any]]


def mutual_neighbour_edges(neighbours: Integers, squared: Reals) -> Integers:
    """Edges [E, 2], each once with the lower row first, of the graph of Shah & Koltun, PNAS 2017 (RCC).

    Rows i and j are linked if each is among the other's `neighbours` [N, k], at `squared` distances [N, k]; a minimum
    spanning forest of the neighbour graph is added, so that no row stands alone. Parts between which there is no
    neighbour at all stay apart.
    """
    n, k = neighbours.shape
    source, target = np.repeat(np.arange(n), k), neighbours.ravel()
    keys = np.minimum(source, target) * n + np.maximum(source, target)
    links, first, times = np.unique(keys, return_index=True, return_counts=True)
    # SciPy takes a length of zero for no edge at all, and equal rows have one
    length = np.sqrt(squared.ravel()[first].astype(np.float64)) + np.finfo(np.float64).tiny
    forest = minimum_spanning_tree(sparse.csr_array((length, (links // n, links % n)), shape=(n, n))).tocoo()
    kept = np.union1d(links[times == 2], forest.row.astype(np.int64) * n + forest.col)
    return np.stack([kept // n, kept % n], 1)


def components(n_rows: int, edges: Integers) -> Integers:
    """Label [N] of each row's connected component over edges [E, 2]: 0 for the largest, of equal ones the first."""
    graph = sparse.coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(n_rows, n_rows))
    count, found = connected_components(graph, directed=False)
    first = np.full(count, n_rows)
    np.minimum.at(first, found, np.arange(n_rows))
    order = np.lexsort((first, -np.bincount(found, minlength=count)))
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    return rank[found]


def largest_laplacian_eigenvalue(n_rows: int, edges: Integers, weights: Reals) -> float:
    """The spectral norm of the Laplacian of an undirected graph with weights [E] on edges [E, 2]."""
    pairs = np.concatenate([edges, edges[:, ::-1]])
    adjacency = sparse.csr_array((np.tile(weights, 2), (pairs[:, 0], pairs[:, 1])), shape=(n_rows, n_rows))
    laplacian = sparse.diags_array(adjacency.sum(1)) - adjacency
    if n_rows <= 64:
        return float(np.linalg.eigvalsh(laplacian.toarray())[-1])
    start = np.random.default_rng(0).standard_normal(n_rows)
    return float(eigsh(laplacian, 1, which="LA", v0=start, return_eigenvectors=False)[0])
