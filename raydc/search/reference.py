"""The reference of a search: the evaluation rows in the space in which neighbours count, and their graph.

It is built once, before any trial, and by one process: the same rows and the same seed give the same graph, bit for
bit, whatever number of processes trains on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raydc.clustering import views
from raydc.clustering.metrics.graph import NeighbourGraph, distinct, encoded, neighbour_graph
from raydc.clustering.views import Chosen
from raydc.data import DataError

Rows = NDArray[np.float32]
HUBS = 5.0
"""Skewness of how many rows name a row as their neighbour, above which a few hubs own the graph."""
LOW_MODULARITY = 0.5
"""Of Leiden's communities: rows of one normal distribution in many dimensions have as much."""


@dataclass(frozen=True)
class Reference:
    name: str
    plain: Rows
    """[n, F], the evaluation rows, scaled, or the user's embedding of them."""
    blocks: Sequence[NDArray[np.int64]]
    """Columns of them that encode one category together."""
    chosen: Chosen
    """The view of them in which neighbours count, and why."""
    rows: Rows
    """[n, D], them in that view."""
    neighbours: int
    """Of a row in the graph."""
    graph: NeighbourGraph

    @property
    def warnings(self) -> list[str]:
        """Where neighbours mean little, and so do all scores: mostly empty."""
        told = []
        if (skewness := self.chosen.skewness) > HUBS:
            told.append(f"a few rows are neighbours of very many (skewness {skewness:.1f}, more than {HUBS:g})")
        if (found := self.chosen.modularity[self.chosen.view.name]) < LOW_MODULARITY:
            told.append(
                f"the rows' neighbours form no clear communities (modularity {found:.2f}, below {LOW_MODULARITY:g})"
            )
        return [f"{text}, so scores mean little here; give an embedding of the rows (reference)" for text in told]

    @property
    def why(self) -> str:
        """Which view was taken, and what the others had."""
        own, found = self.chosen.view.name, self.chosen.modularity
        others = sorted((name for name in found if name != own), key=lambda name: -found[name])
        rest = "; ".join(f"{name} {found[name]:.3f}" for name in others)
        text = f"{own}, modularity of communities {found[own]:.3f}"
        return text + (f" ({rest}; {views.USUAL} stays unless beaten by {views.MARGIN:g})" if others else "")


def of_rows(scaled: Rows, stored: NDArray[np.generic], scaling: str, neighbours: int, seed: int) -> Reference:
    """The reference of rows [n, F], scaled, and as stored: in the view whose communities are clearest.

    DataError where too few rows differ from each other and from zero.
    """
    kept = _enough(distinct(stored), len(scaled), neighbours)
    blocks = encoded(stored)
    chosen = views.choose(scaled[kept], seed, weighed=bool(blocks))
    name = f"{chosen.view.name} of the rows, scaled ({scaling})"
    return _seen(name, scaled, blocks, chosen, kept, neighbours)


def of_embedding(rows: Rows, name: str, neighbours: int, seed: int) -> Reference:
    """The reference of an embedding [n, F] that the user vouches for, as it is."""
    kept = _enough(distinct(rows), len(rows), neighbours)
    return _seen(name, rows, [], views.given(rows[kept], seed), kept, neighbours)


def _seen(
    name: str,
    plain: Rows,
    blocks: Sequence[NDArray[np.int64]],
    chosen: Chosen,
    kept: NDArray[np.int64],
    neighbours: int,
) -> Reference:
    rows = chosen.view.apply(plain)
    return Reference(name, plain, blocks, chosen, rows, neighbours, neighbour_graph(rows, neighbours, kept))


def _enough(kept: NDArray[np.int64], n_rows: int, neighbours: int) -> NDArray[np.int64]:
    if len(kept) <= neighbours:
        raise DataError(
            f"{len(kept)} of {n_rows} evaluation rows differ from each other and from zero: too few for a graph of "
            f"{neighbours} neighbours; take fewer neighbours, or more evaluation_rows"
        )
    return kept
