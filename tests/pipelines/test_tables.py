"""From a raw file of mixed columns to its clusters: training, assignment, the model of the registry say the same."""

from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from raydc.cli.main import main
from raydc.core.storage import Store
from raydc.data import DataError, DataSettings
from raydc.pipelines.assign import assign
from raydc.pipelines.report import facts, report
from raydc.training.model import ClusteringModel
from tests.data.test_encoding import FRAME
from tests.support import run_cases

RAW = FRAME.assign(plan=FRAME["plan"].where(FRAME.index % 9 > 0)).drop(columns="nothing")


def _clusters(folder: Path | str) -> np.ndarray:
    found: np.ndarray = pd.read_parquet(folder).sort_values("row")["cluster"].to_numpy()
    return found


def test_a_raw_file_gets_the_clusters_of_its_training_again(tmp_path: Path) -> None:
    data = tmp_path / "rows.csv"
    RAW.to_csv(data, index=False)
    trained = run_cases.finished(tmp_path / "run", str(data), **run_cases.KMEANS, **{"data.label_column": "label"})
    expected = _clusters(f"{trained}/assignments")
    assign(trained, DataSettings(path=str(data)), str(tmp_path / "assigned"))
    np.testing.assert_array_equal(_clusters(tmp_path / "assigned"), expected)
    model = ClusteringModel.load(f"{trained}/model")
    np.testing.assert_array_equal(model.predict(pd.read_csv(data)), expected)
    np.testing.assert_array_equal(model.predict(RAW), expected)
    RAW.to_json(tmp_path / "rows.jsonl", orient="records", lines=True, date_format="iso")
    assign(trained, DataSettings(path=str(tmp_path / "rows.jsonl")), str(tmp_path / "lines"))
    np.testing.assert_array_equal(_clusters(tmp_path / "lines"), expected)
    some, known = DataSettings(path=str(data), columns=model.columns[:1]), ", ".join(model.columns)
    with pytest.raises(
        DataError, match=f"data.columns: the model encodes {known}, and .* lacks .*; leave --columns out"
    ):
        assign(trained, some, str(tmp_path / "some"))
    assert not (tmp_path / "some").exists()
    assign(trained, some.model_copy(update={"columns": model.columns[::-1]}), str(tmp_path / "all"))
    np.testing.assert_array_equal(_clusters(tmp_path / "all"), expected)
    for idle in ({"types": ("plan=text",)}, {"missing": "impute"}):
        with pytest.raises(DataError, match=rf"data\.{next(iter(idle))}: no effect, as the model encodes rows"):
            assign(trained, DataSettings(path=str(data), **idle), str(tmp_path / "idle"))
    own = DataSettings(path=str(data), missing="impute").with_encoding(model.encoding)  # as a search has them
    assign(trained, own, str(tmp_path / "own"))
    np.testing.assert_array_equal(_clusters(tmp_path / "own"), expected)
    found = facts.gather(Store(trained))
    assert found.sample is not None and not found.missing and "plan=(missing)" in found.feature_names
    assert "features.png" in report(trained, str(tmp_path / "page"))


@pytest.mark.slow
def test_workers_and_the_registry_say_the_same(tmp_path: Path) -> None:
    data, uri = tmp_path / "rows.csv", f"sqlite:///{tmp_path}/mlflow.db"
    RAW.to_csv(data, index=False)
    clusters = []
    for workers in ("0", "2"):
        out = tmp_path / workers
        line = ["train", "--data", str(data), "--method", "kmeans", "--n-clusters", "3", "--workers", workers]
        assert main([*line, "--out", str(out), "--register", "customers", "--tracking-uri", uri]) == 0
        clusters.append(_clusters(out / "assignments"))
    np.testing.assert_array_equal(*clusters)
    name = "models:/customers@champion"
    line = ["assign", "--model", name, "--data", str(data), "--out", str(tmp_path / "assigned"), "--workers", "2"]
    assert main([*line, "--tracking-uri", uri]) == 0
    np.testing.assert_array_equal(_clusters(tmp_path / "assigned"), clusters[0])
    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model(name)
    np.testing.assert_array_equal(served.predict(pd.read_csv(data))["cluster"], clusters[0])


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """k-means of two columns of numbers, which no encoding touches; their places matter."""
    folder = tmp_path_factory.mktemp("plain")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(90, 2)) + [[0, 40]] * np.repeat([[0], [1], [2]], 30, axis=0)
    pd.DataFrame(rows, columns=["a", "b"]).assign(u=1.5).to_csv(folder / "rows.csv", index=False)
    return run_cases.finished(
        folder / "run",
        str(folder / "rows.csv"),
        **run_cases.KMEANS,
        **{"data.columns": "a,b", "data.label_column": None},
    )


@pytest.mark.parametrize("settings", [{"missing": "impute"}, {"types": ("a=number",)}], ids=str)
def test_rows_are_not_encoded_for_a_model_that_encodes_none(plain_run: str, tmp_path: Path, settings: dict) -> None:
    data = DataSettings(path=str(Path(plain_run).parent / "rows.csv"), **settings)
    with pytest.raises(DataError, match=r"learned from numbers as they are, .*data\.missing"):
        assign(plain_run, data, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_text_in_a_column_of_numbers_is_named(plain_run: str, tmp_path: Path) -> None:
    frame = pd.read_csv(Path(plain_run).parent / "rows.csv").astype({"b": object})
    frame.loc[4, "b"] = "much"
    frame.to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(DataError, match=r"learned from numbers as they are, .*: b"):
        assign(plain_run, DataSettings(path=str(tmp_path / "rows.csv")), str(tmp_path / "out"))


def test_named_columns_go_to_their_own_places(plain_run: str, tmp_path: Path) -> None:
    data, expected = str(Path(plain_run).parent / "rows.csv"), _clusters(f"{plain_run}/assignments")
    assign(plain_run, DataSettings(path=data, columns=("b", "a")), str(tmp_path / "turned"))
    np.testing.assert_array_equal(_clusters(tmp_path / "turned"), expected)
    with pytest.raises(DataError, match=r"data.columns: a is column 1 of the model's a, b, and column 2 of u, a"):
        assign(plain_run, DataSettings(path=data, columns=("u", "a")), str(tmp_path / "out"))
    pd.read_csv(data).rename(columns={"a": "x", "b": "y"}).to_csv(tmp_path / "renamed.csv", index=False)
    renamed = DataSettings(path=str(tmp_path / "renamed.csv"), columns=("x", "y"))
    assign(plain_run, renamed, str(tmp_path / "renamed"))
    np.testing.assert_array_equal(_clusters(tmp_path / "renamed"), expected)
