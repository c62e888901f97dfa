"""Indices of compactness and separation, and which space to measure them in.

pi(labels | space) can be taken in the inputs (raw), in the trial's own embedding (paired), in all trials' embeddings
(pooled), or in those that are fit for it (ACE). Paired values of different trials are not comparable, even if every
embedding is perfect: a stronger clustering loss shrinks clusters and raises the index whether they are right or wrong
(Wang and Ye, arXiv:2403.14830, theorem 2).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA
from sklearn.metrics import calinski_harabasz_score, davies_bouldin_score

from raydc.clustering.metrics.dip import dip_p_value
from raydc.clustering.metrics.external import entropy
from raydc.clustering.metrics.monitors import silhouettes

Floats = NDArray[np.float64]
Index = Literal["silhouette", "calinski_harabasz", "davies_bouldin"]


def _defined(rows: ArrayLike, labels: ArrayLike) -> bool:
    ids = np.asarray(labels)
    if np.ndim(rows) != 2 or ids.shape != (np.shape(rows)[0],):
        raise ValueError(f"expected rows [N, F] and labels [N], got {list(np.shape(rows))} and {list(ids.shape)}")
    return 1 < len(np.unique(ids)) < len(ids)


def calinski_harabasz(rows: ArrayLike, labels: ArrayLike) -> float:
    """(tr B / (K - 1)) / (tr W / (N - K)), variance between over within clusters. Max, in [0, inf).

    0 (the worst) for one cluster or one row each. Known failures: grows with N and as clusters shrink, so it is no
    measure across embeddings. Calinski and Harabasz, Communications in Statistics 1974.
    """
    return float(calinski_harabasz_score(rows, labels)) if _defined(rows, labels) else 0.0


def davies_bouldin(rows: ArrayLike, labels: ArrayLike) -> float:
    """Mean over clusters of max_j (s_k + s_j) / d_kj, widths over the distance of centroids. Min, in [0, inf].

    inf (the worst) for one cluster or one row each. Known failures: as above, rewards tiny clusters, and unstable with
    clusters of one row. Davies and Bouldin, IEEE PAMI 1979.
    """
    return float(davies_bouldin_score(rows, labels)) if _defined(rows, labels) else math.inf


def rank_me(embeddings: ArrayLike) -> float:
    """exp of the entropy of the normalised singular values of embeddings [N, D]. In [1, min(N, D)]; 0 if all are 0.

    Neither centred nor squared, unlike `monitors.effective_rank`. Known failure: made for features of self-supervised
    learning; clustering losses should lower it, so it is an alarm here. Garrido et al., arXiv:2210.02885.
    """
    values = np.linalg.svd(np.asarray(embeddings, np.float64), compute_uv=False)
    return math.exp(entropy(values)) if values.any() else 0.0


def raw_scores(rows: ArrayLike, labels: ArrayLike, index: Index = "silhouette", *, size: int = 1000) -> Floats:
    """pi(l_m | rows) for each partition of labels [M, N], in the one space of rows [N, F]: [M], higher is better.

    Davies-Bouldin changes its sign; a partition without a value gets the worst of the others. Silhouettes take `size`
    rows, the same for all. Known failure: in many dimensions all distances are alike (their theorem 1).
    """
    measures: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
        "calinski_harabasz": calinski_harabasz,
        "davies_bouldin": lambda space, ids: -davies_bouldin(space, ids),
    }
    if index == "silhouette":
        return silhouettes(rows, labels, size=size)
    found = np.array([measures[index](rows, ids) for ids in np.asarray(labels)])
    finite = np.isfinite(found)
    return np.where(finite, found, found[finite].min(initial=np.inf) if finite.any() else 0.0)


def score_matrix(
    spaces: Sequence[ArrayLike], labels: ArrayLike, index: Index = "silhouette", *, size: int = 1000
) -> Floats:
    """pi(l_m | Z_s) of every partition of labels [M, N] in every space Z_s [N, D_s]: [S, M], higher is better.

    24 x 24 silhouettes of 1,000 rows take a second of one core.
    """
    return np.stack([raw_scores(space, labels, index, size=size) for space in spaces])


def paired_scores(matrix: ArrayLike) -> Floats:
    """pi(l_m | Z_m), each trial in its own embedding, of scores [M, M]. Never choose by it (see the module)."""
    return np.diagonal(np.asarray(matrix, np.float64)).copy()


def pooled_scores(matrix: ArrayLike) -> Floats:
    """Mean over spaces of pi(l_m | Z_s), of scores [S, M]: [M]. Max.

    Known failure: collapsed spaces count as much as good ones, and spaces with a large scale more. Wang and Ye 2024.
    """
    return np.asarray(matrix, np.float64).mean(axis=0)


def holm(p_values: ArrayLike, level: float = 0.05) -> NDArray[np.bool_]:
    """Which of the tests [M] reject, at a family-wise error of `level`. Holm, Scandinavian J. of Statistics 1979."""
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values)
    passed = values[order] <= level / np.arange(len(values), 0, -1)
    rejected = np.zeros(len(values), bool)
    rejected[order[: len(values) if passed.all() else int(passed.argmin())]] = True
    return rejected


def multimodal(
    spaces: Sequence[ArrayLike], level: float = 0.05, *, size: int = 1000, seed: int = 0
) -> NDArray[np.bool_]:
    """Which spaces [N, D] have more than one mode: dip test on the first principal component, Holm-corrected, [S].

    Of at most `size` rows drawn by `seed`. Known failure: modes that only other directions show are missed.
    """
    p_values = []
    for space in spaces:
        rows = np.asarray(space, np.float64)
        if len(rows) > size:
            rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), size, replace=False))]
        spread = rows.std(axis=0).any()
        p_values.append(dip_p_value(PCA(1, random_state=0).fit_transform(rows)[:, 0]) if spread else 1.0)
    return holm(p_values, level)


class Ace(NamedTuple):
    """Scores of the partitions [M], and the weight of each space in them [S] (0 where it was not chosen)."""

    scores: Floats
    weights: Floats


def ace(matrix: ArrayLike, retained: ArrayLike | None = None, level: float = 0.1) -> Ace:
    """Adaptive clustering evaluation: pi(l_m | Z_s) averaged over a group of spaces that agree. Max.

    Of scores [S, M] (`score_matrix`) and the spaces kept by the dip test [S] (`multimodal`; if none, all are). Spaces
    are grouped by rank correlation and then by score, both with HDBSCAN; in each group PageRank over significantly
    positive correlations weighs the spaces; the group with the highest mean score gives the result. Smallest group
    here: 2. Known failures: wants 15 trials or more; depends on who else is in the set; a group of one shrunken space
    wins by its scale; of no help where all spaces share one flaw. Wang and Ye, arXiv:2403.14830, algorithms 1 and 2.
    """
    table = np.asarray(matrix, np.float64)
    if table.ndim != 2 or table.shape[1] < 3 or not np.isfinite(table).all():
        raise ValueError(f"expected finite scores [S, M] of at least 3 partitions, got {list(table.shape)}")
    kept = np.arange(len(table)) if retained is None or not np.any(retained) else np.flatnonzero(retained)
    correlation = _rank_correlation(table[kept])
    best = Ace(np.full(table.shape[1], -np.inf), np.zeros(len(table)))
    for alike in _groups(1 - correlation) or [np.arange(len(kept))]:
        spaces = table[kept[alike]]
        distances = np.linalg.norm(spaces[:, None] - spaces, axis=-1)
        subgroups = _groups(distances)
        grouped = np.concatenate([*subgroups, np.array([], np.int64)])
        for members in subgroups + [np.array([one]) for one in np.setdiff1d(np.arange(len(alike)), grouped)]:
            inside = alike[members]
            rating = _page_rank(_significant(correlation[np.ix_(inside, inside)], table.shape[1], level))
            scores = rating @ table[kept[inside]]
            if scores.mean() > best.scores.mean():
                weights = np.zeros(len(table))
                weights[kept[inside]] = rating
                best = Ace(scores, weights)
    return best


def _rank_correlation(table: Floats) -> Floats:
    """Spearman's correlation of every two rows; 0 for a row without any order."""
    ranks = stats.rankdata(table, axis=1)
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit = centred / np.where(norms > 0, norms, 1)
    return (unit @ unit.T).clip(-1, 1)


def _groups(distances: Floats) -> list[NDArray[np.int64]]:
    """Dense groups of at least two by their distances [S, S]; outliers are in none."""
    if len(distances) < 2:
        return []
    distances = distances.clip(min=0)
    np.fill_diagonal(distances, 0)
    found = HDBSCAN(min_cluster_size=2, metric="precomputed", allow_single_cluster=True, copy=True).fit(distances)
    return [np.flatnonzero(found.labels_ == group) for group in range(found.labels_.max() + 1)]


def _significant(correlation: Floats, n: int, level: float) -> Floats:
    """The correlations [S, S] over n partitions that are above 0 at a family-wise `level`; 0 elsewhere."""
    above = np.triu_indices(len(correlation), 1)
    if not len(above[0]):
        return np.zeros_like(correlation)
    r = correlation[above].clip(-1 + 1e-12, 1 - 1e-12)
    p_values = stats.t.sf(r * np.sqrt((n - 2) / (1 - r**2)), n - 2)
    kept = np.zeros_like(correlation)
    kept[above] = np.where(holm(p_values, level), correlation[above], 0)
    return kept + kept.T


def _page_rank(links: Floats, damping: float = 0.85) -> Floats:
    """Ratings [S] that sum to 1 of the nodes of a weighted graph [S, S]; a node without links jumps anywhere."""
    n = len(links)
    leaving = links.sum(axis=1, keepdims=True)
    step = np.where(leaving > 0, links / np.where(leaving > 0, leaving, 1), 1 / n)
    rating = np.linalg.solve(np.eye(n) - damping * step.T, np.full(n, (1 - damping) / n))
    return rating / rating.sum()
