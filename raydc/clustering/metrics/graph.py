"""How well labels follow a fixed neighbour graph of the rows: the score of a trial that one training is enough for.

The graph is built once a study, from reference rows that no trial touches (scaled inputs, or a named embedding), so all
trials are measured in the same space. The scores inherit the flaws of that space: where neighbours there mean nothing,
no score here does, and nothing inside can tell.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from raydc.clustering.metrics.monitors import cluster_sizes, effective_clusters, effective_rank

N_NEIGHBOURS = 15
WORST_SCORE = -1.0
"""What a trial that a guard refused reports: under any score worth having, and finite, for schedulers choke on NaN."""
LEAST_RANK = 1.05
"""Effective rank under which embeddings lie on a line."""

Labels = NDArray[np.int64]
Rows = NDArray[np.floating[Any]]
NullKind = Literal["columns", "gaussian"]


@dataclass(frozen=True)
class NeighbourGraph:
    """Undirected edges (left [E], right [E]) between rows 0 .. n_rows - 1, each once and none to itself."""

    n_rows: int
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    kept: NDArray[np.int64] | None = None
    """Rows that count, where not all do: no edge leads to the others, and chance is taken without their labels."""


def drawn_rows(n_rows: int, most: int, seed: int = 0) -> NDArray[np.int64]:
    """Ascending positions of at most as many rows, at random: evenly spaced ones alias where rows are periodic."""
    return np.sort(np.random.default_rng(seed).permutation(n_rows)[:most])


def distinct(rows: ArrayLike) -> NDArray[np.int64]:
    """Ascending positions of the first of equal rows [N, F], without rows that are all zero.

    Equal rows are each other's neighbours whatever the clusters; a zero row has no direction, and among normalised rows
    it is everybody's neighbour: six of them owned 40 % of the directed edges of tf-idf rows.
    """
    first: dict[bytes, int] = {}
    for position, row in enumerate(np.asarray(rows) + 0.0):  # -0.0 becomes 0.0
        if row.any():
            first.setdefault(row.tobytes(), position)
    return np.fromiter(first.values(), np.int64, len(first))


def nearest(rows: ArrayLike, n_neighbours: int) -> NDArray[np.int64]:
    """The exact Euclidean nearest neighbours [N, k] of each of the rows [N, F], the nearest first, itself left out.

    O(N^2 F): 20,000 rows of 64 values take about 3 s of one core. Raises ValueError unless N > k >= 1.
    """
    points = np.asarray(rows)
    if points.ndim != 2 or not 1 <= n_neighbours < len(points):
        raise ValueError(
            f"expected rows [N, F] with more than n_neighbours={n_neighbours} rows, got {list(points.shape)}; "
            "take more evaluation rows or fewer neighbours"
        )
    return NearestNeighbors(n_neighbors=n_neighbours).fit(points).kneighbors(return_distance=False).astype(np.int64)


def of_neighbours(near: NDArray[np.int64], mutual: bool = False) -> NeighbourGraph:
    """The graph of neighbour lists [N, k]: an edge where either row names the other, or both do if `mutual`."""
    n_rows, n_neighbours = near.shape
    source, target = np.repeat(np.arange(n_rows), n_neighbours), near.ravel()
    named = np.minimum(source, target) * n_rows + np.maximum(source, target)
    edges, times = np.unique(named, return_counts=True)
    edges = edges[times == 2] if mutual else edges
    return NeighbourGraph(n_rows, edges // n_rows, edges % n_rows)


def neighbour_graph(
    rows: ArrayLike, n_neighbours: int = N_NEIGHBOURS, kept: NDArray[np.int64] | None = None
) -> NeighbourGraph:
    """The graph of rows [N, F] with an edge where either row is among the other's nearest, of those `kept` (all)."""
    points = np.asarray(rows)
    if kept is None:
        return of_neighbours(nearest(points, n_neighbours))
    among = of_neighbours(nearest(points[kept], n_neighbours))
    return NeighbourGraph(len(points), kept[among.left], kept[among.right], kept)


def _checked(labels: ArrayLike, graph: NeighbourGraph) -> Labels:
    ids = np.asarray(labels)
    if ids.shape != (graph.n_rows,):
        raise ValueError(f"expected a label for each of the graph's {graph.n_rows} rows, got {list(ids.shape)}")
    return ids


def _chance(labels: Labels, graph: NeighbourGraph) -> float:
    """sum_k p_k^2: the agreement of labels [N] drawn anew at random with the same shares of the rows that count."""
    counted = labels if graph.kept is None else labels[graph.kept]
    sizes = np.unique(counted, return_counts=True)[1].tolist()
    return sum(n * n for n in sizes) / len(counted) ** 2


def agreement(labels: ArrayLike, graph: NeighbourGraph) -> float:
    """A, the share of edges inside a cluster, of labels [N]. Max, in [0, 1].

    Known failure: 1 for one cluster; use the scores below. Premise of SCAN, van Gansbeke et al., arXiv:2005.12320.
    """
    ids = _checked(labels, graph)
    return float((ids[graph.left] == ids[graph.right]).mean())


def modularity(labels: ArrayLike, graph: NeighbourGraph) -> float:
    """Q = A - sum_k p_k^2, agreement above that of random labels with shares p of the rows. Max, in (-1, 1).

    0 for one cluster. Known failures: prefers balanced partitions, and too many clusters where K is free; merges true
    clusters that are small against the whole (resolution limit, Fortunato and Barthelemy, PNAS 2007). Newman and
    Girvan, Physical Review E 2004, with shares of rows where they have shares of edge ends.
    """
    ids = _checked(labels, graph)
    return agreement(ids, graph) - _chance(ids, graph)


def kappa(labels: ArrayLike, graph: NeighbourGraph) -> float:
    """Q / (1 - sum_k p_k^2), agreement above chance as a share of what is possible. Max, at most 1; 0 for one cluster.

    Known failure: prefers few clusters where K is free, and one tiny cut-off cluster scores near 1.
    After Cohen, Educational and Psychological Measurement 1960.
    """
    ids = _checked(labels, graph)
    return _tempered(ids, graph, 1.0)


def neighbour_score(labels: ArrayLike, graph: NeighbourGraph) -> float:
    """Q / (1 - sum_k p_k^2)^(1/4): between modularity and kappa, whose errors in K are opposite. Max, at most 1.

    0 for one cluster. The exponent was found on trials whose classes were known (11 studies), so it is a finding, not
    a law. Known failures: those of the reference space; with unbalanced classes it prefers balanced partitions.
    """
    return _tempered(_checked(labels, graph), graph, 0.25)


def _tempered(labels: Labels, graph: NeighbourGraph, exponent: float) -> float:
    room = 1 - _chance(labels, graph)
    return modularity(labels, graph) / room**exponent if room > 0 else 0.0


def stability_score(modularity: float, stability: float) -> float:
    """Q * sqrt(stability), with the AMI stability of replicas. Max, in (-1, 1); no reward for a stability under 0.

    Modularity errs towards many clusters and stability towards few. Known failure: where both err alike (a coarse split
    that neighbours respect), so does the product.
    """
    return modularity * math.sqrt(max(stability, 0.0))


def guards(labels: ArrayLike, *, loss: float | None = None, embeddings: ArrayLike | None = None) -> list[str]:
    """Why labels [N] are no clustering, with the numbers; empty if they are one.

    Refused are a loss or embeddings [N, D] that are not finite, and rows that are all in one cluster. Empty, small and
    unequal clusters are no reason: a score counts what they cost, and true classes may be as unequal.
    """
    problems = []
    if loss is not None and not math.isfinite(loss):
        problems.append(f"the loss is {loss}")
    if embeddings is not None and not np.isfinite(embeddings).all():
        broken = (~np.isfinite(embeddings)).any(axis=1)
        problems.append(f"{int(broken.sum())} rows have embeddings that are not finite")
    if len(np.unique(np.asarray(labels))) < 2:
        problems.append("all rows are in one cluster")
    return problems


def remarks(labels: ArrayLike, n_clusters: int, embeddings: ArrayLike | None = None) -> list[str]:
    """What looks collapsed in labels [N] in [0, K) and finite embeddings [N, D]; mostly empty.

    Clusters without rows; sizes whose entropy is that of fewer than K / 2 equal ones; embeddings on a line, where
    K > 2. Known failure: true classes may be as unequal, so a remark is told and nothing is refused for it.
    """
    sizes = cluster_sizes(labels, n_clusters)
    told = []
    if dead := int((sizes == 0).sum()):
        told.append(f"{dead} of {n_clusters} clusters have no rows")
    if (effective := effective_clusters(sizes)) < n_clusters / 2:
        told.append(f"the sizes are those of {effective:.1f} equal clusters")
    if embeddings is not None and n_clusters > 2 and np.shape(embeddings)[1] > 1:
        if (rank := effective_rank(embeddings)) < LEAST_RANK:
            told.append(f"the embeddings have an effective rank of {rank:.2f}")
    return told


def encoded(rows: ArrayLike) -> list[NDArray[np.int64]]:
    """Columns of rows [N, F] that encode one category together: neighbours of which each row has exactly one.

    Known failure: a category whose first value has no column, or whose columns do not lie side by side, is not found.
    """
    points = np.asarray(rows)
    binary = (points == 0) | (points == points.max(axis=0, initial=0))
    usable, given = binary.all(axis=0), points != 0
    found: list[NDArray[np.int64]] = []
    start, filled = 0, np.zeros(len(points), np.int64)
    for column in range(points.shape[1]):
        filled = filled + given[:, column]
        if not usable[column] or filled.max(initial=0) > 1:
            start = column if usable[column] and given[:, column].any() else column + 1
            filled = given[:, column].astype(np.int64) if start == column else np.zeros(len(points), np.int64)
        elif filled.all():
            found += [np.arange(start, column + 1)] if column > start else []
            start, filled = column + 1, np.zeros(len(points), np.int64)
    return found


def null_rows(rows: ArrayLike, seed: int, kind: NullKind = "columns", blocks: Sequence[NDArray[np.int64]] = ()) -> Rows:
    """Rows [N, F] without clusters that resemble the given ones, drawn by `seed`.

    "columns" permutes every column on its own: all of each column stays, nothing between columns. The columns of a
    block are permuted together: those of one category apart from each other are rows that none can be, with several
    values or none, and clusters of them. "gaussian" draws from the normal distribution with the rows' mean and
    covariance, as M3C does (John et al., Scientific Reports 2020). Known failures, opposite: against "columns", rows
    that are merely correlated look clustered; against "gaussian", skewed or heavy-tailed columns do. Say that there is
    structure only where a score is above both. Clusters that single columns show apart partly survive in "columns",
    which makes it the stricter.
    """
    points = np.asarray(rows, np.float64)
    if points.ndim != 2 or not points.size:
        raise ValueError(f"expected rows [N, F], got {list(points.shape)}")
    rng = np.random.default_rng(seed)
    if kind == "columns":
        found = rng.permuted(points, axis=0)
        for block in blocks:
            found[:, block] = points[rng.permutation(len(points))][:, block]
        return found
    mean = points.mean(axis=0)
    _, spread, axes = np.linalg.svd(points - mean, full_matrices=False)
    return mean + rng.standard_normal((len(points), len(spread))) * (spread / math.sqrt(len(points))) @ axes


def null_scores(
    rows: ArrayLike,
    families: Sequence[Callable[[Rows, int], ArrayLike]],
    *,
    score: Callable[[ArrayLike, NeighbourGraph], float] = neighbour_score,
    kind: NullKind = "columns",
    blocks: Sequence[NDArray[np.int64]] = (),
    view: Callable[[Rows], Rows] = lambda rows: rows,
    n_neighbours: int = N_NEIGHBOURS,
    repeats: int = 5,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Scores [families, repeats] of labels [N] that each family gives null rows, on the graph of these rows.

    A family is called with the rows in view and a seed. Let it look for as many clusters as the trial that is compared:
    the scores of nothing depend on K. Known failure: where it is a weaker method than the trial's own, the null is too
    low.
    """
    scores = np.empty((len(families), repeats))
    for repeat, draw in enumerate(range(seed, seed + repeats)):
        drawn = null_rows(rows, draw, kind, blocks)
        points = view(drawn)
        built = neighbour_graph(points, n_neighbours, distinct(drawn))
        scores[:, repeat] = [score(cluster(points, draw), built) for cluster in families]
    return scores


def null_band(scores: ArrayLike, level: float = 0.98) -> tuple[float, float]:
    """(low, high) between which one more null score lies with probability `level`, given scores [R >= 2]; as if normal.

    A score inside says that nothing more was clustered than noise. Known failure: the best of many trials exceeds the
    band more often than one trial; raise the level with the number of trials.
    """
    drawn = np.asarray(scores, np.float64)
    if drawn.ndim != 1 or len(drawn) < 2 or not np.isfinite(drawn).all() or not 0 < level < 1:
        raise ValueError(f"expected at least two finite null scores and a level in (0, 1), got {drawn} and {level}")
    width = stats.t.ppf((1 + level) / 2, len(drawn) - 1) * drawn.std(ddof=1) * math.sqrt(1 + 1 / len(drawn))
    return float(drawn.mean() - width), float(drawn.mean() + width)
