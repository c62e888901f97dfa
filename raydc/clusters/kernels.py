"""Compiled inner loops of k-means on the CPU (numba): one thread, rows in their order, the same bits every time.

Measured beside scikit-learn and faiss by `benchmarks/kmeans.py`. Scores come as [K, N], rows along the vector lanes, so
that the search for the lowest has neither horizontal steps nor branches.
"""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def nearest(products: np.ndarray, half: np.ndarray, lowest: np.ndarray, labels: np.ndarray) -> None:  # pragma: no cover
    """Labels int32 [R, N] of the lowest of half [R K] - products [R K, N] float32, the lowest index of equals.

    `lowest` [R, N] receives that score: half the squared distance, less half of |x|^2.
    """
    clusters = len(half) // len(labels)
    for r in range(len(labels)):
        _nearest(products[r * clusters : (r + 1) * clusters], half[r * clusters :], lowest[r], labels[r])


@njit(cache=True, nogil=True, error_model="numpy")
def _nearest(
    products: np.ndarray, half: np.ndarray, lowest: np.ndarray, labels: np.ndarray
) -> None:  # pragma: no cover
    clusters, rows = products.shape
    for i in range(rows):
        lowest[i] = half[0] - products[0, i]
        labels[i] = 0
    k = 1
    while k + 3 < clusters:  # four at a time: `lowest` is read and written once for all of them
        h0, h1, h2, h3 = half[k], half[k + 1], half[k + 2], half[k + 3]
        p0, p1, p2, p3 = products[k], products[k + 1], products[k + 2], products[k + 3]
        for i in range(rows):
            v0, v1, v2, v3 = h0 - p0[i], h1 - p1[i], h2 - p2[i], h3 - p3[i]
            a, b = np.int32(k), np.int32(k + 2)
            if v1 < v0:
                v0, a = v1, np.int32(k + 1)
            if v3 < v2:
                v2, b = v3, np.int32(k + 3)
            if v2 < v0:
                v0, a = v2, b
            before, label = lowest[i], labels[i]
            lowest[i] = v0 if v0 < before else before
            labels[i] = a if v0 < before else label
        k += 4
    while k < clusters:
        h, p = half[k], products[k]
        for i in range(rows):
            v, before, label = h - p[i], lowest[i], labels[i]
            lowest[i] = v if v < before else before
            labels[i] = np.int32(k) if v < before else label
        k += 1


@njit(cache=True, nogil=True, error_model="numpy")
def add_integers(
    x: np.ndarray, labels: np.ndarray, scale: np.ndarray, sums: np.ndarray, counts: np.ndarray
) -> None:  # pragma: no cover
    """Add rows x [N, D] float32 times scale [D] to int64 sums [R, K, D], and to counts [R, K], by labels [R, N]."""
    for r in range(len(labels)):
        for i in range(len(x)):
            k = labels[r, i]
            counts[r, k] += 1
            row, total = x[i], sums[r, k]
            for d in range(len(row)):
                total[d] += np.int64(row[d] * scale[d])


@njit(cache=True, nogil=True, error_model="numpy")
def add_floats(x: np.ndarray, labels: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:  # pragma: no cover
    """Add rows x [N, D] float32 to float64 sums [R, K, D], and to counts [R, K], by labels [R, N]."""
    for r in range(len(labels)):
        for i in range(len(x)):
            k = labels[r, i]
            counts[r, k] += 1
            row, total = x[i], sums[r, k]
            for d in range(len(row)):
                total[d] += row[d]


@njit(cache=True, nogil=True, error_model="numpy")
def closest(
    products: np.ndarray,
    norms: np.ndarray,
    others: np.ndarray,
    first: int,
    own: int,
    noise: float,
    far: np.ndarray,
    near: np.ndarray,
) -> None:  # pragma: no cover
    """Keep the k nearest of each row: far [N, k] squared distances (float32), ascending, and near [N, k] positions.

    `products` [N, M] float64 are those with the block of rows that begins at position `first`; blocks come in order.
    `norms` [N] and `others` [M] are their squared lengths, and `own` is the position of row 0, which is no neighbour of
    itself. What is left of a distance below `noise` times its terms is rounding, and counts as zero.
    """
    last = far.shape[1] - 1
    for i in range(products.shape[0]):
        worst = far[i, last]
        for j in range(products.shape[1]):
            size = norms[i] + others[j]
            exact = size - 2 * products[i, j]
            squared = np.float32(exact if exact > noise * size else 0.0)
            if squared < worst and first + j != own + i:  # an equal distance stays behind: its position is higher
                at = last
                while at > 0 and squared < far[i, at - 1]:
                    far[i, at], near[i, at] = far[i, at - 1], near[i, at - 1]
                    at -= 1
                far[i, at], near[i, at] = squared, first + j
                worst = far[i, last]
