"""From a method's clusters to the ids that are told of rows: one typed map, applied by the model alone.

A method puts a row into one of its clusters, which nothing here changes. The map says what that is called: an id, after
clusters were merged, split, renamed, dropped, or given the ids of an earlier model. It is a list of edits beside the
first ids, so that the last of them can be taken back, and it is stored as JSON beside the weights.

Cells are what ids are given to: the method's clusters, and behind them the parts of those that were split.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.cluster.hierarchy import DisjointSet

from raydc.core.settings import Settings, SettingsError

NOWHERE = -1
"""The label of a row that belongs to no cluster."""
Integers = NDArray[np.int64]
Name = Annotated[str, Field(min_length=1, max_length=100)]


class Merge(Settings):
    """Clusters become one."""

    kind: Literal["merge"] = "merge"
    clusters: tuple[int, ...] = Field(min_length=2)
    """Their ids, of which the first stays."""


class Rename(Settings):
    """A cluster gets a name."""

    kind: Literal["rename"] = "rename"
    cluster: int
    name: Name


class Drop(Settings):
    """The rows of a cluster belong nowhere."""

    kind: Literal["drop"] = "drop"
    cluster: int


class Split(Settings):
    """A cluster falls into parts: each row goes to the nearest of some centroids."""

    kind: Literal["split"] = "split"
    cluster: int
    centroids: tuple[tuple[float, ...], ...] = Field(min_length=2)
    """Float32 [P][D], of the rows' features; the first part keeps the id."""


Edit = Annotated[Merge | Rename | Drop | Split, Field(discriminator="kind")]


class Revision(Settings):
    """Edits that were made together."""

    of: str
    """The model that was edited, such as models:/digits/3."""
    edits: tuple[Edit, ...]


class Join(Settings):
    """Two clusters of the method that the tree joins, with all that were joined to them before."""

    first: int
    second: int
    strength: float
    """How far rows of the two are neighbours: 1 as often as random labels would be, more above."""


@dataclass(frozen=True)
class Asked:
    """What whoever asks a model wants of the ids."""

    level: int | None = None
    """Number of clusters to which the tree is cut; None takes the clusters as they are."""
    outliers: float | None = None
    """Share of the training rows that belong nowhere: those whose distance is largest. None: every row has a place."""

    def __post_init__(self) -> None:
        """SettingsError for a share or a number of clusters that there cannot be."""
        if self.level is not None and self.level < 1:
            raise SettingsError(f"level: expected 1 cluster or more, got {self.level}")
        if self.outliers is not None and not 0 < self.outliers < 1:
            raise SettingsError(
                f"outliers: expected a share of the training rows above 0 and below 1, got {self.outliers}"
            )

    def leaves_out(self, distance: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which rows at these distances [B] are outliers."""
        return np.zeros(len(distance), bool) if self.outliers is None else distance > 1 - self.outliers


@dataclass(frozen=True)
class Parted:
    """Cells whose rows went to the parts of a split."""

    cells: tuple[int, ...]
    parts: tuple[int, ...]
    """Cells, one for each centroid."""
    centroids: tuple[tuple[float, ...], ...]
    """Float32 [P][D]."""


@dataclass(frozen=True)
class Cells:
    """What a map comes to."""

    ids: tuple[int, ...]
    """Of each cell; NOWHERE for what was dropped. A cell that was split keeps one, though it has no rows."""
    names: Mapping[int, str]
    splits: tuple[Parted, ...]
    free: int
    """The lowest id that was never given."""

    @property
    def with_rows(self) -> Iterator[int]:
        """Cells to which rows go."""
        parted = {cell for split in self.splits for cell in split.cells}
        return (cell for cell in range(len(self.ids)) if cell not in parted)

    @property
    def alive(self) -> tuple[int, ...]:
        """Ids of clusters, ascending."""
        return tuple(sorted({self.ids[cell] for cell in self.with_rows} - {NOWHERE}))


class LabelMap(Settings):
    """How a model's clusters are called."""

    given: tuple[int, ...] = Field(min_length=1)
    """The first id of each of the method's clusters."""
    names: dict[int, Name] = Field(default_factory=dict)
    """First names, by id."""
    suggested: dict[int, str] = Field(default_factory=dict)
    """What sets the first clusters apart, in a few words, by id: for people who are to name them."""
    free: int
    """The lowest id that was never given to a cluster of this model or of those it follows."""
    joins: tuple[Join, ...] = ()
    """The tree of the method's clusters, the nearest first."""
    revisions: tuple[Revision, ...] = ()
    """Edits by hand, in their order."""

    @staticmethod
    def plain(n_clusters: int) -> "LabelMap":
        """Each of a method's clusters under its own number."""
        return LabelMap(given=tuple(range(n_clusters)), free=n_clusters)

    def edited(self, revision: Revision) -> "LabelMap":
        """The map after further edits. ValueError names a cluster that there is not."""
        found = self._with(revisions=(*self.revisions, revision))
        found.cells  # noqa: B018 - complains of what cannot be done
        return found

    def with_tree(self, joins: Sequence[tuple[int, int, float]]) -> "LabelMap":
        """The map with a tree of the method's clusters: first, second and strength of each join."""
        tree = tuple(Join(first=one, second=other, strength=strength) for one, other, strength in joins)
        return self._with(joins=tree)

    def with_suggested(self, names: Mapping[int, str]) -> "LabelMap":
        """The map with suggested names."""
        return self._with(suggested=dict(names))

    def undone(self) -> "LabelMap":
        """The map before its last revision. ValueError if it has none."""
        if not self.revisions:
            raise ValueError("there is nothing to undo: the model was never edited")
        return self._with(revisions=self.revisions[:-1])

    def _with(self, **changes: Any) -> "LabelMap":
        # made anew, as a copy would keep the cells of the map before
        return LabelMap(**{name: getattr(self, name) for name in LabelMap.model_fields} | changes)

    @cached_property
    def cells(self) -> Cells:
        """What the edits come to."""
        now = Cells(self.given, self.names, (), self.free)
        for revision in self.revisions:
            for edit in revision.edits:
                now = after(now, edit)
        return now

    def ids_at(self, level: int | None = None) -> Integers:
        """Id of each cell [C] where the tree is cut to `level` clusters: of those joined, the lowest.

        SettingsError for a level that there is not.
        """
        cells = self.cells
        if level is None:
            return np.array(cells.ids, np.int64)
        if not 1 <= level <= len(cells.alive):
            raise SettingsError(f"level: expected 1 to {len(cells.alive)} clusters, got {level}")
        sets, ids = DisjointSet(range(len(cells.ids))), cells.ids
        first = {id_: cell for cell, id_ in reversed([*enumerate(ids)]) if id_ != NOWHERE}
        for cell, id_ in enumerate(ids):
            sets.merge(first.get(id_, cell), cell)
        living = {sets[cell] for cell in cells.with_rows if ids[cell] != NOWHERE}
        for one, other in self._pairs():
            if len(living) == level:
                break
            roots = {sets[one], sets[other]}
            sets.merge(one, other)
            if roots & living:
                living -= roots
                living.add(sets[one])
        if len(living) > level:
            raise SettingsError(
                f"level: the model has no tree of its clusters, so there are {len(living)}, not {level}"
            )
        lowest = {root: min(ids[cell] for cell in sets.subset(root) if ids[cell] != NOWHERE) for root in living}
        return np.array([NOWHERE if id_ == NOWHERE else lowest[sets[cell]] for cell, id_ in enumerate(ids)], np.int64)

    def clusters_at(self, level: int | None = None) -> tuple[int, ...]:
        """Ids of clusters at this level, ascending."""
        ids = self.ids_at(level)
        return tuple(sorted({int(ids[cell]) for cell in self.cells.with_rows} - {NOWHERE}))

    def names_at(self, level: int | None = None) -> dict[int, str]:
        """Names by id; of clusters that the tree joins, the names of all of them."""
        cells, ids, found = self.cells, self.ids_at(level), dict[int, list[str]]()
        own = {cells.ids[cell]: int(ids[cell]) for cell in cells.with_rows}
        for id_ in cells.alive:
            if id_ in cells.names:
                found.setdefault(own[id_], []).append(cells.names[id_])
        return {id_: ", ".join(names) for id_, names in sorted(found.items())}

    def suggested_at(self, level: int | None = None) -> dict[int, str]:
        """Suggested names by id, of clusters without a name whose rows are those of the first cluster of this id."""
        ids, named = self.ids_at(level), self.names_at(level)
        now: dict[int, set[int]] = {}
        for cell in self.cells.with_rows:
            now.setdefault(int(ids[cell]), set()).add(cell)
        first: dict[int, set[int]] = {}
        for cell, id_ in enumerate(self.given):
            first.setdefault(id_, set()).add(cell)
        same = {id_ for id_, cells in now.items() if cells == first.get(id_)}
        return {id_: name for id_, name in sorted(self.suggested.items()) if id_ in same - named.keys()}

    def _pairs(self) -> Iterator[tuple[int, int]]:
        """Cells that are joined, in this order: what was split last is nearest."""
        for split in reversed(self.cells.splits):
            yield from ((split.parts[0], other) for other in (*split.parts[1:], *split.cells))
        yield from ((join.first, join.second) for join in self.joins)


def after(cells: Cells, edit: Edit) -> Cells:
    """What an edit makes of cells. ValueError names a cluster that there is not."""
    named = edit.clusters if isinstance(edit, Merge) else (edit.cluster,)
    if missing := [id_ for id_ in named if id_ not in cells.alive]:
        have = ", ".join(map(str, cells.alive))
        raise ValueError(f"{edit.kind}: there is no cluster {missing[0]}; there are {have}")
    if len({*named}) < len(named):
        raise ValueError(f"{edit.kind}: expected each cluster once, got {', '.join(map(str, named))}")
    match edit:
        case Merge():
            first, *others = edit.clusters
            ids = tuple(first if id_ in others else id_ for id_ in cells.ids)
            return replace(cells, ids=ids, names=_without(cells.names, others))
        case Drop():
            if cells.alive == (edit.cluster,):
                raise ValueError(f"drop: {edit.cluster} is the only cluster, and one has to stay")
            ids = tuple(NOWHERE if id_ == edit.cluster else id_ for id_ in cells.ids)
            return replace(cells, ids=ids, names=_without(cells.names, [edit.cluster]))
        case Rename():
            if edit.name in _without(cells.names, [edit.cluster]).values():
                raise ValueError(f"rename: another cluster is called {edit.name!r}; take another name, or merge them")
            return replace(cells, names={**cells.names, edit.cluster: edit.name})
        case Split():
            start, many = len(cells.ids), len(edit.centroids)
            parts = tuple(range(start, start + many))
            new = tuple(range(cells.free, cells.free + many - 1))
            old = tuple(cell for cell in cells.with_rows if cells.ids[cell] == edit.cluster)
            return Cells(
                (*cells.ids, edit.cluster, *new),
                cells.names,
                (*cells.splits, Parted(old, parts, edit.centroids)),
                cells.free + len(new),
            )


def cells_of(cells: Cells, clusters: Integers, parts: Sequence[Integers]) -> Integers:
    """Cell of each row [B] from the method's clusters [B] and, for each split, the nearest centroid of each row [B]."""
    found = clusters.copy()
    for split, nearest in zip(cells.splits, parts, strict=True):
        inside = np.isin(found, split.cells)
        found[inside] = np.array(split.parts)[nearest[inside]]
    return found


def memberships_of(cells: Cells, memberships: NDArray[np.float32], parts: Sequence[Integers]) -> NDArray[np.float32]:
    """Memberships in cells [B, C] from those in the method's clusters [B, K]; of a split, the row's part has it."""
    rows = np.arange(len(memberships))
    found = np.zeros((len(memberships), len(cells.ids)), np.float32)
    found[:, : memberships.shape[1]] = memberships
    for split, nearest in zip(cells.splits, parts, strict=True):
        whole = found[:, split.cells].sum(1)
        found[:, split.cells] = 0
        found[rows, np.array(split.parts)[nearest]] = whole
    return found


def _without(names: Mapping[int, str], gone: Sequence[int]) -> dict[int, str]:
    return {id_: name for id_, name in names.items() if id_ not in gone}
