"""The space in which the neighbours of a search count: one of seven views of the rows, chosen without labels.

A view whose neighbour graph falls apart into communities more clearly than another's shows more of the rows' structure.
Leiden's modularity says how clearly. Over ten sets with known classes the view of the highest modularity was the one
whose neighbours shared a class most often, or near it. Known failure: a nuisance that groups rows more clearly than the
classes do, such as the light of a photograph, wins.

Where columns encode categories, views that divide columns or components by their spread take no part: an encoding has
weighed each category already, and dividing by spreads makes rare ones the largest. Rows then fall apart into
combinations of categories, also where no group is. On tables of four planted groups that took the share of a row's
neighbours in its own group from .99 to .75; on crx, whose classes are known, from .74 to .69.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from raydc.clustering.communities import leiden
from raydc.clustering.metrics import graph

Rows = NDArray[np.float32]
COMPONENTS = 50
USUAL = "principal components"
"""The view that stays unless another is clearly better."""
MARGIN = 0.02
"""Modularity by which a view must beat the usual one."""
NEIGHBOURS = 15
"""Of a row in the graphs by which views are compared."""
ROWS = 2000
"""Rows at most by which views are compared."""
DAMPING = 0.01
"""Share of the largest variance that is added to each before components are divided by its root."""


@dataclass(frozen=True)
class View:
    """x -> (x - shift) @ axes, divided by its length where only directions count."""

    name: str
    shift: NDArray[np.float64]
    """[F]."""
    axes: NDArray[np.float64]
    """[F, D], or [F], a factor of each feature."""
    directions: bool = False
    rescales: bool = False
    """Whether it divides columns or components by their spread."""

    def apply(self, rows: Rows) -> Rows:
        """Rows [n, F] in this view, [n, D]: the same bits on any number of threads."""
        with threadpool_limits(1):
            centred = rows - self.shift
            found = centred * self.axes if self.axes.ndim == 1 else centred @ self.axes
        if self.directions:
            length = np.linalg.norm(found, axis=1, keepdims=True)
            found = found / np.where(length > 0, length, 1.0)
        return found.astype(np.float32)


@dataclass(frozen=True)
class Chosen:
    """The view that was chosen, and why."""

    view: View
    modularity: Mapping[str, float]
    """Of Leiden's communities in the graph of each view that was compared."""
    skewness: float
    """Of how many rows name a row as their neighbour, in the chosen view."""


def _as_they_are(name: str, width: int) -> View:
    return View(name, np.zeros(width), np.ones(width))


def views(rows: Rows) -> list[View]:
    """The views that are compared, fitted to rows [n, F] without equal ones; the usual one first."""
    width = rows.shape[1]
    mean, spread = rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)
    with threadpool_limits(1):
        fitted = PCA(min(COMPONENTS, *rows.shape), random_state=0).fit(rows.astype(np.float64))
    axes, variance = fitted.components_.T, fitted.explained_variance_
    damped = variance + DAMPING * variance[0]
    white = axes / np.sqrt(np.where(damped > 0, damped, 1.0))
    nothing, same = np.zeros(width), np.ones(width)
    return [
        View(USUAL, mean, axes),
        _as_they_are("rows", width),
        View("standardised", mean, 1 / np.where(spread > 0, spread, 1.0), rescales=True),
        View("cosine", nothing, same, directions=True),
        View("cosine of principal components", mean, axes, directions=True),
        View("whitened", mean, white, rescales=True),
        View("cosine of whitened", mean, white, directions=True, rescales=True),
    ]


def clearness(rows: Rows, seed: int) -> tuple[float, float]:
    """Modularity of the communities of rows [n, F], at most ROWS of them; skewness of how many name a row neighbour."""
    drawn = graph.drawn_rows(len(rows), ROWS, seed)
    near = graph.nearest(rows[drawn], min(NEIGHBOURS, len(drawn) - 1))
    built = graph.of_neighbours(near)
    named = np.bincount(near.ravel(), minlength=len(near))
    return graph.modularity(leiden(built), built), float(stats.skew(named)) if np.ptp(named) else 0.0


def choose(rows: Rows, seed: int, weighed: bool = False) -> Chosen:
    """The view of rows [n, F] whose graph has the highest modularity; the usual one unless beaten by more than MARGIN.

    The rows are those that `graph.distinct` keeps; `weighed` says that columns of them encode categories.
    """
    found = {view.name: view for view in views(rows) if not (weighed and view.rescales)}
    clear = {name: clearness(view.apply(rows), seed) for name, view in found.items()}
    modularity = {name: value for name, (value, _) in clear.items()}
    best = max(modularity, key=lambda name: modularity[name])
    name = best if modularity[best] > modularity[USUAL] + MARGIN else USUAL
    return Chosen(found[name], modularity, clear[name][1])


def given(rows: Rows, seed: int) -> Chosen:
    """Rows [n, F] as they are, where there is nothing to choose."""
    view = _as_they_are("as given", rows.shape[1])
    modularity, skewness = clearness(rows, seed)
    return Chosen(view, {view.name: modularity}, skewness)
