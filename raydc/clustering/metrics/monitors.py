"""What to watch while a run clusters, without labels: from sums over rows, which are additive over workers."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics.pairwise import euclidean_distances

from raydc.clustering.metrics.external import check_ids, entropy

COLLAPSED_BALANCE = 0.5
"""Below this balance clusters count as collapsed: the largest of 10 then holds about 3 rows in 4."""


def cluster_sizes(labels: ArrayLike, n_clusters: int) -> NDArray[np.int64]:
    """Rows in each cluster, int64 [K], of labels [N] in [0, K); sum over workers for all rows."""
    return np.bincount(check_ids(labels, n_clusters, "labels"), minlength=n_clusters).astype(np.int64, copy=False)


def _checked(counts: ArrayLike) -> NDArray[np.float64]:
    sizes = np.asarray(counts, np.float64)
    if sizes.ndim != 1 or not len(sizes) or not (sizes >= 0).all() or not 0 < sizes.sum() < math.inf:
        raise ValueError(f"expected the sizes [K] of K clusters with at least one row, got {sizes.tolist()}")
    return sizes


def clusters_alive(counts: ArrayLike) -> int:
    """Clusters with at least one row. In [1, K]; says nothing of how few rows that are."""
    return int((_checked(counts) > 0).sum())


def largest_share(counts: ArrayLike) -> float:
    """Share of rows in the largest cluster. In [1/K, 1]; near 1 is collapse, but true classes may be unequal too."""
    sizes = _checked(counts)
    return float(sizes.max() / sizes.sum())


def smallest_share(counts: ArrayLike) -> float:
    """Share of rows in the smallest cluster, dead ones included. In [0, 1/K]; rare true classes make it small too."""
    sizes = _checked(counts)
    return float(sizes.min() / sizes.sum())


def balance(counts: ArrayLike) -> float:
    """Entropy of the cluster shares over log K. In [0, 1]: 1 where all are equal (and for K = 1), 0 where one has all.

    Not a measure of quality: random labels have 1, and unbalanced classes deserve less.
    """
    sizes = _checked(counts)
    return entropy(sizes) / math.log(len(sizes)) if len(sizes) > 1 else 1.0


def effective_clusters(counts: ArrayLike) -> float:
    """exp of the entropy of the cluster shares: how many equal clusters would be as diverse. In [1, K]."""
    return math.exp(entropy(_checked(counts)))


def regrouped_share(labels: ArrayLike, before: ArrayLike) -> float:
    """Share of rows [N] that changed company since before, whatever the clusters are called. In [0, 1).

    One minus the lesser purity of the two partitions by each other (Manning, Raghavan and Schuetze 2008, 16.3): of
    clusters that merge, and of parts that one splits into, all but the largest count. Known failure: 0 also for a
    collapsed run.
    """
    now, then = np.asarray(labels), np.asarray(before)
    if now.ndim != 1 or now.shape != then.shape or not len(now):
        raise ValueError(f"expected labels [N] of the same rows twice, got {list(now.shape)} and {list(then.shape)}")
    groups, together = np.unique(np.stack([now, then]), axis=1, return_counts=True)
    kept = []
    for side in groups:
        largest = np.zeros(side.max() + 1, np.int64)
        np.maximum.at(largest, side, together)
        kept.append(largest.sum())
    return 1.0 - float(min(kept)) / len(now)


def effective_rank(embeddings: ArrayLike) -> float:
    """exp of the entropy of the shares of variance along the principal axes of embeddings [N, D]. In [1, D].

    0 where all rows are equal. An alarm, no score: clustering losses should lower it, towards K - 1.
    After Roy and Vetterli, EUSIPCO 2007, who take singular values where variances are taken here.
    """
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise ValueError(f"expected finite embeddings [N, D] of at least one row, got {list(rows.shape)}")
    centred = rows - rows.mean(axis=0)
    spread = np.abs(centred).max()
    if spread <= 1e-12 * np.abs(rows).max():
        return 0.0
    centred /= spread  # the covariance of very large or very small values would leave the range of a float
    variances = np.linalg.eigvalsh(centred.T @ centred)
    return math.exp(entropy(variances.clip(min=0)))


def silhouette(embeddings: ArrayLike, labels: ArrayLike, *, size: int = 2000, seed: int = 0) -> float:
    """Mean of (b - a) / max(a, b) over at most `size` rows drawn by `seed`. Max, in [-1, 1].

    a is a row's mean Euclidean distance to its own cluster, b to the nearest other one, both within the drawn rows.
    -1 (the worst, never NaN) where those lie in one cluster, 0 where each has its own. Known failures: favours few,
    round, equally wide clusters; in a trial's own embedding it measures how far the loss pulled rows together, so it
    must not be compared between embeddings. Rousseeuw, J. Computational and Applied Mathematics 1987.
    """
    return float(silhouettes(embeddings, np.asarray(labels)[None], size=size, seed=seed)[0])


def silhouettes(embeddings: ArrayLike, labels: ArrayLike, *, size: int = 2000, seed: int = 0) -> NDArray[np.float64]:
    """`silhouette` of each partition of labels [M, N], all on the same rows: [M].

    The distances are taken once, and one matrix product sums them by the clusters of all partitions.
    """
    rows, each = np.asarray(embeddings), np.asarray(labels)
    if rows.ndim != 2 or each.ndim != 2 or each.shape[1] != len(rows) or not len(rows):
        raise ValueError(
            f"expected embeddings [N, D] and labels [N], got {list(rows.shape)} and {list(each.shape[1:])}"
        )
    if len(rows) > size:
        drawn = np.sort(np.random.default_rng(seed).choice(len(rows), size, replace=False))
        rows, each = rows[drawn], each[:, drawn]
    found = [np.unique(ids, return_inverse=True)[1] for ids in each]
    members = [np.eye(ids.max() + 1)[ids] for ids in found]
    sums = euclidean_distances(rows.astype(np.float64)) @ np.concatenate(members, axis=1)
    ends = np.cumsum([one.shape[1] for one in members])
    return np.array([_silhouette(*pair) for pair in zip(np.split(sums, ends[:-1], axis=1), found, strict=True)])


def _silhouette(sums: NDArray[np.float64], ids: NDArray[np.int64]) -> float:
    """From the sums of each row's distances to the rows of each cluster [N, K], and the row's own cluster [N]."""
    counts, each = np.bincount(ids), np.arange(len(ids))
    if len(counts) == 1:
        return -1.0
    own = sums[each, ids] / np.maximum(counts[ids] - 1, 1)
    others = sums / counts
    others[each, ids] = np.inf
    nearest = others.min(axis=1)
    widest = np.maximum(own, nearest)
    kept = (counts[ids] > 1) & (widest > 0)
    return float(np.where(kept, (nearest - own) / np.where(kept, widest, 1), 0).mean())


def cluster_monitors(counts: ArrayLike) -> dict[str, float]:
    """The monitors of cluster sizes [K] by the names they are logged under."""
    return {
        "clusters_alive": float(clusters_alive(counts)),
        "largest_share": largest_share(counts),
        "smallest_share": smallest_share(counts),
        "balance": balance(counts),
    }


def collapsed(counts: ArrayLike) -> str | None:
    """A warning with the numbers if clusters are dead or nearly all rows share a few; None if neither.

    Dead: no rows at all. Sharing: a balance under COLLAPSED_BALANCE. Known failure: classes that really are that
    unequal are warned of too.
    """
    sizes = _checked(counts)
    problems = []
    dead = np.flatnonzero(sizes == 0)
    if len(dead):
        named = ", ".join(map(str, dead[:10])) + (", ..." if len(dead) > 10 else "")
        problems.append(f"{len(dead)} of {len(sizes)} clusters have no rows ({named})")
    if balance(sizes) < COLLAPSED_BALANCE:
        problems.append(
            f"the largest cluster holds {largest_share(sizes):.1%} of {int(sizes.sum())} rows, and the entropy of the "
            f"sizes is {balance(sizes):.2f} of its maximum (expected at least {COLLAPSED_BALANCE})"
        )
    return "clusters collapsed: " + "; ".join(problems) if problems else None


def splintered(counts: ArrayLike) -> str | None:
    """A warning with the numbers if more than half of the clusters hold a single row; None if not.

    Methods that find the number of clusters may leave rows alone. Known failure: it is so too where there are hardly
    more rows than clusters.
    """
    sizes = _checked(counts)
    alive, single = clusters_alive(sizes), int((sizes == 1).sum())
    if single < 2 or 2 * single <= alive:
        return None
    return f"clusters splintered: {single} of {alive} clusters hold a single row"
