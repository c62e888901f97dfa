"""k-means between two passes over the rows: what the next pass is for, and what its totals become.

A clustering is a sequence of versions. Each closes with the totals of one pass (passes.py) over all row groups:

    survey   largest values and a sample: origin, units, and k-means++ starts
    seed     with k-means||, five times: rows far from the candidates so far become candidates
    weigh    with k-means||: how many rows are nearest to each candidate; starts by weighted k-means++ among them
    move     sums and counts: Lloyd's iterations, or mini-batches of row groups
    count    the members of the centroids that are returned

The centroid service and the collectives both follow this class, so that they end in the same bytes. What a move makes
of the clusters is decided by their counts alone (`CentroidUpdate`). Sums and centroids, which are K x D, are needed to
carry it out, one cluster at a time, and so may lie elsewhere (shards.py). Each cluster answers with two numbers; their
sums are rounded once, so that it leaves no trace where a cluster was.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raydc.clustering import ClusteringResult, spread
from raydc.clustering.kmeans import balanced, steps
from raydc.clustering.kmeans import init as kmeans_init
from raydc.clustering.kmeans.options import KMeansOptions
from raydc.clustering.kmeans.steps import FixedPoint, Geometry

Phase = Literal["survey", "seed", "weigh", "move", "count"]

EACH = ("centroids", "offsets", "counts", "lifetime", "idle", "inertia", "iterations", "refilled")
"""Arrays of a clustering that each restart has a part in."""


class KMeansTask(KMeansOptions):
    """One clustering: its options, its clusters, and what its random choices depend on."""

    n_clusters: int = Field(ge=1)
    weighted: bool = False
    """Rows come with weights."""
    sample: int = Field(10_000, ge=1)
    """Rows, about, whose mean becomes the origin; k-means++ starts are chosen among them, and at least 40 K."""
    seed: int = 0

    @property
    def sampled(self) -> int:
        """Rows of the sample, about."""
        return max(self.sample, 40 * self.n_clusters) if self.start == "k-means++" else self.sample

    def drawn(self, groups: int, version: int) -> np.ndarray:
        """bool [groups]: the row groups of a mini-batch."""
        order = np.argsort(steps.hashed(np.arange(groups), self.seed + 7919 * version), kind="stable")
        return np.isin(np.arange(groups), order[: self.batch_groups])


@dataclass(frozen=True)
class CentroidUpdate:
    """What becomes of clusters in a pass, as their counts say: of all, or of k in a row, in A active restarts."""

    mass: Tensor
    """int64 [A, k], weights of the clusters' rows."""
    filled: Tensor
    """int64 [A, k], the same once empty clusters are refilled."""
    share: Tensor
    """float64 [A, k], weights of this pass by those of all passes: how far running means go (mini-batches)."""
    moves: tuple[bool, ...]
    """Whether the centroids of each restart move."""
    refills: tuple[tuple[Tensor, Tensor, Tensor], ...]
    """Of each restart: clusters [E] that are refilled, by their numbers among all K; those that lose a row to them [E];
    and these rows as integers [E, D]."""
    first: int = 0
    """Of the k clusters."""

    def part(self, clusters: slice) -> "CentroidUpdate":
        """For these clusters alone."""
        mass, filled, share = (each[:, clusters].contiguous() for each in (self.mass, self.filled, self.share))
        return replace(self, mass=mass, filled=filled, share=share, first=clusters.start)

    def refilled(self, at: int, sums: Tensor) -> Tensor:
        """Sums [k, D] of one restart once empty clusters are refilled."""
        fresh, donors, integers = self.refills[at]
        if not len(fresh):
            return sums
        sums = sums.clone()
        given, lost = ((each >= self.first) & (each < self.first + len(sums)) for each in (fresh, donors))
        sums.index_add_(0, donors[lost] - self.first, -integers[lost])
        sums[fresh[given] - self.first] = integers[given]
        return sums


Elsewhere = Callable[[CentroidUpdate, Tensor | None], tuple[Tensor, Tensor]]
"""Carries an update out where the sums are, from centroids [R, K, D], where these are not there yet; gives `losses` and
squared shifts, float64 [A, K]."""


@dataclass(frozen=True)
class Clustering:
    """Where k-means stands. `after` the totals of a pass it stands one version further; this one is not changed."""

    options: KMeansTask
    dim: int
    rows: int
    """Over all workers."""
    groups: int
    version: int = 0
    phase: Phase = "survey"
    done: bool = False
    active: tuple[int, ...] = ()
    """Restarts that still move."""
    history: tuple[dict[str, Any], ...] = ()
    """Inertia and refilled clusters of each iteration."""
    given: Tensor | None = None
    """Centroids [K, D] to start from, in place of a start of its own."""
    arrays: dict[str, Tensor] = field(default_factory=dict)
    """After the survey: `origin` and `largest` [D], `scale` [D], `energy_scale` [] and `weight_scale` [] of integers,
    `soft_scale` [], `floor` [], `variance` []. While candidates are gathered: `candidates` [C, D] float32. Then, around
    the origin: `centroids` [R, K, D] float64, `offsets` [R, K] (balanced), `counts`, `lifetime` and `idle` [R, K];
    `inertia`, `iterations` and `refilled` [R]. At the end R is 1, `chosen` [] says which it was, `order` [K] puts
    clusters with members first, and `spread` [] is how sharp memberships are. Where there are shards, they have
    `centroids` once these have moved."""

    def __getstate__(self) -> dict[str, Any]:
        """Between processes arrays travel as numpy, which Ray passes on some 10 times faster than tensors."""
        return vars(self) | {"arrays": {name: value.numpy() for name, value in self.arrays.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = {name: torch.from_numpy(np.array(value)) for name, value in state["arrays"].items()}
        vars(self).update(state | {"arrays": arrays})

    def to(self, device: str) -> "Clustering":
        """The same on a device."""
        given = None if self.given is None else self.given.to(device)
        return replace(self, given=given, arrays={name: value.to(device) for name, value in self.arrays.items()})

    @property
    def geometry(self) -> Geometry:
        arrays = self.arrays
        fixed = FixedPoint(arrays["scale"])
        return Geometry(arrays["origin"], fixed, float(arrays["floor"]), self.options.spherical)

    def expected(self) -> np.ndarray:
        """bool [groups]: whose rows this version waits for."""
        few = self.options.batch_groups
        if self.phase != "move" or few is None or few >= self.groups:
            return np.ones(self.groups, bool)
        return self.options.drawn(self.groups, self.version)

    def after(
        self,
        totals: dict[str, Tensor],
        far: Callable[[], dict[str, Tensor]] | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> "Clustering":
        """The next version. `far` gives what refills empty clusters, where the totals do not hold it already.

        With `elsewhere`, sums are not among the totals, and the centroids of the next version not here.
        """
        step = {"survey": self._survey, "seed": self._seed, "weigh": self._weigh}
        if self.phase == "move":
            following = self._move(totals, far or (lambda: totals), elsewhere)
        elif self.phase == "count":
            following = self._count(totals, elsewhere)
        else:
            following = step[self.phase](totals)
        return replace(following, version=self.version + 1)

    def shared(self) -> "Clustering":
        """What a worker needs of it to make a pass: nothing of restarts that do not move any more."""
        if self.done:
            return self
        arrays, active = dict(self.arrays), [*self.active]
        for name in ("counts", "lifetime", "idle", "inertia", "iterations", "refilled"):
            arrays.pop(name, None)
        if self.phase == "move":
            arrays |= {name: arrays[name][active] for name in ("centroids", "offsets") if name in arrays}
        return replace(self, active=tuple(range(len(active))), history=(), arrays=arrays)

    def outline(self) -> "Clustering":
        """What shards need of it: nothing that grows with K."""
        arrays = {name: value for name, value in self.arrays.items() if name not in (*EACH, "order")}
        return replace(self, history=(), given=None, arrays=arrays)

    def leading(self) -> "Clustering":
        """The best restart alone. Raises ValueError before there is one."""
        if "inertia" not in self.arrays:
            raise ValueError("there are no centroids yet: the start of this run is not complete")
        best = self.arrays["inertia"].argmin()
        one = {name: self.arrays[name][best : best + 1] for name in EACH if name in self.arrays}
        return replace(self, active=(0,), arrays=self.arrays | one | {"chosen": best})

    def present(self) -> tuple[Tensor, Tensor]:
        """Of `leading`: centroids [K, D] float32, and their members [K] when last counted."""
        if self.done:
            found = self.settled()
            return found.centroids, found.counts
        return (self.arrays["centroids"][0] + self.arrays["origin"]).float(), self.arrays["counts"][0].clone()

    def settled(self) -> ClusteringResult:
        """Once done: clusters with members first, and the others far away, where they hold nothing and equal no row."""
        arrays, order = self.arrays, self.arrays["order"]
        centroids = (arrays["centroids"][0] + arrays["origin"]).float()[order]
        offsets, counts = arrays["offsets"][0].float()[order], arrays["counts"][0][order]
        found = int((counts > 0).sum())
        far = 8 * float(centroids.abs().max() + arrays["largest"].max()) + 8
        away = torch.arange(1, len(centroids) - found + 1, device=centroids.device)
        centroids[found:] = (away * far)[:, None].to(centroids.dtype)
        offsets[found:] = 0
        sharp = self.sharpness if self.options.balanced else float(arrays["spread"])
        return ClusteringResult(centroids, counts, offsets, sharp, arrays["origin"])

    def _survey(self, totals: dict[str, Tensor]) -> "Clustering":
        options, sample, positions = self.options, totals["sample"], totals["positions"]
        if options.spherical:
            sample = steps.unit(sample)
            largest = torch.ones_like(totals["largest"], dtype=torch.float64)
            origin = torch.zeros_like(sample[0])
        else:
            origin = sample.double().mean(0).float()
            largest = totals["largest"].double() + origin.abs().double()
        heaviest = totals["heaviest"][0].double() if options.weighted else largest.new_ones(())
        if heaviest == 0:
            raise ValueError("expected a row with a weight above 0, got none")
        square = (largest**2).sum()
        variance = sample.double().var(0, correction=0)
        arrays = {
            "origin": origin,
            "largest": totals["largest"],
            "scale": FixedPoint.of(largest * heaviest * 1.001, self.rows).scale,  # room for rounding
            "energy_scale": FixedPoint.of(square * heaviest * 1.001, self.rows).scale,
            "weight_scale": FixedPoint.of(heaviest, self.rows).scale if options.weighted else torch.ones_like(heaviest),
            "soft_scale": FixedPoint.of(heaviest, self.rows).scale,
            "floor": (largest * 2**-24).square().sum(),
            "variance": variance.mean(),
        }
        begun = replace(self, arrays=arrays)
        weights = totals["sample_weights"] if options.weighted else None
        if self.given is not None:
            return begun._started(begun.geometry.around(self.given)[None])
        if options.start == "k-means||":
            first = kmeans_init.first(positions, weights, options.seed)
            candidates = begun.geometry.around(sample[first : first + 1])
            return replace(begun, phase="seed", arrays=arrays | {"candidates": candidates})
        starts = kmeans_init.plus_plus(sample, options.n_clusters, options.restarts, options.seed, weights)
        return begun._started(starts - origin)

    def _seed(self, totals: dict[str, Tensor]) -> "Clustering":
        candidates = torch.cat((self.arrays["candidates"], totals["rows"]))
        phase: Phase = "seed" if self.version < kmeans_init.ROUNDS else "weigh"
        return replace(self, phase=phase, arrays=self.arrays | {"candidates": candidates})

    def _weigh(self, totals: dict[str, Tensor]) -> "Clustering":
        options, arrays = self.options, dict(self.arrays)
        weights = totals["mass"][0].double()
        starts = kmeans_init.plus_plus(
            arrays.pop("candidates"), options.n_clusters, options.restarts, options.seed, weights
        )
        return replace(self, arrays=arrays)._started(starts)

    def _started(self, centroids: Tensor) -> "Clustering":
        """Ready to move from these centroids [R, K, D] around the origin."""
        restarts, clusters = centroids.shape[:2]
        whole = centroids.new_zeros((restarts, clusters), dtype=torch.int64)
        arrays = self.arrays | {
            "centroids": centroids.double(),
            "offsets": whole.double(),
            "counts": whole,
            "lifetime": whole,
            "idle": whole,
            "inertia": centroids.new_full((restarts,), math.inf, dtype=torch.float64),
            "iterations": whole[:, 0],
            "refilled": whole[:, 0],
        }
        return replace(self, phase="move", active=tuple(range(restarts)), arrays=arrays)

    def _move(
        self, got: dict[str, Tensor], far: Callable[[], dict[str, Tensor]], elsewhere: Elsewhere | None
    ) -> "Clustering":
        options, geometry, unit = self.options, self.geometry, self.arrays["weight_scale"]
        now = {name: value.clone() for name, value in self.arrays.items() if name != "centroids"}
        batches = 1 if options.batch_groups is None else -(-self.groups // options.batch_groups)
        filled, share, moves = list[Tensor](), list[Tensor](), list[bool]()
        refills = list[tuple[Tensor, Tensor, Tensor]]()
        given: dict[str, Tensor] = {}
        for at, r in enumerate(self.active):
            mass = got["mass"][at]
            # empty: as many rows as there are went by, and none fell to it
            now["idle"][r] = torch.where(mass > 0, 0, now["idle"][r] + 1)
            empty = (now["idle"][r] >= batches).nonzero()[:, 0]
            fresh, donors, integers = empty[:0], empty[:0], mass.new_zeros((0, self.dim))
            if len(empty):
                given = given or far()  # another pass, with the collectives
                rows = {name: given[name][at] for name in ("far", "whose", "rows", "weights")}
                mass, taken = steps.refill(mass, empty, **rows, unit=unit, geometry=geometry)
                fresh, donors = empty[: len(taken)], rows["whose"][taken]
                integers = geometry.fixed.integers(
                    rows["rows"][taken].double() * rows["weights"][taken].double()[:, None]
                )
                now["lifetime"][r][fresh], now["idle"][r][fresh] = 0, 0
            now["lifetime"][r] += mass
            even = True
            if options.balanced:
                now["offsets"][r], even = balanced.after(now["offsets"][r], got["soft"][at], self.sharpness)
            filled.append(mass)
            share.append(mass / now["lifetime"][r].clamp(min=1))
            moves.append(even)
            refills.append((fresh, donors, integers))
            now["counts"][r] = got["counts"][at]
            now["iterations"][r] += 1
            now["refilled"][r] += len(fresh)
        update = CentroidUpdate(got["mass"], torch.stack(filled), torch.stack(share), tuple(moves), tuple(refills))
        centroids, losses, shifts = self._apply(update, got, elsewhere)
        now["inertia"][[*self.active]] = self._inertia(got, losses)
        enough = options.tolerance * float(now["variance"])
        still = zip(self.active, moves, refills, shifts.tolist(), strict=True)
        moving = tuple(r for r, even, (fresh, *_), own in still if len(fresh) or not even or math.fsum(own) > enough)
        entry = {
            "version": self.version,
            "inertia": float(now["inertia"].min()),
            "refilled": sum(len(fresh) for fresh, *_ in refills),
        }
        moved = replace(self, arrays=now | centroids, active=moving, history=(*self.history, entry))
        over = not moving or len(moved.history) >= options.iterations
        return moved._chosen() if over else moved

    def _apply(
        self, update: CentroidUpdate, got: dict[str, Tensor], elsewhere: Elsewhere | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The next `centroids`, if they stay here; and what `moved` says of the clusters."""
        before = self.arrays.get("centroids")
        if elsewhere is not None:
            return {}, *elsewhere(update, before)
        assert before is not None
        centroids, losses, shifts = self.moved(update, got["sums"], before)
        return {"centroids": centroids}, losses, shifts

    def moved(self, update: CentroidUpdate, sums: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Centroids [R, k, D] after an update of these clusters, and [A, k] `losses` before it and squared shifts.

        Raises ValueError if a centroid is not finite.
        """
        options, geometry, unit = self.options, self.geometry, self.arrays["weight_scale"]
        after, losses, shifts = before.clone(), [], []
        for at, r in enumerate(self.active):
            old = new = before[r]
            losses.append(steps.losses(sums[at], update.mass[at].double() / unit, old, geometry))
            if update.moves[at]:
                new = steps.means(update.refilled(at, sums[at]), update.filled[at].double() / unit, old, geometry)
                if options.batch_groups is not None:
                    new = old + update.share[at][:, None] * (new - old)
                    new = steps.unit(new) if options.spherical else new
                after[r] = new
            shifts.append((new - old).square().sum(-1))
        if not bool(after.isfinite().all()):
            raise ValueError("centroids would not be finite: expected finite sums")
        return after, torch.stack(losses), torch.stack(shifts)

    def _inertia(self, got: dict[str, Tensor], losses: Tensor) -> Tensor:
        """float64 [A] of `losses` [A, K], rounded once: neither order nor threads leave a trace."""
        spread = float(got["energy"][0].double() / self.arrays["energy_scale"])
        return losses.new_tensor([math.fsum((spread, *own)) for own in losses.tolist()])

    @property
    def sharpness(self) -> float:
        """1 / eps of balanced clusters."""
        return balanced.sharpness(self.options.balanced, self.dim * float(self.arrays["variance"]))

    def _chosen(self) -> "Clustering":
        """The best restart alone, in the digits that are returned."""
        best = self.leading()
        arrays = best.arrays | {"offsets": best.arrays["offsets"].float().double()}
        if "centroids" in arrays:
            arrays["centroids"] = self.returned(arrays["centroids"])
        return replace(best, phase="count", arrays=arrays)

    def returned(self, centroids: Tensor) -> Tensor:
        """Centroids around the origin in the digits that are returned."""
        origin = self.arrays["origin"]
        return (centroids + origin).float().double() - origin

    def _count(self, got: dict[str, Tensor], elsewhere: Elsewhere | None) -> "Clustering":
        arrays = {name: value for name, value in self.arrays.items() if name != "centroids"}
        mass, nobody = got["mass"], got["mass"].new_zeros(0)
        none = (nobody, nobody, mass.new_zeros((0, self.dim)))
        update = CentroidUpdate(mass, mass, torch.zeros_like(mass, dtype=torch.float64), (False,), (none,))
        centroids, losses, _ = self._apply(update, got, elsewhere)
        arrays |= centroids | {"counts": got["counts"], "inertia": self._inertia(got, losses)}
        squared, weights = got["spread"].cpu().numpy().T
        rounding = 2.0**-48 * float(arrays["origin"].double().square().sum() + self.options.spherical)
        sharp = spread.sharpness(squared, weights, self.dim, rounding)
        arrays["spread"] = mass.new_tensor(sharp, dtype=torch.float64)
        arrays["order"] = (got["counts"][0] == 0).to(torch.int8).argsort(stable=True)
        return replace(self, done=True, active=(), arrays=arrays)
