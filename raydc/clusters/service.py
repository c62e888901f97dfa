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

What a version is for, and what follows from its sums, is the affair of raydc.clusters.rule, which knows nothing of
pushes: version 0 is the *survey* that measures the rows and finds the starts, and the last one counts the members of
the centroids that are returned. `Plan.restarts` clusterings run side by side in one pass; the best is kept.

**What it costs.** N rows, D dimensions, K centroids (times restarts), W workers on M nodes; phi flop/s of a worker, b
bytes/s into the service. One iteration takes, with S = 8 K (D + 1) bytes of sums:

    assign    2 N K D / (W phi)            the matrix product: nearly all of it from K = 100 up
    push      M S / b                      workers of a node combine first (`combine`); W S / b if they do not
    close     3 S / (bytes/s of memory)    once
    snapshot  S / (bytes/s of the disk)    once

On two busy cores of a Xeon (benchmarks/scale.py) the actor takes sums at 5.5e8 bytes/s and gives out centroids at 3e8;
of 10,000 x 768 (61.5 MB) a push takes .11 s, closing with its snapshot 1.2 s and a pull .19 s, where one worker needs
77 s for 1e6 rows at 2e11 flop/s. So one actor has all centroids: to share them out would not be noticed at such sizes.
"""

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from raydc.clusters import kmeans, passes, seeding
from raydc.clusters.rule import Clustering, Options
from raydc.clusters.snapshots import Fenced, Snapshots

__all__ = ["CentroidService", "Contribution", "Fenced", "Plan", "Receipt", "Refused", "State", "combine"]


class Refused(ValueError):
    """A contribution that cannot be right; nothing was changed by it."""


class Plan(Options):
    """What is clustered, and how. The same plan always ends in the same centroids."""

    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name of the run; the service is found by it."""
    dim: int = Field(gt=0)
    rows: tuple[int, ...] = Field(min_length=1)
    """Rows of each row group, in the order of the data."""

    @property
    def total(self) -> int:
        return sum(self.rows)

    def begin(self) -> Clustering:
        """Before the survey."""
        options = Options(**{name: getattr(self, name) for name in Options.model_fields})
        return Clustering(options, self.dim, self.total, len(self.rows))


@dataclass(frozen=True)
class Contribution:
    """Sums over some row groups, for one version of one run."""

    run: str
    version: int
    groups: tuple[int, ...]
    arrays: dict[str, np.ndarray]
    """What `raydc.clusters.passes` makes of the row groups; and `check` [1], the sum of their hashed positions modulo
    2^63."""

    @property
    def digest(self) -> str:
        hashed = hashlib.sha256()
        for name in sorted(self.arrays):
            hashed.update(name.encode())
            hashed.update(np.ascontiguousarray(self.arrays[name]).reshape(-1).view(np.uint8).data)
        return hashed.hexdigest()


def combine(parts: Sequence[Contribution]) -> Contribution:
    """One contribution from several with disjoint row groups, in any order and any nesting."""
    groups = tuple(sorted(group for part in parts for group in part.groups))
    if len(set(groups)) < len(groups) or len({(part.run, part.version) for part in parts}) != 1:
        raise Refused(f"expected disjoint row groups of one version, got {[(p.version, p.groups) for p in parts]}")
    return replace(parts[0], groups=groups, arrays=merge([part.arrays for part in parts]))


def merge(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of several contributions as one; the order of parts leaves no trace."""
    check = sum(int(part["check"][0]) for part in parts) % (1 << 63)
    return passes.merge(parts) | {"check": np.array([check], np.int64)}


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
    clustering: Clustering | None = None
    """Where the clustering stands, unless the caller did not ask for it."""


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
        self.clustering = plan.begin()
        self.check = 0
        """Sum of the hashed positions of all rows, as the survey found them."""
        self.ledger = np.zeros(0, bool)
        self.digests: dict[tuple[int, ...], str] = {}
        self.sums: dict[str, np.ndarray] = {}
        self._open()
        self._recover()

    @property
    def version(self) -> int:
        return self.clustering.version

    @property
    def done(self) -> bool:
        return self.clustering.done

    # -- what workers call

    def state(self, centroids: bool = True) -> State:
        """The open version and what it waits for, with or without its centroids."""
        with self._lock:
            missing = () if self.done else tuple(np.flatnonzero(self.clustering.expected() & ~self.ledger).tolist())
            shared = self.clustering.shared() if centroids else None
            return State(self.version, self.snapshots.incarnation, self.done, missing, shared)

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
            if version == self.version and not self.done and self.ledger[self.clustering.expected()].all():
                before = self.__dict__.copy()
                try:
                    self._compare()
                    totals = {name: torch.from_numpy(np.require(a, None, "W")) for name, a in self.sums.items()}
                    self.clustering = self.clustering.after(totals)
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
            now = self.clustering
            if now.done:
                found = now.settled()
                return self.version, found.centroids.numpy(), found.counts.numpy()
            if "centroids" not in now.arrays:
                raise ValueError(f"run {self.plan.run} has no centroids yet: its start is not complete")
            best = now.best()
            centroids = (now.arrays["centroids"][best] + now.arrays["origin"]).float()
            return self.version, centroids.numpy(), now.arrays["counts"][best].clone().numpy()

    def status(self) -> dict[str, Any]:
        """Counters, for people and metrics."""
        with self._lock:
            now = self.clustering
            return {
                "run": self.plan.run,
                "version": self.version,
                "phase": now.phase,
                "incarnation": self.snapshots.incarnation,
                "done": self.done,
                "row_groups_counted": int(self.ledger.sum()),
                "row_groups": int(now.expected().sum()),
                "refilled": sum(entry["refilled"] for entry in now.history),
                "history": [*now.history],
            }

    def reached(self, point: str) -> None:
        """Called at the places where a death would hurt most; tests die there."""

    # -- inside

    def _open(self) -> None:
        self.ledger, self.digests, self.sums = np.zeros(len(self.plan.rows), bool), {}, {}

    def _groups(self, contribution: Contribution) -> list[int]:
        groups, expected = list(contribution.groups), self.clustering.expected()
        known = all(isinstance(g, int) and 0 <= g < len(expected) for g in groups)
        if not groups or not known or len(set(groups)) < len(groups) or not expected[groups].all():
            raise Refused(f"expected row groups of version {self.version}, each once, got {contribution.groups[:8]}")
        return groups

    def _check(self, contribution: Contribution) -> None:
        plan, got = self.plan, contribution.arrays
        rows = sum(plan.rows[group] for group in contribution.groups)
        shapes = self._shapes(got)
        if set(got) != set(shapes):
            raise Refused(f"expected arrays {sorted(shapes)}, got {sorted(got)}")
        for name, (shape, kind) in shapes.items():
            if got[name].shape != shape or got[name].dtype.kind != kind:
                raise Refused(f"{name}: expected shape {shape}, got {got[name].shape} of {got[name].dtype}")
            if kind == "f" and not np.isfinite(got[name]).all():
                raise Refused(f"{name}: expected finite values, got NaN or infinity: clean or drop such rows")
        if "largest" in got and float(got["largest"].max()) > kmeans.LARGEST:
            raise Refused(f"expected values up to {kmeans.LARGEST:g}, got {got['largest'].max():g}: scale the rows")
        if "most" in got and (got["most"][0] != seeding.OVERSAMPLING * plan.n_clusters or len(got["rows"]) > rows):
            raise Refused(f"expected at most {rows} candidates of {rows} rows, got {len(got['rows'])}")
        limit = (1 << 62) // (1 << max(plan.total - 1, 0).bit_length())  # the largest integer one value can become
        if "mass" in got and not plan.weighted and (got["mass"].sum(1) != rows).any():
            raise Refused(f"expected counts of {rows} rows, got {got['mass'].sum(1).tolist()}")
        if "counts" in got and ((got["counts"] < 0).any() or (got["counts"].sum(1) != rows).any()):
            raise Refused(f"expected counts of {rows} rows, got {got['counts'].sum(1).tolist()}")
        reach: dict[str, Any] = {"mass": rows * float(limit), "soft": rows * float(limit)}
        reach |= {"sums": got["counts"] * float(limit)} if "sums" in got else {}
        for name, most in reach.items():
            if name in got and ((got[name].max(-1) > most).any() or (got[name].min(-1) < -most).any()):
                raise Refused(f"{name}: expected sums within reach of the survey's largest values: data have changed")

    def _shapes(self, got: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and kind of every array that this version expects, for as many rows as the contribution brings."""
        plan, active, phase = self.plan, len(self.clustering.active), self.clustering.phase
        shapes: dict[str, tuple[tuple[int, ...], str]] = {"check": ((1,), "i")}
        if phase == "survey":
            m = len(got.get("sample", ()))
            shapes |= {"largest": ((plan.dim,), "f"), "sample": ((m, plan.dim), "f"), "positions": ((m,), "i")}
            return shapes | ({"heaviest": ((1,), "f"), "sample_weights": ((m,), "f")} if plan.weighted else {})
        if phase == "seed":
            m = len(got.get("rows", ()))
            shapes |= {"times": ((m,), "f"), "where": ((m,), "i"), "rows": ((m, plan.dim), "f"), "most": ((1,), "i")}
            return shapes
        if phase == "weigh":
            return shapes | {"mass": ((1, len(self.clustering.arrays["candidates"])), "i")}
        m, each = got["far"].shape[-1] if "far" in got else 0, (active, plan.n_clusters)
        shapes |= {"sums": ((*each, plan.dim), "i"), "counts": (each, "i"), "mass": (each, "i"), "energy": ((1,), "i")}
        shapes |= {"far": ((active, m), "f"), "where": ((active, m), "i"), "whose": ((active, m), "i")}
        shapes |= {"weights": ((active, m), "f"), "rows": ((active, m, plan.dim), "f")}
        return shapes | ({"soft": (each, "i")} if plan.balanced else {})

    def _compare(self) -> None:
        """Raise Refused if the rows counted are not all rows, each once, as their positions tell."""
        if self.version == 0:
            total = self.plan.total
            chunks = (np.arange(at, min(at + (1 << 20), total)) for at in range(0, total, 1 << 20))
            self.check = sum(kmeans.checksum(chunk, self.plan.seed) for chunk in chunks) % (1 << 63)
            if self.sums["check"][0] != self.check:
                raise Refused(f"the rows surveyed are not rows 0 to {total - 1}, once each")
        elif self.clustering.expected().all() and self.sums["check"][0] != self.check:
            raise Refused("the rows counted are not the rows of the survey: data have changed")

    def _save(self) -> None:
        self.reached("save.before")
        now = self.clustering
        arrays = {f"state.{name}": value.numpy() for name, value in now.arrays.items()}
        arrays |= {f"sums.{name}": value for name, value in self.sums.items()}
        meta = {
            "plan": self.plan.model_dump(mode="json"),
            "version": self.version,
            "phase": now.phase,
            "done": self.done,
            "active": now.active,
            "history": now.history,
            "check": self.check,
            "digests": [[list(groups), digest] for groups, digest in self.digests.items()],
        }
        self.snapshots.save(arrays | {"ledger": self.ledger}, meta)
        self.reached("save.after")

    def _recover(self) -> None:
        found = self.snapshots.newest()
        if found is None:
            return
        arrays, meta = found
        plan = self.plan.model_dump(mode="json")
        if meta["plan"] != plan:
            changed = [key for key, value in plan.items() if meta["plan"].get(key) != value]
            raise ValueError(f"{self.snapshots.store.root} holds a run with another plan ({', '.join(changed)} differ)")
        self.ledger, self.check = arrays.pop("ledger"), meta["check"]
        self.digests = {tuple(groups): digest for groups, digest in meta["digests"]}
        self.sums = {name.removeprefix("sums."): a for name, a in arrays.items() if name.startswith("sums.")}
        self.clustering = replace(
            self.clustering,
            version=meta["version"],
            phase=meta["phase"],
            done=meta["done"],
            active=tuple(meta["active"]),
            history=tuple(meta["history"]),
            arrays={name[6:]: torch.from_numpy(a) for name, a in arrays.items() if name.startswith("state.")},
        )
        self.close(self.version)
