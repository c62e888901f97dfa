"""Clusters over collectives: the workers of one training, or a single process without any process group."""

from collections.abc import Iterator

import torch
from torch import Tensor

from raydc import collectives
from raydc.clusters import KMeansResult, kernels, kmeans
from raydc.clusters.kmeans import FixedPoint, Geometry
from raydc.data.shard import Shard
from raydc.precision import full_precision


class CollectiveClusters:
    """`Clusters` over torch.distributed: rows stay where they are and integer sums travel, so W changes no result."""

    def __init__(self, shard: Shard, seed: int = 0) -> None:
        self.shard, self.seed = shard, seed

    def total(self, part: Tensor) -> Tensor:
        return collectives.total(part)

    @full_precision
    def sum(self, values: Tensor) -> Tensor:
        """Each value becomes an integer multiple of a power of two, chosen per column; integers are added.

        Error: at most N / 2^63 of N times the column's largest value. Raises ValueError if a value is not finite.
        """
        values = values.double()
        self._check(values)
        fixed = FixedPoint.of(self._largest(values), self.shard.total)
        sums = torch.zeros(values.shape[1:], dtype=torch.int64, device=values.device)
        for part in values.split(1 << 16):
            sums += fixed.integers(part).sum(0)
        return fixed.values(collectives.total(sums))

    def gather(self, values: Tensor) -> Tensor:
        self._check(values)
        if values.dtype == torch.bool:
            return collectives.gather(values.to(torch.uint8), self.shard.sizes).bool()
        return collectives.gather(values.contiguous(), self.shard.sizes)

    @full_precision
    @torch.no_grad()
    def kmeans(
        self,
        z: Tensor,
        n_clusters: int,
        *,
        restarts: int = 20,
        centroids: Tensor | None = None,
        spherical: bool = False,
        iterations: int = 300,
        tolerance: float = 1e-4,
    ) -> KMeansResult:
        """As promised by `Clusters`, with the same bits on any number of workers; `tolerance` as in scikit-learn.

        Zero rows on the sphere fall to cluster 0 and move no centroid. Raises ValueError for rows that are not finite
        or beyond 1e15, for no rows at all, and for starting centroids of another shape.
        """
        self._check(z)
        if n_clusters < 1 or restarts < 1 or self.shard.total < 1:
            raise ValueError(
                f"k-means needs rows, clusters and restarts, got {self.shard.total}, {n_clusters} and {restarts}"
            )
        if centroids is not None and centroids.shape != (n_clusters, z.shape[1]):
            raise ValueError(f"expected starting centroids {(n_clusters, z.shape[1])}, got {tuple(centroids.shape)}")
        z = kmeans.unit(z.float()) if spherical else z.float()
        geometry, spread, variance = self._geometry(z, spherical)
        groups = geometry.groups(z, self.shard.spans)
        if centroids is not None:
            start = geometry.around(centroids.to(z.device)).double()[None]
        else:
            start = self._start(z, n_clusters, restarts).double() - geometry.origin

        def step(c: Tensor) -> tuple[Tensor, Tensor]:
            sums, counts = kmeans.statistics(groups, c, geometry)
            both = collectives.total(torch.cat((sums, counts[..., None]), -1))
            return both[..., :-1], both[..., -1]

        def refill(c: Tensor, sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, int]:
            return self._refill(z, groups, c, sums, counts, geometry)

        found, done, refilled = kmeans.lloyd(start, step, refill, geometry, iterations, tolerance * variance)
        best = 0
        if len(found) > 1:
            best = int(kmeans.inertia(*step(found), found, spread, geometry).argmin())
        return self._result(z, groups, found[best], geometry, done[best], refilled[best])

    @torch.no_grad()
    def neighbours(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As promised by `Clusters`: exact, block by block; of equal distances (in float32) the lower position first.

        Raises ValueError if there are not k other rows.
        """
        self._check(z)
        if not 0 < k < self.shard.total:
            raise ValueError(f"{k} neighbours need more than {k} rows and k > 0, got {self.shard.total} rows")
        mean = (self.sum(z.float()) / self.shard.total).to(z.device)
        x = z.double() - mean
        norms = x.square().sum(1)
        far = torch.full((len(z), k), torch.inf, device=z.device)
        near = torch.full((len(z), k), -1, dtype=torch.int64, device=z.device)
        noise = 4 * z.shape[1] * torch.finfo(torch.float64).eps
        for start, block in self._blocks(x):
            others = block.square().sum(1)
            for group, span in zip(self.shard.groups, self.shard.spans, strict=True):
                products = x[span].clone() @ block.T
                if z.device.type == "cpu":
                    kernels.closest(
                        *(t.numpy() for t in (products, norms[span], others)),
                        start, group.start, noise, far[span].numpy(), near[span].numpy(),
                    )  # fmt: skip
                else:
                    kmeans.closest(products, norms[span], others, start, group.start, noise, far[span], near[span])
        return near, far

    def fetch(self, values: Tensor, rows: Tensor) -> Tensor:
        self._check(values)
        kind = torch.uint8 if values.dtype == torch.bool else values.dtype
        wanted = collectives.gather(torch.tensor([len(rows)], device=values.device)).tolist()
        rows = collectives.gather(rows.to(values.device).long(), wanted)
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.shard.total:
            raise ValueError(f"expected positions from 0 to {self.shard.total - 1}, got {rows.min()} to {rows.max()}")
        mine = (rows >= self.shard.start) & (rows < self.shard.start + len(values))
        found = torch.zeros((len(rows), *values.shape[1:]), dtype=kind, device=values.device)
        found[mine] = values.detach()[rows[mine] - self.shard.start].to(kind)
        at = sum(wanted[: collectives.rank()])
        return collectives.total(found)[at : at + wanted[collectives.rank()]].to(values.dtype)

    def _check(self, values: Tensor) -> None:
        if len(values) != len(self.shard):
            raise ValueError(f"expected a value for each of the shard's {len(self.shard)} rows, got {len(values)}")

    def _largest(self, values: Tensor) -> Tensor:
        """Largest absolute value of each column over all workers, float64; ValueError on all of them if not finite."""
        local = values.new_zeros((1, *values.shape[1:]))
        largest = torch.cat((local, values.detach().abs())).amax(0).double().nan_to_num(nan=torch.inf, posinf=torch.inf)
        largest = collectives.maximum(largest)
        if not bool(largest.isfinite().all()):
            columns = (~largest.isfinite()).flatten().nonzero()[:5, 0].tolist()
            raise ValueError(f"expected finite values, got NaN or infinity in column(s) {columns}")
        return largest

    def _geometry(self, z: Tensor, spherical: bool) -> tuple[Geometry, float, float]:
        """Geometry of all rows, the sum of squared distances to its origin, and the mean variance of a column."""
        largest = self._largest(z)
        if float(largest.max()) > kmeans.LARGEST:
            raise ValueError(f"expected values up to {kmeans.LARGEST:g}, got {float(largest.max()):g}: scale the rows")
        mean = self.sum(z) / self.shard.total
        origin = torch.zeros_like(mean).float() if spherical else mean.float()
        spread = float(self.sum((z.double() - origin).square().sum(1)))
        variance = float(self.sum((z.double() - mean).square().sum(1))) / self.shard.total / z.shape[1]
        around = self._largest(z - origin)
        floor = float((largest * 2**-24).square().sum())
        return Geometry(origin, FixedPoint.of(around, self.shard.total), floor, spherical), spread, variance

    def _start(self, z: Tensor, n_clusters: int, restarts: int) -> Tensor:
        """k-means++ on a sample of rows drawn by their positions, the same on every worker."""
        many = min(self.shard.total, max(10_000, 40 * n_clusters))
        positions = torch.arange(self.shard.start, self.shard.start + len(z))
        drawn = torch.from_numpy(kmeans.hashed(positions.numpy(), self.seed)).to(z.device)
        lowest = collectives.gather(drawn.sort().values[:many]).sort().values
        mine = (drawn <= lowest[many - 1]).nonzero()[:, 0]
        start = kmeans.plus_plus(collectives.gather(z[mine]), n_clusters, restarts, self.seed)
        collectives.broadcast([start])  # one machine decides, were they of different make
        return start

    def _refill(
        self, z: Tensor, groups: list[Tensor], centroids: Tensor, sums: Tensor, counts: Tensor, geometry: Geometry
    ) -> tuple[Tensor, Tensor, int]:
        many = 4 * int((counts == 0).sum()) + 64  # more than needed, as some rows may be equal
        labels, squared = self._assign(groups, centroids, geometry)
        positions = torch.arange(self.shard.start, self.shard.start + len(z), device=z.device)
        own = kmeans.farthest(squared, positions, many)
        far, where = collectives.gather(squared[own]), collectives.gather(positions[own])
        rows, labels = collectives.gather(geometry.around(z[own])), collectives.gather(labels[own])
        order = kmeans.farthest(far, where, many)
        return kmeans.refill(sums, counts, far[order], labels[order], rows[order], geometry)

    def _result(
        self, z: Tensor, groups: list[Tensor], centroids: Tensor, geometry: Geometry, done: int, refilled: int
    ) -> KMeansResult:
        """Labels by the centroids that are returned (float32), clusters with members first."""
        centroids = (centroids + geometry.origin).float()
        around = centroids.double() - geometry.origin
        labels, squared = self._assign(groups, around, geometry)
        counts = collectives.total(torch.bincount(labels, minlength=len(centroids)))
        inertia = float(self.sum(squared))
        order = (counts == 0).to(torch.int8).argsort(stable=True)
        found = int((counts > 0).sum())
        centroids, counts, labels = centroids[order], counts[order], order.argsort()[labels]
        far = 8 * float(centroids.abs().max() + self._largest(z).max()) + 8
        away = torch.arange(1, len(centroids) - found + 1, device=z.device)
        centroids[found:] = (away * far)[:, None].to(centroids.dtype)
        return KMeansResult(centroids, labels, counts, inertia, done, found, refilled)

    def _assign(self, groups: list[Tensor], centroids: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
        """Labels int64 [N] and squared distances [N] of this worker's rows by centroids [K, D] around the origin."""
        labels = kmeans.assign(groups, centroids, geometry)
        squared = [kmeans.distances(x, own, centroids) for x, own in zip(groups, labels, strict=True)]
        none = centroids.new_empty(0)
        return torch.cat([none.long(), *labels]), torch.cat([none, *squared])

    def _blocks(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Every row group of every worker in turn, on all of them: its first position, and its rows."""
        bounds = torch.tensor([[g.start, g.stop] for g in self.shard.groups], dtype=torch.int64, device=x.device)
        first, last = self.shard.start, self.shard.start + len(x)
        for start, stop in collectives.gather(bounds.view(-1, 2)).tolist():
            mine = first <= start < last
            block = x[start - first : stop - first].clone() if mine else x.new_zeros((stop - start, x.shape[1]))
            yield start, collectives.total(block)
