"""The commands as functions: they do what the commands do, and give what one goes on with."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score

import raydc
from raydc.core.settings import SettingsError
from tests.support import run_cases


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(run_cases.write(run_cases.table(), tmp_path_factory.mktemp("rows") / "rows.parquet"))


@pytest.fixture(scope="module")
def trained(rows: Path, tmp_path_factory: pytest.TempPathFactory, mlflow_uri: str) -> raydc.Result:
    out = tmp_path_factory.mktemp("trained") / "run"
    return raydc.train(
        rows, "kmeans", 3, out=out, label_column="y", workers=0, seed=1, register_as="api", tracking_uri=mlflow_uri,
        settings={"method.restarts": 2, "data": {"scaling": "standard"}},
    )  # fmt: skip


def test_a_training_gives_labels_model_and_report(trained: raydc.Result, rows: Path) -> None:
    labels = trained.labels
    assert labels.dtype == np.int64 and (trained.model.predict(trained_rows(rows)) == labels).all()
    assert trained.model.config["restarts"] == 2 and trained.model.scaling.kind == "standard"
    assert trained.n_clusters == 3 and Path(trained.report).is_file() and trained.summary["rows"] == len(labels)
    assert trained.paths["registered as"].startswith("models:/api/1")
    assert trained.table()["cluster"].tolist() == labels.tolist()


def trained_rows(rows: Path) -> pd.DataFrame:
    return pd.read_parquet(rows)


def test_it_repeats_nothing(trained: raydc.Result, rows: Path, mlflow_uri: str) -> None:
    before = os.stat(Path(trained.out) / "summary.json").st_mtime_ns
    again = raydc.train(
        rows, "kmeans", 3, out=trained.out, label_column="y", workers=0, seed=1, register_as="api",
        tracking_uri=mlflow_uri, settings={"method.restarts": 2, "data.scaling": "standard"},
    )  # fmt: skip
    assert os.stat(Path(trained.out) / "summary.json").st_mtime_ns == before and (again.labels == trained.labels).all()


def test_a_model_is_loaded_and_assigns(trained: raydc.Result, rows: Path, mlflow_uri: str, tmp_path: Path) -> None:
    model = raydc.load("models:/api@champion", tracking_uri=mlflow_uri)
    assert model.weights_hash() == raydc.load(trained.out).weights_hash() == trained.model.weights_hash()
    found = raydc.assign(trained.out, rows, tmp_path / "assigned")
    assert (found.labels == trained.labels).all() and found.summary["rows"] == len(found.table())
    coarse = raydc.assign(trained.out, rows, tmp_path / "coarse", level=2, outliers=0.1)
    assert len({*coarse.labels.tolist()} - {-1}) == 2 and 0 < (coarse.labels == -1).mean() < 0.2


def test_a_search_gives_its_winner(rows: Path, tmp_path: Path, mlflow_uri: str) -> None:
    (tmp_path / "space.py").write_text(
        "def space(trial):\n    trial.suggest_int('method.restarts', 1, 3)\n    return {'method.name': 'kmeans'}\n"
    )
    small = {f"method.{name}.length": "1 epochs" for name in ("denoise", "pretrain")} | {"method.network.hidden": (8,)}
    found = raydc.tune(
        rows, tmp_path / "space.py", 3, out=tmp_path / "out", trials=1, concurrent=0, tracking_uri=mlflow_uri,
        fixed=small, settings={"data.columns": None, "replicas": 1, "data.label_column": "y"},
    )  # fmt: skip
    assert found.summary == json.loads((tmp_path / "out" / "search.json").read_text())
    assert len(found.labels) == 300
    assert found.model.weights_hash() == found.summary["winner"]["weights"] and Path(found.report).is_file()
    assert adjusted_rand_score(found.labels, found.model.predict(trained_rows(rows))) == 1


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out: raydc.train(np.eye(4), out=out), r"data: expected a path or a URI, got ndarray; save an array as"),
        (lambda out: raydc.train("digits", "decc", out=out), "no method 'decc'; did you mean dec"),
        (lambda out: raydc.train("digits", seed=1, out=out, settings={"training.seed": 2}), "training.seed: is given"),
        (lambda out: raydc.train("digits", "dec", out=out, settings={"method.nuu": 2}), "did you mean method.nu"),
        (lambda out: raydc.tune("digits", "nowhere.py", 3, out=out), "space: no file nowhere.py"),
        (lambda out: raydc.assign(out, "digits", out, settings={"training.seed": 1}), "takes settings of data alone"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_work(call, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        call(tmp_path / "out")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
