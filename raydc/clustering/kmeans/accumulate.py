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

from raydc.clustering.kmeans import balanced, steps
from raydc.clustering.kmeans import init as kmeans_init
from raydc.clustering.kmeans.balanced import Memberships
from raydc.clustering.kmeans.iteration import Clustering
from raydc.clustering.kmeans.steps import Assigner, FixedPoint, Geometry

FARTHEST = 64
"""Rows that a part carries to refill empty clusters with."""

SUMMED = ("sums", "counts", "mass", "energy", "soft")
"""Arrays that are integers and add up."""

FAR = ("far", "where", "whose", "weights", "rows")
"""Arrays of the rows that are far from their centroids, side by side for each restart."""

Part = dict[str, np.ndarray]


class Pass(ABC):
    """A version's pass over row groups, on the device of the clustering that it is made for."""

    @abstractmethod
    def add(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> None:
        """Count a row group: rows x [n, D] of weights [n], at these positions of the data."""

    @abstractmethod
    def result(self) -> Part:
        """What the row groups add, one at least; to be asked for when all are counted."""


class Joined(Pass):
    """A pass whose row groups' parts are put together one by one."""

    def __init__(self) -> None:
        self.part: Part = {}

    def add(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> None:
        part = self._of(x, weights, positions)
        self.part = merge([self.part, part]) if self.part else part

    def result(self) -> Part:
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
    `rows` [A, m, D]. count also: `spread` [m, 2] and `positions` [m], squared distances and weights of the sample.
    """
    kinds: dict[str, Callable[[Clustering], Pass]] = {"survey": Sample, "seed": Seed, "weigh": Weigh}
    return kinds.get(clustering.phase, Move)(clustering)


class Sample(Joined):
    """Largest values, and the rows that the sample draws by their positions."""

    def __init__(self, clustering: Clustering) -> None:
        super().__init__()
        self.options, self.total = clustering.options, clustering.rows

    def _of(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> Part:
        drawn = kmeans_init.sampled(positions, self.options.sampled, self.total, self.options.seed)
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


class Seed(Joined):
    """Rows far from the candidates so far."""

    def __init__(self, clustering: Clustering) -> None:
        super().__init__()
        self.options, self.version, self.geometry = clustering.options, clustering.version, clustering.geometry
        self.assigner = Assigner(clustering.arrays["candidates"][None], self.geometry)

    def _of(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> Part:
        x, options = self.geometry.around(x), self.options
        (squared,) = self.assigner.distances(x, steps.squares(x), self.assigner(x))
        return kmeans_init.next_candidates(
            x, squared, weights, positions, options.n_clusters, options.seed, self.version
        )


class Weigh(Joined):
    """Rows nearest to each candidate."""

    def __init__(self, clustering: Clustering) -> None:
        super().__init__()
        self.unit, self.geometry = FixedPoint(clustering.arrays["weight_scale"]), clustering.geometry
        self.assigner = Assigner(clustering.arrays["candidates"][None], self.geometry)

    def _of(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> Part:
        labels = self.assigner(self.geometry.around(x)).long()
        return {"mass": _counted(labels, weights, self.assigner.clusters, self.unit).cpu().numpy()}


class Move(Pass):
    """Sums of rows by the centroids of one version. They stay on the device until all row groups are counted."""

    def __init__(self, clustering: Clustering) -> None:
        arrays, active = clustering.arrays, [*clustering.active]
        self.clustering, self.geometry = clustering, clustering.geometry
        self.centroids, self.offsets = arrays["centroids"][active], arrays["offsets"][active]
        self.assigner = Assigner(self.centroids, self.geometry, self.offsets if clustering.options.balanced else None)
        self.farthest = [Farthest(self.geometry) for _ in active]
        self.fixed, self.unit = FixedPoint(arrays["energy_scale"]), FixedPoint(arrays["weight_scale"])
        self.sums = torch.zeros(self.centroids.shape, dtype=torch.int64, device=self.centroids.device)
        self.counts, self.mass, self.soft = self.sums.new_zeros((3, *self.sums.shape[:2]))
        self.energy = self.sums.new_zeros(1)
        self.spread: list[Part] = []

    def add(self, x: Tensor, weights: Tensor | None, positions: np.ndarray) -> None:
        if weights is None and not self.clustering.options.balanced:
            labels, far, squares = self.assigner.count(x, self.sums, self.counts)
        else:
            labels, far, squares = self._weighed(x, weights)
        self.energy += self.fixed.integers(squares if weights is None else squares * weights.double()).sum()
        for each, own, distances in zip(self.farthest, labels.cpu().numpy(), far.cpu().numpy(), strict=True):
            each.add(x, weights, own, distances, positions)
        if self.clustering.phase == "count":
            self.spread.append(self._spread(far[0].cpu().numpy(), weights, positions))

    def _spread(self, far: np.ndarray, weights: Tensor | None, positions: np.ndarray) -> Part:
        """Squared distances `far` [n] and weights of those rows that the survey's sample takes."""
        now = self.clustering
        drawn = kmeans_init.sampled(positions, now.options.sampled, now.rows, now.options.seed)
        heavy = np.ones(len(far)) if weights is None else weights.double().cpu().numpy()
        return {"spread": np.stack((far, heavy), 1)[drawn], "positions": positions[drawn]}

    def result(self) -> Part:
        totals = {"sums": self.sums, "counts": self.counts, "energy": self.energy}
        totals["mass"] = self.mass if self.clustering.options.weighted else self.counts
        if self.clustering.options.balanced:
            totals["soft"] = self.soft
        far = [each.result() for each in self.farthest]
        rows = {name: np.concatenate([part[name] for part in far]) for name in far[0]}
        rows |= merge(self.spread) if self.spread else {}
        return rows | {name: value.cpu().numpy() for name, value in totals.items()}

    def _weighed(self, x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """What `Assigner.count` does, of rows with weights or of balanced clusters."""
        x = self.geometry.around(x)
        squares = steps.squares(x)
        if self.clustering.options.balanced:
            labels, far = self._balanced(x, weights, squares)
        else:
            labels = self.assigner(x).long()
            far = self.assigner.distances(x, squares, labels.int())
        self._sum(x, weights, labels)
        return labels, far, squares

    def _balanced(self, x: Tensor, weights: Tensor | None, squares: Tensor) -> tuple[Tensor, Tensor]:
        """Labels [A, n] and squared distances [A, n]; memberships are summed."""
        arrays = self.clustering.arrays
        fixed, sharp = FixedPoint(arrays["soft_scale"]), self.clustering.sharpness
        labels, far = self.assigner(x).long(), []
        each = zip(labels, self.centroids, self.offsets, self.soft, strict=True)
        for own, centroids, offsets, soft in each:
            found = [*Memberships(centroids, offsets, sharp, self.geometry)(x, own)]
            far.append((torch.cat([distance for distance, _ in found]) + squares).clamp_(min=0))
            soft += balanced.masses(torch.cat([member for _, member in found]), weights, fixed)
        return labels, torch.stack(far)

    def _sum(self, x: Tensor, weights: Tensor | None, labels: Tensor) -> None:
        """Sum rows and weights by labels [A, n], row by row in integers."""
        integers = self.geometry.fixed.integers(x if weights is None else x.double() * weights.double()[:, None])
        for each, own in zip(self.sums, labels, strict=True):
            each.index_add_(0, own, integers)
        clusters = self.centroids.shape[1]
        self.counts += _counted(labels, None, clusters, self.unit)
        if weights is not None:
            self.mass += _counted(labels, weights, clusters, self.unit)


class Farthest:
    """The rows farthest from their centroids, `FARTHEST` of them, by one set of centroids."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.parts: list[Part] = []
        self.held = 0
        self.least = -np.inf
        """A row less far away is not among them."""

    def add(self, x: Tensor, weights: Tensor | None, whose: np.ndarray, far: np.ndarray, positions: np.ndarray) -> None:
        """Look at rows x [n, D], as read, at squared distances `far` [n] from the centroids of clusters `whose` [n]."""
        among = np.flatnonzero(far >= self.least)
        if self.parts and not len(among):
            return
        if len(among) > FARTHEST:
            among = steps.farthest(far, positions, FARTHEST)
        weighed = np.ones(len(among), np.float32) if weights is None else weights[among].float().cpu().numpy()
        part = {"far": far[among], "where": positions[among], "whose": whose[among].astype(np.int64)}
        part |= {"weights": weighed, "rows": self.geometry.around(x[among]).cpu().numpy()}
        self.parts.append({name: value[None] for name, value in part.items()})
        self.held += len(among)
        if self.held >= 4 * FARTHEST:
            self._sift()

    def result(self) -> Part:
        """`far`, `where`, `whose`, `weights` [1, m] and `rows` [1, m, D], the farthest first."""
        self._sift()
        return self.parts[0]

    def _sift(self) -> None:
        self.parts = [merge(self.parts)]
        far = self.parts[0]["far"][0]
        self.held, self.least = len(far), far[-1] if len(far) == FARTHEST else -np.inf


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
    offsets = arrays["offsets"][0] if clustering.options.balanced else None
    own = steps.labels(x, centroids, geometry, offsets)
    return arrays["order"].argsort()[own], steps.distances(x, own, centroids)


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
    if "spread" in parts[0]:
        order = np.argsort(joined("positions"))
        merged |= {name: joined(name)[order] for name in ("spread", "positions")}
    for name in SUMMED:
        if name in parts[0]:
            merged[name] = reduce(np.add, [part[name] for part in parts])
    if "far" in parts[0]:
        order = np.lexsort((joined("where", 1), -joined("far", 1)), axis=1)[:, :FARTHEST]
        for name in FAR:
            values = joined(name, 1)
            merged[name] = np.take_along_axis(values, order[..., None] if values.ndim == 3 else order, 1)
    return merged
