"""Which scaling suits which rows, told by their statistics alone."""

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from raydc import DeepClustering
from raydc.cli.console import Live
from raydc.core.settings import unflatten
from raydc.data import (
    ArraySource,
    DataProfile,
    DataSettings,
    DataWarning,
    Scaling,
    Source,
    look,
    open_source,
    profile_rows,
    scaling,
)
from raydc.data.settings import ScalingKind
from raydc.data.units import dominating, far_off, one_unit, remarks, suited
from raydc.pipelines.train import train_and_record
from raydc.training.config import RunConfig
from raydc.training.worker_job import prepare


def customers(rows: int = 1200) -> tuple[pd.DataFrame, np.ndarray]:
    """Four segments by age, visits and rate of return; income and spending, in the largest units, tell nothing."""
    draw = np.random.default_rng(0)
    segment = draw.integers(4, size=rows)
    table = {
        "age": np.array([25, 40, 55, 70])[segment] + draw.normal(0, 2, rows),
        "visits": np.array([2, 10, 4, 7])[segment] + draw.normal(0, 0.5, rows),
        "returns": np.array([0.1, 0.3, 0.6, 0.8])[segment] + draw.normal(0, 0.03, rows),
        "income": 4e4 + 1e4 * draw.standard_t(5, rows),
    }
    return pd.DataFrame(table), segment


def profiled(x: np.ndarray | sparse.csr_array) -> tuple[DataProfile, Source]:
    source = ArraySource(x)
    return profile_rows(source), source


def kinds(x: np.ndarray | sparse.csr_array) -> list[str]:
    found = profiled(x)
    return [suited("auto", usual, *found) for usual in ("power", "unit", "symmetric")]


DRAW = np.random.default_rng(1)
PIXELS = (DRAW.random((300, 64)) < np.linspace(0.01, 0.9, 64)) * DRAW.integers(100, 256, (300, 64))
EMBEDDINGS = DRAW.normal(size=(300, 48)) * np.r_[np.full(46, 1.0), 60.0, 80.0]


def test_one_kind_of_feature_keeps_the_papers_one_factor() -> None:
    for rows in (PIXELS, EMBEDDINGS, np.c_[PIXELS, np.zeros((300, 9))], DRAW.normal(size=(200, 3)) + 5):
        assert kinds(rows.astype(np.float32)) == ["power", "unit", "symmetric"]
    assert kinds(sparse.csr_array(customers()[0].to_numpy())) == ["power", "unit", "symmetric"]
    assert kinds(customers(1200)[0].to_numpy().reshape(-1, 1, 2, 2)) == ["power", "unit", "symmetric"]


def test_units_of_their_own_are_scaled_by_themselves() -> None:
    table = customers()[0].to_numpy()
    assert kinds(table) == ["standard", "unit_each", "symmetric_each"]
    assert kinds(table * 1e-9) == kinds(table + 0.0) == kinds(table[:, ::-1]) == kinds(table)
    assert suited("power", "unit", *profiled(table)) == "power", "what is asked for is done"


def test_directions_have_one_unit_however_unlike_their_ranges_are() -> None:
    spread = DRAW.normal(size=(300, 48)) * np.geomspace(1, 100, 48)
    assert kinds(spread)[0] == "standard"
    unit = spread / np.linalg.norm(spread, axis=1, keepdims=True)
    for rows in (unit, unit.astype(np.float32), unit.astype(np.float16)):
        assert kinds(rows) == ["power", "unit", "symmetric"]
    assert kinds(1.01 * unit)[0] == "standard"
    gaps = unit.copy()
    gaps[[7, 70, 200]] = 0  # an empty text has no direction
    for rows in (gaps, gaps.astype(np.float16), sparse.csr_array(gaps)):
        assert kinds(rows) == ["power", "unit", "symmetric"]
        found = profiled(rows)
        assert "3 of 300 rows are zero, and have no direction" in " ".join(remarks("auto", "power", *found))
    assert remarks("auto", "power", *profiled(unit)) == remarks("auto", "power", *profiled(np.zeros((9, 3)))) == []
    assert kinds(np.where(np.arange(300)[:, None] == 7, 0, spread))[0] == "standard"


def test_a_large_common_offset_is_subtracted() -> None:
    near, far = DRAW.normal(size=(200, 4)) + 3, DRAW.normal(np.array([1000.0, 990, 1010, 400]), size=(200, 4))
    assert kinds(near)[0] == "power" and kinds(far) == ["centred", "unit", "symmetric"]
    found, _ = profiled(far)
    assert far_off(found)
    scaling = Scaling.of("centred", found)
    rows = (far - scaling.shift) * scaling.factor
    assert abs(rows.mean(0)).max() < 1e-3 and np.mean(rows**2) == pytest.approx(1, rel=1e-3)


def test_each_feature_by_itself_reaches_the_ends_of_its_range() -> None:
    table = np.c_[customers()[0].to_numpy(), np.full(1200, 7.0)]
    found, _ = profiled(table)
    for kind, low in (("unit_each", 0.0), ("symmetric_each", -1.0)):
        scaling = Scaling.of(kind, found)
        rows = (table - scaling.shift) * scaling.factor
        assert rows[:, :4].min(0) == pytest.approx(low, abs=1e-4) and rows[:, :4].max(0) == pytest.approx(1, abs=1e-4)
        assert (rows[:, 4] == 0).all()


def test_what_dominates_is_named() -> None:
    found = profiled(customers()[0].to_numpy())
    assert "100.0% of the squared spread of 4 features is that of X[3]" in dominating("power", *found)
    assert dominating("standard", *found) == ""
    assert "X[46], X[47]" in (said := dominating("power", *profiled(EMBEDDINGS))) or "X[47], X[46]" in said
    assert dominating("power", *profiled(PIXELS.astype(float))) == ""


def test_the_same_is_decided_by_any_number_of_readers(tmp_path: Path) -> None:
    customers()[0].to_parquet(tmp_path / "rows.parquet")
    source = open_source(DataSettings(path=str(tmp_path / "rows.parquet")))
    whole = profile_rows(source)
    parts = profile_rows(source, seen=[look(source, piece) for piece in source.pieces])
    assert (whole.lowest == parts.lowest).all() and (whole.highest == parts.highest).all()
    assert not one_unit(whole, source) and suited("auto", "power", parts, source) == "standard"


def run(tmp_path: Path, out: str, scaling: str) -> RunConfig:
    table, segment = customers()
    table.assign(label=segment).to_parquet(tmp_path / "rows.parquet")
    values = {
        "method.name": "kmeans",
        "method.n_clusters": 4,
        "data.path": str(tmp_path / "rows.parquet"),
        "data.label_column": "label",
        "data.scaling": scaling,
        "training.workers": 0,
        "output.out": str(tmp_path / out),
        "output.tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
    }
    return RunConfig.of(unflatten(values))


def test_a_table_is_clustered_and_scored_in_its_own_space_whatever_is_asked_for(tmp_path: Path) -> None:
    auto = train_and_record(run(tmp_path, "auto", "auto"), Live())
    forced = train_and_record(run(tmp_path, "forced", "power"), Live())
    assert auto["labels"]["ari"] > 0.9 > 0.2 > forced["labels"]["ari"]
    assert auto["labels"]["knn"] > 0.95 > forced["labels"]["knn"], "in the features, as the method has them"
    assert auto["measures"]["score"] > forced["measures"]["score"] + 0.1, "both on one graph of neighbours"
    assert auto["reference"] == forced["reference"]
    assert any("is that of income" in note for note in forced["notes"])
    assert "scaling: standard" in (tmp_path / "auto" / "config.yaml").read_text()
    again = prepare(run(tmp_path, "auto", "standard"))
    assert again.key == prepare(run(tmp_path, "auto", "auto")).key, "auto is what it came to"


def test_the_estimator_warns_of_units() -> None:
    table, segment = customers()
    with pytest.warns(DataWarning, match="units of their own"):
        labels = DeepClustering("kmeans", 4).fit_predict(table)
    assert adjusted_rand_score(segment, labels) > 0.9
    with pytest.warns(DataWarning, match="squared spread of 4 features"):
        DeepClustering("kmeans", 4, {"data.scaling": "power"}).fit(table)


def test_every_name_of_a_scaling_is_made() -> None:
    assert {*scaling.MADE} == {*get_args(ScalingKind)}
