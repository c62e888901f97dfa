"""`raydc train --method kmeans`: rows streamed through the centroid service, in this process and under Ray."""

import json
import signal
import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raydc import DeepClustering
from raydc.clustering.centroid_service import actors as over_ray
from raydc.core.settings import SettingsError, unflatten
from raydc.data import DataError, block_cache, split
from raydc.pipelines.train import plan
from raydc.training import streaming_kmeans
from raydc.training.config import RunConfig
from raydc.training.model import ClusteringModel
from raydc.training.trainer import Interrupted, Watch, check, run_name, train
from raydc.training.worker_job import prepare
from tests.support.runs import alone, weights

SETTINGS = {"method.restarts": 2, "method.iterations": 8, "data.scaling": "standard"}


def rows(many: int = 3000, dim: int = 5) -> np.ndarray:
    draw = np.random.default_rng(0)
    centres = 3 * draw.normal(size=(7, dim))
    return (centres[draw.integers(7, size=many)] + draw.normal(size=(many, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with rows.npy, and the estimator that was fitted to the same rows."""
    folder = tmp_path_factory.mktemp("streamed")
    np.save(folder / "rows.npy", rows())
    return folder, DeepClustering("kmeans", 7, SETTINGS).fit(rows())


def settings(out, data, **changes):
    flat = {"method.name": "kmeans", "method.n_clusters": 7, "training.workers": 0, **SETTINGS, **changes}
    return RunConfig.of(unflatten({**flat, "data.path": str(data), "output.out": str(out)}))


def same(out, fitted) -> None:
    """The run in `out` is the estimator's, byte by byte."""
    assert weights(out) == fitted.model_.weights_hash()
    table = pq.read_table(out / "assignments").sort_by("row")
    assert table["row"].to_pylist() == list(range(len(fitted.labels_)))
    assert (table["cluster"].to_numpy() == fitted.labels_).all()
    assert (fitted.predict_proba(rows()).max(1) == table["membership"].to_numpy()).mean() > 0.99
    model = ClusteringModel.load(out / "model")
    assert model.distances.digest() == fitted.model_.distances.digest()
    np.testing.assert_allclose(table["distance"], fitted.assign(rows()).distance, atol=1e-6)


def test_streamed_rows_end_in_the_estimators_bytes_part_by_part(place, tmp_path, monkeypatch):
    folder, fitted = place
    monkeypatch.setattr(streaming_kmeans, "PART_ROWS", 700)
    heard = []
    summary = train(check(settings(tmp_path / "run", folder / "rows.npy")), Watch(progress=heard.append))
    same(tmp_path / "run", fitted)
    assert len(list((tmp_path / "run" / "assignments").iterdir())) == 5
    assert [progress.epoch for progress in heard] == list(range(1, len(heard) + 1)) and heard[-1].last
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    inertia = [line["losses"]["inertia"] for line in lines]
    assert len(inertia) == len(heard) and inertia == sorted(inertia, reverse=True)
    assert summary["found"] == 7 and sum(summary["sizes"]) == 3000
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_in_this_process_as_many_threads_work_as_are_asked_for(place, tmp_path, monkeypatch):
    folder, fitted = place
    before, seen, work = torch.get_num_threads(), set(), streaming_kmeans.work
    monkeypatch.setattr(streaming_kmeans, "work", lambda *of: (seen.add(torch.get_num_threads()), work(*of))[1])
    train(check(settings(tmp_path / "run", folder / "rows.npy", **{"training.threads": before + 1})))
    assert seen == {before + 1} and torch.get_num_threads() == before
    same(tmp_path / "run", fitted)


def test_sharded_centroids_are_the_same_bytes(place, tmp_path):
    folder, fitted = place
    train(check(settings(tmp_path / "run", folder / "rows.npy", **{"method.shards": 3})))
    same(tmp_path / "run", fitted)


def test_row_groups_of_parquet_give_the_same_clusters(place, tmp_path):
    """Parquet cuts rows elsewhere than arrays do, so that sums agree to their last digits only."""
    _, fitted = place
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows().ravel()), 5)
    pq.write_table(pa.table({"x": values}), tmp_path / "rows.parquet", row_group_size=431)
    train(check(settings(tmp_path / "run", tmp_path / "rows.parquet")))
    model = ClusteringModel.load(tmp_path / "run" / "model")
    np.testing.assert_allclose(model.method.centroids, fitted.model_.method.centroids, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("storage", "fit"), [("auto", 1.0), ("auto", 0.5), ("disk", 1.0)])
def test_row_blocks_that_fit_are_read_once_and_no_byte_depends_on_it(place, tmp_path, monkeypatch, storage, fit):
    folder, fitted = place
    reads, read_group, size = Counter[int](), streaming_kmeans.read_group, 3000 * (4 * 5 + 8)
    monkeypatch.setattr(block_cache, "free_memory", lambda: 2 * fit * size)

    def counted(source, profile, group, *more):
        reads[group.id] += 1
        return read_group(source, profile, group, *more)

    monkeypatch.setattr(streaming_kmeans, "read_group", counted)
    notes = []
    run = check(settings(tmp_path / "run", folder / "rows.npy", **{"data.storage": storage}))
    train(run, Watch(note=notes.append))
    same(tmp_path / "run", fitted)
    once = [group for group in run.job.profile.groups if reads[group.id] == 1]
    many = {"disk": 0, "auto": int(fit * len(run.job.profile.groups))}
    assert len(once) == many[storage] and min(reads.values()) >= 1
    assert ("read again in each iteration" in "".join(notes)) == (len(once) < len(reads))


@pytest.mark.slow
@pytest.mark.parametrize("failpoint", ["stream", "stream.part"])
def test_killed_it_goes_on_with_the_same_command(place, tmp_path, failpoint):
    folder, fitted = place
    config = settings(tmp_path / "run", folder / "rows.npy")
    assert alone(config, failpoint) == -signal.SIGKILL
    assert alone(config) == 0
    same(tmp_path / "run", fitted)


def test_asked_to_stop_it_keeps_its_iterations(place, tmp_path):
    class AfterTwo:
        seen = 0

        def is_set(self) -> bool:
            self.seen += 1
            return self.seen > 2

    folder, fitted = place
    config = settings(tmp_path / "run", folder / "rows.npy")
    with pytest.raises(Interrupted, match="the same command goes on"):
        train(check(config), Watch(stop=AfterTwo()))
    assert list((tmp_path / "run" / "checkpoints" / "centroids").glob("snapshot-*.npz"))
    train(check(config))
    same(tmp_path / "run", fitted)


@pytest.mark.ray
@pytest.mark.slow
def test_told_to_stop_while_its_service_starts_it_ends_in_order(place, tmp_path):
    folder, fitted = place
    config = settings(tmp_path / "run", folder / "rows.npy", **{"training.workers": 2})
    run, stop = check(config), threading.Event()
    stop.set()
    with pytest.raises(Interrupted, match="the same command goes on"):
        train(run, Watch(stop=stop))
    assert not list((tmp_path / "run" / "checkpoints").glob("centroids/snapshot-*")), "it waited for an iteration"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    train(check(config))
    same(tmp_path / "run", fitted)


def test_rows_that_change_meanwhile_end_the_run(place, tmp_path):
    values = rows(200)
    np.save(tmp_path / "rows.npy", values)
    run = check(settings(tmp_path / "run", tmp_path / "rows.npy"))
    np.save(tmp_path / "rows.npy", values + 1)
    with pytest.raises(DataError, match="have changed since they were checked"):
        train(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [("training.patience", 5.0), ("training.batch_size", 64), ("training.precision", "bf16")],
)
def test_settings_of_rows_that_are_kept_are_refused_by_name(place, tmp_path, name, value):
    changes = {name: value, "training.workers": 1}
    with pytest.raises(SettingsError, match=rf"^{name}: {value} has no effect on kmeans, which .*; leave it out$"):
        prepare(settings(tmp_path / "run", place[0] / "rows.npy", **changes))


@pytest.mark.parametrize("changes", [{}, {"method.balanced": True}, {"data.weight_column": "w"}])
def test_a_dry_run_tells_what_an_iteration_costs(tmp_path, changes):
    x = rows()
    columns = {f"f{j}": x[:, j] for j in range(x.shape[1])} | {"w": np.ones(len(x))}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=500)
    named = {"data.columns": tuple(f"f{j}" for j in range(x.shape[1]))}
    once, twice = (
        plan(settings(tmp_path / "run", tmp_path / "rows.parquet", **named, **changes, **{"method.iterations": many}))
        for many in (8, 800)
    )
    assert once.steps == {"iterations": 8} and once.batch_size is None and once.parameters == 7 * 5
    assert 0 < once.seconds["iterations"] < twice.seconds["iterations"]
    assert (once.memory, once.streamed) == (4 * len(x) * 5, 0)
    assert not (tmp_path / "run").exists()


def test_parts_are_whole_row_groups():
    parts = streaming_kmeans.parts_of(split(1000, 90), rows=200)
    assert [sum(map(len, part)) for part in parts] == [180, 180, 180, 180, 180, 100]
    assert [len(part) for part in streaming_kmeans.parts_of(split(1000, 90), rows=10)] == [1] * 12


@pytest.mark.ray
@pytest.mark.slow
def test_the_only_worker_hangs_while_it_writes_and_is_replaced(place, tmp_path, monkeypatch):
    folder, fitted = place
    monkeypatch.setenv("RAYDC_FAILPOINT", f"stream.part:{tmp_path / 'marker'}")
    monkeypatch.setenv("RAYDC_FAILSIGNAL", "SIGSTOP")
    config = settings(tmp_path / "run", folder / "rows.npy", **{"training.workers": 1, "training.hang_after": 3.0})
    train(check(config))
    assert (tmp_path / "marker").exists()
    same(tmp_path / "run", fitted)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("shards", ["auto", 2])
def test_workers_of_ray_end_in_the_same_bytes_and_the_service_has_the_runs_name(place, tmp_path, shards):
    folder, fitted = place
    config = settings(tmp_path / "run", folder / "rows.npy", **{"training.workers": 2, "method.shards": shards})
    run, found = check(config), []

    def look(progress) -> None:
        if not found:
            record = json.loads((tmp_path / "run" / "run.json").read_text())
            found.append(over_ray.find(run_name(run.job, record["id"])).centroids())

    train(run, Watch(progress=look))
    same(tmp_path / "run", fitted)
    assert found[0][1].shape == (7, 5)


def test_weighted_rows_are_streamed_to_the_estimators_bytes_and_other_methods_refuse_them(tmp_path):
    weights_of_rows = (np.arange(3000) % 4).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows().ravel()), 5)
    pq.write_table(
        pa.table({"x": column, "w": pa.array(weights_of_rows)}), tmp_path / "rows.parquet", row_group_size=1000
    )
    fitted = DeepClustering("kmeans", 7, SETTINGS).fit(rows(), sample_weight=weights_of_rows)
    asked = {"data.weight_column": "w", "data.columns": "x"}
    train(check(settings(tmp_path / "run", tmp_path / "rows.parquet", **asked)))
    same(tmp_path / "run", fitted)
    with pytest.raises(DataError, match="w: dec counts all rows alike; leave weights out, or take kmeans"):
        plain = {"method.name": "dec", "method.n_clusters": 7, "training.workers": 0, **asked}
        check(RunConfig.of(unflatten({**plain, "data.path": str(tmp_path / "rows.parquet"), "output.out": "x"})))
