"""Whole searches on small rows: what they leave, labels that change nothing, kills, bad input, and the choice."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pyarrow as pa
import pytest

from raydc.assign import read
from raydc.data import DataError
from raydc.metrics.stability import row_agreement
from raydc.model import ClusteringModel
from raydc.search import SearchError, SearchInterrupted, SearchState, SearchWatch, TuneSettings, trial, tune
from raydc.search.context import Context, Task, baselines, kmeans_curve, prepare, subsample
from raydc.search.driver import Planner, open_study, room
from raydc.search.finish import _write_evaluated, _write_model, importance
from raydc.search.place import same_search
from raydc.search.trial import Flags, FlagWatch, Record, run_task
from raydc.settings import SettingsError
from raydc.storage import Occupied, Store

SPACES = Path(__file__).parents[1] / "tune_spaces"
FIXED = {
    "method.network.hidden": (16,),
    "method.denoise.length": "0 steps",
    "method.pretrain.length": "6 epochs",
    "method.cluster.length": "6 epochs",
    "method.cluster.tolerance": 0.0,
    "method.restarts": 3,
    "training.batch_size": 64,
}


def rows(groups: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows [240, 8] in as many groups, and their groups."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(groups), 240 // groups)
    return (4 * rng.standard_normal((groups, 8))[y] + rng.standard_normal((240, 8))).astype(np.float32), y


@pytest.fixture
def data(tmp_path: Path) -> str:
    x, y = rows()
    np.savez(tmp_path / "rows.npz", X=x, y=y)
    return str(tmp_path / "rows.npz")


def asked(data: str, out: Path, **others: Any) -> TuneSettings:
    values = {"data": {"path": data}, "space": str(SPACES / "kmeans.py"), "n_clusters": 4, "trials": 3, "fixed": FIXED}
    return TuneSettings(**{**values, "out": str(out), "concurrent": 0, **others})


def table(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials but for their times and places."""
    lines = [{key: value for key, value in entry.items() if key != "seconds"} for entry in summary["trials"]]
    for line in lines:
        line["settings"] = {k: v for k, v in line["settings"].items() if k not in ("data.path", "output.out")}
    return lines


def states(settings: TuneSettings) -> list[str]:
    return [t.state.name for t in open_study(prepare(settings)).get_trials()]


def test_a_search_leaves_everything_and_runs_once(data: str, tmp_path: Path) -> None:
    settings, out = asked(data, tmp_path / "out", space=str(SPACES / "dec.py"), trials=2), tmp_path / "out"
    seen: list[SearchState] = []
    summary = tune(settings, SearchWatch(seen.append))
    assert [entry["method"] for entry in summary["trials"]] == ["dec", "kmeans", "ae_kmeans", "ward", "dec", "dec"]
    assert states(settings) == ["COMPLETE"] * 6
    assert summary["structure"] and summary["winner"]["n_clusters"] == 4
    assert summary == json.loads((out / "search.json").read_text())
    model = ClusteringModel.load(out / "model")
    assert model.weights_hash() == summary["winner"]["weights"]
    labels = model.predict(rows()[0])
    assert len(np.unique(labels)) == 4
    assert [cluster["rows"] for cluster in model.notes["clusters"]] == np.bincount(labels).tolist()
    stored, asked_again = pa.concat_tables(read(str(out / "assignments"))), model.assign(rows()[0])
    assert stored["id"].to_pylist() == [*range(240)] and (stored["cluster"].to_numpy() == labels).all()
    assert (stored["confidence"].to_numpy() == asked_again.confidence).all()
    winner = summary["winner"]
    replicas = [Record.read(Store(out), winner["number"], r) for r in range(3) if r != winner["replica"]]
    others = [np.load(out / one.folder / "labels.npy") for one in replicas if one]
    assert (asked_again.confidence == row_agreement(np.stack([labels, *others]), 4, 0)).all() and len(others) == 2
    assert seen[-1].replicas[0] == seen[-1].replicas[1] > 0 and len(seen[-1].records) == 6
    score, steps = summary["trials"][0]["score"], [step for step, _ in summary["trials"][0]["history"]]
    assert steps[-1] == 10 and steps == sorted(set(steps)) and summary["trials"][0]["history"][-1][1] == score

    written = {path: path.stat().st_mtime_ns for path in (out / "trials").rglob("record.json")}
    again = tune(settings)
    assert {path: path.stat().st_mtime_ns for path in (out / "trials").rglob("record.json")} == written
    assert again == summary


@pytest.mark.slow
def test_labels_change_nothing(tmp_path: Path) -> None:
    x, y = rows()
    found = []
    for name, labels in (("true", y), ("permuted", np.random.default_rng(1).permutation(y))):
        np.savez(tmp_path / f"{name}.npz", X=x, y=labels)
        settings = asked(
            str(tmp_path / f"{name}.npz"), tmp_path / name, space=str(SPACES / "idec.py"), trials=1, replicas=1
        )
        found.append(tune(settings))
    assert table(found[0]) == table(found[1])
    assert found[0]["winner"]["weights"] == found[1]["winner"]["weights"]
    assert found[0]["criteria"] == found[1]["criteria"]


@pytest.mark.slow
def test_the_number_of_clusters_is_found(data: str, tmp_path: Path) -> None:
    summary = tune(asked(data, tmp_path / "out", n_clusters="2..9", trials=6))
    assert summary["winner"]["n_clusters"] == 4
    curve = summary["k curve"]["raw k-means"]
    assert max(curve, key=lambda k: curve[k]) == "4" and set(curve) == {str(k) for k in range(2, 10)}
    assert len({entry["n_clusters"] for entry in summary["trials"]}) > 2


@pytest.mark.slow
def test_noise_has_no_structure(tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).standard_normal((240, 8)).astype(np.float32))
    summary = tune(asked(str(tmp_path / "noise.npy"), tmp_path / "out"))
    assert not summary["structure"]
    assert any(note.startswith("no structure") for note in summary["notes"])


class Killed(BaseException):
    """As if the process were gone."""


@pytest.mark.parametrize(
    "moment", [pytest.param(1, marks=pytest.mark.slow), 6, pytest.param(9, marks=pytest.mark.slow)]
)
def test_a_killed_search_goes_on(data: str, tmp_path: Path, moment: int) -> None:
    settings = asked(data, tmp_path / "out")
    calls = []

    def die(state: SearchState) -> None:
        calls.append(state)
        if len(calls) == moment:
            raise Killed

    with pytest.raises(Killed):
        tune(settings, SearchWatch(die))
    records = [*(tmp_path / "out" / "trials").rglob("record.json")]
    written = {path: path.stat().st_mtime_ns for path in records}
    params = [t.params for t in open_study(prepare(settings)).get_trials()]
    summary = tune(settings)
    assert [entry["number"] for entry in summary["trials"]] == [*range(6)]
    assert states(settings) == ["COMPLETE"] * 6
    assert {path: path.stat().st_mtime_ns for path in records} == written
    after = [t.params for t in open_study(prepare(settings)).get_trials()]
    assert after[: len(params) - 1] == params[:-1] and after[len(params) - 1] | params[-1] == after[len(params) - 1]


@pytest.mark.slow
def test_a_search_that_was_asked_to_stop_goes_on(data: str, tmp_path: Path) -> None:
    settings, stop = asked(data, tmp_path / "out", space=str(SPACES / "dec.py")), threading.Event()

    def watch(state: SearchState) -> None:
        if len(state.records) == 2:
            stop.set()

    with pytest.raises(SearchInterrupted, match="same command goes on"):
        tune(settings, SearchWatch(watch, stop=stop))
    assert len(tune(settings)["trials"]) == 7
    assert states(settings) == ["COMPLETE"] * 7


@pytest.mark.slow
def test_new_points_after_a_restart(data: str, tmp_path: Path) -> None:
    space = str(SPACES / "ae_kmeans.py")
    first = tune(asked(data, tmp_path / "out", trials=4, space=space))
    more = tune(asked(data, tmp_path / "out", trials=8, space=space))
    assert [e["point"] for e in more["trials"][:7]] == [e["point"] for e in first["trials"]]
    widths = [entry["point"]["method.network.latent"] for entry in more["trials"] if not entry["baseline"]]
    assert len(widths) == 8 and widths[4:] != widths[:4]


@pytest.mark.slow
def test_a_killed_search_without_time_to_go_on(data: str, tmp_path: Path) -> None:
    settings, calls = asked(data, tmp_path / "out"), []

    def die(state: SearchState) -> None:
        calls.append(state)
        if len(calls) == 9:  # the fifth trial has begun
            raise Killed

    with pytest.raises(Killed):
        tune(settings, SearchWatch(die))
    late = settings.model_copy(update={"time_budget": 1e-6})
    try:
        tune(late)
    except SearchError as problem:
        pytest.fail(f"four trials were finished: {problem}")
    assert states(settings)[:4] == ["COMPLETE"] * 4 and states(settings)[4:] in (["RUNNING"], ["COMPLETE"])
    assert len(tune(settings)["trials"]) == 6
    assert states(settings) == ["COMPLETE"] * 6


@pytest.mark.slow
@pytest.mark.parametrize("place", ["search.asked", "epoch.clustering", "search.record", "search.told"])
def test_sigkill(data: str, tmp_path: Path, place: str) -> None:
    settings = asked(data, tmp_path / "out", space=str(SPACES / "dec.py"))
    code = (
        "import sys, torch\nfrom raydc.search import TuneSettings, tune\ntorch.set_num_threads(1)\n"
        "tune(TuneSettings.model_validate_json(sys.argv[1]))"
    )
    environment = os.environ | {"RAYDC_FAILPOINT": f"{place}:{tmp_path / 'marker'}"}
    command = [sys.executable, "-c", code, settings.model_dump_json()]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    records = [*(tmp_path / "out" / "trials").rglob("record.json")]
    written = {path: path.stat().st_mtime_ns for path in records}
    assert subprocess.run(command, env=environment, check=False).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in records} == written
    assert states(settings) == ["COMPLETE"] * 7


@pytest.mark.slow
def test_a_driver_killed_at_three_moments_of_twenty_trials(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", trials=17, seed=1)
    code = (
        "import sys, torch\nfrom raydc.search import TuneSettings, tune\ntorch.set_num_threads(1)\n"
        "tune(TuneSettings.model_validate_json(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, settings.model_dump_json()]
    written: dict[Path, int] = {}
    for finished in (2, 8, 15):
        driver = subprocess.Popen(command)
        while driver.poll() is None and len([*(tmp_path / "out").glob("trials/*/record.json")]) < finished:
            time.sleep(0.05)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
        records = [*(tmp_path / "out").rglob("trials/*/record.json")]
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in written.items())
        written = {path: path.stat().st_mtime_ns for path in records}
    summary = tune(settings)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in written.items())
    assert [entry["number"] for entry in summary["trials"]] == [*range(20)]
    assert states(settings) == ["COMPLETE"] * 20


def test_a_worse_trial_is_stopped_and_keeps_its_score(data: str, tmp_path: Path) -> None:
    context = prepare(asked(data, tmp_path / "out", space=str(SPACES / "dec.py")))
    task = Task(4, 0, {"method.name": "dec", "method.n_clusters": 4})
    scores = []

    def report(rung: int, score: float) -> None:
        scores.append(score)
        if rung >= 3:
            context.store.write_text(f"{task.folder}/stop", "in the worse half")

    record = run_task(context, task, report)
    assert record is not None and (record.status, record.problems) == ("stopped", ["in the worse half"])
    assert record.score == scores[-1] and len(scores) < 9
    assert Record.read(context.store, 4) == record
    assert not context.store.exists("trials/0004/run/checkpoints")


def test_a_trial_is_judged_by_the_model_that_it_leaves(data: str, tmp_path: Path) -> None:
    """Batch norm: were the model in training mode, asking for features would change the labels asked for after."""
    context = prepare(asked(data, tmp_path / "out", space=str(SPACES / "imsat.py")))
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
    store.write_text("stop", "")
    store.write_text("trials/0001/stop", "out of time")
    assert flags.reason() == "" and flags.reason(always=True) == "out of time"


def test_a_trial_that_waits_for_room_sees_its_flag(tmp_path: Path) -> None:
    store = Store(tmp_path)
    watch = FlagWatch(flags=Flags(store, "trials/0001"))
    assert not watch.stopping()
    store.write_text("stop", "interrupted")
    time.sleep(0.25)
    assert watch.stopping()


def test_replicas_of_opponents_come_first_and_none_gets_two_before_all_have_one(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = prepare(asked(data, tmp_path / "out"))
    first = [{"method.name": "dec"}, {"method.name": "kmeans"}]
    planner = Planner(context, lambda trial, rows: {}, first, optuna.create_study(), SearchWatch())
    planner.records = {number: Record(number, 0, {}, "finished") for number in range(4)}
    monkeypatch.setattr("raydc.search.driver.chosen_finalists", lambda *args: [3, 0, 2, 1])
    Record(2, 1, {}, "guarded").write(context.store)
    found = [(task.number, task.replica) for task in planner._replicas()]
    assert found == [(1, 1), (0, 1), (3, 1), (1, 2), (0, 2), (3, 2), (2, 2)]


def test_time_is_kept_through_a_full_disk(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, tried = prepare(asked(data, tmp_path / "out", time_budget=0.1)), []
    planner = Planner(context, lambda trial, rows: {}, [], optuna.create_study(), SearchWatch())
    planner.tasks["a"] = Task(7, 0, {})

    def write(store: Store, name: str, text: str) -> None:
        tried.append((name, text))
        if len(tried) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Store, "write_text", write)
    over = threading.Event()
    thread = threading.Thread(target=planner.ask_to_stop, args=(over,), daemon=True)
    thread.start()
    time.sleep(1.5)
    over.set()
    thread.join()
    assert tried == [("trials/0007/stop", "out of time")] * 3


def test_replicas_take_their_own_rows(data: str, tmp_path: Path) -> None:
    context = prepare(asked(data, tmp_path / "out"))
    point = {"method.name": "kmeans", "method.n_clusters": 4}
    first, second = (context.kept(Task(1, replica, point)) for replica in (1, 2))
    assert first.sum() == second.sum() == 192 and (first != second).any()
    assert context.kept(Task(1, 0, point)).all()
    job = context.job(Task(1, 1, point))
    assert job.survey.rows == 192
    from raydc.data import load_shard

    shard = load_shard(job.source, job.survey, job.scaling, [job.survey.groups], 0)  # type: ignore[arg-type]
    assert (shard.ids == np.flatnonzero(first)).all()


def test_a_subsample_of_rows_some_of_which_were_dropped(tmp_path: Path) -> None:
    x = rows()[0]
    x[[3, 100]] = np.nan
    np.save(tmp_path / "rows.npy", x)
    settings = asked(str(tmp_path / "rows.npy"), tmp_path / "out")
    context = prepare(settings.model_copy(update={"data": settings.data.model_copy(update={"on_bad_row": "drop"})}))
    keep = np.ones(238, bool)
    keep[[0, 3, 237]] = False
    found = subsample(context.survey, keep)
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
    _write_evaluated(context, 4, own, [other])
    kept = pa.concat_tables(read(f"{settings.out}/assignments"))
    assert kept["row"].to_pylist() == (np.array(kept["id"]) - 1000).tolist() and len(kept) == 50
    assert (np.array(kept["row"])[[0, -1]] == [0, 239]).all() and not {3, 100} & set(kept["row"].to_pylist())
    assert kept["confidence"].to_pylist() == [0] + [1] * 49 and kept["cluster"].to_pylist() == own.tolist()


def test_the_default_comes_first_once(data: str, tmp_path: Path) -> None:
    context = prepare(asked(data, tmp_path / "out"))
    names = [point["method.name"] for point in baselines(context, "kmeans", kmeans_curve(context))]
    assert names == ["kmeans", "ae_kmeans", "ward"]


@pytest.mark.slow
def test_settings_that_tell_nothing_apart(data: str, tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text(
        "def space(trial):\n    trial.suggest_int('method.iterations', 99, 300)\n    return {'method.name': 'kmeans'}\n"
    )
    summary = tune(
        asked(
            data,
            tmp_path / "out",
            space=str(tmp_path / "space.py"),
        )
    )
    assert any("does not tell these settings apart" in note for note in summary["notes"])
    assert summary["winner"]["number"] == 0


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"fixed": {"method.restart": 3}}, r"method.restart: no such setting; did you mean method.restarts\?"),
        ({"fixed": {"output.out": "x"}}, "output.out: expected method"),
        ({"fixed": {"training.batch_size": "abc"}}, "training.batch_size: .*'abc'"),
        ({"fixed": {"training.precision": "fp8"}}, "training.precision: .*'fp8'"),
        ({"fixed": {"method.restarts": 0}}, "method.restarts"),
        ({"space": "none.py"}, "no file none.py"),
        ({"n_clusters": 300}, "cannot form 300 clusters"),
        (
            {"n_clusters": "4..60"},
            "240 evaluation rows cannot form 60 clusters of the 5 .* evaluation_rows=300 or more",
        ),
        ({"reference": "none.npy"}, "reference: none.npy cannot be read"),
    ],
)
def test_bad_input_before_any_work(data: str, tmp_path: Path, others: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tune(asked(data, tmp_path / "out", **others))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_clusters": "ten"}, "such as 10"),
        ({"n_clusters": "9..2"}, "ascends"),
        ({"time_budget": "soon"}, "such as 90s"),
        ({"out": "s3://bucket/x"}, "local directory"),
        ({"concurrent": 0, "workers_per_trial": 2}, "without Ray"),
    ],
)
def test_bad_settings(data: str, tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        asked(data, **({"out": tmp_path / "out"} | given))


def test_settings_as_text(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", n_clusters="2..30", time_budget="2h", fixed={})
    assert (settings.n_clusters, settings.time_budget) == ((2, 30), 7200)
    assert TuneSettings.model_validate_json(settings.model_dump_json()) == settings


def test_an_unreachable_study(data: str, tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"cannot open Optuna's storage .*nowhere") as problem:
        tune(asked(data, tmp_path / "out", study=f"sqlite:///{tmp_path}/nowhere/study.db"))
    assert "\n" not in str(problem.value)
    with pytest.raises(SearchError) as problem:
        tune(asked(data, tmp_path / "out2", study="nosuch://user:secret@localhost/study"))
    assert "secret" not in str(problem.value)


def test_searches_alike_share_a_storage_and_no_study(data: str, tmp_path: Path) -> None:
    first, second = (
        prepare(asked(data, tmp_path / name, study=str(tmp_path / "study.journal"))) for name in ("first", "second")
    )
    for context in (first, second):
        same_search(context, context.settings)
    open_study(first).ask()
    assert [len(open_study(context).get_trials()) for context in (first, second)] == [1, 0]


@pytest.mark.slow
def test_a_journal_keeps_the_study(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", study=str(tmp_path / "study.journal"))
    tune(settings)
    assert (tmp_path / "study.journal").exists() and states(settings) == ["COMPLETE"] * 6


def test_all_trials_failing(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("the network has burnt down")

    monkeypatch.setattr(trial, "_trained", fail)
    with pytest.raises(
        SearchError, match=r"no trial succeeded:\n  trial 0 \(kmeans\), failed: .*burnt down"
    ) as problem:
        tune(asked(data, tmp_path / "out"))
    assert "what is finished is kept" in str(problem.value)
    found = states(asked(data, tmp_path / "out"))
    assert found.count("FAIL") == 5 and found.count("COMPLETE") == 1  # Ward is no network


def test_trials_lost_to_machines_are_tried_again(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, train = asked(data, tmp_path / "out"), trial._trained

    def lose(context: Context, task: Task, *others: Any) -> Any:
        if (task.number, task.replica) in ((0, 0), (1, 1)):
            raise MemoryError("no more")
        if task.number == 3:
            raise KeyError("a method's own mistake")
        return train(context, task, *others)

    monkeypatch.setattr(trial, "_trained", lose)
    summary = tune(settings)
    assert [entry["status"] for entry in summary["trials"]] == ["lost", *["finished"] * 2, "failed", *["finished"] * 2]
    assert "trial 0 (kmeans) was lost, and is tried again by the same command: MemoryError: no more" in summary["notes"]
    assert 'trial 3 (kmeans) failed: KeyError: "a method\'s own mistake"' in summary["notes"]
    assert "the winner was not compared with the simpler trial 0 (lost: MemoryError: no more)" in summary["notes"]
    assert states(settings) == ["RUNNING", *["COMPLETE"] * 2, "FAIL", *["COMPLETE"] * 2]
    monkeypatch.undo()
    again = tune(settings)
    assert [entry["status"] for entry in again["trials"]] == [*["finished"] * 3, "failed", *["finished"] * 2]
    assert "lost" not in {entry["status"] for entry in again["replicas"]}


def test_a_trial_whose_model_is_gone_is_left_out(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", trials=1, replicas=1)
    first = tune(settings)
    models = {str(path.parent) for path in (tmp_path / "out").glob("trials/*/run/model/model.json")}
    assert len(models) == 3  # of all that finished, for any may be among the best when there are more
    gone = first["winner"]["number"]
    shutil.rmtree(tmp_path / "out" / f"trials/{gone:04d}/run")
    more = tune(settings.model_copy(update={"trials": 2}))
    assert more["winner"]["number"] != gone
    assert (
        f"trial {gone} ({first['winner']['method']}) is left out: its model is gone from trials/{gone:04d}"
        in more["notes"]
    )


def test_a_budget_too_short(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", space=str(SPACES / "dec.py"), time_budget=0.05)
    with pytest.raises(SearchError, match=r"time budget of 0.05 s is too short for one trial"):
        tune(settings)
    assert not [*(tmp_path / "out").rglob("record.json")]
    assert set(states(settings)) <= {"RUNNING"}, "one that had begun goes on; on a slow machine none had"
    again = tune(settings.model_copy(update={"time_budget": None}))
    assert len(again["trials"]) == 7 and "out of time" not in str(again["trials"])
    assert states(settings) == ["COMPLETE"] * 7


@pytest.mark.slow
def test_another_search_in_the_directory(data: str, tmp_path: Path) -> None:
    tune(asked(data, tmp_path / "out", trials=1))
    with pytest.raises(SettingsError, match=r"holds another search: seed was 0 and is 1"):
        tune(asked(data, tmp_path / "out", trials=1, seed=1))
    x, y = rows()
    np.savez(data, X=x + 1, y=y)
    with pytest.raises(DataError, match=r"holds a search over other rows:\nchanged: .*rows.npz\nPut them back"):
        tune(asked(data, tmp_path / "out", trials=1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(SettingsError, match="holds other files"):
        tune(asked(data, tmp_path / "other"))


def test_another_reference_of_the_same_name(data: str, tmp_path: Path) -> None:
    path = str(tmp_path / "reference.npy")
    settings = asked(data, tmp_path / "out", reference=path)
    np.save(path, rows()[0])
    context = prepare(settings)
    assert np.array_equal(context.reference, rows()[0])
    same_search(context, settings)
    same_search(prepare(settings), settings)
    np.save(path, rows(seed=1)[0])
    with pytest.raises(
        SettingsError, match=r"reference was .*npy, 240 rows, sha256 \w+ and is .*npy, 240 rows, sha256"
    ):
        same_search(prepare(settings), settings)


def test_a_model_that_is_asked_follows_one_that_cannot_be(data: str, tmp_path: Path) -> None:
    context = prepare(asked(data, tmp_path / "out"))
    record = run_task(context, Task(0, 0, {"method.name": "kmeans", "method.n_clusters": 4}), lambda rung, score: None)
    own = np.load(tmp_path / "out" / "trials" / "0000" / "labels.npy").astype(np.int64)
    _write_evaluated(context, 4, own, [])
    assert record is not None
    stop = threading.Event()
    stop.set()
    with pytest.raises(SearchInterrupted):
        _write_model(context, record, own, [], [], stop)
    _write_model(context, record, own, [], [])
    again = pa.concat_tables(read(f"{tmp_path}/out/assignments"))
    assert again["cluster"].to_pylist() == own.tolist() and (tmp_path / "out/assignments/assignment.json").exists()


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


@pytest.mark.slow
def test_two_drivers(data: str, tmp_path: Path) -> None:
    settings, second = asked(data, tmp_path / "out", trials=1), []

    def again(state: SearchState) -> None:
        if not second:
            with pytest.raises(Occupied, match=r"in use by process \d+ on .* since 20") as problem:
                tune(settings)
            second.append(problem)

    tune(settings, SearchWatch(again))
    assert second


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
            assert room(settings, there, grows=True) == ({"CPU": 1.0, "GPU": 1.0}, 1)
    else:
        assert room(settings, there, grows=False) == expected
