"""The centroid service: k-means over row groups that counts every row exactly once, whatever dies on the way.

**From push to commit.** The service holds the centroids of one *version* and waits for a contribution of every row
group to it. A worker pulls the version, assigns its row groups, adds them up and pushes the sums with the list of row
groups in them. The service looks at a push in this order:

1. another run: refused. Another version: `stale`, and nothing changes. Both fence off zombies and late replies.
2. all its row groups are in the *ledger* already: `duplicate`. The answer to the first push was lost; nothing changes.
   If those very groups came with other numbers, it is refused: a worker that does not repeat itself is a fault.
3. some of them are: `overlap`. The worker asks what is missing and pushes that alone.
4. wrong shape, rows that do not add up, sums beyond what rows can reach: refused with a message, nothing changes.
5. else it is added and entered in the ledger: `accepted`.

Sums are integers (raydc.clusters.kmeans), so neither the order of pushes nor how groups were combined leaves a trace.
When the ledger is full the version *closes*: the update rule gives new centroids, a snapshot commits them, and only
then are they visible as the next version. Ledger and sums are always saved together. There is no log: after a crash the
service starts from its last snapshot, says what is `missing`, and workers compute that again, to the same integers.

Version 0 is the *survey*: rows are checked and measured, and a sample gives the origin and the k-means++ starts.
`Plan.restarts` clusterings run side by side in one pass over the data; the best is kept.

**What it costs.** N rows, D dimensions, K centroids (times restarts), W workers on M nodes; phi flop/s of a worker, b
bytes/s into the service. One iteration takes, with S = 8 K (D + 1) bytes of sums:

    assign    2 N K D / (W phi)            the matrix product: nearly all of it from K = 100 up
    push      M S / b                      workers of a node combine first (`combine`); W S / b if they do not
    close     3 S / (bytes/s of memory)    once
    snapshot  S / (bytes/s of the disk)    once

`benchmarks/scale.py` measures the constants and says where this stops being small.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from raydc.clusters import kmeans
from raydc.clusters.kmeans import FixedPoint, Geometry
from raydc.clusters.snapshots import Fenced, Snapshots
from raydc.settings import Settings

__all__ = ["CentroidService", "Contribution", "Fenced", "Plan", "Receipt", "Refused", "State", "combine"]

FARTHEST = 32
"""Rows a contribution carries to refill empty clusters with."""


class Refused(ValueError):
    """A contribution that cannot be right; nothing was changed by it."""


class Plan(Settings):
    """What is clustered, and how. The same plan always ends in the same centroids."""

    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name of the run; the service is found by it."""
    n_clusters: int = Field(gt=0)
    dim: int = Field(gt=0)
    rows: tuple[int, ...] = Field(min_length=1)
    """Rows of each row group, in the order of the data."""
    restarts: int = Field(default=1, gt=0)
    """Clusterings side by side, each from its own k-means++ start; the best is kept."""
    iterations: int = Field(default=100, gt=0)
    tolerance: float = Field(default=1e-4, ge=0)
    """Stop when centroids move by less than this, squared, relative to the mean variance of the sample's columns."""
    spherical: bool = False
    batch_groups: int | None = Field(default=None, gt=0)
    """Row groups of a mini-batch iteration (centroids are then running means); None: all of them (Lloyd)."""
    sample: int = Field(default=10_000, gt=0)
    """Rows on which starts are chosen, about; at least 40 for each cluster."""
    seed: int = 0

    @property
    def total(self) -> int:
        return sum(self.rows)

    def expected(self, version: int) -> np.ndarray:
        """bool [row groups]: which of them a version waits for."""
        if version == 0 or self.batch_groups is None or self.batch_groups >= len(self.rows):
            return np.ones(len(self.rows), bool)
        order = np.argsort(kmeans.hashed(np.arange(len(self.rows)), self.seed + 7919 * version), kind="stable")
        return np.isin(np.arange(len(self.rows)), order[: self.batch_groups])


@dataclass(frozen=True)
class Contribution:
    """Sums over some row groups, for one version of one run."""

    run: str
    version: int
    groups: tuple[int, ...]
    arrays: dict[str, np.ndarray]
    """Survey: `largest` [D], and `sample` [m, D] with `positions` [m]. Afterwards, for A active restarts: `sums`
    [A, K, D], `counts` [A, K] and `energy` [1], int64; and rows far from their centroids: `far` [A, m], `where` [A, m],
    `whose` [A, m] and `rows` [A, m, D]. Always `check` [1], the sum of hashed row positions modulo 2^63."""

    @property
    def digest(self) -> str:
        hashed = hashlib.sha256()
        for name in sorted(self.arrays):
            hashed.update(name.encode() + np.ascontiguousarray(self.arrays[name]).tobytes())
        return hashed.hexdigest()


def combine(parts: Sequence[Contribution]) -> Contribution:
    """One contribution from several with disjoint row groups, in any order and any nesting."""
    groups = tuple(sorted(group for part in parts for group in part.groups))
    if len(set(groups)) < len(groups) or len({(part.run, part.version) for part in parts}) != 1:
        raise Refused(f"expected disjoint row groups of one version, got {[(p.version, p.groups) for p in parts]}")
    return replace(parts[0], groups=groups, arrays=merge([part.arrays for part in parts]))


def merge(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of several contributions as one; the order of parts leaves no trace."""

    def joined(name: str, axis: int = 0) -> np.ndarray:
        return np.concatenate([part[name] for part in parts], axis)

    check = sum(int(part["check"][0]) for part in parts) % (1 << 63)
    merged = {"check": np.array([check], np.int64)}
    if "largest" in parts[0]:
        order = np.argsort(joined("positions"))
        largest = np.max([part["largest"] for part in parts], axis=0)
        return merged | {
            "largest": largest,
            "sample": joined("sample")[order],
            "positions": joined("positions")[order],
        }
    for name in ("sums", "counts", "energy"):
        merged[name] = np.sum([part[name] for part in parts], axis=0, dtype=np.int64)
    far, where = joined("far", 1), joined("where", 1)
    order = np.lexsort((where, -far), axis=1)[:, :FARTHEST]
    for name, values in {"far": far, "where": where, "whose": joined("whose", 1), "rows": joined("rows", 1)}.items():
        index = order[..., None] if values.ndim == 3 else order
        merged[name] = np.take_along_axis(values, index, 1)
    return merged


@dataclass(frozen=True)
class Receipt:
    """The answer to a push: accepted, duplicate, overlap or stale; and the version that is open now."""

    answer: str
    version: int


@dataclass(frozen=True)
class State:
    """What a worker needs to know to contribute."""

    version: int
    incarnation: int
    done: bool
    missing: tuple[int, ...]
    """Row groups that this version still waits for."""
    active: tuple[int, ...] = ()
    """Restarts that still move."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """`centroids` [A, K, D] float64 of the active restarts around `origin` [D], `scale` [D] and `energy_scale` [1] of
    the integers. Empty before the survey, and where the caller did not ask for them."""


class CentroidService:
    """Versions, ledger, update rule and snapshots of one run. Every method may be called again with the same effect."""

    def __init__(self, folder: str | Path, plan: Plan, save_every: int = 0) -> None:
        """Take over the run in `folder`, from its newest snapshot or from the start.

        `save_every` pushes within a version are saved too; 0 saves when a version closes. Raises ValueError if the
        folder holds another plan.
        """
        self.plan, self.save_every = plan, save_every
        self.snapshots = Snapshots(folder)
        self._lock = threading.RLock()
        self.version, self.done, self.refilled = 0, False, 0
        self.active: tuple[int, ...] = tuple(range(plan.restarts))
        self.arrays: dict[str, np.ndarray] = {}
        self.history: list[dict[str, Any]] = []
        self.ledger = np.zeros(0, bool)
        self.digests: dict[tuple[int, ...], str] = {}
        self.sums: dict[str, np.ndarray] = {}
        self._open()
        self._recover()

    # -- what workers call

    def state(self, centroids: bool = True) -> State:
        """The open version and what it waits for, with or without its centroids."""
        with self._lock:
            missing = (
                () if self.done else tuple(np.flatnonzero(self.plan.expected(self.version) & ~self.ledger).tolist())
            )
            arrays = {}
            if centroids and self.arrays:
                arrays = {name: self.arrays[name] for name in ("origin", "scale", "energy_scale")}
                arrays["centroids"] = self.arrays["centroids"][list(self.active)]
            return State(self.version, self.snapshots.incarnation, self.done, missing, self.active, arrays)

    def push(self, contribution: Contribution) -> Receipt:
        """Count a contribution once. Raises Refused, changing nothing, for one that cannot be right."""
        with self._lock:
            if contribution.run != self.plan.run:
                raise Refused(f"expected a contribution to run {self.plan.run}, got one to {contribution.run}")
            if contribution.version > self.version:
                raise Refused(f"version {contribution.version} is not open yet, {self.version} is")
            if contribution.version < self.version or self.done:
                return Receipt("stale", self.version)
            groups = self._groups(contribution)
            counted = self.ledger[groups]
            if counted.all():
                before = self.digests.get(contribution.groups)
                if before is not None and before != contribution.digest:
                    raise Refused(f"row groups {contribution.groups[:8]} came again with other sums: data have changed")
                return Receipt("duplicate", self.version)
            if counted.any():
                return Receipt("overlap", self.version)
            self._check(contribution)
            self.reached("push.before_apply")
            self.sums = merge([self.sums, contribution.arrays]) if self.sums else dict(contribution.arrays)
            self.ledger[groups] = True
            self.digests[contribution.groups] = contribution.digest
            self.reached("push.after_apply")
            if self.save_every and len(self.digests) % self.save_every == 0:
                self._save()
            self.close(contribution.version)
            return Receipt("accepted", self.version)

    def close(self, version: int) -> int:
        """Make the next version if `version` is open and complete; the version that is open afterwards."""
        with self._lock:
            if version == self.version and not self.done and self.ledger[self.plan.expected(version)].all():
                before = self.__dict__.copy()
                try:
                    self._survey() if version == 0 else self._update()
                    self.version += 1
                    self._open()
                    self._save()
                except BaseException:
                    self.__dict__.update(before)  # nothing is visible that is not committed
                    raise
            return self.version

    # -- what readers call

    def centroids(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Version, centroids [K, D] float32 of the best restart, and their members [K] when last counted."""
        with self._lock:
            if self.version == 0:
                raise ValueError(f"run {self.plan.run} has no centroids yet: its survey is not complete")
            best = int(self.arrays["inertia"].argmin())
            centroids = self.arrays["centroids"][best] + self.arrays["origin"]
            return self.version, centroids.astype(np.float32), self.arrays["counts"][best].copy()

    def status(self) -> dict[str, Any]:
        """Counters, for people and metrics."""
        with self._lock:
            return {
                "run": self.plan.run,
                "version": self.version,
                "incarnation": self.snapshots.incarnation,
                "done": self.done,
                "row_groups_counted": int(self.ledger.sum()),
                "row_groups": int(self.plan.expected(self.version).sum()),
                "refilled": self.refilled,
                "history": list(self.history),
            }

    def reached(self, point: str) -> None:
        """Called at the places where a death would hurt most; tests die there."""

    # -- inside

    def _open(self) -> None:
        self.ledger, self.digests, self.sums = np.zeros(len(self.plan.rows), bool), {}, {}

    def _groups(self, contribution: Contribution) -> list[int]:
        groups = list(contribution.groups)
        expected = self.plan.expected(self.version)
        known = all(isinstance(g, int) and 0 <= g < len(expected) for g in groups)
        if not groups or not known or len(set(groups)) < len(groups) or not expected[groups].all():
            raise Refused(f"expected row groups of version {self.version}, each once, got {contribution.groups[:8]}")
        return groups

    def _check(self, contribution: Contribution) -> None:
        plan, got = self.plan, contribution.arrays
        rows = sum(plan.rows[group] for group in contribution.groups)
        active, m = len(self.active), got["far"].shape[-1] if "far" in got else len(got.get("sample", ()))
        shapes: dict[str, tuple[tuple[int, ...], str]] = {"check": ((1,), "i")}
        if self.version == 0:
            shapes |= {"largest": ((plan.dim,), "f"), "sample": ((m, plan.dim), "f"), "positions": ((m,), "i")}
        else:
            shapes |= {"sums": ((active, plan.n_clusters, plan.dim), "i"), "counts": ((active, plan.n_clusters), "i")}
            shapes |= {"energy": ((1,), "i"), "far": ((active, m), "f"), "where": ((active, m), "i")}
            shapes |= {"whose": ((active, m), "i"), "rows": ((active, m, plan.dim), "f")}
        if set(got) != set(shapes):
            raise Refused(f"expected arrays {sorted(shapes)}, got {sorted(got)}")
        for name, (shape, kind) in shapes.items():
            if got[name].shape != shape or got[name].dtype.kind != kind:
                raise Refused(f"{name}: expected shape {shape}, got {got[name].shape} of {got[name].dtype}")
            if kind == "f" and not np.isfinite(got[name]).all():
                raise Refused(f"{name}: expected finite values, got NaN or infinity: clean or drop such rows")
        if self.version == 0:
            if float(got["largest"].max()) > kmeans.LARGEST:
                raise Refused(f"expected values up to {kmeans.LARGEST:g}, got {got['largest'].max():g}: scale the rows")
            return
        if (got["counts"] < 0).any() or (got["counts"].sum(1) != rows).any():
            raise Refused(f"expected counts of {rows} rows, got {got['counts'].sum(1).tolist()}")
        limit = (1 << 62) // (1 << max(plan.total - 1, 0).bit_length())  # the largest integer one value can become
        reach = got["counts"] * float(limit)
        if (got["sums"].max(-1) > reach).any() or (got["sums"].min(-1) < -reach).any():
            raise Refused("expected sums within reach of the survey's largest values, got larger: data have changed")

    def _survey(self) -> None:
        """Origin, scale and starting centroids, from the measured and sampled rows."""
        plan, found = self.plan, self.sums
        sample = torch.from_numpy(found["sample"])
        if plan.spherical:
            sample, origin = kmeans.unit(sample), torch.zeros(plan.dim)
            largest = torch.ones(plan.dim, dtype=torch.float64)
        else:
            origin = sample.double().mean(0).float()
            largest = torch.from_numpy(found["largest"]).double() + origin.abs().double()
        chunks = (np.arange(at, min(at + (1 << 20), plan.total)) for at in range(0, plan.total, 1 << 20))
        if found["check"][0] != sum(kmeans.checksum(chunk, plan.seed) for chunk in chunks) % (1 << 63):
            raise Refused(f"the rows surveyed are not rows 0 to {plan.total - 1}, once each")
        start = kmeans.plus_plus(sample, plan.n_clusters, plan.restarts, plan.seed).double() - origin
        square = (largest**2).sum()
        self.arrays = {
            "origin": origin.numpy(),
            "scale": FixedPoint.of(largest * 1.001, plan.total).scale.numpy(),  # room for rounding
            "energy_scale": FixedPoint.of(square * 1.001, plan.total).scale.reshape(1).numpy(),
            "floor": np.array([float((largest * 2**-24).square().sum())]),
            "variance": np.array([float(sample.double().var(0, correction=0).mean())]),
            "centroids": start.numpy(),
            "counts": np.zeros((plan.restarts, plan.n_clusters), np.int64),
            "lifetime": np.zeros((plan.restarts, plan.n_clusters), np.int64),
            "inertia": np.full(plan.restarts, np.inf),
            "rows": found["check"],
        }

    def _update(self) -> None:
        """The centroids of the next version, from the sums of this one."""
        plan, got, now = self.plan, self.sums, {name: value.copy() for name, value in self.arrays.items()}
        if self.plan.expected(self.version).all() and got["check"] != now["rows"]:
            raise Refused("the rows counted are not the rows of the survey: data have changed")
        fixed = FixedPoint(torch.from_numpy(now["scale"]))
        geometry = Geometry(torch.from_numpy(now["origin"]), fixed, float(now["floor"][0]), plan.spherical)
        spread, moving, filled = float(got["energy"][0] / now["energy_scale"][0]), [], 0
        for at, r in enumerate(self.active):
            before = torch.from_numpy(self.arrays["centroids"][r])
            sums, counts = torch.from_numpy(got["sums"][at].copy()), torch.from_numpy(got["counts"][at].copy())
            now["inertia"][r] = float(kmeans.inertia(sums, counts, before, spread, geometry))
            refilled = 0
            if plan.batch_groups is None and bool((counts == 0).any()):
                far, whose, rows = (torch.from_numpy(got[name][at].copy()) for name in ("far", "whose", "rows"))
                sums, counts, refilled = kmeans.refill(sums, counts, far, whose, rows, geometry)
            after = kmeans.means(sums, counts, before, geometry)
            now["lifetime"][r] += counts.numpy()
            if plan.batch_groups is not None:
                share = torch.from_numpy(counts.numpy() / np.maximum(now["lifetime"][r], 1))[:, None]
                after = before + share * (after - before)
                after = kmeans.unit(after) if plan.spherical else after
            now["centroids"][r], now["counts"][r] = after.numpy(), counts.numpy()
            filled += refilled
            if refilled or float((after - before).square().sum()) > plan.tolerance * now["variance"][0]:
                moving.append(r)
        if not np.isfinite(now["centroids"]).all():
            raise Refused("centroids would not be finite: expected finite sums")
        self.history = [
            *self.history,
            {"version": self.version, "inertia": float(now["inertia"].min()), "refilled": filled},
        ]
        self.arrays, self.active, self.refilled = now, tuple(moving), self.refilled + filled
        self.done = not moving or self.version >= plan.iterations

    def _save(self) -> None:
        self.reached("save.before")
        arrays = {f"state.{name}": value for name, value in self.arrays.items()}
        arrays |= {f"sums.{name}": value for name, value in self.sums.items()}
        meta = {
            "plan": self.plan.model_dump(mode="json"),
            "version": self.version,
            "done": self.done,
            "active": self.active,
            "refilled": self.refilled,
            "history": self.history,
            "digests": [[list(groups), digest] for groups, digest in self.digests.items()],
        }
        self.snapshots.save(arrays | {"ledger": self.ledger}, meta)
        self.reached("save.after")

    def _recover(self) -> None:
        found = self.snapshots.newest()
        if found is None:
            return
        arrays, meta = found
        if meta["plan"] != self.plan.model_dump(mode="json"):
            changed = [
                key for key, value in self.plan.model_dump(mode="json").items() if meta["plan"].get(key) != value
            ]
            raise ValueError(f"{self.snapshots.folder} holds a run with another plan ({', '.join(changed)} differ)")
        self.version, self.done, self.active = meta["version"], meta["done"], tuple(meta["active"])
        self.refilled, self.history = meta["refilled"], meta["history"]
        self.ledger = arrays.pop("ledger")
        self.digests = {tuple(groups): digest for groups, digest in meta["digests"]}
        for name, value in arrays.items():
            kind, key = name.split(".", 1)
            (self.arrays if kind == "state" else self.sums)[key] = value
        self.close(self.version)
