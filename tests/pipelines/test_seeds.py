"""`raydc train --seeds`."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydc.cli.main import USAGE_ERROR, main
from raydc.core.settings import SettingsError
from raydc.core.storage import Store
from raydc.pipelines.seeds import agreement, seeds_of, spread


@pytest.mark.parametrize(("text", "seeds"), [("0..2", [0, 1, 2]), ("7,3", [7, 3])])
def test_seeds_as_they_are_written(text, seeds):
    assert seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["3", "2..2", "4..1", "1,1", "a..b", "", "1..3,5"])
def test_what_names_no_seeds_is_refused(text):
    with pytest.raises(SettingsError, match=r"such as 0\.\.4"):
        seeds_of(text)


def test_mean_and_deviation_by_hand():
    runs = [{"found": 3, "measures": {"score": score}, "labels": None} for score in (0.25, 0.5, 0.75)]
    found = spread(runs)
    assert found["score"] == {"values": [0.25, 0.5, 0.75], "mean": 0.5, "deviation": 0.25}
    assert found["clusters"]["deviation"] == 0


def test_agreement_is_the_mean_over_pairs(tmp_path):
    for seed, labels in enumerate([[0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]]):
        (tmp_path / f"seed-{seed}" / "assignments").mkdir(parents=True)
        pq.write_table(pa.table({"cluster": labels}), tmp_path / f"seed-{seed}" / "assignments" / "part-0.parquet")
    assert agreement(Store(tmp_path), [0, 1]) == 1
    assert agreement(Store(tmp_path), [0, 1, 2]) == pytest.approx((1 - 0.5 - 0.5) / 3)


def test_several_seeds_by_the_command_line(tmp_path, mlflow_uri, capsys):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(90, 3)) + 20 * rng.integers(3, size=(90, 1))).astype(np.float32)
    pq.write_table(pa.table({name: rows[:, at] for at, name in enumerate("abc")}), tmp_path / "rows.parquet")
    command = ["train", "--data", str(tmp_path / "rows.parquet"), "--method", "kmeans", "--n-clusters", "3"]
    command += ["--workers", "0", "--out", str(tmp_path / "out"), "--tracking-uri", mlflow_uri, "--seeds", "0,4"]
    assert main([*command, "--register", "blobs"]) == USAGE_ERROR and not (tmp_path / "out").exists()
    assert main([*command, "--training.seed", "1"]) == USAGE_ERROR
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "the seeds find the same clusters" in told and "2 seeds" in told
    result = json.loads((tmp_path / "out" / "seeds.json").read_text())
    assert result["seeds"] == [0, 4] and result["agreement"] == 1 and result["measures"]["clusters"]["mean"] == 3
    for seed in (0, 4):
        run = json.loads((tmp_path / "out" / f"seed-{seed}" / "run.json").read_text())
        assert run["config"]["training"]["seed"] == seed
