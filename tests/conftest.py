import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # tests that run beside others get their share of the processors
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")

import hypothesis
import torch

hypothesis.settings.register_profile("raydc", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("raydc")
torch.set_num_threads(1)  # tiny networks: threads only get in each other's way


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where there is a file system in memory: snapshots are written often, and synced."""
    path = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def mlflow_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real MLflow store, made once: its first use takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="session")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output directory of a finished run of k-means on a table with named columns."""
    from tests.support import run_cases

    folder = tmp_path_factory.mktemp("table")
    data = run_cases.write(run_cases.table(), folder / "rows.parquet")
    return run_cases.finished(folder / "run", data, **run_cases.KMEANS)


@pytest.fixture(scope="session")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The output directory of a finished run of DEC on small images."""
    from tests.support import run_cases

    folder = tmp_path_factory.mktemp("images")
    data = run_cases.write(run_cases.images(), folder / "rows.parquet")
    return run_cases.finished(folder / "run", data, **run_cases.SHORT_DEC, **{"data.shape": "4,4"})
