"""Whole searches on small rows: what they leave, labels that change nothing, and the choice."""

import json
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pytest

from raydc.cli.main import main
from raydc.clustering.metrics import graph
from raydc.clustering.metrics.stability import row_agreement
from raydc.core.settings import SettingsError
from raydc.core.storage import Store
from raydc.pipelines.assign import read
from raydc.pipelines.edit import Decisions, edit
from raydc.pipelines.report import words
from raydc.search import SearchInterrupted, SearchState, SearchWatch, page, tune
from raydc.search.conclude import _write_evaluated, _write_model, importance
from raydc.search.driver import room
from raydc.search.evaluation import Task, baselines, halfway, kmeans_curve, prepare, subsample
from raydc.search.planner import Planner
from raydc.search.trial import STOP, Flags, FlagWatch, Record, _judge, run_task
from raydc.training.labels import LabelMap, Merge, Rename
from raydc.training.model import TRUST, ClusteringModel
from tests.support.searches import BASELINES, asked, rows, states, table, written


@pytest.fixture
def data(tmp_path: Path) -> str:
    return written(tmp_path)


def test_a_search_leaves_everything_and_runs_once(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, out = asked(data, tmp_path / "out", space="dec", trials=2), tmp_path / "out"
    seen: list[SearchState] = []
    summary = tune(settings, SearchWatch(seen.append))
    assert [entry["method"] for entry in summary["trials"]] == ["dec", *BASELINES, "dec", "dec"]
    assert states(settings) == ["COMPLETE"] * 8
    assert summary["structure"] and summary["winner"]["n_clusters"] == 4
    assert summary == json.loads((out / "search.json").read_text())
    model = ClusteringModel.load(out / "model")
    assert model.weights_hash() == summary["winner"]["weights"]
    labels = model.predict(rows()[0])
    assert len(np.unique(labels)) == 4
    assert [cluster["rows"] for cluster in model.notes["clusters"]] == np.bincount(labels).tolist()
    stored, asked_again = pa.concat_tables(read(str(out / "assignments"))), model.assign(rows()[0])
    assert stored["id"].to_pylist() == [*range(240)] and (stored["cluster"].to_numpy() == labels).all()
    for name in TRUST:
        assert (stored[name].to_numpy() == getattr(asked_again, name)).all(), name
    winner = summary["winner"]
    replicas = [Record.read(Store(out), winner["number"], r) for r in range(3) if r != winner["replica"]]
    others = [np.load(out / one.folder / "labels.npy") for one in replicas if one]
    assert (asked_again.agreement == row_agreement(np.stack([labels, *others]), 4, 0)).all() and len(others) == 2
    assert seen[-1].replicas[0] == seen[-1].replicas[1] > 0 and len(seen[-1].records) == 8
    score, steps = summary["trials"][0]["score"], [step for step, _ in summary["trials"][0]["history"]]
    assert steps[-1] == 10 and steps == sorted(set(steps)) and summary["trials"][0]["history"][-1][1] == score

    written = {path: path.stat().st_mtime_ns for path in (out / "trials").rglob("record.json")}
    monkeypatch.setattr(graph, "null_scores", None)  # nor is it asked again what noise scores
    again = tune(settings)
    assert {path: path.stat().st_mtime_ns for path in (out / "trials").rglob("record.json")} == written
    assert again == summary


@pytest.mark.slow
def test_labels_change_nothing(tmp_path: Path) -> None:
    x, y = rows()
    found = []
    for name, labels in (("true", y), ("permuted", np.random.default_rng(1).permutation(y))):
        np.savez(tmp_path / f"{name}.npz", X=x, y=labels)
        settings = asked(str(tmp_path / f"{name}.npz"), tmp_path / name, space="idec", trials=1, replicas=1)
        found.append(tune(settings))
    assert table(found[0]) == table(found[1])
    assert found[0]["winner"]["weights"] == found[1]["winner"]["weights"]
    assert found[0]["criteria"] == found[1]["criteria"]


@pytest.mark.slow
def test_labels_change_nothing_through_the_command_line(tmp_path: Path) -> None:
    """A column of labels that is named, and its permutation: same trials, same winner, same weights."""
    x, y = rows()
    found = []
    for name, labels in (("true", y), ("permuted", np.random.default_rng(1).permutation(y))):
        frame = pd.DataFrame(x, columns=[f"f{i}" for i in range(x.shape[1])]).assign(species=labels)
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        options = ["--label-column", "species", "--space", "any", "--n-clusters", "2..6", "--trials", "2"]
        options += ["--concurrent", "0", "--replicas", "1", "--tracking-uri", f"sqlite:///{tmp_path}/{name}.db"]
        short = [part for path, value in SHORT.items() for part in ("--set", f"{path}={value}")]
        where = ["--data", str(tmp_path / f"{name}.csv"), "--out", str(tmp_path / name)]
        assert main(["tune", *where, *options, *short]) == 0
        found.append(json.loads((tmp_path / name / "search.json").read_text()))
    for summary in found:
        for entry in (summary["winner"], *summary["trials"], *summary["replicas"]):
            entry["settings"] = {k: v for k, v in entry["settings"].items() if k not in ("data.path", "output.out")}
            del entry["seconds"]
    for key in ("winner", "trials", "replicas", "criteria", "k curve", "clusters", "structure"):
        assert found[0][key] == found[1][key], key


SHORT = {"method.pretrain.length": "2 epochs", "method.cluster.length": "2 epochs"}


@pytest.mark.slow
def test_the_number_of_clusters_is_found(data: str, tmp_path: Path) -> None:
    summary = tune(asked(data, tmp_path / "out", n_clusters="2..9", trials=6))
    assert summary["winner"]["n_clusters"] == 4
    curve = summary["k curve"]["raw k-means"]
    assert max(curve, key=lambda k: curve[k]) == "4" and set(curve) == {str(k) for k in range(2, 10)}
    assert len({entry["n_clusters"] for entry in summary["trials"]}) > 2


def test_the_curve_leaves_out_no_number_beside_the_best(data: str, tmp_path: Path) -> None:
    few = kmeans_curve(prepare(asked(data, tmp_path / "out", n_clusters="2..18")))
    assert [*few] == [*range(2, 19)]
    many = kmeans_curve(prepare(asked(data, tmp_path / "out", n_clusters="2..60")))
    best = max(many, key=lambda k: many[k])
    assert [*many] == sorted(many) and {2, best - 1, best, best + 1, 60} <= set(many) and len(many) < 40
    assert halfway({2: 0.1, 10: 0.5, 19: 0.3, 40: 0.9, 60: 0.2}) == [29, 50]
    assert halfway({9: 0.1, 10: 0.5, 11: 0.3}) == halfway({2: 0.5}) == []


def test_a_third_of_the_trials_are_trained_at_full_length(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However bad they are: with 12 of 12 stopped early, nothing but the default was ever finished."""
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda trial: True)
    context = prepare(asked(data, tmp_path / "out", trials=6))
    first = [{"method.name": "kmeans", "method.n_clusters": 4}]
    planner = Planner(context, lambda trial, rows: {"method.name": "dec"}, first, optuna.create_study(), SearchWatch())
    for trial_id in map(str, range(7)):
        assert planner.suggest(trial_id)["number"] == int(trial_id)
        for rung in (3, 6):
            planner.on_trial_result(trial_id, {"rung": rung, "score": 0.5})
    asked_to_stop = [number for number in range(7) if context.store.exists(f"trials/{number:04d}/{STOP}")]
    assert asked_to_stop == [1, 2, 3, 4]


@pytest.mark.slow
def test_noise_has_no_structure(tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).standard_normal((240, 8)).astype(np.float32))
    summary = tune(asked(str(tmp_path / "noise.npy"), tmp_path / "out"))
    assert not summary["structure"]
    assert any(note.startswith("no structure") for note in summary["notes"])
    page.write(summary, {}, Store(str(tmp_path / "page")))
    told = (tmp_path / "page" / "index.html").read_text()
    assert told.index(words.NO_STRUCTURE) < told.index(words.told(summary["verdict"]))


def test_a_worse_trial_is_stopped_and_keeps_its_score(data: str, tmp_path: Path) -> None:
    context = prepare(asked(data, tmp_path / "out", space="dec"))
    task = Task(4, 0, {"method.name": "dec", "method.n_clusters": 4})
    scores = []

    def report(rung: int, score: float) -> None:
        scores.append(score)
        if rung >= 3:
            context.store.write_text(f"{task.folder}/{STOP}", "in the worse half")

    record = run_task(context, task, report)
    assert record is not None and (record.status, record.problems) == ("stopped", ["in the worse half"])
    assert record.score == scores[-1] and len(scores) < 9
    assert Record.read(context.store, 4) == record
    assert not context.store.exists("trials/0004/run/checkpoints")


def test_a_trial_with_an_empty_cluster_is_scored(data: str, tmp_path: Path) -> None:
    """One of 20 without rows: an ACC of .55 once counted for less than the .46 of k-means."""
    context = prepare(asked(data, tmp_path / "out", n_clusters=20))
    record = Record(0, 0, {"method.name": "dec"}, "finished", n_clusters=20)
    labels = np.arange(240) * 19 // 240
    _judge(context, record, labels, None)
    assert (record.status, record.problems) == ("finished", ["1 of 20 clusters have no rows"])
    assert record.score == graph.neighbour_score(labels, context.graph)
    one = Record(1, 0, {"method.name": "dec"}, "finished", n_clusters=20)
    _judge(context, one, np.zeros(240, np.int64), None)
    assert (one.status, one.score, one.problems) == ("guarded", graph.WORST_SCORE, ["all rows are in one cluster"])


def test_a_trial_is_judged_by_the_model_that_it_leaves(data: str, tmp_path: Path) -> None:
    """Batch norm: were the model in training mode, asking for features would change the labels asked for after."""
    context = prepare(asked(data, tmp_path / "out", space="imsat"))
    task = Task(4, 0, {"method.name": "imsat", "method.n_clusters": 4, "method.cluster.length": "3 epochs"})
    assert run_task(context, task, lambda rung, score: None) is not None
    left = ClusteringModel.load(tmp_path / "out" / task.folder / "run" / "model")
    labels, features = (np.load(tmp_path / "out" / task.folder / f"{name}.npy") for name in ("labels", "features"))
    assert (labels == left.predict(rows()[0])).all()
    assert np.allclose(features, left.transform(rows()[0]), atol=1e-5)


def test_flags_take_the_first_that_says_something(tmp_path: Path) -> None:
    store = Store(tmp_path)
    flags = Flags(store, "trials/0001")
    assert flags.reason(always=True) == ""
    store.write_text(STOP, "")
    store.write_text(f"trials/0001/{STOP}", "out of time")
    assert flags.reason() == "" and flags.reason(always=True) == "out of time"


def test_a_trial_that_waits_for_room_sees_its_flag(tmp_path: Path) -> None:
    store = Store(tmp_path)
    watch = FlagWatch(flags=Flags(store, "trials/0001"))
    assert not watch.stopping()
    store.write_text(STOP, "interrupted")
    time.sleep(0.25)
    assert watch.stopping()


def test_replicas_of_opponents_come_first_and_none_gets_two_before_all_have_one(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = prepare(asked(data, tmp_path / "out"))
    first = [{"method.name": "dec"}, {"method.name": "kmeans"}]
    planner = Planner(context, lambda trial, rows: {}, first, optuna.create_study(), SearchWatch())
    planner.records = {number: Record(number, 0, {}, "finished") for number in range(4)}
    monkeypatch.setattr("raydc.search.planner.chosen_finalists", lambda *args: [3, 0, 2, 1])
    Record(2, 1, {}, "guarded").write(context.store)
    found = [(task.number, task.replica) for task in planner._replicas()]
    assert found == [(1, 1), (0, 1), (3, 1), (1, 2), (0, 2), (3, 2), (2, 2)]


def test_replicas_take_their_own_rows(data: str, tmp_path: Path) -> None:
    context = prepare(asked(data, tmp_path / "out"))
    point = {"method.name": "kmeans", "method.n_clusters": 4}
    first, second = (context.kept(Task(1, replica, point)) for replica in (1, 2))
    assert first.sum() == second.sum() == 192 and (first != second).any()
    assert context.kept(Task(1, 0, point)).all()
    job = context.job(Task(1, 1, point))
    assert job.profile.rows == 192
    from raydc.data import load_shard

    shard = load_shard(job.source, job.profile, job.scaling, [job.profile.groups], 0)  # type: ignore[arg-type]
    assert (shard.ids == np.flatnonzero(first)).all()


def test_a_subsample_of_rows_some_of_which_were_dropped(tmp_path: Path) -> None:
    x = rows()[0]
    x[[3, 100]] = np.nan
    np.save(tmp_path / "rows.npy", x)
    settings = asked(str(tmp_path / "rows.npy"), tmp_path / "out")
    context = prepare(settings.model_copy(update={"data": settings.data.model_copy(update={"on_bad_row": "drop"})}))
    keep = np.ones(238, bool)
    keep[[0, 3, 237]] = False
    found = subsample(context.profile, keep)
    assert found.dropped_rows.tolist() == [0, 3, 4, 100, 239] and found.rows == 235
    assert sum(map(len, found.groups)) == 235


def test_rows_are_kept_by_id_where_the_model_cannot_be_asked(tmp_path: Path) -> None:
    x = rows()[0]
    x[[3, 100]] = np.nan
    np.savez(tmp_path / "rows.npz", X=x, id=np.arange(1000, 1240))
    settings = asked(str(tmp_path / "rows.npz"), tmp_path / "out", evaluation_rows=50)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"on_bad_row": "drop"})})
    context = prepare(settings)
    own, other = np.arange(50) % 4, (np.arange(50) + 1) % 4
    other[0] = own[0]
    _write_evaluated(context, range(4), own, [other])
    kept = pa.concat_tables(read(f"{settings.out}/assignments"))
    assert kept["row"].to_pylist() == (np.array(kept["id"]) - 1000).tolist() and len(kept) == 50
    assert kept["row"].to_pylist() == sorted(kept["row"].to_pylist()) and not {3, 100} & set(kept["row"].to_pylist())
    assert kept["agreement"].to_pylist() == [0] + [1] * 49 and kept["membership"].null_count == 50
    assert kept["cluster"].to_pylist() == own.tolist()


def test_the_default_comes_first_once(data: str, tmp_path: Path) -> None:
    context = prepare(asked(data, tmp_path / "out"))
    names = [point["method.name"] for point in baselines(context, "kmeans", kmeans_curve(context))]
    assert names == [*BASELINES]


def test_a_trial_whose_model_is_gone_is_left_out(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", trials=1, replicas=1)
    first = tune(settings)
    models = {str(path.parent) for path in (tmp_path / "out").glob("trials/*/run/model/model.json")}
    assert len(models) == 6  # of all that finished, for any may be among the best when there are more
    gone = first["winner"]["number"]
    shutil.rmtree(tmp_path / "out" / f"trials/{gone:04d}/run")
    more = tune(settings.model_copy(update={"trials": 2}))
    assert more["winner"]["number"] != gone
    assert (
        f"trial {gone} ({first['winner']['method']}) is left out: its model is gone from trials/{gone:04d}"
        in more["notes"]
    )


def test_a_model_that_is_asked_follows_one_that_cannot_be(data: str, tmp_path: Path) -> None:
    context = prepare(asked(data, tmp_path / "out"))
    record = run_task(context, Task(0, 0, {"method.name": "kmeans", "method.n_clusters": 4}), lambda rung, score: None)
    own = np.load(tmp_path / "out" / "trials" / "0000" / "labels.npy").astype(np.int64)
    _write_evaluated(context, range(4), own, [])
    assert record is not None
    stop = threading.Event()
    stop.set()
    with pytest.raises(SearchInterrupted):
        _write_model(context, record, own, [], [], LabelMap.plain(4), stop)
    _write_model(context, record, own, [], [], LabelMap.plain(4))
    again = pa.concat_tables(read(f"{tmp_path}/out/assignments"))
    assert again["cluster"].to_pylist() == own.tolist() and (tmp_path / "out/assignments/_assignment.json").exists()


def test_importance_is_that_of_finished_trials(tmp_path: Path) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(20):
        asked_for = study.ask()
        value = asked_for.suggest_float("method.nu", 0, 1)
        asked_for.suggest_float("method.other", 0, 1)
        asked_for.set_user_attr("method", "dec")
        asked_for.set_user_attr("status", "guarded" if number % 2 else "finished")
        study.tell(asked_for, -1.0 if number % 2 else value)
    finished = SimpleNamespace(study=study)
    assert importance(finished)["method.nu"] > 0.5  # type: ignore[arg-type]
    for told in study.get_trials(deepcopy=False)[:6]:
        told.user_attrs["status"] = "stopped"
    assert importance(finished) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "others, there, expected",
    [
        ({}, {"CPU": 8.0}, ({"CPU": 1.0}, 8)),
        ({}, {"CPU": 8.0, "GPU": 2.0}, ({"CPU": 1.0, "GPU": 1.0}, 2)),
        ({"gpus_per_trial": 0.1}, {"CPU": 8.0, "GPU": 0.6}, ({"CPU": 1.0, "GPU": 0.1}, 6)),
        ({"gpus_per_trial": 0}, {"CPU": 8.0, "GPU": 2.0}, ({"CPU": 1.0}, 8)),
        ({"device": "cpu"}, {"CPU": 8.0, "GPU": 2.0}, ({"CPU": 1.0}, 8)),
        ({"threads": "4"}, {"CPU": 8.0, "GPU": 4.0}, ({"CPU": 4.0, "GPU": 1.0}, 2)),
        ({"workers_per_trial": 3}, {"CPU": 8.0, "GPU": 2.0}, ({"CPU": 0.01}, 2)),
        ({"workers_per_trial": 4}, {"CPU": 8.0}, ({"CPU": 0.01}, 1)),
        ({"workers_per_trial": 2}, {"CPU": 32.0, "GPU": 5.0}, ({"CPU": 0.01}, 2)),
        ({"workers_per_trial": 2, "threads": 4}, {"CPU": 32.0, "GPU": 1.0}, ({"CPU": 0.01}, 3)),
        ({"workers_per_trial": 2, "device": "cpu"}, {"CPU": 32.0, "GPU": 5.0}, ({"CPU": 0.01}, 15)),
        ({"workers_per_trial": 2}, {"CPU": 2.0}, "a trial needs 2.01 CPUs"),  # once waited half an hour for room
        ({"device": "cuda"}, {"CPU": 8.0}, "gpus_per_trial"),
        ({"device": "cuda", "gpus_per_trial": 0}, {"CPU": 8.0, "GPU": 1.0}, "gpus_per_trial"),
    ],
)
def test_a_trial_reserves_a_gpu_where_there_are_any(data, tmp_path, others, there, expected) -> None:
    fixed = {f"training.{name}": others[name] for name in ("device", "threads") if name in others}
    others = {name: value for name, value in others.items() if f"training.{name}" not in fixed}
    settings = asked(data, tmp_path / "out", **{"concurrent": None, **others}, fixed=fixed)
    if isinstance(expected, str):
        with pytest.raises(SettingsError, match=expected):
            room(settings, there, grows=False)
        if settings.gpus_per_trial:
            reserved = {"CPU": 1.0, "GPU": 1.0} if settings.workers_per_trial == 1 else {"CPU": 0.01}
            assert room(settings, there, grows=True) == (reserved, 1)
    else:
        assert room(settings, there, grows=False) == expected


@pytest.mark.slow
def test_a_winner_keeps_the_ids_of_an_earlier_model(data: str, tmp_path: Path) -> None:
    table, (x, _) = {"space": "kmeans", "trials": 1, "n_clusters": "4"}, rows()
    tune(asked(data, tmp_path / "first", **table))
    wanted = Decisions(edits=(Rename(cluster=2, name="two"), Merge(clusters=(3, 0))))
    edit(str(tmp_path / "first"), wanted, out=str(tmp_path / "mended"))
    summary = tune(asked(data, tmp_path / "second", **table, seed=7, align_to=str(tmp_path / "mended")))
    model, earlier = (ClusteringModel.load(tmp_path / name) for name in ("second/model", "mended/model"))
    assert model.labels.cells.names == {2: "two"} and 0 not in model.clusters
    before, after = earlier.predict(x), model.predict(x)
    same = (before == 1) | (before == 2)
    assert (after[same] == before[same]).all() and min(after[~same]) >= 3
    assert sorted(entry["cluster"] for entry in summary["clusters"]) == [*model.clusters]
    assert "of mended keep their ids" in " ".join(summary["notes"]) and summary["aligned"]["split"]["3"]
    stored = pa.concat_tables(read(str(tmp_path / "second" / "assignments")))
    assert (stored["cluster"].to_numpy() == after).all()
