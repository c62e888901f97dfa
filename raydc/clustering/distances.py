"""Where a row stands among its cluster's training rows: the share of them that are nearer to a centre of the rows.

A share has no unit, so it says the same of any data and any cluster: of the training rows one in a hundred is above
.99, and a row far from all that was seen is at 1. Centres are those of k-means, which has the same bits on any number
of workers; so have quantiles, which come from counts of distances, and those add up.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raydc.clustering.kmeans.options import KMeansOptions
from raydc.data.shard import Shard
from raydc.distributed import collectives

QUANTILES = 101
"""Of a cluster's distances, evenly spaced: its nearest row, one percent, ..., its farthest."""
BINS = 1024
"""Distances of a cluster that are told apart while they are counted; up to so many rows are counted exactly."""
SAMPLE = 2**14
"""Rows at most that centres are made from."""
VALUES = 2**24
"""Values at most that they have."""
CENTRES = 64
"""Centres at most, or four for each cluster."""
ROWS_OF_A_CENTRE = 64
FAR = 0.99
"""Where a row stands that is farther from its centre than all but one in a hundred of the training rows."""


@dataclass(frozen=True)
class Counts:
    """Distances of many rows, counted by cluster. Counts of parts of the rows merge into those of all of them.

    A distance is the leading bits of its float32 number, which grow with it. Of each cluster as few bits are cut off as
    leave BINS different ones. What is cut then depends on the rows alone, not on how they were dealt or merged.
    """

    cut: NDArray[np.int64]
    """[K], bits that are cut off."""
    cluster: NDArray[np.int64]
    """[M], ascending."""
    bits: NDArray[np.int64]
    """[M], the bits that are left, ascending within a cluster."""
    rows: NDArray[np.int64]
    """[M], rows of this cluster and these bits."""

    @staticmethod
    def of(labels: NDArray[np.int64], distances: NDArray[np.float32], n_clusters: int) -> "Counts":
        """Of rows by their labels [N] and distances [N], 0 or more."""
        key = np.sort(_key(labels.astype(np.int64), distances.astype(np.float32).view(np.int32)))
        return _grouped(np.zeros(n_clusters, np.int64), key >> 32, key & (2**32 - 1), np.ones(len(key), np.int64))

    @property
    def middle(self) -> NDArray[np.float64]:
        """[M], the distance in the middle of those that the bits which are left stand for."""
        lowest = (self.bits << self.cut[self.cluster]).astype(np.int32)
        half = ((1 << self.cut[self.cluster]) >> 1).astype(np.int32)
        return (lowest + half).view(np.float32).astype(np.float64)

    def quantiles(self) -> NDArray[np.float32]:
        """[K, QUANTILES] of each cluster's distances, linear between neighbours; 0 for a cluster without rows."""
        found = np.zeros((len(self.cut), QUANTILES), np.float32)
        middle = self.middle
        starts = np.searchsorted(self.cluster, np.arange(len(self.cut) + 1))
        for k, (start, stop) in enumerate(pairwise(starts)):
            if start < stop:
                below = self.rows[start:stop].cumsum()  # the row in place i of the sorted rows has below > i
                place = np.linspace(0, below[-1] - 1, QUANTILES)
                low, high = (
                    middle[start + np.searchsorted(below, side(place), side="right")] for side in (np.floor, np.ceil)
                )
                found[k] = low + (place - np.floor(place)) * (high - low)
        return found


def merge(parts: Sequence[Counts]) -> Counts:
    """Counts of all rows of the parts; their order leaves no trace."""
    cut = np.max([part.cut for part in parts], axis=0)
    bits = [part.bits >> (cut - part.cut)[part.cluster] for part in parts]
    cluster, rows = (np.concatenate([getattr(part, name) for part in parts]) for name in ("cluster", "rows"))
    return _counted(cut, cluster, np.concatenate(bits), rows)


def _counted(
    cut: NDArray[np.int64], cluster: NDArray[np.int64], bits: NDArray[np.int64], rows: NDArray[np.int64]
) -> Counts:
    """Equal bits of a cluster together, and further bits cut off where too many are different."""
    order = np.argsort(_key(cluster, bits))
    return _grouped(cut, cluster[order], bits[order], rows[order])


def _key(cluster: NDArray[np.int64], bits: NDArray[Any]) -> NDArray[np.int64]:
    """One number that orders by cluster, and then by bits, of which there are 31: a sort of one is much faster."""
    return (cluster << 32) | bits


def _grouped(
    cut: NDArray[np.int64], cluster: NDArray[np.int64], bits: NDArray[np.int64], rows: NDArray[np.int64]
) -> Counts:
    """The same of what is in order, which it stays when bits are cut off."""
    while True:
        new = np.ones(len(bits), bool)
        new[1:] = (np.diff(cluster) != 0) | (np.diff(bits) != 0)
        first = np.flatnonzero(new)
        cluster, bits = cluster[first], bits[first]
        rows = np.add.reduceat(rows, first) if len(first) else rows
        many = np.bincount(cluster, minlength=len(cut)) > BINS
        if not many.any():
            return Counts(cut, cluster, bits, rows)
        cut, bits = cut + many, bits >> many[cluster]


def gathered(counts: Counts, device: torch.device) -> Counts:
    """Counts of every worker's rows, on all of them. Every worker must call it."""
    if collectives.workers() == 1:
        return counts
    table = torch.from_numpy(np.stack([counts.cluster, counts.bits, counts.rows, counts.cut[counts.cluster]], 1))
    cluster, bits, rows, cut = collectives.gather(table.to(device)).cpu().numpy().T
    whole = collectives.maximum(torch.from_numpy(counts.cut).to(device)).cpu().numpy()
    return _counted(whole, cluster, bits >> (whole[cluster] - cut), rows)


@torch.no_grad()
def centres_of(located: Callable[[Tensor], Tensor], shard: Shard, n_clusters: int, seed: int) -> Tensor:
    """Centres [C, D] float32 of all workers' rows where `located` puts them, whatever their clusters: by k-means.

    Of up to SAMPLE rows, evenly spaced, about ROWS_OF_A_CENTRE a centre: with fewer, rows are nearer to a centre that
    they made themselves than new rows like them are. A cluster has several, as it need not be round. Every worker must
    call it, and gets the same bits on any number of workers.
    """
    from raydc.clustering.collective import CollectiveClusters  # here, as a model that is served needs none of it

    dim = located(shard[slice(0, 0)]).shape[1]
    many = min(shard.total, SAMPLE, max(1, VALUES // dim))
    places = torch.from_numpy(np.linspace(0, shard.total - 1, many).round().astype(np.int64))
    z = located(shard[shard.among(places)]).float()
    sample = shard.thinned(places, z)
    wanted = min(len(places) // ROWS_OF_A_CENTRE, max(CENTRES, 4 * n_clusters))
    centres = min(len(places), max(wanted, n_clusters, 1))
    return CollectiveClusters(sample, seed).kmeans(z, centres, KMeansOptions(restarts=1, iterations=10)).centroids


def to_nearest(z: Tensor, centres: Tensor) -> Tensor:
    """Distance float32 [n] of each row z [n, D] to the nearest of centres [C, D] float32.

    In float64, found by products around the centres and taken by differences: a far origin does not change it.
    """
    origin, size = centres[0].double(), max(1, VALUES // max(z.shape[1], len(centres)) // 16)
    around = centres.double() - origin  # the first has rows; those without any are far away
    half = around.square().sum(1) / 2
    found = []
    for part in z.split(size):
        x = part.double() - origin
        own = (half - x @ around.T).argmin(1)
        found.append((x - around[own]).square().sum(1).sqrt().float())
    return torch.cat(found)


@dataclass(frozen=True)
class Distances:
    """What the training rows' distances were; part of a model."""

    centres: Tensor
    """[C, D] float32: a row's distance is that to the nearest of them."""
    quantiles: Tensor
    """[K, QUANTILES] float32, ascending; of the training rows of each cluster, which all count alike."""

    def digest(self) -> str:
        """sha256 of both."""
        return hashlib.sha256(b"".join(each.numpy().tobytes() for each in (self.centres, self.quantiles))).hexdigest()

    def of(self, z: Tensor, labels: Tensor) -> Tensor:
        """Where rows z [n, D] stand in their clusters [n]: the share of the cluster's training rows that are nearer to
        a centre.

        float32 [n] in [0, 1]; 1 at the farthest of them and beyond. Among equal distances, the middle of them. In a
        cluster without training rows 1, but for a row on a centre.
        """
        return self.standing(to_nearest(z, self.centres), labels)

    def standing(self, distances: Tensor, labels: Tensor) -> Tensor:
        """The same, of rows at these distances [n] from their centres."""
        size = 2**14
        parts = [
            _standing(some, self.quantiles[own])
            for some, own in zip(distances.split(size), labels.split(size), strict=True)
        ]
        return torch.cat(parts)


@torch.no_grad()
def of_shard(
    located: Callable[[Tensor], Tensor], shard: Shard, labels: Tensor, n_clusters: int, centres: Tensor
) -> tuple[Distances, Tensor]:
    """The distances of all workers' rows, and where each of this worker's rows stands among them, float32 [N].

    Of rows in clusters `labels` [N], where `located` puts them, to `centres` [C, D]. Every worker must call it. The
    `Distances` are the same on any number of workers.
    """
    far = shard.map(lambda x: to_nearest(located(x), centres)).cpu()
    counts = gathered(Counts.of(labels.cpu().numpy(), far.numpy(), n_clusters), shard.device)
    found = Distances(centres.cpu(), torch.from_numpy(counts.quantiles()))
    return found, found.standing(far, labels.cpu())


def _standing(distances: Tensor, quantiles: Tensor) -> Tensor:
    """Share [n] in [0, 1] at which each distance [n] stands in its own quantiles [n, Q]."""
    distances, last = distances[:, None], quantiles.shape[1] - 1
    shares = []
    for right in (False, True):
        passed = torch.searchsorted(quantiles.contiguous(), distances.contiguous(), right=right)  # quantiles below
        before = (passed - 1).clamp(0, last)
        low, high = quantiles.gather(1, before).double(), quantiles.gather(1, (before + 1).clamp_max(last)).double()
        within = torch.where(high > low, (distances.double() - low) / (high - low), 0.0).clamp(0, 1)
        shares.append(((before + within) / last).clamp(0, 1))
    return torch.cat(shares, 1).mean(1).float()
