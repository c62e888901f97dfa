"""A model trained anew keeps the ids and names of an earlier one, whatever its numbers are."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydc.cli.main import DATA_ERROR, main
from raydc.cli.parser import read_run
from raydc.pipelines import follow
from raydc.pipelines.edit import Decisions, edit
from raydc.tracking import registry
from raydc.training import alignment, trainer
from raydc.training.labels import Merge, Rename
from raydc.training.model import ClusteringModel
from tests.support import run_cases

OPTIONS = ["--method=kmeans", "--n-clusters=3", "--method.restarts=1", "--workers=0", "--label-column=y"]


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """The rows of the earlier run, a tenth more, and a blob that was never seen."""
    strange = run_cases.table(60, seed=3)
    for name in run_cases.COLUMNS:
        at = strange.column_names.index(name)
        strange = strange.set_column(at, name, pa.compute.add(strange[name], 60).cast(strange[name].type))
    rows = pa.concat_tables([run_cases.table(), run_cases.table(30, seed=2), strange])
    return run_cases.write(rows, tmp_path_factory.mktemp("more") / "rows.parquet")


@pytest.fixture(scope="module")
def earlier(table_run, tmp_path_factory):
    """The earlier model, mended by hand: one cluster has a name, and ids do not begin at 0."""
    wanted = (Rename(cluster=2, name="tall"), Rename(cluster=1, name="wide"))
    return edit(table_run, Decisions(edits=wanted), out=str(tmp_path_factory.mktemp("earlier") / "m")).places["output"]


def labels_of(out):
    parts = [pq.read_table(path) for path in sorted(Path(out, "assignments").glob("*.parquet"))]
    return pa.concat_tables(parts).sort_by("row").to_pandas()


def test_ids_and_names_stay_and_a_new_cluster_gets_a_new_id(more, earlier, tmp_path, capsys):
    out = tmp_path / "out"
    options = [*OPTIONS, "--n-clusters=4", f"--data={more}", f"--out={out}", "--seed=1"]
    store = f"--tracking-uri=sqlite:///{tmp_path}/mlflow.db"
    assert main(["train", *options, f"--align-to={earlier}", store]) == 0
    assert "3 of 3 clusters of m keep their ids (overlap " in capsys.readouterr().out
    found, rows = labels_of(out), pq.read_table(more).to_pandas()
    before, model = registry.load(earlier), registry.load(str(out))
    np.testing.assert_array_equal(found["cluster"][:330], before.predict(rows[:330]))
    assert (found["cluster"][330:] == 3).all()  # never given before
    np.testing.assert_array_equal(model.predict(rows), found["cluster"])
    assert model.labels.cells.names == before.labels.cells.names and len(model.labels.joins) == 3
    summary = json.loads((out / "summary.json").read_text())
    assert summary["sizes"] == np.bincount(found["cluster"]).tolist() and summary["aligned"]["new"] == [3]
    assert np.array(summary["table"]).sum(1).tolist() == summary["sizes"]


def test_what_was_retired_stays_retired(more, table_run, tmp_path):
    merged = edit(table_run, Decisions(edits=(Merge(clusters=(2, 0)),)), out=str(tmp_path / "merged")).places["output"]
    out = tmp_path / "out"
    earlier = registry.load(merged)
    followed = alignment.follow(
        registry.load(table_run).labels,
        registry.load(table_run).predict(run_cases.table().to_pandas()),
        earlier,
        run_cases.table().to_pandas(),
        "models:/a/2",
    )
    assert followed.labels.cells.alive[:2] in ((1, 2), (1, 3)) and 0 not in followed.labels.given
    assert followed.told["split"] == {"2": sorted({*followed.labels.given} - {1})}
    assert not out.exists()


def test_a_run_that_was_killed_ends_with_the_same_ids(more, earlier, tmp_path, monkeypatch):
    def train(out):
        run = trainer.check(read_run([*OPTIONS, f"--data={more}", f"--out={tmp_path / out}", "--align-to=m"])[0])
        trainer.begin(run)
        follow.keep((registry.load(earlier), "m"), run.store)
        return trainer.train(run)

    with monkeypatch.context() as killed:
        # its assignments have the ids already, its summary has not
        killed.setattr(alignment, "renumbered", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train("out")
    assert train("out")["aligned"] == train("whole")["aligned"] == train("out")["aligned"]
    one, other = labels_of(tmp_path / "out"), labels_of(tmp_path / "whole")
    assert one.equals(other)
    files = [ClusteringModel.load(tmp_path / name / "model").labels for name in ("out", "whole")]
    assert files[0] == files[1]


def test_what_cannot_be_compared_is_refused_before_any_work(image_run, more, tmp_path, capsys):
    wanted = ["train", *OPTIONS, f"--data={more}", f"--out={tmp_path / 'out'}", f"--align-to={image_run}"]
    assert main(wanted) == DATA_ERROR
    assert "clusters are compared on rows that both models take" in capsys.readouterr().err
    assert not (tmp_path / "out" / "run.json").exists()
    assert main([*wanted[:-1], "--align-to=nowhere"]) == DATA_ERROR and "no model at" in capsys.readouterr().err
    assert main([*wanted, "--dry-run"]) == DATA_ERROR
