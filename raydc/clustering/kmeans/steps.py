"""k-means in steps that add up: a worker's part of a step is integers, so any split of the rows gives the same bits.

Lloyd 1982. Rows are moved to a common origin, a row group at a time; a tile of them is labelled by float64 scores, few
of which are computed (`kernels`); a row group's sums become integer multiples of a power of two, and integer sums do
not depend on their order. Row groups are never cut elsewhere than by their own size. So on CPUs labels and sums do not
depend on the worker that holds a row, nor on its processor and BLAS; other devices add float64 in an order of their
own.

Everything here is one worker's arithmetic; adding up is the caller's affair.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from raydc.clustering.kmeans import kernels
from raydc.clustering.kmeans.simd import LANES, ROWS
from raydc.core.autocast import exact_float32

LARGEST = 1e15
"""Beyond this, squared distances leave the range of float32."""

NOTHING = np.empty((0, 0, 0)), np.empty((0, 0), np.int64)
"""Sums and counts to which nothing is added."""


@dataclass(frozen=True)
class FixedPoint:
    """float64 values as int64 multiples of a power of two, per column, that no sum over all rows can overflow."""

    scale: Tensor
    """[...] float64, powers of two: integer = value * scale, without its fraction."""

    @staticmethod
    def of(largest: Tensor, total: int) -> "FixedPoint":
        """For values up to `largest` [...] (the same on every worker) summed over `total` rows."""
        exponent = torch.frexp(largest.double()).exponent.double()  # largest < 2 ** exponent
        bits = (62 - exponent - math.ceil(math.log2(max(total, 1)))).clamp(-1000, 1000)
        return FixedPoint(((bits.long() + 1023) << 52).view(torch.float64))  # exp2, exact on every device

    def integers(self, values: Tensor) -> Tensor:
        return (values.double() * self.scale).long()

    def values(self, integers: Tensor) -> Tensor:
        return integers.double() / self.scale


UNIT = FixedPoint(torch.ones((), dtype=torch.float64))


@dataclass(frozen=True)
class Geometry:
    """What every worker must agree on before rows can be compared and summed."""

    origin: Tensor
    """[D] float32, about the mean of all rows, so that a far-away origin costs no digits; zero on the sphere."""
    fixed: FixedPoint = UNIT
    """For sums of rows around the origin."""
    floor: float = 0.0
    """Squared distance below which two float32 rows are the same."""
    spherical: bool = False

    def around(self, z: Tensor) -> Tensor:
        """Rows z [N, D] around the origin, float32, in memory of their own; of length one on the sphere."""
        return (unit(z.float()) if self.spherical else z.float() - self.origin).contiguous()

    def groups(self, z: Tensor, spans: Sequence[slice]) -> list[Tensor]:
        """The row groups of z [N, D] around the origin."""
        return [self.around(z[span]) for span in spans]


def unit(z: Tensor) -> Tensor:
    """Rows z [N, D] scaled to length one; a zero row stays zero, has no direction and moves no centroid."""
    norm = z.double().norm(dim=1, keepdim=True)
    return (z / torch.where(norm > 0, norm, 1.0)).to(z.dtype)


class Assigner:
    """Labels of rows by centroids [R, K, D] around the origin, R clusterings of the same rows at once; and their sums.

    With offsets [R, K], of balanced clusters, a row is with the lowest squared distance less the cluster's offset.

    Labels are exact, as `kernels` says, so how products are made is a question of speed alone. In float32 they never
    leave the first-level cache. Where the processor multiplies bfloat16 in hardware, a bfloat16 product of a whole tile
    leaves a few clusters for float64 to tell apart; should it leave many, the tile gets float32 products after all.
    """

    def __init__(self, centroids: Tensor, geometry: Geometry, offsets: Tensor | None = None) -> None:
        self.restarts, self.clusters, dim = centroids.shape
        self.centroids, self.fixed = centroids.float().contiguous(), geometry.fixed
        exact = self.centroids.double()
        # On the sphere all centroids have length one; leaving that out keeps zero rows tied, and so in cluster 0.
        self.half = torch.zeros_like(exact[..., 0]) if geometry.spherical else exact.square().sum(2) / 2
        if offsets is not None:
            self.half -= offsets.double() / 2
        self.geometry, self.apart = geometry, float(geometry.spherical)
        self.screens = screening_pays(self.clusters, dim, centroids.device.type)
        # A float32 sum of products is off by this share of the lengths' product, in any order; so is what comes after.
        # A GPU's units for matrices cut digits off where a CPU rounds.
        unit_of_rounding = 2.0**-24 if centroids.device.type == "cpu" else 2.0**-23
        rounding = 1.02 * unit_of_rounding * (dim + 16)
        self.direct = bounds(self.half, rounding * exact.norm(dim=2), dim)
        padded = self.direct[0].shape[2]
        if self.screens:  # bfloat16 takes up to 2^-8 of each number of a row, and of the product
            rounded = self.centroids.bfloat16()
            residual, length = (exact - rounded.double()).norm(dim=2), rounded.double().norm(dim=2)
            self.screen = bounds(self.half, 1.01 * (residual + (2.02 * 2.0**-8 + rounding) * length), dim)
            self.rounded = torch.nn.functional.pad(rounded, (0, 0, 0, padded - self.clusters)).flatten(0, 1)
        # The rows of a tile and their products stay in the second-level cache (found with benchmarks/kmeans.py).
        products = self.restarts * self.clusters if self.screens else 1
        self.rows = max(min((1 << 18) // max(dim, 1), (1 << 19) // products, 4096) // 64 * 64, 64)
        if centroids.device.type == "cuda":
            self.rows = max((1 << 26) // (self.restarts * self.clusters), 1024)
        if centroids.device.type == "cpu":
            limits = [panels(self.centroids), *self.direct], self.screen if self.screens else ()
            self.known, self.screening = ([each.numpy() for each in some] for some in limits)
            self.exact = [self.centroids.flatten(0, 1).numpy(), self.half.flatten().numpy()]
            self.scale = self.fixed.scale.expand(dim).numpy()
            # Made once, as fresh memory costs time; by torch, as its memory begins at a line of the cache.
            self.room = torch.empty((ROWS, padded)).numpy()
            if self.screens:
                self.tile = torch.empty((self.rows, dim), dtype=torch.bfloat16)
                self.products = torch.empty((self.rows, len(self.rounded)), dtype=torch.bfloat16)

    def __call__(self, x: Tensor) -> Tensor:
        """Labels int32 [R, n] of rows x [n, D]."""
        if x.device.type != "cpu":
            return torch.cat([self._elsewhere(tile) for tile in x.split(self.rows)], 1)
        return self._labels(x)

    def add(self, x: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
        """Add a row group x [n, D] to fixed-point sums [R, K, D] and counts [R, K]; its labels int32 [R, n].

        A large row group is first summed in float64 in the order of its rows, which is faster; the choice depends on
        sizes alone.
        """
        if x.device.type != "cpu":
            labels = self(x)
            for tile, own in zip(x.split(self.rows), labels.split(self.rows, 1), strict=True):
                add_integers(self.fixed.integers(tile), own, sums, counts)  # CUDA adds in any order
            return labels
        with self._totals(len(x), sums) as totals:
            return self._labels(x, totals, counts.numpy())

    def count(self, z: Tensor, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`add` a row group z [n, D] that is not around the origin yet: labels, `distances`, and squared lengths [n].

        On the CPU each tile goes through all of it while it is in the cache.
        """
        if z.device.type != "cpu" or self.geometry.spherical:
            x = self.geometry.around(z)
            lengths, found = squares(x), self.add(x, sums, counts)
            return found, self.distances(x, lengths, found), lengths
        rows, origin = z.float().contiguous().numpy(), self.geometry.origin.numpy()
        room = np.empty((self.rows, z.shape[1]), np.float32)
        squared, far = np.empty(len(z)), np.empty((self.restarts, len(z)))
        labels = np.empty(far.shape, np.int32)
        with self._totals(len(z), sums) as totals:
            for at in range(0, len(z), self.rows):
                here = slice(at, at + self.rows)
                tile = room[: len(rows) - at]
                kernels.around(rows[here], origin, tile, squared[here])
                labels[:, here] = own = self._tile(tile, totals, counts.numpy())
                kernels.distances(tile, squared[here], *self.exact, self.apart, own, far[:, here])
        return torch.from_numpy(labels), torch.from_numpy(far), torch.from_numpy(squared)

    @contextmanager
    def _totals(self, rows: int, sums: Tensor) -> Iterator[np.ndarray]:
        """Where a group of so many rows is added, before it is added to fixed-point sums [R, K, D] on the CPU."""
        if rows < 8 * self.clusters:
            yield sums.numpy()
            return
        partial = torch.zeros(sums.shape, dtype=torch.float64).numpy()
        yield partial
        kernels.add_as_integers(partial, self.scale, sums.numpy())

    def _labels(self, x: Tensor, sums: np.ndarray = NOTHING[0], counts: np.ndarray = NOTHING[1]) -> Tensor:
        """Labels of rows on the CPU, which are added to sums [R, K, D], float64 or fixed-point, and counts [R, K]."""
        tiles = [self._tile(tile.numpy(), sums, counts) for tile in x.split(self.rows)]
        return torch.from_numpy(np.concatenate([np.empty((self.restarts, 0), np.int32), *tiles], 1))

    def _tile(self, tile: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        fixed, labels = sums.dtype == np.int64, np.empty((self.restarts, len(tile)), np.int32)
        done = self.screens and self._screened(tile, labels)
        if not done:
            kernels.label_directly(
                tile, *self.known, *self.exact, labels, self.room, *(NOTHING if fixed else (sums, counts))
            )
        if fixed:
            kernels.add_integers(tile, labels, self.scale, sums, counts)
        elif done and counts.size:
            kernels.add_floats(tile, labels, sums, counts)
        return labels

    def _screened(self, x: np.ndarray, labels: np.ndarray) -> bool:
        """Labels of a tile by products in bfloat16, unless these leave too much to float64."""
        products = self.products[: len(x)]
        torch.mm(self.tile[: len(x)].copy_(torch.from_numpy(x)), self.rounded.T, out=products)
        bits = products.view(torch.uint16).numpy()
        return kernels.label_screened(x, bits, *self.screening, *self.exact, labels, 8 * labels.size)

    @exact_float32()
    def _elsewhere(self, x: Tensor) -> Tensor:
        """What `kernels` does, in terms of torch."""
        products, (limits, _) = x @ self.centroids.flatten(0, 1).T, self.direct
        if self.screens:
            products, (limits, _) = torch.mm(x.bfloat16(), self.rounded.T, out_dtype=torch.float32), self.screen
        return nearest(x, products, limits, self.centroids, self.half)

    def distances(self, x: Tensor, squares: Tensor, labels: Tensor) -> Tensor:
        """Squared distances float64 [R, n] of rows x [n, D], of squared lengths [n], to clusters int32 [R, n]."""
        if x.device.type != "cpu":
            return torch.stack([distances(x, own, each) for own, each in zip(labels, self.centroids, strict=True)])
        out = np.empty(labels.shape)
        kernels.distances(x.numpy(), squares.numpy(), *self.exact, self.apart, labels.numpy(), out)
        return torch.from_numpy(out)


def screening_pays(clusters: int, dim: int, device: str) -> bool:
    """Whether products in bfloat16, and float64 where they do not suffice, are faster than float32: by sizes alone.

    CPU time, screened by direct, on a busy Xeon with AMX, normal rows. Whole iterations at K = 10: 2.0 for D = 64 and
    512. Labels alone, K x D: 100 x 64 1.05, 100 x 512 .90, 1000 x 64 .70, 1000 x 512 .51.
    """
    if device == "cuda":
        return clusters * dim >= 1 << 14
    return torch.cpu.get_capabilities().get("amx_bf16", False) and clusters >= 64 and clusters * dim >= 1 << 13


def bounds(half: Tensor, slack: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Bounds [R, 3, 16 V] and tops [R, 2, ...] of `kernels`, for products wrong by up to slack [R, K] times the row.

    Numbers too small for float32 or bfloat16 count as zero there, which the last term makes up for.
    """
    around = half.abs() * 2.0**-21 + (dim + slack) * 2.0**-110
    pad = (0, -(-half.shape[1] // padding(half.shape[1])) * padding(half.shape[1]) - half.shape[1])
    low, high = (torch.nn.functional.pad(each, pad, value=math.inf) for each in (half - around, half + around))
    slack, around = (torch.nn.functional.pad(each, pad) for each in (slack, around))
    differ = torch.stack((4 * around, 3 * slack), 1)  # by 2 of each, and rounding
    differ = torch.nn.functional.pad(differ, (0, -differ.shape[2] % kernels.BLOCK))
    tops = differ.unflatten(2, (-1, kernels.BLOCK // LANES, LANES)).amax(3).flatten(2)
    return torch.stack((low, high, slack), 1).float(), tops.float()


def padding(clusters: int) -> int:
    """Clusters of a panel: 16, 32 or 48, where the last is filled best. More are faster; 16 only where they suffice."""
    return LANES if clusters <= LANES else min((48, 32), key=lambda each: -clusters % each)


def panels(centroids: Tensor) -> Tensor:
    """Centroids [R, K, D] with clusters along the lanes [R, P, D, 16 V], zeros behind the last."""
    wide = padding(centroids.shape[1])
    padded = torch.nn.functional.pad(centroids, (0, 0, 0, -centroids.shape[1] % wide))
    return padded.unflatten(1, (-1, wide)).transpose(2, 3).contiguous()


def nearest(x: Tensor, products: Tensor, limits: Tensor, centroids: Tensor, half: Tensor) -> Tensor:
    """Labels int32 [R, N] as `kernels` has them, on any device, from float32 products [N, R 16 V]."""
    restarts, clusters = half.shape
    low, high, slack = limits[..., :clusters].unbind(1)  # [R, K]
    products = products.view(len(x), restarts, -1)[..., :clusters]
    reach = (x.double().norm(dim=1).float() * 1.01 + 1e-18 * math.sqrt(x.shape[1]))[:, None, None]
    cut = (torch.addcmul(high, reach, slack) - products).amin(2, keepdim=True)
    near = low - products <= torch.addcmul(cut, reach, slack)
    labels = near.to(torch.uint8).argmax(2).flatten()
    near &= near.sum(2, keepdim=True) > 1
    row, r, k = near.nonzero(as_tuple=True)
    pairs = zip(*(each.split(1 << 16) for each in (row, r, k)), strict=True)
    products64 = [(x[i].double() * centroids[j, c].double()).sum(1) for i, j, c in pairs]
    scores = half[r, k] - torch.cat(products64) if products64 else half.new_empty(0)
    own = row * restarts + r
    lowest = torch.full_like(labels, torch.inf, dtype=torch.float64).scatter_reduce_(0, own, scores, "amin")
    won = scores == lowest[own]
    labels[own] = clusters
    labels.scatter_reduce_(0, own[won], k[won], "amin")  # the first of equals
    return labels.view(-1, restarts).T.int()


def labels(x: Tensor, centroids: Tensor, geometry: Geometry, offsets: Tensor | None = None) -> Tensor:
    """Labels int64 [n] of rows x [n, D] by centroids [K, D], both around the origin; offsets [K] as in `Assigner`."""
    assigner = Assigner(centroids[None], geometry, None if offsets is None else offsets[None])
    return assigner(x)[0].long()


def statistics(groups: Iterable[Tensor], centroids: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Fixed-point sums [R, K, D] and counts [R, K], int64, of rows by their nearest of centroids [R, K, D].

    Rows and centroids are around the origin.
    """
    assigner = Assigner(centroids, geometry)
    sums = torch.zeros(centroids.shape, dtype=torch.int64, device=centroids.device)
    counts = torch.zeros(centroids.shape[:2], dtype=torch.int64, device=centroids.device)
    for x in groups if centroids.device.type == "cpu" else together(groups, assigner.rows):
        assigner.add(x, sums, counts)
    return sums, counts


def together(groups: Iterable[Tensor], rows: int) -> Iterator[Tensor]:
    """Row groups put together to about so many rows: where sums are exact row by row, a device is kept waiting less."""
    held: list[Tensor] = []
    for x in groups:
        if held and sum(map(len, held)) + len(x) > rows:
            yield torch.cat(held)
            held = []
        held.append(x)
    if held:
        yield torch.cat(held)


def add_integers(rows: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> None:
    """What `kernels.add_integers` does, on any device, of rows [N, D] that are integers already."""
    for own, total in zip(labels, sums, strict=True):
        total.index_add_(0, own, rows)
    counts.scatter_add_(1, labels.long(), counts.new_ones(()).expand(labels.shape))


def means(sums: Tensor, mass: Tensor, before: Tensor, geometry: Geometry) -> Tensor:
    """New centroids [..., K, D] float64 from sums and weights [..., K] (or counts) over all rows.

    A cluster without members (or direction) stays.
    """
    alive = mass > 0
    mean = geometry.fixed.values(sums) / torch.where(alive, mass, 1)[..., None]
    if geometry.spherical:
        norm = mean.norm(dim=-1, keepdim=True)
        alive = alive & (norm[..., 0] > 1e-12)
        mean = mean / norm.clamp(min=1e-12)
    return torch.where(alive[..., None], mean, before)


def losses(sums: Tensor, mass: Tensor, centroids: Tensor, geometry: Geometry) -> Tensor:
    """What each cluster [..., K] adds to the inertia, from sums and weights of its rows.

    The inertia is the sum of these and of all rows' squared distances to the origin.
    """
    moment = geometry.fixed.values(sums)
    return mass * centroids.square().sum(-1) - 2 * (centroids * moment).sum(-1)


def squares(x: Tensor) -> Tensor:
    """Squared lengths [N] float64 of rows x [N, D] float32."""
    if x.device.type == "cpu":
        out = torch.empty(len(x), dtype=torch.float64)
        kernels.squares(x.numpy(), out.numpy())
        return out
    rows = max(1, (1 << 24) // max(x.shape[1], 1))
    parts = [part.double().square().sum(1) for part in x.split(rows)]
    return torch.cat(parts) if parts else x.new_zeros(0, dtype=torch.float64)


def distances(x: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """Squared distance [N] float64 of each row to its own centroid, by differences."""
    rows = max(1, (1 << 20) // max(x.shape[1], 1))
    parts = [slice(at, at + rows) for at in range(0, len(x), rows)]
    squared = [(x[p].double() - centroids[labels[p]].double()).square().sum(1) for p in parts]
    return torch.cat(squared) if squared else x.new_zeros(0, dtype=torch.float64)


def hashed(positions: np.ndarray, seed: int) -> np.ndarray:
    """A pseudo-random int64 >= 0 for each row position [n] (splitmix64): the same wherever the row lives."""
    h = positions.astype(np.uint64) + np.uint64((seed % (1 << 63) + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((h ^ (h >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)


def checksum(positions: np.ndarray, seed: int) -> int:
    """Sum of the hashed positions modulo 2^63: equal sums mean, but for one chance in 2^63, the same rows once each."""
    return int(hashed(positions, seed).astype(np.uint64).sum()) % (1 << 63)


@lru_cache(2**16)
def checksum_between(start: int, stop: int, seed: int) -> int:
    """`checksum` of the positions from start to stop, which every pass over the same row groups asks for."""
    return checksum(np.arange(start, stop), seed)


def refill(
    mass: Tensor,
    empty: Tensor,
    far: Tensor,
    whose: Tensor,
    rows: Tensor,
    weights: Tensor,
    *,
    unit: Tensor,
    geometry: Geometry,
) -> tuple[Tensor, list[int]]:
    """Give clusters `empty` [E], in order, the farthest distinct rows; the cluster that had a row loses it.

    Candidates `rows` [M, D] come farthest first, with their squared distances `far` [M], clusters `whose` [M] and
    `weights` [M], which are integers once multiplied by `unit`. The weights `mass` [K] come back changed, with the
    candidates that were taken.
    """
    mass, heavy, seen, taken = mass.clone(), FixedPoint(unit).integers(weights), set(), list[int]()
    for i, (distance, donor) in enumerate(zip(far.tolist(), whose.tolist(), strict=True)):
        row = rows[i].cpu().numpy().tobytes()
        if len(taken) == len(empty) or distance <= geometry.floor:
            break
        if row in seen or mass[donor] <= heavy[i] or heavy[i] == 0:
            continue
        seen.add(row)
        mass[donor] -= heavy[i]
        mass[empty[len(taken)]] = heavy[i]
        taken.append(i)
    return mass, taken


def farthest(squared: np.ndarray, positions: np.ndarray, many: int) -> np.ndarray:
    """Indices of the `many` largest of squared [N], largest first, the lower position first among equals."""
    many = min(many, len(squared))
    if many == 0:
        return np.empty(0, np.int64)
    least = np.partition(squared, len(squared) - many)[len(squared) - many]
    among = np.flatnonzero(squared >= least)
    return among[np.lexsort((positions[among], -squared[among]))[:many]]


def closest(
    products: Tensor,
    norms: Tensor,
    others: Tensor,
    positions: Tensor,
    own: Tensor,
    noise: float,
    far: Tensor,
    near: Tensor,
) -> None:
    """What `kernels.closest` does, on any device."""
    size = norms[:, None] + others
    squared = size - 2 * products
    squared.masked_fill_(squared <= noise * size, 0)
    squared = squared.float().masked_fill_(own[:, None] == positions, torch.inf)
    # The bits of a float32 >= 0 sort as integers: distance first, then position, and no two keys are equal.
    distances, places = torch.cat((far, squared), 1), torch.cat((near, positions.expand_as(squared)), 1)
    keys = (distances.view(torch.int32).long() << 32) | (places & 0xFFFFFFFF)
    keys = keys.sort(1).values[:, : far.shape[1]]
    near.copy_(keys & 0xFFFFFFFF)
    far.copy_((keys >> 32).int().view(torch.float32))
