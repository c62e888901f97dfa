"""A model's files, and what its replicas say of rows."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from raydc import DeepClustering
from raydc.clustering.distances import QUANTILES, Distances
from raydc.data import Scaling
from raydc.methods.kmeans import KMeans
from raydc.pipelines.assign import identity
from raydc.tracking import registry
from raydc.training.model import TRUST, ClusteringModel, Replica
from raydc.training.model_files import ModelError

POINTS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]], np.float32)


def kmeans(centroids: np.ndarray) -> KMeans:
    method = KMeans(KMeans.Config(n_clusters=3), (2,))
    method.centroids.copy_(torch.from_numpy(centroids))
    return method.eval()


@pytest.fixture
def model() -> ClusteringModel:
    """Two replicas: one has the same centroids by other names; to the other, the third lies far off."""
    plain = Scaling("none", np.zeros((), np.float32), np.ones((), np.float32))
    moved = np.array([[0.0, 0.0], [4.0, 0.0], [40.0, 40.0]], np.float32)
    replicas = (Replica(kmeans(POINTS[[2, 0, 1]]), np.array([2, 0, 1])), Replica(kmeans(moved), np.arange(3)))
    quantiles = torch.linspace(0, 2, QUANTILES).expand(3, -1).contiguous()
    distances = Distances(torch.from_numpy(POINTS).double(), quantiles)
    return ClusteringModel("kmeans", kmeans(POINTS), plain, (2,), replicas=replicas, distances=distances)


def test_each_column_of_trust_is_said_by_itself(model: ClusteringModel) -> None:
    found = model.assign(POINTS)
    assert found.clusters.tolist() == [0, 1, 2] and found.clusters.dtype == np.int64
    assert found.agreement.tolist() == [1, 1, 0.5]
    assert (found.memberships == model.memberships(POINTS)).all()
    assert (found.membership == found.memberships.max(1)).all()
    assert model.assign(POINTS + np.array([0, 1.5], np.float32)).distance.tolist() == [0.75, 0.75, 0.75]
    assert {getattr(found, name).dtype for name in TRUST} == {np.dtype(np.float32)}
    model.replicas, model.distances = (), None
    assert np.isnan(model.assign(POINTS).agreement).all() and np.isnan(model.assign(POINTS).distance).all()


def test_replicas_travel_with_the_model(model: ClusteringModel, tmp_path: Path) -> None:
    model.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "distances.safetensors",
        "labels.json",
        "model.json",
        "replica-0.safetensors",
        "replica-1.safetensors",
        "state.safetensors",
    ]
    again = ClusteringModel.load(tmp_path)
    for mine, theirs in zip(again.assign(POINTS + 1), model.assign(POINTS + 1), strict=True):
        assert (mine == theirs).all()
    assert again.weights_hash() == model.weights_hash() and identity(again) == identity(model)
    again.replicas = again.replicas[:1]
    assert identity(again) != identity(model)  # it says something else of rows
    (tmp_path / "replica-1.safetensors").write_bytes((tmp_path / "replica-0.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"replica-1\.safetensors is damaged"):
        ClusteringModel.load(tmp_path)
    (tmp_path / "replica-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"replica-1\.safetensors is missing"):
        ClusteringModel.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "left", "said"),
    [
        ("state.safetensors", None, r"state\.safetensors is missing; copy the whole folder anew"),
        ("state.safetensors", b"", r"state\.safetensors is damaged: .* copy the whole folder anew"),
        ("model.json", b"{", r"model\.json is damaged, .* copy the whole folder anew"),
        ("model.json", b"\xff", r"model\.json is damaged, .* copy the whole folder anew"),
        ("model.json", b'{"format": 5}', r"sha256 is missing"),
        ("model.json", b'{"format": 4}', r"format 5 or 6, got 4: train the model anew, or use the raydc that made it"),
        ("model.json", b'{"format": 7}', r"format 5 or 6, got 7: update raydc"),
        ("distances.safetensors", None, r"distances\.safetensors is missing; copy the whole folder anew"),
        ("distances.safetensors", b"", r"distances\.safetensors is damaged"),
    ],
)
def test_a_damaged_folder_is_named(model: ClusteringModel, tmp_path: Path, name: str, left: bytes, said: str) -> None:
    model.save(tmp_path)
    (tmp_path / name).unlink() if left is None else (tmp_path / name).write_bytes(left)
    for load in (ClusteringModel.load, lambda folder: registry.load(str(folder))):
        with pytest.raises(ModelError, match=said) as problem:
            load(tmp_path)
        assert str(tmp_path) in str(problem.value)


def test_rows_are_scaled_whatever_holds_them(model: ClusteringModel) -> None:
    model.scaling = Scaling("unit", np.zeros((), np.float32), np.full((), 0.5, np.float32))
    rows = np.array([[0.0, 0.0], [7.0, 1.0], [1.0, 3.5]], np.float32)
    whole = model.assign(rows)
    for same in (torch.from_numpy(rows), pd.DataFrame(rows), rows.tolist()):
        assert (model.predict(same) == whole.clusters).all()
        assert (model.memberships(same) == whole.memberships).all()
        assert all((a == b).all() for a, b in zip(model.assign(same), whole, strict=True))
        assert (model.transform(same) == rows / 2).all()


def test_an_estimator_of_a_model(model: ClusteringModel) -> None:
    estimator = DeepClustering.of(model)
    assert estimator.predict(POINTS).tolist() == [0, 1, 2]
    assert estimator.assign(POINTS).agreement.tolist() == [1, 1, 0.5]
    assert estimator.assign(POINTS + 1).distance.tolist() == model.assign(POINTS + 1).distance.tolist()
    with pytest.raises(ValueError, match="3 features"):
        estimator.predict(np.zeros((1, 3)))
