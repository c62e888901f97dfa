"""Whether the same configuration finds the same clusters again: from labels of replicas alone.

A replica is the same configuration trained anew, with another seed and on another subsample; because models predict,
all replicas label the same evaluation rows. Stability finds what is fragile; it does not find what is wrong, so nothing
here is a score to optimise alone: a coarse or collapsed answer is stable too (von Luxburg, arXiv:1007.1075).
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from raydc.clustering.metrics.external import Table, accuracy, ami, ari, contingency, match, rand

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]
Index = Literal["ami", "ari", "rand"]
_INDICES: dict[str, Callable[[ArrayLike], float]] = {"ami": ami, "ari": ari, "rand": rand}
Transfer = Callable[[NDArray, Labels, NDArray], ArrayLike]
"""(rows [N, F], their labels [N], new rows [M, F]) -> labels of the new rows [M]."""


def _coded(labels: ArrayLike) -> tuple[Labels, int]:
    """Labels [N] as ids from 0 on without gaps, and how many there are."""
    names, ids = np.unique(np.asarray(labels), return_inverse=True)
    return ids, len(names)


def _crossed(labels: ArrayLike, others: ArrayLike) -> Table:
    """The contingency table of two labelings [N] of the same rows, whatever their ids."""
    (rows, n_rows), (columns, n_columns) = _coded(labels), _coded(others)
    return contingency(rows, columns, n_rows, n_columns)


def _replicas(labels: ArrayLike, least: int = 2) -> NDArray:
    stacked = np.asarray(labels)
    if stacked.ndim != 2 or len(stacked) < least or not stacked.shape[1]:
        raise ValueError(f"expected labels [R, N] of at least {least} replicas, got {list(stacked.shape)}")
    return stacked


def similarities(labels: ArrayLike, index: Index = "ami") -> Floats:
    """The index between every two of labels [R, N]: symmetric, [R, R], 1 on the diagonal."""
    coded = [_coded(replica) for replica in _replicas(labels, least=1)]
    found = np.eye(len(coded))
    for (i, (rows, n_rows)), (j, (columns, n_columns)) in combinations(enumerate(coded), 2):
        found[i, j] = found[j, i] = _INDICES[index](contingency(rows, columns, n_rows, n_columns))
    return found


def stability(labels: ArrayLike, index: Index = "ami") -> float:
    """Mean index over pairs of replicas, of labels [R, N] on the same rows. Max, at most 1, about 0 at chance.

    Known failures: rewards stubborn simplicity (too few clusters, an undertrained network), and replicas that all
    collapsed to one cluster have 1; "rand" is not adjusted for chance and rises with K. "ami" ranks trials best.
    """
    replicas = _replicas(labels)
    return float(similarities(replicas, index)[np.triu_indices(len(replicas), 1)].mean())


def perturbation_stability(labels: ArrayLike, perturbed: ArrayLike, index: Index = "ami") -> float:
    """Mean index between a model's labels [N] and its labels of perturbed rows [R, N], R draws. Max, at most 1.

    Known failure: a model that ignores its input is perfectly stable, and the scale of the perturbation decides what
    is found. The between-cluster part of Stadion, Mourer et al., arXiv:2006.08530.
    """
    return float(np.mean([_INDICES[index](_crossed(labels, draw)) for draw in _replicas(perturbed, least=1)]))


def co_membership(table: ArrayLike, kind: Literal["cosine", "jaccard"] = "jaccard") -> float:
    """Similarity of which pairs of rows two partitions put together. Max, in [0, 1]; 1 where neither puts any together.

    Known failure: not adjusted for chance, so partitions with one huge cluster look alike. Ben-Hur et al. 2002.
    """
    counts = np.asarray(table, np.int64)

    def pairs(sizes: NDArray[np.int64]) -> int:
        return int((sizes * (sizes - 1) // 2).sum())

    both, first, second = pairs(counts), pairs(counts.sum(axis=1)), pairs(counts.sum(axis=0))
    bound = (first * second) ** 0.5 if kind == "cosine" else first + second - both
    if first == second == 0:
        return 1.0
    return both / bound if bound else 0.0


def ben_hur(
    subsamples: Sequence[tuple[ArrayLike, ArrayLike]], kind: Literal["cosine", "jaccard"] = "jaccard"
) -> Floats:
    """Co-membership similarity of every two subsamples on their common rows, [R (R - 1) / 2]. Max, in [0, 1].

    A subsample is (ids of its rows [n], each once, their labels [n]). Look at the distribution: the largest K that
    still concentrates near 1. Known failures: few clusters always look stable, and so do unbalanced ones.
    Ben-Hur, Elisseeff and Guyon, Pacific Symposium on Biocomputing 2002.
    """
    found = []
    for (rows, labels), (other_rows, other_labels) in combinations(subsamples, 2):
        common, here, there = np.intersect1d(rows, other_rows, assume_unique=True, return_indices=True)
        if not len(common):
            raise ValueError("expected subsamples that share rows, got two that share none; draw larger ones")
        found.append(co_membership(_crossed(np.asarray(labels)[here], np.asarray(other_labels)[there]), kind))
    return np.array(found)


def nearest_centroid(rows: NDArray, labels: Labels, new_rows: NDArray) -> Labels:
    """A transfer: the label of the nearest mean. The match for k-means and its like."""
    if len(np.unique(labels)) == 1:
        return np.full(len(new_rows), labels[0])
    return NearestCentroid().fit(rows, labels).predict(new_rows)


def nearest_neighbours(rows: NDArray, labels: Labels, new_rows: NDArray) -> Labels:
    """A transfer: the commonest label of the 5 nearest rows. For clusters that are not round."""
    return KNeighborsClassifier(min(5, len(rows))).fit(rows, labels).predict(new_rows)


def disagreement(labels: ArrayLike, others: ArrayLike) -> float:
    """Share of rows [N] on which two labelings differ under the best one-to-one match of their ids. Min, in [0, 1)."""
    return 1 - accuracy(_crossed(labels, others))


def lange(
    first: tuple[NDArray, ArrayLike],
    second: tuple[NDArray, ArrayLike],
    n_clusters: int,
    transfer: Transfer = nearest_centroid,
    *,
    repeats: int = 20,
    seed: int = 0,
) -> float:
    """Disagreement of two halves, each (rows [N, F], labels [N] found on it alone), over that of random labels. Min.

    The first half's labels are transferred to the second's rows. 0 is perfect, 1 is as bad as random labels; average
    over splits. Known failures: the transfer must suit the clusterer, and one huge cluster scores low, for the division
    corrects for K only. Lange, Roth, Braun and Buhmann, Neural Computation 2004.
    """
    labels = np.asarray(second[1])
    if not 2 <= n_clusters <= len(labels):
        raise ValueError(f"expected 2 clusters or more and a row for each, got {n_clusters} and {len(labels)} rows")
    found = disagreement(transfer(first[0], np.asarray(first[1]), second[0]), labels)
    rng = np.random.default_rng(seed)
    chance = [disagreement(*rng.integers(0, n_clusters, (2, len(labels)))) for _ in range(repeats)]
    return found / float(np.mean(chance))


def prediction_strength(labels: ArrayLike, transferred: ArrayLike) -> float:
    """Least, over clusters, share of a cluster's pairs of rows that the other half's clusters also hold. In [0, 1].

    `labels` [N] were found on these rows, `transferred` [N] brought from clusters found on the other half. Take the
    largest K with at least 0.8. A cluster of one row has no pair and is left out; 1 for one cluster. Known failure: one
    small fuzzy cluster vetoes all others, so it ranks trials badly. Tibshirani and Walther, JCGS 2005.
    """
    table = _crossed(labels, transferred)
    sizes = table.sum(axis=1)
    held = (table * (table - 1)).sum(axis=1)[sizes > 1] / (sizes * (sizes - 1))[sizes > 1]
    return float(held.min(initial=1.0))


def fang_wang(pairs: Sequence[tuple[ArrayLike, ArrayLike]]) -> float:
    """Mean share of the N^2 pairs of rows that only one of two clusterings puts together. Min, in [0, 1).

    A pair holds the labels [N] of two models, each fitted to a bootstrap of its own, on the same rows.
    Known failure: 1 - Rand in essence, so it falls as K grows and prefers large K. Fang and Wang, CSDA 2012.
    """
    found = []
    for labels, others in pairs:
        table = _crossed(labels, others)
        n = int(table.sum())
        found.append((1 - rand(table)) * (n - 1) / n)  # rand counts each pair once and no row with itself
    return float(np.mean(found))


def cluster_jaccard(labels: ArrayLike, replicas: ArrayLike, n_clusters: int) -> Floats:
    """For each cluster of labels [N], mean over replicas [R, N] of its best Jaccard overlap with one of theirs: [K].

    In [0, 1]; 0 for a dead cluster. 0.75 and more is called valid, 0.85 very stable, under 0.6 doubtful. Known failure:
    stable because inflexible; report it by cluster, do not optimise it. Hennig, CSDA 2007.
    """
    best = []
    for replica in _replicas(replicas, least=1):
        others, n_others = _coded(replica)
        table = contingency(labels, others, n_clusters, n_others)
        union = table.sum(axis=1, keepdims=True) + table.sum(axis=0) - table
        best.append((table / union).max(axis=1))
    return np.mean(best, axis=0)


def consensus_matrix(labels: ArrayLike, weights: ArrayLike | None = None) -> Floats:
    """Weighted share of the partitions, labels [R, N], that put rows i and j together: [N, N], 1 on the diagonal.

    N^2 numbers: 4,000 rows take 128 MB. Known failure: duplicates and poor partitions vote too; weight them.
    Monti et al., Machine Learning 2003.
    """
    replicas = _replicas(labels, least=1)
    votes = np.ones(len(replicas)) if weights is None else np.asarray(weights, np.float64)
    if votes.shape != (len(replicas),) or not (votes >= 0).all() or not 0 < votes.sum() < np.inf:
        raise ValueError(f"expected {len(replicas)} weights, not negative and not all 0, got {votes.tolist()}")
    together = np.zeros((replicas.shape[1], replicas.shape[1]))
    for replica, vote in zip(replicas, votes.tolist(), strict=True):
        together += vote * (replica[:, None] == replica)
    return together / votes.sum()


def pac(consensus: ArrayLike, low: float = 0.1, high: float = 0.9) -> float:
    """Proportion of ambiguous pairs: share of pairs of rows whose consensus [N, N] is in (low, high). Min, in [0, 1].

    Known failure: 0 for one cluster, and low for many; compare with rows without clusters (`graph.null_rows`).
    Senbabaoglu, Michailidis and Li, Scientific Reports 2014.
    """
    matrix = np.asarray(consensus, np.float64)
    above = matrix[np.triu_indices(len(matrix), 1)]
    if not len(above):
        raise ValueError(f"expected the consensus of at least two rows, got {list(matrix.shape)}")
    return float(((above > low) & (above < high)).mean())


def weighted_consensus(labels: ArrayLike, weights: ArrayLike, index: Index = "ami") -> Floats:
    """For each partition of labels [M, N], mean index to the others, weighted by their weights [M] (stability): [M].

    Max, at most 1. Its own weight is left out. Known failures: the majority can be wrong, and duplicates shift it, so
    it re-ranks finalists only. After Ohl and Lindsten 2025 (consensus ordering).
    """
    alike, votes = similarities(_replicas(labels), index), np.asarray(weights, np.float64)
    if votes.shape != (len(alike),) or not (votes >= 0).all() or (votes > 0).sum() < 2:
        raise ValueError(f"expected {len(alike)} weights, none negative and two above 0, got {votes.tolist()}")
    np.fill_diagonal(alike, 0)
    return alike @ votes / (votes.sum() - votes)


def medoid(labels: ArrayLike, index: Index = "ami") -> int:
    """The replica of labels [R, N] that is nearest to all others by the index; the first of equals.

    The one to register: not the luckiest by loss. Known failure: of two replicas, both are equally near.
    """
    return int(similarities(labels, index).sum(axis=1).argmax())


def names_in(labels: ArrayLike, reference: ArrayLike, n_clusters: int, n_reference: int | None = None) -> Labels:
    """Ids [K] of the reference [N] that clusters of labels [N] in [0, K) stand for: one to one, most rows agreeing.

    Clusters without a counterpart get the free ids from the smallest on, in their own order. Known failure: a merged
    and a split cluster look like one kept and one new. Kuhn 1955, as in `external.match`.
    """
    bound = n_clusters if n_reference is None else n_reference
    names = match(contingency(labels, reference, n_clusters, bound))
    free = np.setdiff1d(np.arange(max(n_clusters, bound)), names)
    names[names < 0] = free[: (names < 0).sum()]
    return names


def align(labels: ArrayLike, reference: ArrayLike, n_clusters: int, n_reference: int | None = None) -> Labels:
    """Labels [N] in [0, K) renamed by the ids of the reference [N], as `names_in` has it."""
    return names_in(labels, reference, n_clusters, n_reference)[np.asarray(labels, np.int64)]


def row_agreement(labels: ArrayLike, n_clusters: int, reference: int | None = None) -> Floats:
    """For each row, the share of the other replicas that put it into the cluster where the reference replica has it.

    Of labels [R, N] in [0, K), aligned to the reference (the medoid unless given): [N], in {0, 1 / (R - 1), ..., 1}.
    It says how far an assignment depends on the seed and the rows of a training. Known failures: with few replicas it
    is coarse, and replicas that are wrong alike agree, as they do on noise.
    """
    replicas = _replicas(labels)
    chosen = medoid(replicas) if reference is None else reference
    others = [align(row, replicas[chosen], n_clusters) for i, row in enumerate(replicas) if i != chosen]
    return np.mean(np.array(others) == replicas[chosen], axis=0)
