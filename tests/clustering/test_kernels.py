import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydc.clustering.kmeans import kernels, steps
from raydc.clustering.kmeans.steps import Assigner, FixedPoint, Geometry


def geometry(dim: int, spherical: bool = False) -> Geometry:
    return Geometry(torch.zeros(dim), FixedPoint(torch.ones(dim, dtype=torch.float64)), 0.0, spherical)


def labels(x: torch.Tensor, centroids: torch.Tensor, screens: bool, spherical: bool = False) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "screening_pays", lambda *sizes: screens)
        return Assigner(centroids, geometry(x.shape[1], spherical))(x)


def elsewhere(x: torch.Tensor, centroids: torch.Tensor, kind: torch.dtype, spherical: bool) -> torch.Tensor:
    """What other devices do, on this one, with products as they have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "screening_pays", lambda *sizes: kind == torch.bfloat16)
        assigner = Assigner(centroids, geometry(x.shape[1], spherical))
    if kind == torch.bfloat16:
        products, limits = x.to(kind).float() @ assigner.rounded.float().T, assigner.screen[0]
    else:
        products, limits = x @ assigner.centroids.flatten(0, 1).T, assigner.direct[0]
    return steps.nearest(x, products, limits, assigner.centroids, assigner.half)


@st.composite
def problems(draw):
    """Rows and centroids of small integers times powers of two: float64 is exact there, and ties are many."""
    rows, clusters = draw(st.integers(1, 40)), draw(st.integers(1, 150))
    dim, restarts = draw(st.integers(1, 40)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    largest = draw(st.sampled_from([1, 3, 200, 4000]))
    x = rng.integers(-largest, largest + 1, size=(rows, dim)).astype(np.float64)
    c = rng.integers(-largest, largest + 1, size=(restarts, clusters, dim)).astype(np.float64)
    if draw(st.booleans()):  # near each other, far from the origin: bfloat16 cannot tell
        x, c = x + 2**18, c + 2**18
    if draw(st.booleans()):
        c[:, :: draw(st.integers(2, 9))] = c[:, :1]  # equal centroids
        x[:: draw(st.integers(2, 9))] = c[0, draw(st.integers(0, clusters - 1))]
    if draw(st.booleans()):
        c[:, -1] *= 2.0**12  # one far away from all others
    if draw(st.booleans()):
        x[-1], c[:, clusters // 2] = 0, 0
    return x, c, draw(st.sampled_from([-130, -100, -60, -20, 0, 20])), draw(st.booleans())


@settings(deadline=None, max_examples=150)
@given(problems())
def test_labels_are_the_first_of_the_lowest_scores_however_products_are_made(problem):
    x, c, exponent, spherical = problem
    scores = (0 if spherical else (c**2).sum(2)[:, None] / 2) - x @ c.swapaxes(1, 2)  # exact: below 2^53
    expected = scores.argmin(2).tolist()
    x, c = (torch.from_numpy(each * 2.0**exponent).float() for each in (x, c))
    for screens in (False, True):
        assert labels(x, c, screens, spherical).tolist() == expected
    for kind in (torch.float32, torch.bfloat16):
        assert elsewhere(x, c, kind, spherical).tolist() == expected


@pytest.mark.parametrize("shape", [(1000, 64, 10), (333, 37, 17), (600, 130, 100), (257, 64, 1000)])
def test_labels_of_random_rows_are_those_of_float64(shape):
    rows, dim, clusters = shape
    generator = torch.Generator().manual_seed(0)
    x, c = (torch.randn(many, dim, generator=generator) for many in (rows, clusters))
    expected = (c.double().square().sum(1) / 2 - x.double() @ c.double().T).argmin(1).tolist()
    assert labels(x, c[None], False)[0].tolist() == labels(x, c[None], True)[0].tolist() == expected


def test_a_tile_that_bfloat16_cannot_tell_apart_gets_float32_products(monkeypatch):
    x, c = (torch.rand(many, 64, generator=torch.Generator().manual_seed(0)) * 1e-3 + 10 for many in (100, 200))
    given_up = []
    screened = kernels.label_screened
    monkeypatch.setattr(kernels, "label_screened", lambda *a: given_up.append(done := screened(*a)) or done)
    found = labels(x, c[None], True)
    assert given_up == [False]
    assert found.tolist() == labels(x, c[None], False).tolist()


def test_sums_made_with_the_labels_are_those_made_after_them():
    x, c = (torch.randn(many, 21, generator=torch.Generator().manual_seed(0)) for many in (150, 2 * 9))
    assigner = Assigner(c.view(2, 9, 21), geometry(21))
    sums, counts = np.zeros((2, 9, 21)), np.zeros((2, 9), np.int64)
    own = assigner._labels(x, sums, counts)
    assert own.tolist() == assigner(x).tolist()
    for r in range(2):
        assert counts[r].tolist() == torch.bincount(own[r], minlength=9).tolist()
        expected = torch.zeros(9, 21, dtype=torch.float64).index_add_(0, own[r], x.double())
        assert torch.equal(torch.from_numpy(sums[r]), expected), "the order of rows"
    distance = assigner.distances(x, steps.squares(x), own)
    around = torch.stack([steps.distances(x, own[r].long(), c.view(2, 9, 21)[r]) for r in range(2)])
    torch.testing.assert_close(distance, around, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("screens", [False, True])
@pytest.mark.parametrize("rows", [0, 5, 700])  # fewer than 8 a cluster are summed as integers; 700 are several tiles
def test_rows_counted_in_one_go_are_those_counted_step_by_step(rows, screens, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    z, c = torch.randn(rows, 21, generator=draw) + 3, torch.randn(2, 9, 21, generator=draw)
    fixed = FixedPoint(torch.full((21,), 2.0**20, dtype=torch.float64))
    place = Geometry(torch.linspace(2, 4, 21), fixed, 0.0)
    monkeypatch.setattr(steps, "screening_pays", lambda *sizes: screens)
    assigner, x = Assigner(c, place), place.around(z)
    assigner.rows = 64
    if screens:
        assigner.tile, assigner.products = assigner.tile[:64], assigner.products[:64]
    sums, counts, summed, counted = (torch.zeros(shape, dtype=torch.int64) for shape in ((2, 9, 21), (2, 9)) * 2)
    columns = z.T.contiguous().T  # the same rows, otherwise in memory
    labels, far, squares = assigner.count(columns, sums, counts)
    assert torch.equal(x, place.around(columns)) and place.around(columns).is_contiguous()
    assert torch.equal(labels, assigner.add(x, summed, counted)) and labels.shape == (2, rows)
    assert torch.equal(sums, summed) and torch.equal(counts, counted) and int(counts.sum()) == 2 * rows
    assert torch.equal(squares, steps.squares(x)) and torch.equal(far, assigner.distances(x, squares, labels))
