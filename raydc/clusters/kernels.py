"""Compiled inner loops of k-means on the CPU (numba). One thread, rows in their order: the same bits every time."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate(x: np.ndarray, labels: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:  # pragma: no cover
    """Add rows x [N, D] float32 to sums [R, K, D] float64 and counts [R, K] by labels [N, R], in the order of rows."""
    for i in range(x.shape[0]):
        for r in range(labels.shape[1]):
            k = labels[i, r]
            counts[r, k] += 1
            for d in range(x.shape[1]):
                sums[r, k, d] += x[i, d]
