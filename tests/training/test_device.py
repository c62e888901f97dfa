"""Every method off the CPU: nothing is mixed, nothing is read without being moved, and results are the CPU's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydc.clustering import KMeansResult
from raydc.clustering.collective import CollectiveClusters
from raydc.clustering.kmeans import init
from raydc.clustering.kmeans.options import USUAL, KMeansOptions
from raydc.core.settings import unflatten
from raydc.data import Shard
from raydc.distributed import collectives
from raydc.methods import available
from raydc.search import TuneSettings
from raydc.search.evaluation import Task, prepare
from raydc.search.trial import Record, run_task
from raydc.testing.cases import K, run_job, short_settings
from raydc.training import streaming_kmeans, worker_job
from raydc.training.config import RunConfig
from raydc.training.model import ClusteringModel
from raydc.training.trainer import check, train
from tests.support.remote_storage import elsewhere

SHORT = {"restarts": 2, "iterations": 4}
"""Of k-means."""


def only_from(device: str, send: Callable[..., Any]) -> Callable[..., Any]:
    """NCCL sends what lies on the workers' GPUs, and nothing else."""

    def checked(x: torch.Tensor | Sequence[torch.Tensor], *rest: Any) -> Any:
        for one in [x] if isinstance(x, torch.Tensor) else x:
            assert one.device.type == device, f"collectives.{send.__name__} of {list(one.shape)} on {one.device}"
        return send(x, *rest)

    return checked


ALIKE = ("aljalbout", "dbc", "dmc", "idec", "lesc", "neural_clustering", "rim")
"""Methods that are others with other networks, targets or terms: among the long tests."""


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")  # no-op for tensors without values
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in ALIKE else []) for name in available()]
)
def test_a_method_off_the_cpu_is_the_same_also_when_it_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CollectiveClusters.kmeans

    def shorter(
        self: CollectiveClusters, z: torch.Tensor, n_clusters: int, options: KMeansOptions = USUAL, **given: Any
    ) -> KMeansResult:
        return whole(self, z, n_clusters, options.model_copy(update=SHORT), **given)

    monkeypatch.setattr(CollectiveClusters, "kmeans", shorter)
    flat = short_settings(name, tmp_path)
    expected = run_job(flat, tmp_path / "near", "cpu")
    with elsewhere() as device:
        for sent in ("total", "maximum", "gather", "average", "broadcast", "differentiable_total"):
            monkeypatch.setattr(collectives, sent, only_from(device, getattr(collectives, sent)))
        if len(expected.history) > 1:
            stopped = run_job(flat, tmp_path / "far", device, epochs=len(expected.history) // 2)
            assert stopped.status == "interrupted"
        found = run_job(flat, tmp_path / "far", device)
        assert all(parameter.device.type == device for parameter in found.model.method.parameters())
    assert found.status == "finished" and [h["step"] for h in found.history] == [h["step"] for h in expected.history]
    assert found.labels.tolist() == expected.labels.tolist()
    model = ClusteringModel.load(tmp_path / "far" / "model")
    other = ClusteringModel.load(tmp_path / "near" / "model").method.state_dict()
    for key, value in model.method.state_dict().items():
        torch.testing.assert_close(value, other[key], msg=lambda text, key=key: f"{key}: {text}")
    if not model.refuses:
        rows = torch.from_numpy(np.load(tmp_path / "rows.npy"))
        labels = model.predict(rows).tolist()
        with elsewhere() as device:
            model.to(device)
            assert model.predict(rows).tolist() == labels
            assert model.samples(2) is None or np.isfinite(model.samples(2)).all()


def test_what_mixes_devices_or_reads_them_as_numpy_is_noticed() -> None:
    with elsewhere() as device:
        x = torch.ones(3, 2).to(device)
        for wrong in (lambda: x + torch.ones(3, 2), lambda: torch.cat([x, torch.ones(1, 2)]), lambda: x.numpy()):
            with pytest.raises(RuntimeError):
                wrong()
        assert (x + x.new_ones(3, 2)).cpu().tolist() == [[2, 2]] * 3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"spherical": True},
        {"balanced": 10.0},
        {"start": "k-means||"},
        {"batch_groups": 2},
        {"weights": torch.arange(120.0) % 3},
        {"centroids": torch.zeros(5, 4) + torch.arange(5.0)[:, None]},
    ],
    ids=lambda options: next(iter(options), "plain"),
)
def test_kmeans_off_the_cpu_has_the_same_bits(options: dict[str, Any]) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(120, 4, generator=draw) + 5 * torch.randint(3, (120, 1), generator=draw)
    given = {key: value for key, value in options.items() if isinstance(value, torch.Tensor)}
    asked = KMeansOptions(**SHORT | {key: value for key, value in options.items() if key not in given})
    expected = CollectiveClusters(Shard.of(x)).kmeans(x, 5, asked, **given)
    with elsewhere() as device:
        there = {key: value.to(device) for key, value in given.items()}
        found = CollectiveClusters(Shard.of(x.to(device))).kmeans(x.to(device), 5, asked, **there)
        assert found.centroids.device.type == device
        assert torch.equal(found.labels.cpu(), expected.labels)
        if "balanced" not in options:
            assert torch.equal(found.centroids.cpu(), expected.centroids)
        torch.testing.assert_close(found.centroids.cpu(), expected.centroids)


@pytest.mark.parametrize("options", [{}, {"start": "k-means||"}, {"balanced": 10.0}], ids=str)
def test_streamed_rows_off_the_cpu_have_the_same_bits(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    np.save(
        tmp_path / "rows.npy", draw.normal(size=(9000, 4)).astype(np.float32) + 6 * draw.integers(3, size=(9000, 1))
    )
    own = {"method.n_clusters": 5, "method.restarts": 2, "method.iterations": 4}
    flat = short_settings("kmeans", tmp_path) | own | {f"method.{name}": value for name, value in options.items()}

    def trained(out: Path) -> tuple[pa.Table, dict[str, torch.Tensor]]:
        train(check(RunConfig.of(unflatten(flat | {"output.out": str(out)}))))
        return pq.read_table(out / "assignments"), ClusteringModel.load(out / "model").method.state_dict()

    near, expected = trained(tmp_path / "near")
    with elsewhere() as device:
        monkeypatch.setattr(streaming_kmeans, "local_device", lambda wanted: device)
        far, found = trained(tmp_path / "far")
    assert far["cluster"].equals(near["cluster"])
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], **({} if "balanced" in options else {"rtol": 0, "atol": 0}))
    np.testing.assert_allclose(far["membership"], near["membership"], rtol=1e-5)
    np.testing.assert_allclose(far["distance"], near["distance"], atol=1e-5)


@pytest.mark.parametrize("method", ["dec", "dcc"])
def test_a_trial_off_the_cpu_has_the_scores_of_one_on_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = short_settings(method, tmp_path)
    fixed = {key: value for key, value in flat.items() if key.count(".") > 1 and key.startswith("method.")}
    values = {"data": {"path": flat["data.path"]}, "space": "dec", "fixed": fixed, "n_clusters": K}
    point = fixed | {"method.name": method, "training.precision": "fp32"}

    def score(out: Path) -> Record:
        record = run_task(prepare(TuneSettings(**values, out=str(out))), Task(0, 0, point), lambda *seen: None)
        assert record is not None and record.status in ("finished", "guarded") and len(record.history) > 5, record
        return record

    expected = score(tmp_path / "near")
    with elsewhere() as device:
        monkeypatch.setattr(worker_job, "local_device", lambda wanted: device)
        found = score(tmp_path / "far")
    assert found.measures == expected.measures and found.history == expected.history


def test_kmeans_starts_by_the_cpus_arithmetic_wherever_rows_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's products round otherwise, and one row more or less in a draw is another start."""
    between, seen = init._between, set()

    def noticed(*given: torch.Tensor) -> torch.Tensor:
        seen.update(each.device.type for each in given)
        return between(*given)

    monkeypatch.setattr(init, "_between", noticed)
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    expected = init.plus_plus(x, 5, 2, seed=1, weights=x[:, 0].abs())
    with elsewhere() as device:
        found = init.plus_plus(x.to(device), 5, 2, seed=1, weights=x[:, 0].abs().to(device))
        assert found.device.type == device and torch.equal(found.cpu(), expected)
    assert seen == {"cpu"}
