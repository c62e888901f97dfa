"""Whether features have one unit or several, and so which scaling suits the rows. No label takes part.

Papers of deep clustering scale pixels and embeddings, by one factor for all features: their differences in size mean
something. A table's columns have units of their own, which mean nothing: by one factor the column of the largest
numbers decides alone. What the rows are is told by the range of each feature, over all rows: pixels that are mostly
black vary little but reach as far as others, while incomes and ages do not.
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from raydc.data.faults import SHOWN
from raydc.data.profile import DataProfile
from raydc.data.scaling import Scaling
from raydc.data.settings import ScalingKind, ScalingSetting
from raydc.data.source import Source

LIKE = 10.0
"""Ranges that differ by no more than this factor are of one unit."""
MOST = 0.9
"""Share of the features whose ranges are compared, and of them that must be alike: the others may be odd ones."""
UNIT = 1e-3
"""Error of the squared length of rows that were brought to length 1 and stored as float16."""
OFFSET = 10.0
"""Root mean squares of the means over that of the spreads from which on an offset hides what differs between rows."""
CARRIED = 0.9
"""Share of the squared spread that a few features carry when they dominate."""
APART: Mapping[ScalingKind, ScalingKind] = MappingProxyType(
    {"power": "standard", "unit": "unit_each", "symmetric": "symmetric_each"}
)
"""What takes the place of a method's own scaling where features have units of their own."""
MEANING: Mapping[str, str] = MappingProxyType(
    {
        "none": "rows as they are",
        "power": "one factor for all features, to mean square 1",
        "centred": "one factor for all features, to variance 1, each around its mean",
        "standard": "each feature to mean 0 and variance 1",
        "unit": "one range for all features, to [0, 1]",
        "unit_each": "each feature to [0, 1]",
        "symmetric": "one range for all features, to [-1, 1]",
        "symmetric_each": "each feature to [-1, 1]",
    }
)


def suited(setting: ScalingSetting, usual: ScalingKind, profile: DataProfile, source: Source) -> ScalingKind:
    """The setting, or where it is auto the scaling of these rows by a method whose `usual` one is for one unit.

    One unit: images, one list or tensor column, sparse or encoded rows, and features of like ranges keep the method's
    own scaling, which subtracts a large common offset. Several units: each feature is scaled by itself.
    """
    if setting != "auto":
        return setting
    if not one_unit(profile, source):
        return APART.get(usual, usual)
    return "centred" if usual == "power" and far_off(profile) else usual


def one_unit(profile: DataProfile, source: Source) -> bool:
    """Whether all features are of one kind: declared so by how they are stored, directions, or of like ranges."""
    listed = len(source.columns) == 1 and source.n_features > 1
    declared = source.kind == "sparse" or source.encoding is not None or len(source.shape) == 3 or listed
    declared = declared or directions(profile)
    ranges = (profile.highest - profile.lowest)[~profile.constant]
    if declared or len(ranges) < 2:
        return True
    largest = np.quantile(ranges, MOST, method="higher")
    return bool(np.mean(ranges * LIKE >= largest) >= MOST)


def directions(profile: DataProfile) -> bool:
    """Whether rows are of length 1, as embeddings often are, but for rows of zeros, which have no direction: told by
    the mean of their squared lengths, which columns with units of their own bring to 1 by no accident.
    """
    others = profile.rows - profile.zeros
    total = profile.rows * np.sum(profile.variance + profile.mean**2)
    return len(profile.mean) > 1 and others > 0 and bool(abs(total / others - 1) < UNIT)


def far_off(profile: DataProfile) -> bool:
    """Whether the means are so large beside the spreads that rows look alike."""
    changing = ~profile.constant
    return bool(np.sum(profile.mean[changing] ** 2) > OFFSET**2 * np.sum(profile.variance[changing]))


def dominating(kind: ScalingKind, profile: DataProfile, source: Source) -> str:
    """A warning that names the few features by which rows are told apart when one factor scales all; mostly empty."""
    total = float(np.sum(profile.variance))
    if kind in ("standard", "unit_each", "symmetric_each") or source.n_features < 2 or total == 0:
        return ""
    order = np.argsort(-profile.variance, kind="stable")
    carried = np.cumsum(profile.variance[order]) / total
    few = int(np.searchsorted(carried, CARRIED)) + 1
    if few > source.n_features // 2 or (one_unit(profile, source) and few > source.n_features // 10):
        return ""
    names = ", ".join(source.name_of(int(feature)) for feature in order[: min(few, SHOWN)])
    more = f" and {few - SHOWN} more" if few > SHOWN else ""
    each = APART.get(kind, "standard")
    return (
        f"{carried[few - 1]:.1%} of the squared spread of {source.n_features} features is that of {names}{more}: by "
        f"{kind} scaling, {MEANING[kind]}, the others hardly count; take data.scaling={each} unless that is meant"
    )


def scaling_named(kind: ScalingKind) -> str:
    """How rows are scaled, in words."""
    return f"scaling: {kind}, {MEANING[kind]}"


def remarks(setting: ScalingSetting, kind: ScalingKind, profile: DataProfile, source: Source) -> list[str]:
    """What the user should know of the scaling that was decided, or was asked for."""
    said = [dominating(kind, profile, source)]
    if profile.zeros and directions(profile):
        said.append(
            f"{profile.zeros:,} of {profile.rows:,} rows are zero, and have no direction; all others are of length 1: "
            "leave the zeros out where they mean that nothing is known"
        )
    if setting == "auto" and not one_unit(profile, source):
        ranges = (profile.highest - profile.lowest)[~profile.constant]
        said.append(
            f"columns have units of their own (ranges of {ranges.min():.3g} to {ranges.max():.3g}), so each is scaled "
            f"by itself ({kind}); where they have one unit, name a data.scaling of one factor"
        )
    return [text for text in said if text]


def space_named(name: str, rows: np.ndarray) -> str:
    """A space that scores are taken in, by its name and the rows [n, F] in it: scores of another are not comparable."""
    return f"{name}, {len(rows)} rows, sha256 {hashlib.sha256(rows.tobytes()).hexdigest()[:16]}"


def reference(profile: DataProfile, source: Source) -> Scaling:
    """The space in which neighbours count, for every method and every scaling that a run takes: the rows' own."""
    return Scaling.of(suited("auto", "power", profile, source), profile)
