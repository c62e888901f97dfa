"""The reference of a search: the evaluation rows in the space in which neighbours count, and their graph.

It is built once, before any trial, and by one process: the same rows and the same seed give the same graph, bit for
bit, whatever number of processes trains on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydc.data import DataError
from raydc.metrics.graph import NeighbourGraph, distinct, neighbour_graph
from raydc.search import views

Rows = NDArray[np.float32]
HUBS = 5.0
"""Skewness of how many rows name a row as their neighbour, above which a few hubs own the graph."""
LOW_MODULARITY = 0.5
"""Of Leiden's communities: rows of one normal distribution in many dimensions have as much."""


@dataclass(frozen=True)
class Reference:
    name: str
    rows: Rows
    """[n, F], the evaluation rows in this space."""
    graph: NeighbourGraph
    modularity: Mapping[str, float]
    """Of Leiden's communities, by view that was compared: why this one was chosen."""
    view: str
    skewness: float

    @property
    def warnings(self) -> list[str]:
        """Where neighbours mean little, and so do all scores: mostly empty."""
        told = []
        if self.skewness > HUBS:
            told.append(
                f"a few rows are neighbours of very many (skewness {self.skewness:.1f}, more than {HUBS:g}), so scores "
                "mean little here; give an embedding of the rows in which neighbours are alike (reference)"
            )
        if (found := self.modularity[self.view]) < LOW_MODULARITY:
            told.append(
                f"the rows' neighbours form no clear communities (modularity {found:.2f}, below {LOW_MODULARITY:g}), "
                "so scores mean little here; give an embedding of the rows in which neighbours are alike (reference)"
            )
        return told

    @property
    def why(self) -> str:
        """Which view was taken, and what the others had."""
        others = sorted((v for v in self.modularity if v != self.view), key=lambda v: -self.modularity[v])
        rest = "; ".join(f"{name} {self.modularity[name]:.3f}" for name in others)
        own = f"{self.view}, modularity of communities {self.modularity[self.view]:.3f}"
        return own + (f" ({rest}; {views.USUAL} stays unless beaten by {views.MARGIN:g})" if others else "")


def of_rows(scaled: Rows, stored: NDArray[np.generic], scaling: str, neighbours: int, seed: int) -> Reference:
    """The reference of rows [n, F], scaled, and as stored: in the view whose communities are clearest.

    DataError where too few rows differ from each other and from zero.
    """
    kept = _enough(distinct(stored), len(scaled), neighbours)
    chosen = views.choose(scaled[kept], seed)
    rows = chosen.view.apply(scaled)
    name = f"{chosen.view.name} of the rows, scaled ({scaling})"
    return Reference(
        name, rows, neighbour_graph(rows, neighbours, kept), chosen.modularity, chosen.view.name, chosen.skewness
    )


def of_embedding(rows: Rows, name: str, neighbours: int, seed: int) -> Reference:
    """The reference of an embedding [n, F] that the user vouches for, as it is."""
    kept = _enough(distinct(rows), len(rows), neighbours)
    modularity, skewness = views.clearness(rows[kept], seed)
    return Reference(
        name, rows, neighbour_graph(rows, neighbours, kept), {"as given": modularity}, "as given", skewness
    )


def _enough(kept: NDArray[np.int64], n_rows: int, neighbours: int) -> NDArray[np.int64]:
    if len(kept) <= neighbours:
        raise DataError(
            f"{len(kept)} of {n_rows} evaluation rows differ from each other and from zero: too few for a graph of "
            f"{neighbours} neighbours; take fewer neighbours, or more evaluation_rows"
        )
    return kept
