"""Every space through the command line over Ray, on one cluster, which ends with this file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import yaml

from raydc import methods
from raydc.cli.main import main
from raydc.distributed.ray_cluster import connected
from raydc.pipelines import assign
from raydc.search import spaces
from raydc.search.evaluation import Task
from raydc.testing.cases import blobs
from raydc.training.model import ClusteringModel
from tests.support.searches import own_space


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected(2):
        yield


def searched(space: str | Path, folder: Path, mlflow_uri: str) -> dict[str, Any]:
    """What `raydc tune` makes of two trials of this space, each as short as its method can be."""
    x, y = blobs(methods.load("dac"), 120)
    np.savez(folder / "images.npz", X=x.numpy(), y=y.numpy())
    name = Path(space).stem
    quick = methods.load(name).quick if name in methods.available() else {}
    phases = ("adversarial", "cluster", "denoise", "layerwise", "pretrain", "start")
    fixed = {f"method.{key}": [*v] if isinstance(v, tuple) else v for key, v in quick.items()}
    fixed |= {f"method.{phase}.length": "1 epochs" for phase in phases}
    if name == "infogan":  # else nothing that its space suggests is left
        del fixed["method.adversarial.alpha"]
    (folder / "search.yaml").write_text(yaml.safe_dump({"fixed": fixed, "data": {"label_column": "y"}}))
    options = {
        "--config": folder / "search.yaml", "--data": folder / "images.npz", "--space": space, "--n-clusters": 4,
        "--trials": 2, "--replicas": 1, "--finalists": 0.1, "--concurrent": 2, "--out": folder / "out",
        "--tracking-uri": mlflow_uri, "--register": f"searched-{name}",
    }  # fmt: skip
    assert main(["tune", *(str(each) for option in options.items() for each in option)]) == 0
    assert (folder / "out" / "report" / "run-sizes.png").exists(), "the page holds no report of the winner's run"
    return json.loads((folder / "out" / "search.json").read_text())


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("space", spaces.names())
def test_every_space_is_searched(cluster: None, tmp_path: Path, mlflow_uri: str, space: str) -> None:
    found = searched(space, tmp_path, mlflow_uri)
    statuses = [entry["status"] for entry in found["trials"] if not entry["baseline"]]
    assert len(statuses) == 2 and set(statuses) <= {"finished", "guarded", "stopped"}, found["notes"]


@pytest.mark.ray
def test_a_space_of_several_files_is_searched_and_all_say_the_same_of_a_row(
    cluster: None, tmp_path: Path, mlflow_uri: str
) -> None:
    found = searched(own_space(tmp_path), tmp_path, mlflow_uri)
    points = [entry["point"] for entry in found["trials"] if not entry["baseline"]]
    assert len(points) == 2 and {point["method.name"] for point in points} == {"dec"}
    assert all(point["method.network.hidden"] in ([16], [16, 16]) for point in points)

    x, winner = np.load(tmp_path / "images.npz")["X"], found["winner"]
    folder = Task(winner["number"], winner["replica"], {}).folder
    searched_labels = np.load(tmp_path / "out" / folder / "labels.npy").tolist()
    assigned = pa.concat_tables(assign.read(str(tmp_path / "out" / "assignments"))).sort_by("row")
    mlflow.set_tracking_uri(mlflow_uri)
    served = mlflow.pyfunc.load_model("models:/searched-space@champion").predict(x)
    mlflow.set_tracking_uri(None)
    assert ClusteringModel.load(tmp_path / "out" / "model").predict(x).tolist() == searched_labels
    assert assigned["cluster"].to_pylist() == served["cluster"].tolist() == searched_labels
