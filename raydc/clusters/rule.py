"""k-means between two passes over the rows: what the next pass is for, and what its totals become.

A clustering is a sequence of versions. Each closes with the totals of one pass (passes.py) over all row groups:

    survey   largest values and a sample: origin, units, and k-means++ starts
    seed     with k-means||, five times: rows far from the candidates so far become candidates
    weigh    with k-means||: how many rows are nearest to each candidate; starts by weighted k-means++ among them
    move     sums and counts: Lloyd's iterations, or mini-batches of row groups
    count    the members of the centroids that are returned

The centroid service and the collectives both follow this class, so that they end in the same bytes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from raydc.clusters import Found, balanced, kmeans, seeding
from raydc.clusters.kmeans import FixedPoint, Geometry
from raydc.settings import Settings

Phase = Literal["survey", "seed", "weigh", "move", "count"]


class Options(Settings):
    """What is asked of k-means."""

    n_clusters: int = Field(gt=0)
    start: Literal["k-means++", "k-means||"] = "k-means++"
    """k-means++ on a sample of the rows, or k-means|| on all of them, which many clusters need."""
    restarts: int = Field(default=1, gt=0)
    """Clusterings side by side, each from its own start; the best is kept."""
    iterations: int = Field(default=100, gt=0)
    tolerance: float = Field(default=1e-4, ge=0)
    """Stop when centroids move by less than this, squared, relative to the mean variance of the sample's columns."""
    spherical: bool = False
    balanced: float = Field(default=0.0, ge=0)
    """Strength with which clusters are held to equal sizes (see clusters/balanced.py); 0: not at all."""
    weighted: bool = False
    """Rows come with weights."""
    batch_groups: int | None = Field(default=None, gt=0)
    """Row groups of a mini-batch iteration (centroids are then running means); None: all of them (Lloyd)."""
    sample: int = Field(default=10_000, gt=0)
    """Rows on which k-means++ starts are chosen, about; at least 40 for each cluster."""
    seed: int = 0

    def drawn(self, groups: int, version: int) -> np.ndarray:
        """bool [groups]: the row groups of a mini-batch."""
        order = np.argsort(kmeans.hashed(np.arange(groups), self.seed + 7919 * version), kind="stable")
        return np.isin(np.arange(groups), order[: self.batch_groups])


@dataclass(frozen=True)
class Clustering:
    """Where k-means stands. `after` the totals of a pass it stands one version further; this one is not changed."""

    options: Options
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
    `inertia`, `iterations` and `refilled` [R]. At the end R is 1, and `order` [K] puts clusters with members first."""

    def __getstate__(self) -> dict[str, Any]:
        """Between processes arrays travel as numpy, which Ray passes on some 10 times faster than tensors."""
        return vars(self) | {"arrays": {name: value.numpy() for name, value in self.arrays.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arrays = {name: torch.from_numpy(np.array(value)) for name, value in state["arrays"].items()}
        vars(self).update(state | {"arrays": arrays})

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

    def after(self, totals: dict[str, Tensor], far: Callable[[], dict[str, Tensor]] | None = None) -> "Clustering":
        """The next version. `far` gives what refills empty clusters, where the totals do not hold it already."""
        step = {"survey": self._survey, "seed": self._seed, "weigh": self._weigh, "count": self._count}
        if self.phase == "move":
            following = self._move(totals, far or (lambda: totals))
        else:
            following = step[self.phase](totals)
        return replace(following, version=self.version + 1)

    def best(self) -> int:
        """The restart with the smallest inertia."""
        return int(self.arrays["inertia"].argmin())

    def shared(self) -> "Clustering":
        """What a worker needs of it to make a pass: nothing of restarts that do not move any more."""
        if self.done:
            return self
        arrays, active = dict(self.arrays), [*self.active]
        for name in ("counts", "lifetime", "idle", "inertia", "iterations", "refilled"):
            arrays.pop(name, None)
        if self.phase == "move":
            arrays |= {name: arrays[name][active] for name in ("centroids", "offsets")}
        return replace(self, active=tuple(range(len(active))), history=(), arrays=arrays)

    def settled(self) -> Found:
        """Once done: clusters with members first, and the others far away, where they hold nothing and equal no row."""
        arrays, order = self.arrays, self.arrays["order"]
        centroids = (arrays["centroids"][0] + arrays["origin"]).float()[order]
        offsets, counts = arrays["offsets"][0].float()[order], arrays["counts"][0][order]
        found = int((counts > 0).sum())
        far = 8 * float(centroids.abs().max() + arrays["largest"].max()) + 8
        away = torch.arange(1, len(centroids) - found + 1, device=centroids.device)
        centroids[found:] = (away * far)[:, None].to(centroids.dtype)
        offsets[found:] = 0
        return Found(centroids, counts, offsets, self.sharpness)

    def _survey(self, totals: dict[str, Tensor]) -> "Clustering":
        options, sample, positions = self.options, totals["sample"], totals["positions"]
        if options.spherical:
            sample = kmeans.unit(sample)
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
            first = seeding.first(positions, weights, options.seed)
            candidates = begun.geometry.around(sample[first : first + 1])
            return replace(begun, phase="seed", arrays=arrays | {"candidates": candidates})
        starts = seeding.plus_plus(sample, options.n_clusters, options.restarts, options.seed, weights)
        return begun._started(starts - origin)

    def _seed(self, totals: dict[str, Tensor]) -> "Clustering":
        candidates = torch.cat((self.arrays["candidates"], totals["rows"]))
        phase: Phase = "seed" if self.version < seeding.ROUNDS else "weigh"
        return replace(self, phase=phase, arrays=self.arrays | {"candidates": candidates})

    def _weigh(self, totals: dict[str, Tensor]) -> "Clustering":
        options, arrays = self.options, dict(self.arrays)
        weights = totals["mass"][0].double()
        starts = seeding.plus_plus(
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

    def _move(self, got: dict[str, Tensor], far: Callable[[], dict[str, Tensor]]) -> "Clustering":
        options, geometry = self.options, self.geometry
        now = {name: value.clone() for name, value in self.arrays.items()}
        spread = float(got["energy"][0].double() / now["energy_scale"])
        enough = options.tolerance * float(now["variance"])
        batches = 1 if options.batch_groups is None else -(-self.groups // options.batch_groups)
        moving, filled, unit = [], 0, now["weight_scale"]
        given: dict[str, Tensor] = {}
        for at, r in enumerate(self.active):
            before = self.arrays["centroids"][r]
            sums, mass, counts = got["sums"][at], got["mass"][at], got["counts"][at]
            now["inertia"][r] = kmeans.inertia(sums, mass.double() / unit, before, spread, geometry)
            # empty: as many rows as there are went by, and none fell to it
            now["idle"][r] = torch.where(mass > 0, 0, now["idle"][r] + 1)
            empty = (now["idle"][r] >= batches).nonzero()[:, 0]
            refilled = 0
            if len(empty):
                given = given or far()  # another pass, with the collectives
                rows = {name: given[name][at] for name in ("far", "whose", "rows", "weights")}
                sums, mass, fresh = kmeans.refill(sums, mass, empty, **rows, unit=unit, geometry=geometry)
                now["lifetime"][r][fresh], now["idle"][r][fresh] = 0, 0
                refilled = len(fresh)
            after = kmeans.means(sums, mass.double() / unit, before, geometry)
            now["lifetime"][r] += mass
            if options.batch_groups is not None:
                share = (mass / now["lifetime"][r].clamp(min=1))[:, None]
                after = before + share * (after - before)
                after = kmeans.unit(after) if options.spherical else after
            even = True
            if options.balanced:
                now["offsets"][r], even = balanced.after(now["offsets"][r], got["soft"][at], self.sharpness)
                after = after if even else before
            now["centroids"][r], now["counts"][r] = after, counts
            now["iterations"][r] += 1
            now["refilled"][r] += refilled
            filled += refilled
            if refilled or not even or float((after - before).square().sum()) > enough:
                moving.append(r)
        if not bool(now["centroids"].isfinite().all()):
            raise ValueError("centroids would not be finite: expected finite sums")
        entry = {"version": self.version, "inertia": float(now["inertia"].min()), "refilled": filled}
        moved = replace(self, arrays=now, active=tuple(moving), history=(*self.history, entry))
        over = not moving or len(moved.history) >= options.iterations
        return moved._chosen() if over else moved

    @property
    def sharpness(self) -> float:
        """1 / eps of balanced clusters."""
        return balanced.sharpness(self.options.balanced, self.dim * float(self.arrays["variance"]))

    def _chosen(self) -> "Clustering":
        """The best restart alone, in the digits that are returned."""
        best, arrays = self.best(), dict(self.arrays)
        for name in ("centroids", "offsets", "counts", "lifetime", "idle", "inertia", "iterations", "refilled"):
            arrays[name] = arrays[name][best : best + 1]
        origin = arrays["origin"]
        arrays["centroids"] = (arrays["centroids"] + origin).float().double() - origin
        arrays["offsets"] = arrays["offsets"].float().double()
        return replace(self, phase="count", active=(0,), arrays=arrays)

    def _count(self, got: dict[str, Tensor]) -> "Clustering":
        arrays, unit = dict(self.arrays), self.arrays["weight_scale"]
        spread = float(got["energy"][0].double() / arrays["energy_scale"])
        arrays["counts"] = got["counts"]
        mass = got["mass"][0].double() / unit
        arrays["inertia"] = kmeans.inertia(got["sums"][0], mass, arrays["centroids"][0], spread, self.geometry)[None]
        arrays["order"] = (got["counts"][0] == 0).to(torch.int8).argsort(stable=True)
        return replace(self, done=True, active=(), arrays=arrays)
