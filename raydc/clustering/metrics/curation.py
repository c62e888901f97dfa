"""Which rows of a clustering to take: balanced over its clusters, its most typical ones, or one of each like others."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import NearestNeighbors

Integers = NDArray[np.int64]
NEAR = 0.1
"""Distance of near duplicates, in that of the cluster's middle row from the cluster's mean."""


def even_shares(sizes: ArrayLike, wanted: int) -> Integers:
    """How many of `wanted` to take from groups of these sizes [G]: as many from each, or all where it has fewer.

    The c with sum_g min(c, size_g) = wanted; what is left over goes to the first groups that have more.
    """
    have = np.asarray(sizes, np.int64)
    wanted = min(wanted, int(have.sum()))
    low, high = 0, int(have.max(initial=0))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(have, middle).sum() <= wanted else (low, middle - 1)
    shares = np.minimum(have, low)
    more = np.flatnonzero(have > low)[: wanted - int(shares.sum())]
    shares[more] += 1
    return shares


def balanced(groups: Sequence[Integers], wanted: int, seed: int = 0) -> Integers:
    """Positions, ascending, of about `wanted` rows: even over the groups of each level, from coarse to fine.

    `groups` are the labels [N] of each level, of which each lies within the one before. Vo et al., TMLR 2024,
    arXiv:2405.15613.
    """
    draw = np.random.default_rng(seed)

    def taken(rows: Integers, levels: Sequence[Integers], share: int) -> list[Integers]:
        if not levels:
            return [draw.permutation(rows)[:share]]
        names, sizes = np.unique(levels[0][rows], return_counts=True)
        shares = zip(names, even_shares(sizes, share), strict=True)
        parts = (taken(rows[levels[0][rows] == name], levels[1:], int(part)) for name, part in shares)
        return [each for part in parts for each in part]

    return np.sort(np.concatenate(taken(np.arange(len(groups[0])), groups, wanted)))


def prototypes(labels: ArrayLike, distance: ArrayLike, membership: ArrayLike, wanted: int) -> Integers:
    """Positions of about `wanted` rows: of each cluster those nearest to a centre, and of equals the surest."""
    ids = np.asarray(labels, np.int64)
    order = np.lexsort((-np.asarray(membership), np.asarray(distance), ids))
    names, starts, sizes = np.unique(ids[order], return_index=True, return_counts=True)
    shares = even_shares(sizes, wanted) if len(names) else sizes
    return np.sort(np.concatenate([order[:0], *(order[a : a + n] for a, n in zip(starts, shares, strict=True))]))


def near_duplicates(features: ArrayLike, labels: ArrayLike) -> Integers:
    """A group's number for each row [N] that has a near duplicate in its cluster, and -1 for the others.

    Rows of one cluster are that whose features [N, D] lie within NEAR of the distance of the cluster's middle row from
    its mean, directly or by way of others.
    """
    z, ids = np.asarray(features, np.float32), np.asarray(labels, np.int64)
    found, groups = np.full(len(ids), -1, np.int64), 0
    for cluster in np.unique(ids):
        rows = np.flatnonzero(ids == cluster)
        own = z[rows] - z[rows].mean(0)
        radius = NEAR * float(np.median(np.linalg.norm(own, axis=1)))
        near = NearestNeighbors(radius=radius).fit(own).radius_neighbors_graph()
        _, component = connected_components(sparse.csr_array(near), directed=False)
        several = np.flatnonzero(np.bincount(component) > 1)
        for one in several:
            found[rows[component == one]] = groups
            groups += 1
    return found
