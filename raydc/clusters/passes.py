"""What a row group adds to a version's pass over the rows, and how such parts become one.

Every array of a part adds up without a trace of the order: integers are summed, and of rows that stand out the first
are kept, by a key that ends in the row's position.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from raydc.clusters import balanced, kmeans, seeding
from raydc.clusters.balanced import BalancedAssigner
from raydc.clusters.kmeans import Assigner, FixedPoint
from raydc.clusters.rule import Clustering

FARTHEST = 64
"""Rows that a part carries to refill empty clusters with."""

SUMMED = ("sums", "counts", "mass", "energy", "soft")
"""Arrays that are integers and add up."""

Part = dict[str, np.ndarray]


class Pass(ABC):
    """A version's pass over row groups, on the device of the clustering that it is made for."""

    def __init__(self) -> None:
        self.part: Part = {}

    def add(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> None:
        """Count a row group: rows x [n, D] of weights [n], at these positions of the data."""
        part = self._of(x, weights, positions)
        self.part = merge([self.part, part]) if self.part else part

    def result(self) -> Part:
        """What the row groups add, one at least; to be asked for when all are counted."""
        return self.part

    @abstractmethod
    def _of(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> Part:
        """What a row group adds."""


def pass_of(clustering: Clustering) -> Pass:
    """The pass that the clustering waits for.

    survey: `largest` [D], and `sample` [m, D] with `positions` [m]; of weighted rows also `heaviest` [1] and
    `sample_weights` [m]. seed: `times`, `where` [m] and `rows` [m, D], the first `most` [1] of which count. weigh:
    `mass` [1, C]. move and count, for A active restarts: `sums` [A, K, D], `counts` and `mass` [A, K], `energy` [1] and
    (balanced) `soft` [A, K], int64; and rows far from their centroids: `far`, `where`, `whose`, `weights` [A, m] and
    `rows` [A, m, D].
    """
    kinds: dict[str, Callable[[Clustering], Pass]] = {"survey": Survey, "seed": Seed, "weigh": Weigh}
    return kinds.get(clustering.phase, Move)(clustering)


class Survey(Pass):
    """Largest values, and the rows that the sample draws by their positions."""

    def __init__(self, clustering: Clustering) -> None:
        super().__init__()
        self.options, self.total = clustering.options, clustering.rows

    def _of(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> Part:
        drawn = seeding.sampled(positions, self.options.sampled, self.total, self.options.seed)
        chosen = torch.from_numpy(drawn).to(x.device)
        part = {
            "largest": torch.cat((x.new_zeros(1, x.shape[1]), x.abs())).amax(0).cpu().numpy(),
            "sample": x[chosen].cpu().numpy(),
            "positions": positions[drawn],
        }
        if weights is not None:
            part["heaviest"] = torch.cat((weights.new_zeros(1), weights)).amax().reshape(1).cpu().numpy()
            part["sample_weights"] = weights[chosen].cpu().numpy()
        return part


class Distances:
    """Nearest of centroids [R, K, D] around the origin, and squared distances to them, of whole row groups."""

    def __init__(self, clustering: Clustering, centroids: Tensor) -> None:
        self.geometry, self.centroids = clustering.geometry, centroids
        self.assigner = Assigner(centroids, self.geometry)

    def nearest(self, x: Tensor) -> Tensor:
        """Labels int64 [R, n]."""
        return self.assigner(x).long()

    def far(self, x: Tensor, labels: Tensor, squares: Tensor) -> Tensor:
        """Squared distances float64 [R, n], where rows x [n, D] have labels [R, n] and squared lengths [n]."""
        if x.device.type != "cpu":
            return torch.stack([kmeans.distances(x, *each) for each in zip(labels, self.centroids, strict=True)])
        # on the sphere a centroid has length 1
        scores = self.assigner.scores(x, labels.int())
        distance = (2 * scores + squares + self.geometry.spherical).clamp_(min=0)
        # what is left of a row that is its own centroid is rounding
        return torch.where(distance < 1e-12 * squares, 0.0, distance)


class Seed(Pass):
    """Rows far from the candidates so far."""

    def __init__(self, clustering: Clustering) -> None:
        super().__init__()
        self.options, self.version = clustering.options, clustering.version
        self.distances = Distances(clustering, clustering.arrays["candidates"][None])

    def _of(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> Part:
        x = self.distances.geometry.around(x)
        squared = self.distances.far(x, self.distances.nearest(x), kmeans.squares(x))
        options = self.options
        return seeding.next_candidates(
            x, squared[0], weights, positions, options.n_clusters, options.seed, self.version
        )


class Weigh(Pass):
    """Rows nearest to each candidate."""

    def __init__(self, clustering: Clustering) -> None:
        super().__init__()
        self.unit, self.many = FixedPoint(clustering.arrays["weight_scale"]), len(clustering.arrays["candidates"])
        self.distances = Distances(clustering, clustering.arrays["candidates"][None])

    def _of(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> Part:
        labels = self.distances.nearest(self.distances.geometry.around(x))
        return {"mass": _counted(labels, weights, self.many, self.unit).cpu().numpy()}


class Move(Pass):
    """Sums of rows by the centroids of one version. They stay on the device until all row groups are counted."""

    def __init__(self, clustering: Clustering) -> None:
        super().__init__()
        arrays, active = clustering.arrays, [*clustering.active]
        self.clustering, self.geometry = clustering, clustering.geometry
        self.centroids, self.offsets = arrays["centroids"][active], arrays["offsets"][active]
        self.distances = Distances(clustering, self.centroids)
        self.fixed, self.unit = FixedPoint(arrays["energy_scale"]), FixedPoint(arrays["weight_scale"])
        self.sums = torch.zeros(self.centroids.shape, dtype=torch.int64, device=self.centroids.device)
        self.counts, self.mass, self.soft = self.sums.new_zeros((3, *self.sums.shape[:2]))
        self.energy = self.sums.new_zeros(1)

    def result(self) -> Part:
        totals = {"sums": self.sums, "counts": self.counts, "energy": self.energy}
        totals["mass"] = self.mass if self.clustering.options.weighted else self.counts
        if self.clustering.options.balanced:
            totals["soft"] = self.soft
        return self.part | {name: value.cpu().numpy() for name, value in totals.items()}

    def _of(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> Part:
        x = self.geometry.around(x)
        squares = kmeans.squares(x)
        self.energy += self.fixed.integers(squares if weights is None else squares * weights.double()).sum()
        if self.clustering.options.balanced:
            labels, far = self._balanced(x, weights, squares)
            self._sum(x, weights, labels)
        elif weights is not None:
            labels = self.distances.nearest(x)
            far = self.distances.far(x, labels, squares)
            self._sum(x, weights, labels)
        else:
            labels = self.distances.assigner.add(x, self.sums, self.counts).long()
            far = self.distances.far(x, labels, squares)
        return self._farthest(x, weights, labels, far, positions)

    def _balanced(self, x: Tensor, weights: Tensor | None, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Labels [A, n] and squared distances [A, n]; memberships are summed."""
        arrays = self.clustering.arrays
        fixed, sharp = FixedPoint(arrays["soft_scale"]), self.clustering.sharpness
        labels, far = [], []
        for centroids, offsets, soft in zip(self.centroids, self.offsets, self.soft, strict=True):
            found = [*BalancedAssigner(centroids, offsets, sharp, self.geometry)(x)]
            labels.append(torch.cat([own for own, _, _ in found]))
            far.append((torch.cat([distance for _, distance, _ in found]) + squares).clamp_(min=0))
            soft += balanced.masses(torch.cat([member for _, _, member in found]), weights, fixed)
        return torch.stack(labels), torch.stack(far)

    def _sum(self, x: Tensor, weights: Tensor | None, labels: Tensor) -> None:
        """Sum rows and weights by labels [A, n], row by row in integers."""
        integers = self.geometry.fixed.integers(x if weights is None else x.double() * weights.double()[:, None])
        for each, own in zip(self.sums, labels, strict=True):
            each.index_add_(0, own, integers)
        clusters = self.centroids.shape[1]
        self.counts += _counted(labels, None, clusters, self.unit)
        if weights is not None:
            self.mass += _counted(labels, weights, clusters, self.unit)

    def _farthest(self, x: Tensor, weights: Tensor | None, labels: Tensor, far: Tensor, positions: np.ndarray) -> Part:
        where = torch.from_numpy(positions).to(x.device)
        order = torch.stack([kmeans.farthest(each, where, FARTHEST) for each in far])
        weighed = x.new_ones(len(x)) if weights is None else weights.float()
        return {
            "far": far.gather(1, order).cpu().numpy(),
            "where": where[order].cpu().numpy(),
            "whose": labels.gather(1, order).cpu().numpy(),
            "weights": weighed[order].cpu().numpy(),
            "rows": x[order].cpu().numpy(),
        }


def _counted(labels: Tensor, weights: Tensor | None, clusters: int, unit: FixedPoint) -> Tensor:
    """Rows, or their weights as integers, by labels [A, n]: int64 [A, K]."""
    each = labels.new_ones(labels.shape[1]) if weights is None else unit.integers(weights)
    counted = labels.new_zeros((len(labels), clusters))
    return counted.scatter_add_(1, labels, each.expand_as(labels))


def labelled(clustering: Clustering, x: Tensor) -> tuple[Tensor, Tensor]:
    """Labels int64 [n] of a row group by the centroids that are returned, and those squared distances [n]; once done.

    The labels are those of `Clustering.settled`.
    """
    geometry, arrays = clustering.geometry, clustering.arrays
    x, centroids = geometry.around(x), arrays["centroids"][0]
    if clustering.options.balanced:
        own = balanced.labels(x, centroids, arrays["offsets"][0], geometry)
    else:
        (own,) = kmeans.assign([x], centroids, geometry)
    return arrays["order"].argsort()[own], kmeans.distances(x, own, centroids)


def merge(parts: Sequence[Part]) -> Part:
    """Several parts as one; their order leaves no trace."""

    def joined(name: str, axis: int = 0) -> np.ndarray:
        return np.concatenate([part[name] for part in parts], axis)

    merged: Part = {}
    if "largest" in parts[0]:
        order = np.argsort(joined("positions"))
        merged["largest"] = np.max([part["largest"] for part in parts], axis=0)
        merged |= {name: joined(name)[order] for name in ("sample", "positions")}
        if "heaviest" in parts[0]:
            merged["heaviest"] = np.max([part["heaviest"] for part in parts], axis=0)
            merged["sample_weights"] = joined("sample_weights")[order]
    elif "times" in parts[0]:
        first = np.lexsort((joined("where"), joined("times")))[: int(parts[0]["most"][0])]
        merged = {name: joined(name)[first] for name in ("times", "where", "rows")} | {"most": parts[0]["most"]}
    for name in SUMMED:
        if name in parts[0]:
            merged[name] = reduce(np.add, [part[name] for part in parts])
    if "far" in parts[0]:
        order = np.lexsort((joined("where", 1), -joined("far", 1)), axis=1)[:, :FARTHEST]
        for name in ("far", "where", "whose", "weights", "rows"):
            values = joined(name, 1)
            merged[name] = np.take_along_axis(values, order[..., None] if values.ndim == 3 else order, 1)
    return merged
