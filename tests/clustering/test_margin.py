"""Large-margin clusters of a Dirichlet process."""

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from raydc.clustering.margin import MarginSampler, sample_margin_clusters

RULES: dict[str, Any] = {"concentration": 1.0, "sharpness": 40.0, "most": 20, "step": 0.1, "sweeps": 2, "seed": 0}


def directions(noise: float) -> tuple[np.ndarray, np.ndarray]:
    """300 rows of length one about five directions, and which."""
    draw = np.random.default_rng(0)
    known = draw.integers(5, size=300)
    z = np.linalg.qr(draw.normal(size=(12, 5)))[0].T[known] + noise * draw.normal(size=(300, 12))
    return z / np.linalg.norm(z, axis=1, keepdims=True), known


def none(rows: int) -> np.ndarray:
    return np.full(rows, -1)


def test_the_number_of_directions_is_found() -> None:
    z, known = directions(0.1)
    found = sample_margin_clusters(z, none(300), **RULES)
    assert adjusted_rand_score(known, found) == 1 and found.dtype == np.int64 and found.max() == 4
    assert np.array_equal(found, sample_margin_clusters(z, none(300), **RULES))


def test_clusters_grow_from_those_there_are() -> None:
    z, known = directions(0.1)
    again = sample_margin_clusters(z, np.minimum(known, 2), **RULES)
    assert adjusted_rand_score(known, again) == 1


def test_there_are_no_more_clusters_than_asked_for() -> None:
    z, _ = directions(0.1)
    assert sample_margin_clusters(z, none(300), **RULES | {"most": 3}).max() == 2


@pytest.mark.parametrize(
    "changed", [{"concentration": 1e9}, {"sharpness": 4.0}, {"step": 0.01}, {"sweeps": 1}, {"seed": 1}], ids=str
)
def test_every_rule_counts_where_directions_overlap(changed: dict[str, Any]) -> None:
    z, _ = directions(0.35)
    plain, other = (sample_margin_clusters(z, none(300), **RULES | more) for more in ({}, changed))
    assert not np.array_equal(plain, other)


def test_a_step_brings_the_margin_to_one_or_as_far_as_it_may() -> None:
    z = np.array([[1.0, 0.0], [0.6, 0.8]])
    sampler = MarginSampler(z, np.array([0, 1]), 2, 10.0, 0)
    sampler._join(1, 1, sampler.weights @ z[1])
    own, rival = sampler.weights[::-1] @ z[1]
    assert own - rival == pytest.approx(1)
    short = MarginSampler(z, np.array([0, 1]), 2, 0.1, 0)
    short._join(1, 1, short.weights @ z[1])
    assert short.weights == pytest.approx(np.array([[1 - 0.06, -0.08], [0.66, 0.88]]))
