"""The whole way on a cluster of three nodes: jobs with a token, MLflow over HTTP, the champion used from outside."""

import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from raydc.pipelines.assign import read
from tests.cli.test_main import options
from tests.support.ray_nodes import BIN, Nodes
from tests.support.servers import MLflowServer

ROOT = Path(__file__).parents[2]
SHORT = [
    "method.network.hidden=16", "method.denoise.length=0 steps", "method.pretrain.length=4 epochs",
    "method.cluster.length=4 epochs", "method.restarts=2",
]  # fmt: skip


class User(Nodes):
    """A cluster with two worker nodes, and somebody who submits jobs to it."""

    def __init__(self, folder: Path, mlflow_uri: str) -> None:
        super().__init__(folder, workers=2, MLFLOW_TRACKING_URI=mlflow_uri)
        self.mlflow_uri, self.shared, self.checkout = mlflow_uri, folder / "shared", folder / "checkout"
        self.shared.mkdir()
        for name in ("raydc", "jobs"):
            shutil.copytree(ROOT / name, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))

    def submit(self, *command: str, token: bool = True) -> subprocess.CompletedProcess[str]:
        """`ray job submit`, as typed in the checkout."""
        environment = self.environment(self.folder / "user")
        if not token:
            environment = environment | {"RAY_AUTH_MODE": "disabled"}
        line = [str(BIN / "ray"), "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--"]
        return subprocess.run(
            [*line, "python", *command], cwd=self.checkout, env=environment, timeout=600, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def done(self, *command: str) -> str:
        """What a job that succeeded printed."""
        job = self.submit(*command)
        assert job.returncode == 0, job.stdout
        return job.stdout


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Iterator[User]:
    folder = tmp_path_factory.mktemp("cluster")
    server = MLflowServer(folder).start()
    try:
        with User(folder, server.url) as user:
            yield user
    finally:
        server.stop()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)  # some 100 s where nothing else runs
def test_train_tune_and_assign_as_jobs_on_two_nodes(user):
    x = load_digits().data.astype(np.float32)
    images = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 64)
    pq.write_table(pa.table({"x": images, "id": range(len(x))}), user.shared / "rows.parquet", row_group_size=256)
    data, out = f"--data={user.shared}/rows.parquet", f"--out={user.shared}"

    printed = user.done(
        "jobs/train.py", *options(training__workers=2), data, f"{out}/run", "--register=digits", "--id-column=id"
    )
    assert "in 2 workers" in printed and "registered as: models:/digits/1" in printed
    workers = [actor for actor in user.listed("actors") if actor["class_name"] == "RayTrainWorker"]
    assert len({actor["node_id"] for actor in workers}) == 2
    parts = sorted(path.name for path in (user.shared / "run" / "assignments").iterdir())
    assert (
        len(parts) == 2
        and sum(pq.read_metadata(user.shared / "run" / "assignments" / p).num_rows for p in parts) == 1797
    )

    printed = user.done(
        "jobs/tune.py", data, f"{out}/search", "--space=dec", "--n-clusters=10", "--trials=6",
        "--finalists=0.2", "--replicas=1", "--evaluation-rows=500", "--register=tuned", "--id-column=id",
        *[f"--set={setting}" for setting in SHORT],
    )  # fmt: skip
    assert re.search(r"winner: trial \d+", printed)
    assert len(list((user.shared / "search").glob("trials/*/record.json"))) >= 6

    printed = user.done(
        "jobs/assign.py", "--model=models:/digits@champion", data, f"{out}/assigned", "--workers=2", "--id-column=id"
    )
    assert "1,797 rows in" in printed

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(user.mlflow_uri)
    try:
        champion = mlflow.pyfunc.load_model("models:/digits@champion")
        assert mlflow.MlflowClient().get_model_version_by_alias("tuned", "champion").version
    finally:
        mlflow.set_tracking_uri(before)
    assigned = pa.concat_tables(read(str(user.shared / "assigned"))).to_pandas()
    predicted = champion.predict(pd.DataFrame({"x": list(x[assigned["id"]])}))["cluster"]
    assert predicted.tolist() == assigned["cluster"].tolist()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1800)  # some 100 s where nothing else runs
def test_every_node_has_a_copy_of_its_own_and_no_one_else_gets_in(user):
    """After the jobs above: what lies on the nodes, and what their ports say to strangers."""
    for number in range(3):
        copies = [
            *(user.scratch / str(number)).glob("session_*/runtime_resources/working_dir_files/*/raydc/cli/main.py")
        ]
        assert copies, f"node {number} ran the jobs from elsewhere"
    stranger = user.submit("-c", "print(1)", token=False)
    assert stranger.returncode != 0 and "uthentication" in stranger.stdout
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{user.dashboard}/api/jobs/", timeout=10)
    port = user.dashboard.rpartition(":")[2]
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.2:{port}/", timeout=10)
    told = [*user.scratch.glob("*/session_*/logs/**/*"), *user.folder.glob("*/*.log"), user.folder / "mlflow.db"]
    told = [path for path in told if path.is_file()]
    assert len(told) > 10
    assert not [path for path in told if user.token.encode() in path.read_bytes()]
