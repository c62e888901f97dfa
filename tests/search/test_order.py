"""In which order trials are run, and what the first and the last of them are told to be."""

from pathlib import Path
from typing import Any

import optuna
import pytest

from raydc.search import SearchWatch
from raydc.search.cost import BASELINE_STEPS, capped, work
from raydc.search.evaluation import Context, Task, prepare
from raydc.search.planner import Planner
from raydc.search.trial import STOP, Record, run_task
from tests.support.searches import FIXED, asked, written

BASELINES = [
    {"method.name": "dec", "method.n_clusters": 4},
    {"method.name": "kmeans", "method.n_clusters": 4},
    {"method.name": "ae_kmeans", "method.n_clusters": 4},
    {"method.name": "ward", "method.n_clusters": 4},
]


@pytest.fixture
def data(tmp_path: Path) -> str:
    return written(tmp_path)


def context_of(data: str, tmp_path: Path, **others: Any) -> Context:
    return prepare(asked(data, tmp_path / "out", **others))


def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))


def choosing(trial: Any, rows: Any) -> dict[str, Any]:
    """One of three methods, dear ones first."""
    name = trial.suggest_categorical("method.name", ["dec", "imsat", "kmeans"])
    if name == "dec":
        trial.suggest_float("method.nu", 0.5, 2.0)
    return {}


def told(planner: Planner, trial_id: str, score: float = 0.5) -> Task:
    """What the planner plans next, done at once with this score."""
    config = planner.suggest(trial_id)
    task = Task(config["number"], config["replica"], config["point"])
    k = int(task.point.get("method.n_clusters", 4))
    Record(task.number, 0, task.point, "finished", score, n_clusters=k).write(planner.context.store)
    planner.on_trial_complete(trial_id)
    return task


def test_work_is_that_of_steps_and_rows_and_none_without_a_network(data: str, tmp_path: Path) -> None:
    context = context_of(data, tmp_path, fixed={})
    point = {"method.name": "dec", "method.n_clusters": 4}
    assert work(context, point | {"method.name": "kmeans"}) == 0
    short, long = (work(context, point | {"method.pretrain.length": f"{n} epochs"}) for n in (10, 100))
    assert 0 < short < long < float("inf")
    assert work(context, point | {"method.network.hidden": (16,)}) < work(context, point)
    assert work(context, {"method.name": "depict", "method.unknown": 1}) == float("inf")


def test_the_autoencoder_that_every_search_trains_has_a_cap(data: str, tmp_path: Path) -> None:
    """A whole recipe of it took 110 to 206 s of searches of minutes."""
    context = context_of(data, tmp_path, fixed={})
    long = [{"method.name": "ae_kmeans", "method.n_clusters": 4}] * 2
    default, baseline = capped(context, long, 100)
    assert default == long[0]
    lengths = {path: length for path, length in baseline.items() if path.endswith(".length")}
    assert "method.pretrain.length" in lengths and sum(int(length.split()[0]) for length in lengths.values()) == 100
    fixed = context_of(data, tmp_path, fixed=FIXED)
    assert capped(fixed, BASELINES) == BASELINES and BASELINE_STEPS >= 100


def test_cheap_trials_are_run_first_and_each_method_has_one(data: str, tmp_path: Path) -> None:
    context = context_of(data, tmp_path, trials=5)
    planner = Planner(context, choosing, BASELINES, study(), SearchWatch())
    run = [told(planner, str(at)) for at in range(9)]
    context.store.write_text("trials/0003/run/model/model.json", "")  # ward's, which is then to be trained anew
    works = [work(context, task.point) for task in run]
    assert works == sorted(works) and run[0].point["method.name"] == "kmeans"
    suggested = sorted((task.number, task.point["method.name"]) for task in run if task.number > 3)
    assert [name for _, name in suggested[:3]] == ["kmeans", "imsat", "dec"]
    assert planner.suggest("end") != "FINISHED" and planner.queue is not None


def test_integers_next_to_the_best_are_all_tried(data: str, tmp_path: Path) -> None:
    context = context_of(data, tmp_path, trials=16, n_clusters="2..24", space="dec")

    def space(trial: Any, rows: Any) -> dict[str, Any]:
        trial.suggest_float("method.nu", 0.5, 2.0)
        return {"method.name": "dec"}

    planner = Planner(context, space, BASELINES, study(), SearchWatch())
    tried: dict[int, dict[str, Any]] = {}
    for at in range(20):
        config = planner.suggest(str(at))
        k = config["point"]["method.n_clusters"]
        score = 0.9 - abs(k - 7) / 10
        Record(config["number"], 0, config["point"], "finished", score, n_clusters=k).write(context.store)
        planner.on_trial_complete(str(at))
        tried[config["number"]] = config["point"]
    suggested = {n: point for n, point in tried.items() if n > 3}
    best = max(suggested, key=lambda n: -abs(suggested[n]["method.n_clusters"] - 7))
    center, walked = suggested[best]["method.n_clusters"], {n: p for n, p in suggested.items() if n > 15}
    assert {center - 1, center, center + 1} <= {point["method.n_clusters"] for point in suggested.values()}
    before = {point["method.n_clusters"] for n, point in suggested.items() if n <= 15}
    assert not before & {point["method.n_clusters"] for point in walked.values()}
    assert all(
        point["method.nu"] in {p["method.nu"] for n, p in suggested.items() if n <= 15} for point in walked.values()
    )


def test_a_driver_killed_between_prescribing_and_asking_asks_once(data: str, tmp_path: Path) -> None:
    context, known = context_of(data, tmp_path, trials=3), study()
    known.enqueue_trial({"method.name": "kmeans"})
    planner = Planner(context, choosing, [], known, SearchWatch())
    run = [told(planner, str(at)) for at in range(3)]
    assert sorted(task.number for task in run) == [0, 1, 2] == [trial.number for trial in known.get_trials()]
    assert {task.point["method.name"] for task in run} == {"dec", "imsat", "kmeans"}


def test_trials_without_time_or_memory_are_told_apart(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(data, tmp_path)
    point = {"method.name": "dec", "method.n_clusters": 4}

    def late(rung: int, score: float) -> None:
        context.store.write_text(f"trials/0001/{STOP}", "out of time")

    record = run_task(context, Task(1, 0, point), late)
    assert record is not None and (record.status, record.over) == ("out of time", False)
    assert "% of its training; it goes on with the same command" in record.problems[0]
    context.store.write_text(f"trials/0001/{STOP}", "")
    again = run_task(context, Task(1, 0, point), lambda rung, score: None)
    assert again is not None and again.status == "finished" and again.history[0][0] > record.history[0][0]

    def fail(self: Context, task: Task) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(Context, "job", fail)
    record = run_task(context, Task(2, 0, point), lambda rung, score: None)
    assert record is not None and (record.status, record.over) == ("out of memory", False)


def test_early_stopping_counts_those_that_fail(data: str, tmp_path: Path) -> None:
    """Else all that it leaves may fail, and nothing is trained at full length."""
    planner = Planner(context_of(data, tmp_path, trials=6), choosing, BASELINES, study(), SearchWatch())
    planner.cut = {4, 5}
    assert planner._may_be_cut(9)
    planner.records = {n: Record(n, 0, {}, "failed") for n in (6, 7)}
    assert not planner._may_be_cut(9)
