"""What the columns beside a cluster say, on rows of which it is known what should be said: noise, texts, mixtures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.trust import embeddings, gap, mixtures, permuted, right, unit
from raydc import DeepClustering
from raydc.clustering.distances import FAR
from raydc.core.settings import unflatten
from raydc.core.storage import Store
from raydc.distributed import collectives
from raydc.training import worker_job
from raydc.training.config import RunConfig
from raydc.training.model import ClusteringModel
from tests.training.test_workers import together

KMEANS = {"method.restarts": 4}
DEC = {
    "method.network.hidden": (64,),
    "method.network.latent": 8,
    "method.denoise.length": "2 epochs",
    "method.pretrain.length": "6 epochs",
    "method.cluster.length": "4 epochs",
}
IMSAT = {"method.network.hidden": (64,), "method.cluster.length": "8 epochs"}
CASES = pytest.mark.parametrize(("method", "settings"), [("kmeans", KMEANS), ("dec", DEC), ("imsat", IMSAT)])


def directions(draw: np.random.Generator, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return unit(draw.normal(size=(100, x.shape[1])))


@CASES
@pytest.mark.parametrize("noise", [directions, permuted])
def test_distance_tells_noise_from_rows_that_are_new(method: str, settings: dict[str, object], noise: Callable) -> None:
    draw = np.random.default_rng(0)
    x = embeddings(draw, 3934)
    model = DeepClustering(method, 10, settings).fit(x[:2934])
    trained, others, far = (model.assign(rows).distance for rows in (x[:2934], x[2934:], noise(draw, x)))
    assert (far > FAR).mean() > 0.95
    assert 0.005 < (trained > FAR).mean() < 0.015
    assert (others > FAR).mean() < 0.03


def test_noise_that_was_trained_on_stands_farthest() -> None:
    """One row in thirty: of the training rows no more than one in a hundred can be above .99, and those are noise."""
    draw = np.random.default_rng(0)
    x = np.concatenate([embeddings(draw), directions(draw, embeddings(draw, 1))])
    noise = np.arange(len(x)) >= 2934
    found = DeepClustering("kmeans", 10, KMEANS).fit(x).assign(x)
    assert np.median(found.distance[noise]) > 0.96
    assert (found.distance[~noise] > FAR).mean() < 0.002


def test_membership_of_texts_in_twenty_clusters_is_no_chance() -> None:
    """Rows of some forty words of 1,000, weighed, of length one; it was 1/K, whatever the clusters."""
    draw = np.random.default_rng(0)
    topic = draw.integers(20, size=2000)
    chances = draw.dirichlet(np.full(1000, 0.05), size=20)
    words = np.stack([draw.multinomial(40, 0.7 * chances[k] + 0.3 * chances.mean(axis=0)) for k in topic])
    x = unit(np.log1p(words) * np.log(2000 / (1 + (words > 0).sum(axis=0))))
    found = DeepClustering("kmeans", 20, KMEANS).fit(x).assign(x)
    assert found.membership.mean() > 0.3 and found.membership.min() >= 1 / 20


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_perfect_clusters_have_memberships_near_one_in_any_units(scale: float) -> None:
    draw = np.random.default_rng(0)
    x = 100 * draw.normal(size=(5, 8))[draw.integers(5, size=600)] + draw.normal(size=(600, 8))
    model = DeepClustering("kmeans", 5, KMEANS).fit(x * scale)
    found = model.assign(x * scale)
    assert found.membership.min() > 0.999
    plain = DeepClustering("kmeans", 5, KMEANS).fit(x).assign(x)
    np.testing.assert_allclose(found.membership, plain.membership, atol=1e-3)
    np.testing.assert_allclose(found.distance, plain.distance, atol=1e-3)


def test_membership_is_the_share_that_is_right_where_clusters_overlap() -> None:
    tried = {name: (x, of) for name, x, of in mixtures(np.random.default_rng(0))}
    for name in ("round, 20 features", "round, 100 features", "long, 20 features"):
        x, of = tried[name]
        found = DeepClustering("kmeans", 5, KMEANS).fit(x[:3000]).assign(x[3000:])
        correct = right(found.clusters, of[3000:])
        assert abs(found.membership.mean() - correct.mean()) < 0.03, name
        assert gap(found.membership, correct) < 0.05, name


def test_a_calibration_error_by_hand() -> None:
    membership = np.array([0.95, 0.95, 0.45, 1.0], np.float32)
    assert gap(membership, np.array([True, False, True, True])) == pytest.approx(
        0.75 * abs(2.9 / 3 - 2 / 3) + 0.25 * 0.55
    )
    assert right(np.array([1, 1, 0, 2, 2]), np.array([0, 0, 1, 2, 1]), 3).tolist() == [True, True, True, True, False]


def train(place: str) -> None:
    x = embeddings(np.random.default_rng(0), 600)
    np.save(f"{place}.npy", x) if not collectives.rank() else None
    collectives.total(torch.zeros(1))
    flat = {"method.name": "kmeans", "method.n_clusters": 10, "data.path": f"{place}.npy", "output.out": place}
    worker_job.work(worker_job.prepare(RunConfig.of(unflatten({**flat, **KMEANS}))), store=Store(place))


def test_a_model_has_the_same_distances_on_any_number_of_workers(tmp_path: Path) -> None:
    found = []
    for workers in (1, 2, 3):
        together(tmp_path / f"{workers}", workers, train, str(tmp_path / f"run-{workers}"))
        found.append((tmp_path / f"run-{workers}" / "model" / "distances.safetensors").read_bytes())
    assert found[0] == found[1] == found[2]
    x = np.load(tmp_path / "run-1.npy")
    model = ClusteringModel.load(tmp_path / "run-1" / "model")
    fitted = DeepClustering("kmeans", 10, KMEANS).fit(x)
    assert model.distances is not None and model.distances.digest() == fitted.model_.distances.digest()
