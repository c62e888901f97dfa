"""Sparse graphs over all rows, from neighbour lists: edges, batches of them, components, spectra."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from scipy import sparse
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.sparse.linalg import eigsh
from torch import Tensor

from raydc.clustering import Clusters
from raydc.clustering.kmeans.steps import hashed
from raydc.core.settings import Settings
from raydc.data import Batch, Shard
from raydc.networks.losses.locality import heat_kernel

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


def _keys(x: Tensor) -> Tensor:
    """int64 [N], the same for equal rows of x [N, D] and, but for one pair in 2^64, for those alone."""
    # -0.0 equals 0.0 and has other bits; a sum with 0.0 makes it one
    bits = (x + 0.0).view(torch.int64 if x.dtype == torch.float64 else torch.int32)
    odd = torch.randint(2**62, (x.shape[1],), generator=torch.Generator().manual_seed(0)).to(x.device) * 2 + 1
    return torch.cat([(part.long() * odd).sum(1) for part in bits.split(4096)])


def nearest_rows(x: Tensor, k: int, clusters: Clusters) -> tuple[Tensor, Tensor]:
    """`Clusters.neighbours`, of all other rows where there are not k of them; x [N, D] are this worker's."""
    total = int(clusters.total(torch.tensor(len(x), device=x.device)))
    return clusters.neighbours(x, min(k, total - 1))


def neighbour_distance(x: Tensor, k: int, clusters: Clusters) -> Tensor:
    """The distance [N] of each of this worker's x [N, D] to its k-th nearest row, or to its last where fewer."""
    return nearest_rows(x, k, clusters)[1][:, -1].sqrt().to(x.dtype)


@dataclass
class EdgeGraph:
    """Undirected edges between the rows of all workers; every worker holds all of them."""

    edges: Tensor
    """int64 [E, 2], positions among all rows."""
    degree: Tensor
    """Edges [N] of each row."""
    same: Tensor
    """int64 [M, 2], pairs that hold equal rows together: whatever becomes of them, they are one cluster."""
    weights: Tensor = field(init=False)
    """mean(degree) / sqrt(degree_i degree_j) [E]: rows with many edges are not pulled more."""
    _order: tuple[int, Tensor] = field(init=False, default=(-1, torch.zeros(0)))

    def __post_init__(self) -> None:
        self.weights = self.degree.mean() / self.degree[self.edges].prod(1).sqrt()

    @staticmethod
    def mutual(x: Tensor, k: int, clusters: Clusters) -> "EdgeGraph":
        """The graph of `mutual_neighbour_edges`, by cosine, of all workers' rows; x [N, D] are this one's."""
        found = nearest_rows(F.normalize(x, dim=1), k, clusters)
        near, squared = (clusters.gather(part).cpu().numpy() for part in found)
        edges = torch.from_numpy(mutual_neighbour_edges(near, squared)).to(x.device)
        degree = torch.bincount(edges.flatten(), minlength=len(near))
        keys, order = clusters.gather(_keys(x)).sort(stable=True)
        same = torch.stack([order[:-1], order[1:]], 1)[keys[:-1] == keys[1:]]
        return EdgeGraph(edges, degree.to(torch.get_default_dtype()), same)

    def steps(self, size: int) -> int:
        """Batches of `size` edges in an epoch."""
        return -(-len(self.edges) // size)

    def batch(self, shard: Shard, seed: int, index: int, count: int) -> Batch:
        """Batch `index` of `count`: every edge once an epoch, shuffled by `seed`, and the rows at their ends.

        Its `extra` has the edges' "ends" [e, 2], as places in the gathered batch, their "weight" [e], and for this
        worker's rows the "share" [B_w] of their edges that is in the batch: it sums to 1 over an epoch.
        """
        many = len(self.edges)
        if self._order[0] != seed:
            self._order = (seed, torch.randperm(many, generator=torch.Generator().manual_seed(seed)))
        chosen = self._order[1][index * many // count : (index + 1) * many // count].to(shard.device)
        positions, ends = self.edges[chosen].unique(return_inverse=True)
        batch = shard.batch(positions, ends=ends, weight=self.weights[chosen])
        own = shard.start + batch.row
        batch.extra["share"] = ends.flatten().bincount()[torch.searchsorted(positions, own)] / self.degree[own]
        return batch

    def lengths(self, u: Tensor) -> Tensor:
        """Distance [E] between the ends of each edge, of all workers' u [N, D]."""
        return (u[self.edges[:, 0]] - u[self.edges[:, 1]]).norm(dim=1)

    def within(self, labels: Tensor) -> Tensor:
        """Whether each edge [E] lies within a cluster, by all workers' labels [N]."""
        return labels[self.edges[:, 0]] == labels[self.edges[:, 1]]

    def components(self, u: Tensor, longest: Tensor) -> Tensor:
        """`components` [N] of equal rows, and over edges whose ends, of all workers' u [N, D], are within `longest`."""
        joined = torch.cat([self.edges[self.lengths(u) <= longest], self.same])
        found = components(len(self.degree), joined.cpu().numpy())
        return torch.from_numpy(found).to(self.edges.device)

    def smoothness(self) -> float:
        """`largest_laplacian_eigenvalue` of the weighted graph."""
        return largest_laplacian_eigenvalue(len(self.degree), self.edges.cpu().numpy(), self.weights.cpu().numpy())


@dataclass
class NearestRows:
    """The nearest rows of every row, over all workers; every worker holds all of them."""

    near: Tensor
    """int64 [N, k], positions among all rows."""
    weights: Tensor
    """`heat_kernel` [N, k] of their distances."""
    _order: tuple[int, Tensor] = field(init=False, default=(-1, torch.zeros(0)))

    @staticmethod
    def of(x: Tensor, k: int, width: float, clusters: Clusters) -> "NearestRows":
        """The k nearest of all workers' rows, or all others where there are fewer; x [N, D] are this worker's."""
        near, squared = (clusters.gather(part) for part in nearest_rows(x, k, clusters))
        return NearestRows(near, heat_kernel(squared, width))

    def batch(self, shard: Shard, seed: int, index: int, count: int) -> Batch:
        """Batch `index` of `count`: every row once an epoch, shuffled by `seed`, with its nearest rows beside it.

        Its mean is over the rows themselves. Its `extra` has their places "own" [A] among this worker's rows of the
        batch, their "partners" [A, k], as places in the gathered batch, and the partners' "weight" [A, k].
        """
        many = len(self.near)
        if self._order[0] != seed:
            self._order = (seed, torch.randperm(many, generator=torch.Generator().manual_seed(seed)))
        chosen = self._order[1][index * many // count : (index + 1) * many // count].to(self.near.device).sort().values
        partners = self.near[chosen]
        positions = torch.cat([chosen, partners.flatten()]).unique()
        batch = shard.batch(positions)
        here = (chosen >= shard.start) & (chosen < shard.start + len(shard))
        extra = {
            "own": torch.searchsorted(batch.row, chosen[here].to(shard.device) - shard.start),
            "partners": torch.searchsorted(positions, partners[here]).to(shard.device),
            "weight": self.weights[chosen[here]].to(shard.device),
        }
        return replace(batch, total=len(chosen), extra=extra)


class Neighbours(Settings):
    """How many nearest rows, and how they are searched."""

    count: int = Field(50, ge=1)
    """Nearest rows by cosine."""
    exact: int = Field(50_000, ge=0)
    """Number of rows up to which they are searched among all rows."""
    probes: int = Field(16, ge=1)
    """Cells, of 2 sqrt(N), in which they are searched if there are more rows."""

    def of(self, x: Tensor, clusters: Clusters) -> Tensor:
        """Positions int32 [N, k] among all rows, or all others where there are fewer; x [N, D] are this worker's."""
        total = int(clusters.total(torch.tensor(len(x), device=x.device)))
        k, probes = min(self.count, total - 1), self.probes
        return clusters.neighbours(F.normalize(x, dim=1), k, None if total <= self.exact else probes)[0].int()


def paired(batch: Batch, near: Tensor, shard: Shard, seed: int) -> Batch:
    """The rows of a batch and, of each, one of its neighbours, drawn by `seed`; means are over the pairs.

    `near` [N, k] are positions among all rows of the neighbours of this worker's rows. In `extra`, "ends" [P, 2] are
    the pairs of all workers, as places in the gathered batch.
    """
    own = shard.start + batch.row
    drawn = torch.from_numpy(hashed(own.cpu().numpy(), seed)).to(near.device) % near.shape[1]
    partner = near[batch.row].gather(1, drawn[:, None])[:, 0].long()
    pairs = batch.gather(torch.stack([own, partner], 1))
    positions, ends = pairs.unique(return_inverse=True)
    return replace(shard.batch(positions, ends=ends), total=len(pairs))
