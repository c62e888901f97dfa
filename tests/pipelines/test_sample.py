"""Rows taken by a model, on the command line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydc.cli.main import USAGE_ERROR, main
from raydc.core.storage import Store
from raydc.tracking.registry import load
from tests.support import run_cases


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two hundred rows, of which ten come again."""
    rows = run_cases.table(200, seed=4)
    return run_cases.write(pa.concat_tables([rows, rows.slice(40, 10)]), tmp_path_factory.mktemp("rows") / "x.parquet")


def taken(model, data, out, *options):
    assert main(["sample", f"--model={model}", f"--data={data}", f"--out={out}", *options]) == 0
    return pq.read_table(out / "sample.parquet")


def test_a_balanced_sample(table_run, data, tmp_path, capsys):
    found = taken(table_run, data, tmp_path / "out", "--balanced", "--n=60")
    assert "60 rows of 210 from 3 clusters" in capsys.readouterr().out
    model, rows = load(table_run), pq.read_table(data).to_pandas()
    clusters, coarse = model.predict(rows.iloc[found["row"].to_numpy()]), model.labels.ids_at(2)
    np.testing.assert_array_equal(found["cluster"], clusters)
    assert found["id"].to_pylist() == rows["id"].iloc[found["row"].to_numpy()].tolist()
    assert sorted(np.bincount(coarse[clusters])[np.unique(coarse)]) == [30, 30]
    assert sorted(np.bincount(clusters)) == [15, 15, 30]
    assert taken(table_run, data, tmp_path / "out", "--balanced", "--n=60").equals(found)  # once more


def test_prototypes_are_the_nearest_of_each_cluster(table_run, data, tmp_path):
    found = taken(table_run, data, tmp_path / "out", "--prototypes", "--n=9").to_pandas()
    whole = load(table_run).assign(pq.read_table(data).to_pandas())
    for cluster in range(3):
        expected = np.sort(whole.distance[whole.clusters == cluster])[:3]
        np.testing.assert_allclose(np.sort(found["distance"][found["cluster"] == cluster]), expected)


def test_of_near_duplicates_one_is_kept(table_run, data, tmp_path, capsys):
    found = taken(table_run, data, tmp_path / "out", "--near-duplicates").to_pandas()
    assert {*range(40, 50), *range(200, 210)} <= {*found["row"]}
    pairs = found.set_index("row")["group"]
    assert all(pairs[40 + i] == pairs[200 + i] for i in range(10))
    assert found.groupby("group")["keep"].sum().eq(1).all()
    assert json.loads((tmp_path / "out" / "sample.json").read_text())["kept"] == found["group"].nunique()


def test_a_sample_that_was_killed_is_ended_by_the_same_command(table_run, data, tmp_path, monkeypatch):
    write = Store.write_bytes

    def dying(self, name, content):
        if name == "sample.parquet":
            raise KeyboardInterrupt
        write(self, name, content)

    with monkeypatch.context() as killed:
        killed.setattr(Store, "write_bytes", dying)
        with pytest.raises(KeyboardInterrupt):
            main(["sample", f"--model={table_run}", f"--data={data}", f"--out={tmp_path}/a", "--balanced", "--n=9"])
    assert not (tmp_path / "a" / "sample.parquet").exists()
    assert len(taken(table_run, data, tmp_path / "a", "--balanced", "--n=9")) == 9


def test_what_is_not_asked_rightly(table_run, data, tmp_path, capsys):
    wanted = ["sample", f"--model={table_run}", f"--data={data}", f"--out={tmp_path / 'out'}"]
    assert main(wanted) == USAGE_ERROR and "--balanced" in capsys.readouterr().err
    assert main([*wanted, "--balanced"]) == main([*wanted, "--balanced", "--n=0"]) == USAGE_ERROR
    assert main([*wanted, "--near-duplicates", "--n=3"]) == USAGE_ERROR and "--n: expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    taken(table_run, data, tmp_path / "out", "--balanced", "--n=9")
    assert main([*wanted, "--balanced", "--n=8"]) == USAGE_ERROR
    assert "holds another sample" in capsys.readouterr().err
