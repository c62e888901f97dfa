"""The inputs of many rows one by one: how the values of each are spread, how many are missing, how many rows repeat.

Bins come from the training rows and are part of a model; rows that come later are counted in the same ones. Counts of
parts of the rows add up to those of all, in any order.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from raydc.data.encoding import CategoryCode, DateCode, Encoding, NumberCode
from raydc.data.kinds import is_text
from raydc.data.sketch import Ids
from raydc.data.source import Block, Piece, Source, dense

ROWS, VALUES = 2**14, 2**21
"""Rows of which bins are made, drawn from all with equal chances, and values in them; about."""
VARIABLES = 1024
"""Inputs that are looked at one by one; of rows of more features, evenly spaced ones."""
BINS = 10
"""Into which the values of an input are cut, of about as many rows each."""
REPEATS = 2**11
"""Different rows that are held to tell how often rows repeat."""
ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Relative distance from the ends of the training rows' values up to which a value is not beyond them."""
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Variable:
    """An input: a feature of numbers, or a column of categories."""

    name: str
    first: int
    """Feature that it begins at."""
    column: int
    """The column of the rows that it comes from."""
    levels: tuple[str, ...] = ()
    """Of categories, one for each of their features; empty of numbers."""
    shift: float = 0.0
    scale: float = 1.0
    """Its value, in its own unit, is shift + scale * feature."""

    def told(self, feature: float) -> float:
        """The value of a feature."""
        return self.shift + self.scale * feature


@dataclass(frozen=True)
class Marginal:
    """How a variable's values are spread among some rows."""

    variable: Variable
    edges: NDArray[np.float64]
    """[E] ascending, as features: below the first and from the last on lies what no training row has. Empty of
    categories."""
    counts: Counts
    """[E + 1] rows between edges, or [levels] of each category."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What is known of the inputs of many rows."""

    columns: tuple[str, ...]
    starts: tuple[int, ...]
    """The first feature of each column."""
    rows: int
    """All, also those that cannot be used."""
    unusable: Counts
    """[columns], rows that cannot be used for a value in this column."""
    missing: Counts
    """[columns], values that are missing where the model does without them."""
    marginals: tuple[Marginal, ...]
    """Of rows that can be used; those of numbers in training are of ROWS of them, about."""
    repeats: Ids
    """Of the rows' contents."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Inputs) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def digest(self) -> str:
        """sha256 of all of it."""
        about, arrays = self.parts()
        return hashlib.sha256(
            b"".join([json.dumps(about).encode(), *(a.tobytes() for a in arrays.values())])
        ).hexdigest()

    def of(self, block: Block, bad: NDArray[np.bool_] | None) -> "Inputs":
        """Of other rows, in the same bins. `bad` [n, D] are cells that cannot be used; None where all can."""
        x, tally = _usable(block, bad), _tallied(block, bad, self.starts)
        marginals = tuple(replace(each, counts=_counted(each.variable, each.edges, x)) for each in self.marginals)
        return Inputs(self.columns, self.starts, len(block.ids), *tally, marginals, repeats_of(x))

    def merged(self, other: "Inputs") -> "Inputs":
        """Of both."""
        pairs = zip(self.marginals, other.marginals, strict=True)
        return Inputs(
            self.columns,
            self.starts,
            self.rows + other.rows,
            self.unusable + other.unusable,
            self.missing + other.missing,
            tuple(replace(one, counts=one.counts + same.counts) for one, same in pairs),
            self.repeats.merged(other.repeats),
        )

    def parts(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """As plain data and arrays by name, which `whole` makes one again."""
        about = {
            "columns": self.columns,
            "starts": self.starts,
            "rows": self.rows,
            "variables": [asdict(each.variable) for each in self.marginals],
            "edges": [len(each.edges) for each in self.marginals],
            "repeats": self.repeats.most,
        }
        arrays = {
            "unusable": self.unusable,
            "missing": self.missing,
            "edges": np.concatenate([np.zeros(0), *(each.edges for each in self.marginals)]),
            "counts": np.concatenate([np.zeros(0, np.int64), *(each.counts for each in self.marginals)]),
            "repeats.hashes": self.repeats.hashes,
            "repeats.counts": self.repeats.counts,
        }
        return about, arrays

    @staticmethod
    def whole(about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "Inputs":
        """What `parts` gave. KeyError, TypeError or ValueError where they are damaged."""
        marginals, edge, count = [], 0, 0
        for said, edges in zip(about["variables"], about["edges"], strict=True):
            variable = Variable(**(said | {"levels": tuple(said["levels"])}))
            bins = len(variable.levels) or edges + 1
            marginals.append(
                Marginal(variable, arrays["edges"][edge : edge + edges], arrays["counts"][count : count + bins])
            )
            edge, count = edge + edges, count + bins
        return Inputs(
            tuple(about["columns"]),
            tuple(about["starts"]),
            about["rows"],
            arrays["unusable"],
            arrays["missing"],
            tuple(marginals),
            Ids(arrays["repeats.hashes"], arrays["repeats.counts"], about["repeats"]),
        )


@dataclass(frozen=True)
class Drawn:
    """What is kept of the rows of a piece until the bins can be made."""

    rows: int
    unusable: Counts
    missing: Counts
    sample: NDArray[Any]
    """[m, V], variables' features of rows that were drawn."""
    levels: Counts
    """Rows of each category, of one categorical variable after the other."""
    repeats: Ids

    @staticmethod
    def of(source: Source, piece: Piece, block: Block, bad: NDArray[np.bool_] | None) -> "Drawn":
        """Of a piece; which rows are drawn depends on their positions alone."""
        variables = variables_of(source)
        x, tally = _usable(block, bad), _tallied(block, bad, columns_of(source)[1])
        used = np.arange(piece.rows) if bad is None else np.flatnonzero(~bad.any(axis=1))
        numbers = [variable.first for variable in variables if not variable.levels]
        chosen = np.flatnonzero(_hashed(piece.start + used) < _share(source, len(numbers)) * 2.0**64)
        levels = [_counted(variable, np.zeros(0), x) for variable in variables if variable.levels]
        sample = dense(x[chosen][:, numbers])
        return Drawn(piece.rows, *tally, sample, np.concatenate([np.zeros(0, np.int64), *levels]), repeats_of(x))


def columns_of(source: Source) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """What rows come from, and the first feature of each: columns of a table, or one for all features."""
    if source.encoding is not None:
        widths = [len(column.features) for column in source.encoding.columns]
        return source.encoding.names, tuple(np.cumsum([0, *widths[:-1]]).tolist())
    if len(source.columns) == source.n_features:
        return source.columns, tuple(range(source.n_features))
    return source.columns or ("the rows",), (0,)


def variables_of(source: Source) -> list[Variable]:
    """The inputs of a source."""
    if source.encoding is not None:
        return [*_encoded(source.encoding)]
    features = np.unique(np.linspace(0, source.n_features - 1, min(source.n_features, VARIABLES)).round().astype(int))
    apart = len(source.columns) == source.n_features
    return [Variable(source.name_of(i), i, i if apart else 0) for i in features.tolist()]


def _encoded(encoding: Encoding) -> Iterable[Variable]:
    first = 0
    for at, column in enumerate(encoding.columns):
        code = column.code
        if isinstance(code, CategoryCode):
            yield Variable(column.name, first, at, tuple(part.removeprefix("=") for part in code.parts))
        else:
            for i, part in enumerate(code.parts):
                shift, scale = code.unit if isinstance(code, (NumberCode, DateCode)) and i == 0 else (0.0, 1.0)
                yield Variable(f"{column.name}{part}", first + i, at, (), shift, scale)
        first += len(column.features)


def joined_inputs(source: Source, parts: Sequence[Drawn], lowest: NDArray[Any], highest: NDArray[Any]) -> Inputs:
    """The inputs of all pieces, in bins of their own; `lowest` and `highest` [D] are of all rows that can be used."""
    marginals, number, level = [], 0, 0
    sample = np.concatenate([part.sample for part in parts])
    levels: Counts = np.sum([part.levels for part in parts], axis=0)
    for variable in variables_of(source):
        if variable.levels:
            edges, counts = np.zeros(0), levels[level : level + len(variable.levels)]
            level += len(variable.levels)
        else:
            values = sample[:, number].astype(np.float64)
            edges = edges_of(values, np.ones(len(values)), (lowest[variable.first], highest[variable.first]))
            counts = binned(values, edges)
            number += 1
        marginals.append(Marginal(variable, edges, counts))
    return Inputs(
        *columns_of(source),
        sum(part.rows for part in parts),
        np.sum([part.unusable for part in parts], axis=0),
        np.sum([part.missing for part in parts], axis=0),
        tuple(marginals),
        reduce(Ids.merged, [part.repeats for part in parts]),
    )


def edges_of(
    values: NDArray[np.float64], weights: NDArray[Any], ends: tuple[float, float], bins: int = BINS
) -> NDArray[np.float64]:
    """Edges between about `bins` bins of values [n] of equal weight, and around all of them, float64 [E] ascending.

    Edges lie between neighbouring values, so that rounding moves none across; a value that has a bin's weight by itself
    has a bin of its own. `ends` are the smallest and the largest value of all rows.
    """
    distinct, places = np.unique(values, return_inverse=True)
    weight = np.bincount(places, weights, minlength=len(distinct))
    passed = np.cumsum(weight)
    total = passed[-1] if len(passed) else 0.0
    after = np.searchsorted(passed, total * np.arange(1, bins) / bins)
    heavy = np.flatnonzero(weight * bins >= total)
    cuts = np.unique(np.concatenate([after, heavy, heavy - 1]))
    cuts = cuts[(cuts >= 0) & (cuts < len(distinct) - 1)]
    low, high = ends
    room = ROUNDING * max(abs(low), abs(high))
    return np.concatenate(
        [[low - room], (distinct[cuts] + distinct[cuts + 1]) / 2, [np.nextafter(high + room, np.inf)]]
    )


def binned(values: NDArray[Any], edges: NDArray[np.float64]) -> Counts:
    """Rows between edges [E + 1], of values [n]."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


def repeats_of(x: Any) -> Ids:
    """Which rows of x [n, D], numpy or CSR, come again. Rows are told apart by a hash of their values."""
    odd = _hashed(np.arange(x.shape[1])) | np.uint64(1)
    if sparse.issparse(x):
        words = sparse.csr_array((_words(x.data), x.indices, x.indptr), shape=x.shape)
    else:
        words = _words(x)
    return Ids.of(words @ odd, REPEATS)


def _words(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Numbers as bits, whose low ones differ too: 0 of either sign is one."""
    bits = np.ascontiguousarray(values + np.float64(0)).view(np.uint64)
    return bits ^ (bits >> np.uint64(32))


def _counted(variable: Variable, edges: NDArray[np.float64], x: Any) -> Counts:
    """Rows of x [n, D] in each bin, or of each category."""
    if variable.levels:
        places = dense(x[:, variable.first : variable.first + len(variable.levels)])
        return np.count_nonzero(places, axis=0).astype(np.int64)
    return binned(dense(x[:, [variable.first]])[:, 0], edges)


def _usable(block: Block, bad: NDArray[np.bool_] | None) -> Any:
    return block.x if bad is None else block.x[~bad.any(axis=1)]


def _tallied(block: Block, bad: NDArray[np.bool_] | None, starts: Sequence[int]) -> tuple[Counts, Counts]:
    """Rows that each column makes unusable, and values that are missing in it where that does no harm."""
    broken = np.zeros((len(block.ids), len(starts)), bool)
    if bad is not None:
        broken = np.logical_or.reduceat(bad, starts, axis=1)
    missing = np.zeros_like(broken)
    if block.stored is not None:
        missing = np.stack([missing_in(column) for column in block.stored.columns], axis=1) & ~broken
    return broken.sum(axis=0, dtype=np.int64), missing.sum(axis=0, dtype=np.int64)


def missing_in(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Which values of a column are missing [n]: null, NaN or an empty text."""
    values = column.combine_chunks()
    values = values.dictionary_decode() if isinstance(values, pa.DictionaryArray) else values
    found = pc.is_null(values, nan_is_null=True)
    if is_text(values.type):
        found = pc.or_(found, pc.fill_null(pc.equal(values, ""), True))
    return found.to_numpy(zero_copy_only=False)


def without_place(encoding: Encoding, block: Block) -> dict[str, int]:
    """Rows whose category has no place of its own, by column; of columns where there are any."""
    found, first = dict[str, int](), 0
    for column in encoding.columns:
        if isinstance(column.code, CategoryCode) and block.stored is not None:
            other = block.x[:, first + len(column.code.levels)] > 0
            rows = int((other & ~missing_in(block.stored[column.name])).sum())
            found |= {column.name: rows} if rows else {}
        first += len(column.features)
    return found


def _share(source: Source, numbers: int) -> float:
    """Of the rows that are drawn."""
    return min(ROWS, VALUES // max(1, numbers)) / source.n_rows


def _hashed(positions: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Numbers without any order, of positions (the finaliser of SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    z = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
