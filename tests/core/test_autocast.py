"""What float32 means on a GPU: float32, whatever a container or the caller sets for the process; bf16 stays out."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from raydc import DeepClustering
from raydc.clustering.kmeans import steps
from raydc.clustering.kmeans.steps import FixedPoint, Geometry
from raydc.core.autocast import exact_float32, full_precision
from raydc.methods.aljalbout import Aljalbout
from tests.support.remote_storage import elsewhere


def flags() -> tuple[str, str, bool]:
    cudnn = torch.backends.cudnn
    return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.deterministic


EXACT = ("ieee", "ieee", True)


@pytest.fixture
def tf32() -> Iterator[tuple[str, str, bool]]:
    """A process that allows TF32, as containers of NVIDIA's do; what it says."""
    before = flags()[:2]
    torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "tf32"
    yield flags()
    torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before


def test_tf32_is_out_of_reach_and_comes_back(tf32: tuple[str, str, bool]) -> None:
    assert tf32 == ("tf32", "tf32", False)
    with pytest.raises(ZeroDivisionError), exact_float32():
        assert flags() == EXACT
        raise ZeroDivisionError
    assert flags() == tf32
    assert full_precision(flags)() == EXACT and flags() == tf32


def test_training_and_answers_know_no_tf32(tf32: tuple[str, str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    features = Aljalbout.features

    def noticed(self: Aljalbout, x: torch.Tensor) -> torch.Tensor:
        seen.add((self.training, flags()))
        return features(self, x)

    monkeypatch.setattr(Aljalbout, "features", noticed)
    short = {"method.pretrain.length": "1 epochs", "method.cluster.length": "1 epochs", "training.precision": "fp32"}
    x = np.random.default_rng(0).random((60, 64), np.float32)
    model = DeepClustering("aljalbout", 3, short | {"data.shape": (1, 8, 8)}).fit(x)
    assert seen == {(True, EXACT), (False, EXACT)} and flags() == tf32
    seen.clear()
    model.predict(x), model.transform(x)
    assert seen == {(False, EXACT)} and flags() == tf32


def test_labels_of_kmeans_off_the_cpu_know_no_tf32(
    tf32: tuple[str, str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    nearest, seen = steps.nearest, []

    def noticed(*given: Any) -> torch.Tensor:
        seen.append(flags())
        return nearest(*given)

    monkeypatch.setattr(steps, "nearest", noticed)
    with elsewhere() as device:
        x = torch.eye(4).to(device)
        geometry = Geometry(torch.zeros(4).to(device), FixedPoint.of(x.abs().amax(0), len(x)), 0.0)
        assert steps.labels(x, x[:3], geometry).cpu().tolist() == [0, 1, 2, 0]
    assert seen == [EXACT] and flags() == tf32


def test_the_scale_of_fixed_point_numbers_is_a_power_of_two_to_the_bit() -> None:
    largest = 10.0 ** torch.arange(-300, 18, dtype=torch.float64)
    exponent = np.clip(62 - np.frexp(largest.numpy())[1] - 10, -1000, 1000)
    assert FixedPoint.of(largest, 1024).scale.tolist() == np.ldexp(1.0, exponent).tolist()
