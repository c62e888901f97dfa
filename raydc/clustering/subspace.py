"""From self-expression coefficients to clusters. Ji et al., NeurIPS 2017, arXiv:1709.02508, by the authors' steps."""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import SpectralClustering

Reals = NDArray[np.floating]


def keep_largest(coefficients: Reals, share: float) -> Reals:
    """Each column of C [N, N] cut to its largest |entries|, as few as sum to more than `share` of the column's sum."""
    size = np.abs(coefficients)
    order = np.argsort(-size, axis=0, kind="stable")
    ranked = np.take_along_axis(size, order, axis=0)
    before = np.cumsum(ranked, axis=0) - ranked
    kept = np.zeros(size.shape, dtype=bool)
    np.put_along_axis(kept, order, before <= share * ranked.sum(0), axis=0)
    return np.where(kept, coefficients, 0)


def affinity(coefficients: Reals, rank: int, power: float) -> Reals:
    """Affinity [N, N] in [0, 1]: cosines of the rows of the best approximation of C of this `rank`, to `power`."""
    symmetric = (coefficients + coefficients.T).astype(np.float64) / 2
    np.fill_diagonal(symmetric, 1)
    # singular values of a symmetric matrix are its eigenvalues' sizes (sparse solvers fail where many are equal)
    values, vectors = np.linalg.eigh(symmetric)
    first = np.argsort(-np.abs(values), kind="stable")[:rank]
    rows = vectors[:, first] * np.sqrt(np.abs(values[first]))
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    alike = np.maximum(rows @ rows.T, 0) ** power
    alike /= alike.max()
    return (alike + alike.T) / 2


def spectral_labels(alike: Reals, n_clusters: int, seed: int) -> NDArray[np.int64]:
    """Labels [N] in [0, K) by normalised cuts of an affinity [N, N], eigenvectors discretised (Yu & Shi, ICCV 2003)."""
    cut = SpectralClustering(n_clusters, affinity="precomputed", assign_labels="discretize", random_state=seed)
    return cut.fit_predict(alike).astype(np.int64)
