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

Sums are integers (kmeans/steps.py), so neither the order of pushes nor how groups were merged leaves a trace.
When the ledger is full the version *closes*: the update rule gives new centroids, a snapshot commits them, and only
then are they visible as the next version. The push that fills it is answered after that, which takes minutes where many
clusters start. Whoever asks next for the `state` tries a close that failed again, and is told why it fails. Ledger and
sums are always saved together. There is no log: after a crash the service starts from its last snapshot, says what is
`missing`, and workers compute that again, to the same integers.

What a version is for, and what follows from its sums, is the affair of kmeans/iteration.py, which knows nothing of
pushes: version 0 is the *survey* that measures the rows and finds the starts, and the last one counts the members of
the centroids that are returned. `ServicePlan.restarts` clusterings run side by side in one pass; the best is kept.

**Where K x D is large**, sums and centroids are shared out among P actors, each of which counts and commits for itself;
the service keeps the counts and all decisions. shards.py says how such a version closes, and why any of the
actors may die at any time. `ServicePlan.shards` changes no byte of the result.

**What it costs.** N rows, D dimensions, K centroids (times restarts), W workers on M nodes; phi flop/s of a worker, b
bytes/s into an actor. One iteration takes, with S = 8 K (D + 1) bytes of sums:

    assign    2 N K D / (W phi)            the matrix product: nearly all of it from K = 100 up
    push      W S / (P b)                  M S / (P b) where the sums of a node's workers are merged first
    close     3 S / (bytes/s of memory)    once, S / P by each shard
    snapshot  S / (bytes/s of the disk)    once, S / P by each shard

On two cores of a Xeon (benchmarks/scale.py) an actor takes sums at 5.5e8 bytes/s and gives out centroids at 3e8;
of 10,000 x 768 (61.5 MB) a push takes .09 s, closing with its snapshot .93 s and a pull .17 s, together 1.18 s; with
P = 2 it is .67 s, and .62 s with P = 4, more than there are cores. One worker of 2e11 flop/s needs 77 s for 1e6 rows:
at such sizes shards are not noticed. All pushes take 4 W^2 phi / (N b P) of the assignment's time, whatever K and D
are: shards are for workers that are many and fast. 128 GPUs of 2e14 flop/s assign 1e9 rows to 1e5 centroids in 6 s, and
their sums reach one actor in 143 s, 18 actors in 8 s. P also bounds the memory of an actor: left to raydc, each has up
to 256 MB of sums, below which there is but the service.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raydc.clustering.centroid_service.ledger import Contribution, Ledger, Receipt, Refused, ServicePlan
from raydc.clustering.centroid_service.shards import ClusterShard, Sharded, ShardLike, State, at_once
from raydc.clustering.centroid_service.snapshots import Fenced
from raydc.clustering.kmeans import steps
from raydc.clustering.kmeans.iteration import CentroidUpdate, Clustering
from raydc.core.storage import Store

__all__ = ["CentroidService", "Contribution", "Fenced", "Receipt", "Refused", "ServicePlan", "State", "serve"]


class _Incomplete(Exception):
    """A shard lacks sums that the service has: its version cannot close yet."""


class CentroidService(Ledger):
    """Versions, ledger, update rule and snapshots of one run. Every method may be called again with the same effect."""

    def __init__(
        self, folder: str | Path, plan: ServicePlan, save_every: int = 0, shards: Sequence[ShardLike] = ()
    ) -> None:
        """Take over the run in `folder`, from its newest snapshot or from the start.

        `save_every` pushes within a version are saved too; 0 saves when a version closes. Sums and centroids are with
        `shards`, one for each of `plan.parts`, if there are any. Raises ValueError if the folder holds another plan.
        """
        self.save_every, self.shards = save_every, shards
        self.check = 0
        """Sum of the hashed positions of all rows, as the survey found them."""
        super().__init__(folder, plan)
        self._recover()

    # -- what workers call

    def state(self, centroids: bool = True) -> State:
        """The open version and what it waits for, with or without its centroids. Raises what keeps it from closing."""
        with self._lock:
            if not self._shared:
                self.close(self.version)
            now = self.clustering
            outline = now.outline() if self._shared else None
            shared = now.shared() if centroids else None
            return State(self.version, self.snapshots.incarnation, self.done, self.missing, shared, outline)

    def close(self, version: int) -> int:
        """Make the next version if `version` is open and complete; the version that is open afterwards."""
        with self._lock:
            if version == self.version and not self.done and not self.missing:
                before = self.__dict__.copy()
                try:
                    self._compare()
                    totals = {name: torch.from_numpy(np.require(a, None, "W")) for name, a in self.sums.items()}
                    self.clustering = self.clustering.after(totals, elsewhere=self._settle if self.shards else None)
                    self._open()
                    self._save()
                except BaseException as problem:
                    self.__dict__.update(before)  # nothing is visible that is not committed
                    if not isinstance(problem, _Incomplete):
                        raise
            return self.version

    # -- what readers call

    def centroids(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Version, centroids [K, D] float32 of the best restart, and their members [K] when last counted."""
        with self._lock:
            centroids, counts = self.clustering.leading().present()
            return self.version, centroids.numpy(), counts.numpy()

    def light(self) -> Clustering:
        """Where the clustering stands, without the centroids that shards hold."""
        with self._lock:
            return self.clustering

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

    # -- inside

    @property
    def _shared(self) -> bool:
        """Whether shards have a part in the open version: then `Sharded` knows whether it is complete."""
        return bool(self.shards) and self.clustering.phase in ("move", "count")

    def _counted(self) -> None:
        if self.save_every and len(self.digests) % self.save_every == 0:
            self._save()
        self.close(self.version)

    def _settle(self, update: CentroidUpdate, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Have the shards carry out an update, from centroids `before` if the service still has them."""
        check = int(self.sums["check"][0])

        def settle(shard: ShardLike, part: slice) -> tuple[np.ndarray, np.ndarray] | None:
            own = None if before is None else before[:, part].numpy()
            return shard.settle(self.version, update.part(part), check, own)

        answers = at_once(settle, self.shards, self.plan.parts)
        self.reached("settled")
        given = [answer for answer in answers if answer is not None]
        if len(given) < len(answers):
            raise _Incomplete
        losses, shifts = (torch.from_numpy(np.concatenate(each, 1)) for each in zip(*given, strict=True))
        return losses, shifts

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
        shapes |= {"counts": (each, "i"), "mass": (each, "i"), "energy": ((1,), "i")}
        shapes |= {} if self.shards else {"sums": ((*each, plan.dim), "i")}
        shapes |= {"far": ((active, m), "f"), "where": ((active, m), "i"), "whose": ((active, m), "i")}
        shapes |= {"weights": ((active, m), "f"), "rows": ((active, m, plan.dim), "f")}
        if phase == "count":
            drawn = len(got.get("spread", ()))
            shapes |= {"spread": ((drawn, 2), "f"), "positions": ((drawn,), "i")}
        return shapes | ({"soft": (each, "i")} if plan.balanced else {})

    def _compare(self) -> None:
        """Raise Refused if the rows counted are not all rows, each once, as their positions tell."""
        if self.version == 0:
            total = self.plan.total
            chunks = (np.arange(at, min(at + (1 << 20), total)) for at in range(0, total, 1 << 20))
            self.check = sum(steps.checksum(chunk, self.plan.seed) for chunk in chunks) % (1 << 63)
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
        found = next(self._saved(), None)
        if found is None:
            return
        arrays, meta = found
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


def serve(folder: str | Path, plan: ServicePlan) -> CentroidService | Sharded:
    """The service of a run in this process, with its shards if it has any."""
    if len(plan.parts) == 1:
        return CentroidService(folder, plan)
    shards = [ClusterShard((Store(folder) / f"shard-{at}").root, plan, at) for at in range(len(plan.parts))]
    return Sharded(CentroidService(folder, plan, shards=shards), shards, plan)
