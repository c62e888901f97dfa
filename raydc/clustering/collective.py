"""Clusters over collectives: the workers of one training, or a single process without any process group."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from raydc.clustering import KMeansResult
from raydc.clustering.kmeans import accumulate, steps
from raydc.clustering.kmeans.iteration import Clustering, KMeansTask
from raydc.clustering.kmeans.options import USUAL, KMeansOptions
from raydc.clustering.kmeans.steps import FixedPoint
from raydc.clustering.neighbours import NeighbourSearch
from raydc.core.autocast import full_precision
from raydc.data.shard import RowBlock, Shard
from raydc.distributed import collectives

DRAWS = 1_000_003
"""What the seed of one draw of k-means is apart from that of the next."""
CELLS = 2.0
"""Cells among which neighbours are searched, over the root of the number of rows."""
CELL_SAMPLE = 64
"""Rows of the sample that cells are made from, for each of them."""


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
        self.shard.check(values)
        fixed = FixedPoint.of(self._largest(values), self.shard.total)
        sums = torch.zeros(values.shape[1:], dtype=torch.int64, device=values.device)
        for part in values.split(1 << 16):
            sums += fixed.integers(part).sum(0)
        return fixed.values(collectives.total(sums))

    @full_precision
    def products(self, left: Tensor, right: Tensor) -> Tensor:
        """Each row group's product becomes integers, as in `sum`; groups are never cut, so that it has the same bits.

        Error: that of float64 products of a group's rows, and N / 2^63 of N times the largest product of two values.
        """
        left, right = left.double(), right.double()
        self.shard.check(left)
        self.shard.check(right)
        fixed = FixedPoint.of(self._largest(left)[:, None] * self._largest(right), self.shard.total)
        sums = torch.zeros((left.shape[1], right.shape[1]), dtype=torch.int64, device=left.device)
        for span in self.shard.spans:
            sums += fixed.integers(left[span].clone().T @ right[span].clone())
        return fixed.values(collectives.total(sums))

    def gather(self, values: Tensor) -> Tensor:
        return self.shard.gather(values)

    @full_precision
    @torch.no_grad()
    def kmeans(
        self,
        z: Tensor,
        n_clusters: int,
        options: KMeansOptions = USUAL,
        *,
        centroids: Tensor | None = None,
        weights: Tensor | None = None,
        draw: int = 0,
    ) -> KMeansResult:
        """As promised by `Clusters`, with the same bits on any number of workers; its tolerance as in scikit-learn.

        Zero rows on the sphere fall to cluster 0 and move no centroid. Raises ValueError for rows that are not finite
        or beyond 1e15, for no rows at all, and for weights or starting centroids of another shape.
        """
        self.shard.check(z)
        if n_clusters < 1 or self.shard.total < 1:
            raise ValueError(f"k-means needs rows and clusters, got {self.shard.total} and {n_clusters}")
        if centroids is not None and centroids.shape != (n_clusters, z.shape[1]):
            raise ValueError(f"expected starting centroids {(n_clusters, z.shape[1])}, got {tuple(centroids.shape)}")
        z, given = z.float(), None if centroids is None else centroids.to(z.device)
        largest = float(self._largest(z).max())
        if largest > steps.LARGEST:
            raise ValueError(f"expected values up to {steps.LARGEST:g}, got {largest:g}: scale the rows")
        if weights is not None:
            weights = self._weights(weights.to(z))
        asked = {name: getattr(options, name) for name in KMeansOptions.model_fields}
        if given is not None:
            asked["restarts"] = 1
        task = KMeansTask(n_clusters=n_clusters, weighted=weights is not None, seed=self.seed + DRAWS * draw, **asked)
        many = int(collectives.total(torch.tensor([len(self.shard.groups)], device=z.device)))
        walk = _Walk(self.shard, z, weights)
        now = Clustering(task, z.shape[1], self.shard.total, many, given=given)
        while not now.done:
            phase, now = now.phase, walk.step(now)
            if now.phase == "move" and phase != "move":
                collectives.broadcast([now.arrays["centroids"]])  # one machine decides, were they of different make
        return self._result(now, z, weights)

    @torch.no_grad()
    def neighbours(self, z: Tensor, k: int, probes: int | None = None) -> tuple[Tensor, Tensor]:
        """As promised by `Clusters`; of equal distances (in float32) the lower position first.

        Raises ValueError if there are not k other rows.
        """
        self.shard.check(z)
        if not 0 < k < self.shard.total:
            raise ValueError(f"{k} neighbours need more than {k} rows and k > 0, got {self.shard.total} rows")
        search = NeighbourSearch(z, (self.sum(z.float()) / self.shard.total).to(z.device), self.shard)
        return search.exact(k) if probes is None else search.in_cells(k, self._cell_centres(z), probes)

    def fetch(self, values: Tensor, rows: Tensor) -> Tensor:
        self.shard.check(values)
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

    def label_on_one_worker(self, label: Callable[[], Tensor]) -> Tensor:
        labels = self._on_one_worker(label, self.shard.total)
        return labels[self.shard.start : self.shard.start + len(self.shard)].clone()

    def choose_on_one_worker(self, choose: Callable[[], int]) -> int:
        return int(self._on_one_worker(lambda: torch.tensor([choose()]), 1))

    def _on_one_worker(self, make: Callable[[], Tensor], many: int) -> Tensor:
        made = torch.zeros(many, dtype=torch.int64, device=self.shard.device)
        if collectives.rank() == 0:
            made.copy_(make())
        collectives.broadcast([made])
        return made

    def _largest(self, values: Tensor) -> Tensor:
        """Largest absolute value of each column over all workers, float64; ValueError on all of them if not finite."""
        local = values.new_zeros((1, *values.shape[1:]))
        largest = torch.cat((local, values.detach().abs())).amax(0).double().nan_to_num(nan=torch.inf, posinf=torch.inf)
        largest = collectives.maximum(largest)
        if not bool(largest.isfinite().all()):
            columns = (~largest.isfinite()).flatten().nonzero()[:5, 0].tolist()
            raise ValueError(f"expected finite values, got NaN or infinity in column(s) {columns}")
        return largest

    def _weights(self, weights: Tensor) -> Tensor:
        self.shard.check(weights)
        bad = torch.tensor([bool(((weights < 0) | ~weights.isfinite()).any())], dtype=torch.int64)
        if bool(collectives.maximum(bad.to(weights.device))):
            raise ValueError("expected weights of 0 or more, got a negative one, NaN or infinity")
        return weights

    def _result(self, now: Clustering, z: Tensor, weights: Tensor | None) -> KMeansResult:
        """Labels by the centroids that are returned (float32), clusters with members first."""
        found = [accumulate.labelled(now, z[span]) for span in self.shard.spans]
        none = z.new_empty(0)
        labels = torch.cat([none.long(), *(own for own, _ in found)])
        squared = torch.cat([none.double(), *(distances for _, distances in found)])
        settled = now.settled()
        return KMeansResult(
            **vars(settled),
            labels=labels,
            inertia=float(self.sum(squared if weights is None else squared * weights)),
            iterations=int(now.arrays["iterations"][0]),
            found=int((settled.counts > 0).sum()),
            refilled=int(now.arrays["refilled"][0]),
        )

    def _cell_centres(self, z: Tensor) -> Tensor:
        """Centres [C, D] of cells, C about CELLS times the root of the rows, by k-means of a sample of the rows."""
        many = math.ceil(CELLS * self.shard.total**0.5)
        draw = torch.Generator().manual_seed(self.seed)
        places = torch.randperm(self.shard.total, generator=draw)[: CELL_SAMPLE * many].sort().values
        rows = z[self.shard.among(places)]
        sample = CollectiveClusters(self.shard.thinned(places, rows), self.seed)
        first = sample.fetch(rows, torch.randperm(len(places), generator=draw)[:many])
        options = KMeansOptions(restarts=1, iterations=10)
        return sample.kmeans(rows, min(many, len(first)), options, centroids=first).centroids


class _Walk:
    """Passes over the rows of all workers, who hold them in memory."""

    def __init__(self, shard: Shard, z: Tensor, weights: Tensor | None) -> None:
        self.shard, self.z, self.weights = shard, z, weights
        self.around: list[Tensor] = []
        """This worker's row groups around the origin, once that is known."""
        self.energies: list[Tensor] = []

    def step(self, now: Clustering) -> Clustering:
        """The next version."""
        plain = now.phase == "move" and not now.options.balanced and self.weights is None
        if not plain:
            return now.after(self._parts(now))
        return now.after(self._sums(now), lambda: self._parts(now))

    def _mine(self, now: Clustering) -> list[int]:
        """Which of this worker's row groups the version waits for."""
        expected = now.expected()
        return [at for at, group in enumerate(self.shard.groups) if expected[group.id]]

    def _sums(self, now: Clustering) -> dict[str, Tensor]:
        """What is needed as long as no cluster is empty, by the shortest way."""
        geometry, mine = now.geometry, self._mine(now)
        if not self.around:
            fixed = FixedPoint(now.arrays["energy_scale"])
            self.around = geometry.groups(self.z, self.shard.spans)
            self.energies = [fixed.integers(steps.squares(x)).sum() for x in self.around]
        centroids = now.arrays["centroids"][[*now.active]]
        sums, counts = steps.statistics([self.around[at] for at in mine], centroids, geometry)
        energy = sum((self.energies[at] for at in mine), counts.new_zeros(()))
        whole = collectives.total(torch.cat((sums.flatten(), counts.flatten(), energy[None])))
        sums, counts, energy = whole.split([sums.numel(), counts.numel(), 1])
        counts = counts.view(centroids.shape[:2])
        return {"sums": sums.view(centroids.shape), "counts": counts, "mass": counts, "energy": energy}

    def _parts(self, now: Clustering) -> dict[str, Tensor]:
        """All that a pass gives, over all workers."""
        step = accumulate.pass_of(now)
        for span, group in self._spans(now):
            weights = None if self.weights is None else self.weights[span]
            step.add(self.z[span], weights, np.arange(group.start, group.start + (span.stop - span.start)))
        mine, whole = step.result(), {}
        for name, value in mine.items():
            part = torch.from_numpy(value).to(self.z.device)
            if name in accumulate.SUMMED:
                whole[name] = collectives.total(part)
            elif name in ("largest", "heaviest", "most"):
                whole[name] = collectives.maximum(part)
            else:
                rows = int(name in accumulate.FAR and "far" in mine)
                whole[name] = collectives.gather(part.transpose(0, rows).contiguous()).transpose(0, rows)
        merged = accumulate.merge([{name: value.cpu().numpy() for name, value in whole.items()}])
        return {name: torch.from_numpy(value).to(self.z.device) for name, value in merged.items()}

    def _spans(self, now: Clustering) -> list[tuple[slice, RowBlock]]:
        """This worker's row groups that are waited for; an empty one where it has none, as it must take part."""
        mine = [(self.shard.spans[at], self.shard.groups[at]) for at in self._mine(now)]
        return mine or [(slice(0, 0), RowBlock(0, 0, 0))]
