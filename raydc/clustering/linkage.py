"""Agglomerative clustering by graph degree linkage, sparse and exact. Zhang et al., ECCV 2012; Yang et al., CVPR 2016.

With W the affinity of rows, clusters a and i have
    A(a, i) = 1'W_ai W_ia 1 / |a|^2 + 1'W_ia W_ai 1 / |i|^2,
where 1'W_ai W_ia 1 is the sum over the rows p of i of (what a's rows give p) times (what p gives a's rows). Both
factors are kept as sparse vectors for each cluster, so that a merge costs what its rows' neighbours cost, not N.
"""

import heapq
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from raydc.clustering.graph import nearest_rows
from raydc.clustering.interface import Clusters
from raydc.data.memory import refuse_beyond_memory

BYTES = 200
"""A row's neighbour costs this much while clusters are merged (half of it measured) and its graph is gathered."""
Integers = NDArray[np.int64]
Reals = NDArray[np.float64]
Vector = tuple[Integers, Reals]


def row_affinity(neighbours: Integers, squared: Reals, scale: float = 1.0) -> sparse.csr_array:
    """W [N, N]: exp(-d^2 / sigma^2) of each row's `neighbours` [N, k]; sigma^2 = `scale` times the mean d^2 of them."""
    n, k = neighbours.shape
    squared = squared.astype(np.float64)
    mean = scale * squared.mean()
    values = np.exp(-squared / mean) if mean > 0 else np.ones_like(squared)
    return sparse.csr_array((values.ravel(), (np.repeat(np.arange(n), k), neighbours.ravel())), shape=(n, n))


def nearest_chains(nearest: Integers, longest: int = 50) -> Integers:
    """First clusters [N]: from each row to its `nearest` one [N] and on, until a row seen before or `longest` steps.

    A chain that ends at a row of an older chain joins its cluster.
    """
    labels = np.full(len(nearest), -1, dtype=np.int64)
    count = 0
    for start in range(len(nearest)):
        if labels[start] >= 0:
            continue
        chain, at = [start], int(nearest[start])
        labels[start] = count
        while labels[at] < 0 and len(chain) < longest:
            labels[at] = count
            chain.append(at)
            at = int(nearest[at])
        if 0 <= labels[at] < count:
            labels[chain] = labels[at]
        else:
            count += 1
    return labels


@dataclass
class Agglomeration:
    """Clusters of rows that are merged one pair at a time, always the pair that the criterion of JULE puts first.

    The criterion of cluster i, about merging it with its most affine N_1:
        A(i, N_1) + weight / (others - 1) * sum_{k=2..others} (A(i, N_1) - A(i, N_k)).
    """

    affinity: sparse.csr_array
    """W [N, N] of rows."""
    labels: Integers
    """Cluster [N] of each row."""
    others: int = 5
    """Clusters K_c that a cluster is compared with."""
    weight: float = 1.0
    """lambda."""
    sizes: dict[int, int] = field(init=False)
    given: dict[int, Vector] = field(init=False)
    """What the cluster's rows give each row, sparse."""
    taken: dict[int, Vector] = field(init=False)
    """What each row gives the cluster's rows, sparse."""
    sums: dict[int, dict[int, float]] = field(init=False)
    """1'W_ai W_ia 1 by a and i, where it is not zero."""
    _heap: list[tuple[float, int, int, int]] = field(init=False, default_factory=list)
    _version: dict[int, int] = field(init=False)
    _near: dict[int, list[tuple[float, int]]] = field(init=False)

    def __post_init__(self) -> None:
        names, self.labels = np.unique(self.labels, return_inverse=True)
        n, many = len(self.labels), len(names)
        members = sparse.csr_array((np.ones(n), (self.labels, np.arange(n))), shape=(many, n))
        given, taken = (sparse.csr_array(members @ w) for w in (self.affinity, self.affinity.T))
        both = sparse.csr_array(given.multiply(taken) @ members.T)
        self.sizes = dict(enumerate(np.bincount(self.labels, minlength=many).tolist()))
        self.given, self.taken = _vectors(given), _vectors(taken)
        self.sums = {
            a: {i: value for i, value in zip(index.tolist(), values.tolist(), strict=True) if i != a and value > 0}
            for a, (index, values) in _vectors(both).items()
        }
        for a, row in self.sums.items():  # both directions are known to both, a zero stands for none
            for i in row:
                self.sums[i].setdefault(a, 0.0)
        self._version = dict.fromkeys(self.sizes, 0)
        self._near = {a: self._nearest(a) for a in self.sizes}
        for a in self.sizes:
            self._push(a)

    def between(self, a: int, i: int) -> float:
        """A(a, i), symmetric."""
        return self.sums[a][i] / self.sizes[a] ** 2 + self.sums[i][a] / self.sizes[i] ** 2

    def _nearest(self, a: int) -> list[tuple[float, int]]:
        """The `others` most affine clusters, (affinity, -cluster), best first; fewer where fewer are linked."""
        return heapq.nlargest(self.others, ((self.between(a, i), -i) for i in self.sums[a]))

    def merge_until(self, count: int) -> None:
        """Merge until `count` clusters are left, or no two are linked by any neighbour."""
        while len(self.sizes) > count and self._heap:
            _, a, i, version = heapq.heappop(self._heap)
            if self._version.get(a) == version:
                self._merge(min(a, i), max(a, i))

    def merge_nearest_means(self, count: int, z: NDArray[np.floating]) -> None:
        """Merge what no neighbour links, by average linkage of the clusters' means of z [N, D], to `count` clusters."""
        if len(self.sizes) <= count:
            return
        names, dense = np.unique(self.labels, return_inverse=True)
        means = np.stack([np.bincount(dense, column) for column in z.T.astype(np.float64)], 1)
        sizes = np.bincount(dense)[:, None]
        group = fcluster(linkage(means / sizes, "average"), count, "maxclust")
        for label in np.unique(group):
            first, *rest = names[group == label].tolist()
            for other in rest:
                self._merge(first, other)

    def result(self) -> Integers:
        """Labels [N] from 0."""
        return np.searchsorted(sorted(self.sizes), self.labels)

    def _push(self, a: int) -> None:
        near = self._near[a]
        if near and near[0][0] > 0:
            first = near[0][0]
            rest = (self.others - 1) * first - sum(value for value, _ in near[1:])
            score = first + self.weight * rest / max(self.others - 1, 1)
            heapq.heappush(self._heap, (-score, a, -near[0][1], self._version[a]))

    def _merge(self, a: int, b: int) -> None:
        """b becomes part of a."""
        self.labels[self.labels == b] = a
        self.sizes[a] += self.sizes.pop(b)
        self.given[a], self.taken[a] = _add(self.given[a], self.given.pop(b)), _add(self.taken[a], self.taken.pop(b))
        self._version.pop(b)
        self._near.pop(b)
        linked = (self.sums[a].keys() | self.sums.pop(b).keys()) - {a, b}
        for i in linked:
            towards = self.sums[i]
            towards[a] = towards.get(a, 0.0) + towards.pop(b, 0.0)
        # a's own row has cross terms of a and b, so it is computed anew from what its rows now give and take
        rows, at, where = np.intersect1d(self.given[a][0], self.taken[a][0], assume_unique=True, return_indices=True)
        values = self.given[a][1][at] * self.taken[a][1][where]
        clusters, place = np.unique(self.labels[rows], return_inverse=True)
        self.sums[a] = dict.fromkeys(linked, 0.0)
        self.sums[a].update(zip(clusters.tolist(), np.bincount(place, values).tolist(), strict=True))
        self.sums[a].pop(a, None)
        for i in self.sums[a].keys() - linked:
            self.sums[i][a] = 0.0
        self._renew(a, self._nearest(a))
        for i in self.sums[a]:
            near, new = self._near[i], (self.between(i, a), -a)
            if any(other in (-a, -b) for _, other in near):
                self._renew(i, self._nearest(i))
            elif len(near) < self.others or new > near[-1]:
                self._renew(i, sorted([*near, new], reverse=True)[: self.others])

    def _renew(self, a: int, near: list[tuple[float, int]]) -> None:
        self._near[a] = near
        self._version[a] += 1
        self._push(a)


def join_stray(labels: Integers, neighbours: Integers, squared: Reals) -> Integers:
    """Clusters [N] after those that stand out have joined the cluster of a nearest neighbour.

    Clusters are tied where a row of each is among the `neighbours` [N, k] of the other. Those tied among themselves
    alone, with no more rows than k, have neighbours elsewhere that do not return it, and affinities of next to
    nothing: left alone, each would be one of the last K clusters, and all others would be merged before it.
    """
    n, k = neighbours.shape
    near = sparse.csr_array((np.ones(n * k), (np.repeat(np.arange(n), k), neighbours.ravel())), shape=(n, n))
    mutual = sparse.coo_array(near.multiply(near.T))
    ends = labels[mutual.row], labels[mutual.col]
    many = int(labels.max()) + 1
    tied = sparse.coo_array((np.ones(len(ends[0])), ends), shape=(many, many))
    part = connected_components(tied, directed=False)[1][labels]
    labels, stray = labels.copy(), np.bincount(part)[part] <= k
    while stray.any():
        rows = np.flatnonzero(stray)
        away = np.where(stray[neighbours[rows]], np.inf, squared[rows])
        nearest, distance = away.argmin(1), away.min(1)
        farthest_first = np.argsort(distance, kind="stable")[::-1]
        way = farthest_first[np.isfinite(distance[farthest_first])]
        if not len(way):
            break
        to = np.full(part.max() + 1, -1)
        to[part[rows[way]]] = labels[neighbours[rows[way], nearest[way]]]  # of several, the last one stays
        joining = stray & (to[part] >= 0)
        labels[joining], stray[joining] = to[part[joining]], False
    return labels


def merge_rows(
    neighbours: Tensor, squared: Tensor, z: Tensor, labels: Tensor | None, left: float, least: int, others: int
) -> Tensor:
    """Merge the clusters `labels` [N] of rows z [N, D] by their `neighbours` [N, k]; by default chains (or rows).

    Until the share `left` of the clusters is left, and at least `least` of them. Returns each row's cluster, int64 [N].
    """
    near = neighbours.cpu().numpy()
    first = nearest_chains(near[:, 0]) if labels is None else labels.cpu().numpy()
    if labels is None and first.max() + 1 < least:
        first = np.arange(len(near))
    distances = squared.cpu().numpy().astype(np.float64)
    joined = join_stray(np.unique(first, return_inverse=True)[1], near, distances)
    first = joined if len(np.unique(joined)) >= least else first
    tree = Agglomeration(row_affinity(near, distances), first, others)
    count = max(least, round(left * len(tree.sizes)))
    tree.merge_until(count)
    tree.merge_nearest_means(count, z.float().cpu().numpy())
    return torch.from_numpy(tree.result())


def check_memory(total: int, neighbours: int) -> None:
    """MemoryError, with both numbers, where this machine has no room to `agglomerate` so many rows."""
    advice = "train on a sample of the rows and assign the others, or use imsat or idec"
    refuse_beyond_memory("are merged on one machine", total, BYTES * neighbours, 1, advice)


def agglomerate(
    z: Tensor, clusters: Clusters, neighbours: int, labels: Tensor | None, left: float, least: int, others: int = 5
) -> Tensor:
    """`merge_rows` of all workers' z [N, D] by the affinities of their `neighbours` nearest rows; labels int64 [N].

    `labels` are those of all rows, in the order of the data. Merging is one worker's work.
    """
    near, squared = nearest_rows(z, neighbours, clusters)
    near, squared, everywhere = (clusters.gather(part) for part in (near, squared, z))
    return clusters.label_on_one_worker(lambda: merge_rows(near, squared, everywhere, labels, left, least, others))


def draw_rows(labels: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """About `size` rows to compare, positions ascending, of all rows' clusters `labels` [N].

    Anchors, each with two rows of its cluster, which may be itself, and five of any.
    """
    sizes = labels.bincount()
    members, first = labels.argsort(stable=True), sizes.cumsum(0) - sizes
    anchors = torch.randperm(len(labels), generator=draw)[: max(size // 8, 1)]
    own = labels[anchors].repeat(2)
    chance = torch.rand(len(own), generator=draw, dtype=torch.float64)
    mates = members[first[own] + (chance * sizes[own]).long()]
    return torch.cat([anchors, mates, torch.randint(len(labels), (5 * len(anchors),), generator=draw)]).unique()


def _vectors(matrix: sparse.csr_array) -> dict[int, Vector]:
    """Rows of a sparse matrix as (indices ascending, values)."""
    matrix.sort_indices()
    spans = zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)
    return {a: (matrix.indices[s:e].astype(np.int64), matrix.data[s:e]) for a, (s, e) in enumerate(spans)}


def _add(left: Vector, right: Vector) -> Vector:
    index, place = np.unique(np.concatenate([left[0], right[0]]), return_inverse=True)
    return index, np.bincount(place, np.concatenate([left[1], right[1]])).astype(np.float64)
