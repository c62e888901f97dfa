"""One row, one answer, for every method: wherever its cluster is asked for, it is the one that training ended with."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from raydc import DataWarning, DeepClustering
from raydc.clustering import KMeansOptions
from raydc.clustering.collective import CollectiveClusters
from raydc.clustering.spread import sharpness
from raydc.data import ArraySource, Shard
from raydc.methods import available, load
from raydc.networks.losses.hardening import exact_squared_distances, squared_distances
from raydc.pipelines.assign import notes_of
from raydc.search import TuneSettings
from raydc.search.evaluation import Task, prepare
from raydc.search.trial import run_task
from raydc.testing.answers import CASES, differences, one_answer_everywhere, rows_of, two_workers, worst
from raydc.testing.cases import K, short_settings
from raydc.training.model import ClusteringModel

ANSWERS = [name for name in available() if not load(name).info.refuses]


@pytest.mark.parametrize("name", ANSWERS)
def test_a_row_has_one_answer(name: str) -> None:
    one_answer_everywhere(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_a_row_has_one_answer_after_training_by_two_workers(name: str, tmp_path: Path) -> None:
    assert not any(differences(name, worst(rows_of(name)), tmp_path, train=two_workers).values())


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ANSWERS)
def test_a_row_has_one_answer_in_every_case(name: str, case: str, tmp_path: Path) -> None:
    assert not any(differences(name, CASES[case](rows_of(name)), tmp_path).values())


KMEANS: dict[str, dict[str, Any]] = {
    "spherical": {"method.spherical": True},
    "balanced": {"method.balanced": 5.0, "method.restarts": 2, "method.iterations": 20},
    "mini-batches": {"method.batch_groups": 1},
    "k-means||": {"method.start": "k-means||"},
    "unscaled": {"data.scaling": "none"},
}


@pytest.mark.parametrize("case", ["offset 1e6", "one outlier 1e6", "scale 1e-12"])
@pytest.mark.parametrize("kind", KMEANS)
def test_k_means_of_every_kind_has_one_answer(kind: str, case: str, tmp_path: Path) -> None:
    x = CASES[case](rows_of("kmeans"))
    assert not any(differences("kmeans", x, tmp_path, KMEANS[kind]).values())
    streamed = np.load(tmp_path / "rows.npy")
    fitted = fit(x, **KMEANS[kind])
    assert (fitted.predict(streamed) == fitted.labels_).all()


def fit(x: np.ndarray, k: int = K, **settings: Any) -> DeepClustering:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns that never change, and digits that are lost
        return DeepClustering("kmeans", k, settings).fit(x)


@pytest.fixture(scope="module")
def clear() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    y = draw.integers(3, size=300)
    return 3 * draw.normal(size=(3, 16))[y] + 0.1 * draw.normal(size=(300, 16)), y


@pytest.mark.parametrize("scaling", ["power", "standard", "unit", "symmetric"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("one outlier 1e6", "duplicates")])
def test_clear_clusters_stay_whatever_the_units_and_are_certain(
    clear: tuple[np.ndarray, np.ndarray], case: str, scaling: str
) -> None:
    x, y = clear
    fitted = fit(CASES[case](x), 3, **{"data.scaling": scaling})
    assert adjusted_rand_score(y, fitted.labels_) == 1
    assert fitted.predict_proba(CASES[case](x)).max(1).mean() > 0.99


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-3, 1.0, 1e6, 1e12])
def test_memberships_have_no_unit(scale: float) -> None:
    x = np.random.default_rng(1).normal(size=(400, 8))
    expected = fit(x, 5, **{"data.scaling": "none"}).predict_proba(x)
    found = fit(scale * x, 5, **{"data.scaling": "none"}).predict_proba(scale * x)
    assert 0.5 < expected.max(1).mean() < 0.95  # there are no clusters to be sure of
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_an_outlier_takes_no_certainty_from_the_others(clear: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = clear
    for size in (1e2, 1e4, 1e6):
        fitted = fit(np.concatenate([x, size * x[:1]]), 4)
        assert adjusted_rand_score(y, fitted.predict(x)) == 1
        assert fitted.predict_proba(x).max(1).mean() > 0.99


def test_the_spread_of_gaussian_rows_is_found() -> None:
    """sigma = .3 in 12 of 40 dimensions, and a few rows far away."""
    draw = np.random.default_rng(2)
    squared = ((0.3 * draw.normal(size=(5000, 12))) ** 2).sum(1)
    squared[:10] = 1e8
    assert sharpness(squared, None, 40, 0.0) == pytest.approx(1 / (2 * 0.3**2), rel=0.1)
    twice = np.concatenate([squared, squared[:100]])
    weights = np.r_[np.full(100, 2.0), np.ones(4900)]
    assert sharpness(squared, weights, 40, 0.0) == pytest.approx(sharpness(twice, None, 40, 0.0), rel=1e-9)
    assert sharpness(np.zeros(5), None, 3, 0.0) == 1e300


@pytest.mark.parametrize("distances", [squared_distances, exact_squared_distances])
@pytest.mark.parametrize("far", [0.0, 1e3, 1e5])
def test_distances_do_not_cancel_away_from_zero(distances: Callable[..., torch.Tensor], far: float) -> None:
    draw = torch.Generator().manual_seed(0)
    z, mu = (torch.randn(n, 6, generator=draw) + far for n in (50, 4))
    mu = torch.cat([mu, torch.full((1, 6), 1e6)])  # a centroid of one row, far from all others
    expected = (z.double()[:, None] - mu.double()).square().sum(2)
    torch.testing.assert_close(distances(z, mu).double(), expected, rtol=1e-4, atol=1e-4)


def test_of_equally_near_centroids_the_first_is_taken() -> None:
    method = load("kmeans")(load("kmeans").Config(n_clusters=3), (1,))
    method.centroids.copy_(torch.tensor([[2.0], [0.0], [2.0]]))
    assert method.label(torch.tensor([[1.0], [2.0], [-1.0]])).tolist() == [0, 0, 1]


@pytest.mark.parametrize("method", ["kmeans", "dec"])
def test_a_trial_of_a_search_has_the_labels_of_its_model(method: str, tmp_path: Path) -> None:
    x = worst(rows_of(method))
    flat = short_settings(method, tmp_path)
    np.save(tmp_path / "rows.npy", x)
    fixed = {key: value for key, value in flat.items() if key.startswith("method.") and key != "method.name"}
    values = {"data": {"path": flat["data.path"]}, "space": "dec", "fixed": {}, "n_clusters": K}
    context = prepare(TuneSettings.model_validate(values | {"out": str(tmp_path / "search")}))
    record = run_task(context, Task(0, 0, fixed | {"method.name": method}), lambda rung, score: None)
    assert record is not None and record.status in ("finished", "guarded"), record
    folder = tmp_path / "search" / record.folder
    labels = np.load(folder / "labels.npy")
    assert (ClusteringModel.load(folder / "run" / "model").predict(x) == labels).all()


def test_the_label_of_streamed_rows_is_that_of_the_same_rows_in_memory() -> None:
    x = torch.from_numpy(rows_of("kmeans")).float() + 5e3
    shard = Shard.of(x)
    found = CollectiveClusters(shard, 0).kmeans(x, K, KMeansOptions(restarts=2))
    method = load("kmeans")(load("kmeans").Config(n_clusters=K), (x.shape[1],))
    method.load_result(found)
    assert torch.equal(method.label(x), found.labels) and torch.equal(method.decide(x)[0], found.labels)


def test_digits_that_are_lost_are_said_with_the_model_and_where_it_is_asked(tmp_path: Path) -> None:
    x = CASES["offset 1e6"](rows_of("kmeans"))
    with pytest.warns(DataWarning, match="float32, as they are stored, keeps few digits of"):
        fitted = DeepClustering("kmeans", K).fit(x.astype(np.float32))
    assert "keeps few digits" in fitted.model_.notes["rows"][0]
    with pytest.warns(DataWarning, match=r"float32 keeps few digits of .* use data\.scaling=standard"):
        DeepClustering("kmeans", K, {"data.scaling": "none"}).fit(x)
    precise = fit(x).model_
    assert not precise.notes["rows"]
    for kind in (np.float64, np.float32):
        notes = notes_of(precise, ArraySource(x.astype(kind)))
        assert notes == (
            ["rows are stored as float32, too far from 0 for the model's unit: store them as float64"]
            if kind is np.float32
            else []
        )
