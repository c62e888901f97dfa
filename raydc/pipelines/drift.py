"""New rows against those that a model was trained on: every comparison, and what they come to."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet

from raydc.clustering.distances import FAR
from raydc.clustering.metrics import drift
from raydc.clustering.metrics.drift import Check
from raydc.data.marginals import Inputs, Marginal
from raydc.pipelines.counting import Counted
from raydc.training.baseline import Baseline, trusted_like
from raydc.training.labels import NOWHERE, LabelMap
from raydc.training.model import ClusteringModel

Counts = NDArray[np.int64]
MORE_NOWHERE, MORE_REPEATS, MORE_MISSING = 0.05, 0.05, 0.02
"""By how much the share of rows that belong nowhere, that repeat others, or lack a value in a column must rise."""
GROWN, MOVED = 2.0, 0.02
"""By which factor, and by which share of all rows, a cluster must grow or shrink to count by itself."""
FEW = 30
"""Rows of a cluster, then and now, from which on its rows are compared by themselves."""
TOGETHER, AT_LEAST = 0.5, 20
"""Share of the rows that belong nowhere, and rows, that a ball as wide as a cluster holds where they are a cluster."""


@dataclass(frozen=True)
class Group:
    """Clusters of the method, and the ids that their rows have after edits: each id is of one group."""

    own: tuple[int, ...]
    ids: tuple[int, ...]

    @property
    def plain(self) -> bool:
        """Whether no edit changed which rows have its id."""
        return len(self.own) == len(self.ids) == 1 and self.ids != (NOWHERE,)

    def __str__(self) -> str:
        return ", ".join("dropped" if id_ == NOWHERE else str(id_) for id_ in self.ids)


@dataclass(frozen=True)
class Observed:
    """New rows, counted."""

    sizes: Counts
    """[G], rows of each group."""
    trust: dict[str, Counts]
    """By column [G, B], in the bins of the training rows."""
    counted: Counted


@dataclass(frozen=True)
class Drift:
    """What comparisons of new rows with a model's training rows come to."""

    checks: tuple[Check, ...]
    """All of them, the largest effects first."""
    clusters: tuple[dict[str, Any], ...]
    """Of each group of clusters its ids and name, its share of the rows before and now, and whether that moved."""
    rows: int
    nowhere: int
    """Rows that lie farther out than 99 in a hundred of the training rows."""
    together: float
    """Share of those that lie together, as a cluster would; 0 where they do not."""

    @property
    def drifted(self) -> list[Check]:
        return [check for check in self.checks if check.drifted]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        checks = [asdict(check) | {"drifted": check.drifted} for check in self.checks]
        own = {name: getattr(self, name) for name in ("rows", "nowhere", "together")}
        return {"drifted": bool(self.drifted), **own, "clusters": [*self.clusters], "checks": checks}


def groups_of(labels: LabelMap) -> list[Group]:
    """The method's clusters that edits tie together, in the order of their lowest ids."""
    cells = labels.cells
    sets = DisjointSet([*(("cell", i) for i in range(len(cells.ids))), *(("id", i) for i in {*cells.ids, NOWHERE})])
    for cell in cells.with_rows:
        sets.merge(("cell", cell), ("id", cells.ids[cell]))
    for split in cells.splits:
        for cell in (*split.cells, *split.parts):
            sets.merge(("cell", split.parts[0]), ("cell", cell))
    groups = []
    for found in sets.subsets():
        own = tuple(sorted(i for what, i in found if what == "cell" and i < len(labels.given)))
        ids = tuple(sorted(i for what, i in found if what == "id"))
        groups += [Group(own, ids)] if own else []
    return sorted(groups, key=lambda group: group.ids)


def observed(model: ClusteringModel, parts: Iterable[pa.Table], counted: Sequence[Counted]) -> Observed:
    """New rows that were assigned into tables and counted beside them."""
    baseline, groups = _baseline(model), groups_of(model.labels)
    sizes = np.zeros(len(groups), np.int64)
    trust = {name: np.zeros((len(groups), found.counts.shape[1]), np.int64) for name, found in baseline.trust.items()}
    place = {id_: at for at, group in enumerate(groups) for id_ in group.ids}
    ids = np.array(sorted(place))
    order = np.array([place[id_] for id_ in ids.tolist()])
    for table in parts:
        at = order[np.searchsorted(ids, table["cluster"].to_numpy())]
        sizes += np.bincount(at, minlength=len(groups))
        for name, found in baseline.trust.items():
            values = table[name].to_numpy()
            trust[name] += trusted_like(found, values, at, len(groups))
    return Observed(sizes, trust, reduce(Counted.merged, counted))


def compared(model: ClusteringModel, new: Observed) -> Drift:
    """New rows against the training rows. ValueError where the model does not say what those were like."""
    baseline, groups = _baseline(model), groups_of(model.labels)
    sizes = np.array([baseline.sizes[[*group.own]].sum() for group in groups])
    checks = [*_of_clusters(groups, sizes, new.sizes)]
    checks += _of_trust(baseline, groups, sizes, new)
    checks += _of_inputs(baseline.inputs, new.counted.inputs)
    found = sorted(drift.adjusted(checks), key=lambda check: (not check.drifted, check.adjusted, -check.effect))
    nowhere = sum(int(_far(baseline, new.trust, at)) for at in range(len(groups)))
    return Drift(
        tuple(found), tuple(_clusters(model.labels, groups, sizes, new.sizes, found)), int(new.sizes.sum()), nowhere,
        _together(model, new.counted.far),
    )  # fmt: skip


def _baseline(model: ClusteringModel) -> Baseline:
    if model.baseline is None:
        raise ValueError(
            "the model does not say what its training rows were like, as it was trained by an earlier raydc: train it "
            "anew, with --align-to MODEL to keep its ids"
        )
    return model.baseline


def _of_clusters(groups: Sequence[Group], before: Counts, now: Counts) -> Iterator[Check]:
    yield drift.of_counts("clusters", "", before, now, ordered=False)
    for group, one, other in zip(groups, before.tolist(), now.tolist(), strict=True):
        shares = (one + 0.5) / (before.sum() + 0.5), (other + 0.5) / (now.sum() + 0.5)
        factor = max(shares[1] / shares[0], shares[0] / shares[1])
        effect = abs(shares[1] - shares[0]) if factor >= GROWN else 0.0
        p = drift.same_share(one, int(before.sum()), other, int(now.sum()))
        share = one / max(1, before.sum()), other / max(1, now.sum())
        yield Check("cluster", str(group), *share, effect, MOVED, p, "grew" if share[1] > share[0] else "shrank")


def _of_trust(baseline: Baseline, groups: Sequence[Group], sizes: Counts, new: Observed) -> Iterator[Check]:
    """Membership, agreement and distance of all rows, and within clusters; and how many rows belong nowhere.

    Within, as clusters that grow change what is seen of all rows; there a large index counts alone, as rows that were
    trained on fit their cluster a little better than others. Membership and agreement are of clusters that no edit
    changed.
    """
    for name, found in baseline.trust.items():
        kept = [at for at, group in enumerate(groups) if name == "distance" or group.plain]
        held = {at: found.counts[[*groups[at].own]].sum(axis=0) for at in kept}
        if held:
            now = new.trust[name][kept].sum(axis=0)
            yield drift.of_counts(name, "", np.sum([*held.values()], axis=0), now)
        for at, before in held.items():
            if min(sizes[at], new.sizes[at]) >= FEW:
                now = new.trust[name][at]
                yield drift.of_counts(name, str(groups[at]), before, now, threshold=drift.LARGE)
    if "distance" in baseline.trust:
        far = sum(int(_far(baseline, new.trust, at)) for at in range(len(groups)))
        then = int(baseline.trust["distance"].counts[:, _beyond(baseline) :].sum())
        yield drift.of_share("nowhere", "", (then, int(sizes.sum())), (far, int(new.sizes.sum())), MORE_NOWHERE)


def _beyond(baseline: Baseline) -> int:
    """The first bin of distances of rows that belong nowhere."""
    return int(np.searchsorted(baseline.trust["distance"].edges, FAR, side="right")) + 1


def _far(baseline: Baseline, trust: dict[str, Counts], group: int) -> int:
    """Rows of a group that belong nowhere."""
    return int(trust["distance"][group, _beyond(baseline) :].sum()) if "distance" in trust else 0


def _of_inputs(before: Inputs, now: Inputs) -> Iterator[Check]:
    for one, other in zip(before.marginals, now.marginals, strict=True):
        yield _of_input(one, other)
    for kind in ("missing", "unusable"):
        rows = zip(before.columns, getattr(before, kind).tolist(), getattr(now, kind).tolist(), strict=True)
        for column, then, there in rows:
            if then or there:
                yield drift.of_share(
                    kind, column, (then, before.rows), (there, now.rows), MORE_MISSING, rising=kind == "unusable"
                )
    yield _of_repeats(before, now)


def _of_input(before: Marginal, now: Marginal) -> Check:
    """A variable; of numbers its medians tell, of categories the one whose share changed most."""
    variable = before.variable
    if variable.levels:
        check = drift.of_counts("category", variable.name, before.counts, now.counts, ordered=False)
        return replace(check, detail=variable.levels[int(check.detail)])
    check = drift.of_counts("input", variable.name, before.counts, now.counts)
    then, there = (variable.told(_median(before.edges, each.counts)) for each in (before, now))
    beyond = float(now.counts[[0, -1]].sum() / max(1, now.counts.sum()))
    detail = f"{beyond:.0%} lie beyond all that was trained on".replace("%", " %") if beyond >= 0.01 else ""
    return replace(check, before=then, now=there, detail=detail)


def _median(edges: NDArray[np.float64], counts: Counts) -> float:
    """About the median of values counted between edges; an edge where it lies beyond all."""
    if not counts.sum():
        return float("nan")
    half = counts.sum() / 2
    place = int(np.searchsorted(counts.cumsum(), half))
    if place in (0, len(edges)):
        return float(edges[0 if place == 0 else -1])
    within = (half - counts[:place].sum()) / counts[place]
    return float(edges[place - 1] + within * (edges[place] - edges[place - 1]))


def _of_repeats(before: Inputs, now: Inputs) -> Check:
    """How many rows repeat others, among as many rows of either side."""
    of_before, of_now = (inputs.rows - int(inputs.unusable.max(initial=0)) for inputs in (before, now))
    many = max(1, min(of_before, of_now))
    shares = [
        drift.repeated_share(inputs.repeats.counts, min(1.0, many / max(1, rows)))
        for inputs, rows in ((before, of_before), (now, of_now))
    ]
    held = min(many, int(min(before.repeats.counts.sum(), now.repeats.counts.sum())))
    rows = [round(share * held) for share in shares]
    return drift.of_share("repeats", "", (rows[0], held), (rows[1], held), MORE_REPEATS)


def _clusters(
    labels: LabelMap, groups: Sequence[Group], before: Counts, now: Counts, checks: Sequence[Check]
) -> Iterator[dict[str, Any]]:
    moved = {check.name: check.detail for check in checks if check.kind == "cluster" and check.drifted}
    for group, one, other in zip(groups, before.tolist(), now.tolist(), strict=True):
        names = [labels.cells.names[id_] for id_ in group.ids if id_ in labels.cells.names]
        yield {
            "cluster": str(group),
            "name": ", ".join(names),
            "rows": other,
            "before": one / max(1, before.sum()),
            "now": other / max(1, now.sum()),
            "moved": moved.get(str(group), ""),
        }


def _together(model: ClusteringModel, far: NDArray[np.float32]) -> float:
    """Share of rows that belong nowhere which a ball holds that is as wide as a cluster: a cluster of their own."""
    if model.distances is None or len(far) < AT_LEAST:
        return 0.0
    farthest = model.distances.quantiles[:, -2].numpy()  # of the nearest 99 in a hundred of each cluster's rows
    held = drift.densest(far, float(np.median(farthest[farthest > 0]))) if (farthest > 0).any() else 0
    return held / len(far) if held >= max(AT_LEAST, TOGETHER * len(far)) else 0.0
