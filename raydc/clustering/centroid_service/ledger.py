"""What is counted in the open version of a run: row groups once each, whatever comes twice, late or wrong."""

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from raydc.clustering.centroid_service.snapshots import Snapshots
from raydc.clustering.kmeans import accumulate, steps
from raydc.clustering.kmeans import init as kmeans_init
from raydc.clustering.kmeans.iteration import Clustering, KMeansTask

PIECE = 256 << 20
"""Bytes of sums that one actor holds, where that is left to raydc."""


class Refused(ValueError):
    """A contribution that cannot be right; nothing was changed by it."""


class ServicePlan(KMeansTask):
    """What is clustered, and how. The same plan always ends in the same centroids."""

    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    """Name of the run; the service is found by it."""
    dim: int = Field(gt=0)
    rows: tuple[int, ...] = Field(min_length=1)
    """Rows of each row group, in the order of the data."""
    shards: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Among how many the clusters are shared out; auto: one for each 256 MB of sums. It changes no result."""

    @property
    def total(self) -> int:
        return sum(self.rows)

    @property
    def parts(self) -> list[slice]:
        """The clusters of each shard."""
        sums = 8 * self.restarts * self.n_clusters * (self.dim + 1)
        many = math.ceil(sums / PIECE) if self.shards == "auto" else self.shards
        many = min(many, self.n_clusters)
        bounds = [self.n_clusters * at // many for at in range(many + 1)]
        return [slice(*each) for each in pairwise(bounds)]

    def begin(self) -> Clustering:
        """Before the survey."""
        task = KMeansTask(**{name: getattr(self, name) for name in KMeansTask.model_fields})
        return Clustering(task, self.dim, self.total, len(self.rows))


@dataclass(frozen=True)
class Contribution:
    """Sums over some row groups, for one version of one run."""

    run: str
    version: int
    groups: tuple[int, ...]
    arrays: dict[str, np.ndarray]
    """What `kmeans/accumulate.py` makes of the row groups; and `check` [1], the sum of their hashed positions modulo
    2^63."""
    targets: tuple[int, ...] = (0,)
    """Where they are missing: 0 is the service, 1 and up its shards."""

    @property
    def digest(self) -> str:
        hashed = hashlib.sha256()
        for name in sorted(self.arrays):
            hashed.update(name.encode())
            hashed.update(np.ascontiguousarray(self.arrays[name]).reshape(-1).view(np.uint8).data)
        return hashed.hexdigest()


def merge(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of several contributions as one; the order of parts leaves no trace."""
    check = sum(int(part["check"][0]) for part in parts) % (1 << 63)
    return accumulate.merge(parts) | {"check": np.array([check], np.int64)}


@dataclass(frozen=True)
class Receipt:
    """The answer to a push: accepted, duplicate, overlap or stale; and the version that is open now."""

    answer: str
    version: int


class Ledger:
    """Row groups counted in the open version, their sums, and the snapshots of one process.

    Every method may be called again with the same effect.
    """

    def __init__(self, folder: str | Path, plan: ServicePlan) -> None:
        self.plan = plan
        self.snapshots = Snapshots(folder)
        self._lock = threading.RLock()
        self.clustering = plan.begin()
        """Where the clustering stands."""
        self.ledger = np.zeros(0, bool)
        self.digests: dict[tuple[int, ...], str] = {}
        self.sums: dict[str, np.ndarray] = {}
        self._open()

    @property
    def version(self) -> int:
        return self.clustering.version

    @property
    def done(self) -> bool:
        return self.clustering.done

    @property
    def missing(self) -> tuple[int, ...]:
        """Row groups that the open version still waits for."""
        return () if self.done else tuple(np.flatnonzero(self.clustering.expected() & ~self.ledger).tolist())

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
            self._counted()
            return Receipt("accepted", self.version)

    def reached(self, point: str) -> None:
        """Called at the places where a death would hurt most; tests die there."""

    # -- inside

    def _open(self) -> None:
        self.ledger, self.digests, self.sums = np.zeros(len(self.plan.rows), bool), {}, {}

    def _counted(self) -> None:
        """Called when a contribution has been counted."""

    def _shapes(self, got: dict[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and kind of every array that this version expects, for as many rows as the contribution brings."""
        raise NotImplementedError

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
        if "largest" in got and float(got["largest"].max()) > steps.LARGEST:
            raise Refused(f"expected values up to {steps.LARGEST:g}, got {got['largest'].max():g}: scale the rows")
        if "most" in got and (got["most"][0] != kmeans_init.OVERSAMPLING * plan.n_clusters or len(got["rows"]) > rows):
            raise Refused(f"expected at most {rows} candidates of {rows} rows, got {len(got['rows'])}")
        limit = (1 << 62) // (1 << max(plan.total - 1, 0).bit_length())  # the largest integer one value can become
        if "mass" in got and not plan.weighted and (got["mass"].sum(1) != rows).any():
            raise Refused(f"expected counts of {rows} rows, got {got['mass'].sum(1).tolist()}")
        if "counts" in got:
            counts, counted = got["counts"], got["counts"].sum(1)
            wrong = counted != rows if counts.shape[1] == plan.n_clusters else counted > rows
            if (counts < 0).any() or wrong.any():
                raise Refused(f"expected counts of {rows} rows, got {counted.tolist()}")
        reach: dict[str, Any] = {"mass": rows * float(limit), "soft": rows * float(limit)}
        reach |= {"sums": got["counts"] * float(limit)} if "sums" in got else {}
        for name, most in reach.items():
            if name in got and ((got[name].max(-1) > most).any() or (got[name].min(-1) < -most).any()):
                raise Refused(f"{name}: expected sums within reach of the survey's largest values: data have changed")

    def _saved(self) -> Iterator[tuple[dict[str, np.ndarray], dict[str, Any]]]:
        """Whole snapshots, newest first. Raises ValueError if they are those of another plan."""
        plan = self.plan.model_dump(mode="json")
        for arrays, meta in self.snapshots.whole():
            if meta["plan"] != plan:
                changed = [key for key, value in plan.items() if meta["plan"].get(key) != value]
                root = self.snapshots.store.root
                raise ValueError(f"{root} holds a run with another plan ({', '.join(changed)} differ)")
            yield arrays, meta
