"""Searches that cannot be: bad input, nothing to tell apart, no time, a study out of reach."""

from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from raydc.core.settings import SettingsError
from raydc.search import SearchError, TuneSettings, trial, tune
from raydc.search.directory import open_study, same_search
from raydc.search.driver import _reasons
from raydc.search.evaluation import prepare
from raydc.search.space import load_space, suggest
from tests.support.searches import FIXED, asked, rows, states, written


@pytest.fixture
def data(tmp_path: Path) -> str:
    return written(tmp_path)


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
        ({"n_clusters": "4..60", "evaluation_rows": 50}, r"50 evaluation rows cannot form 60 .*\(evaluation_rows\)"),
        ({"reference": "none.npy"}, "reference: none.npy cannot be read"),
    ],
)
def test_bad_input_before_any_work(data: str, tmp_path: Path, others: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tune(asked(data, tmp_path / "out", **others))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["dsc", "jule"])
def test_rows_beyond_memory_before_any_work(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("raydc.data.memory.free_memory", lambda: 10_000)
    with pytest.raises(MemoryError, match=r"240 rows .* GB are free: at most \d+ rows fit"):
        tune(asked(data, tmp_path / "out", space=method, fixed={}))
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
        same_search(context, load_space(context.settings.space))
    open_study(first).ask()
    assert [len(open_study(context).get_trials()) for context in (first, second)] == [1, 0]


def test_all_trials_failing(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("the network has burnt down")

    monkeypatch.setattr(trial, "_trained", fail)
    with pytest.raises(
        SearchError,
        match=r"no trial succeeded:\n  8 trials \(kmeans, .*, ward, leiden, spectral\), failed: .*burnt down\nwhat",
    ) as problem:
        tune(asked(data, tmp_path / "out"))
    assert "what is finished is kept" in str(problem.value)
    found = states(asked(data, tmp_path / "out"))
    assert found == ["FAIL"] * 8


def test_reasons_that_differ_in_numbers_are_told_once() -> None:
    def record(number: int, method: str, status: str, problem: str) -> trial.Record:
        return trial.Record(number, 0, {"method.name": method}, status, problems=[problem])

    records = [
        record(1, "dec", "failed", "KeyError: 'nu'"),
        record(2, "dsc", "lost", "2000 rows need 9.5 GB, and 1.25 GB are free"),
        record(3, "jule", "lost", "2000 rows need 3.0 GB, and 1.5 GB are free"),
    ]
    assert _reasons(records) == [
        "2 trials (dsc, jule), lost: 2000 rows need 9.5 GB, and 1.25 GB are free",
        "trial 1 (dec), failed: KeyError: 'nu'",
    ]


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


def test_a_budget_too_short(data: str, tmp_path: Path) -> None:
    settings = asked(data, tmp_path / "out", space="dec", time_budget=1e-6)
    with pytest.raises(SearchError, match=r"time budget of 1e-06 s is too short for one trial"):
        tune(settings)
    assert not [*(tmp_path / "out").rglob("record.json")]
    assert set(states(settings)) <= {"RUNNING"}, "one that had begun goes on; on a slow machine none had"
    again = tune(settings.model_copy(update={"time_budget": None}))
    assert len(again["trials"]) == 9 and "out of time" not in str(again["trials"])
    assert states(settings) == ["COMPLETE"] * 9


def test_another_reference_of_the_same_name(data: str, tmp_path: Path) -> None:
    path = str(tmp_path / "reference.npy")
    settings = asked(data, tmp_path / "out", reference=path)
    np.save(path, rows()[0])
    context = prepare(settings)
    assert np.array_equal(context.reference, rows()[0])
    space = load_space(settings.space)
    same_search(context, space)
    same_search(prepare(settings), space)
    np.save(path, rows(seed=1)[0])
    with pytest.raises(
        SettingsError, match=r"reference was .*npy, 240 rows, sha256 \w+ and is .*npy, 240 rows, sha256"
    ):
        same_search(prepare(settings), space)


def test_what_the_caller_says_wins_over_the_space_or_is_refused(data: str, tmp_path: Path) -> None:
    own = tmp_path / "space.py"
    own.write_text(
        "def space(trial):\n"
        "    trial.suggest_int('method.n_clusters', 2, 3)\n"
        "    trial.suggest_categorical('method.spherical', [False, True])\n"
        "    return {'method.name': 'kmeans', 'data.scaling': 'power'}\n"
    )
    with pytest.raises(SettingsError, match=r"n_clusters: .*space\.py says method\.n_clusters itself"):
        tune(asked(data, tmp_path / "out", space=str(own)))
    given = asked(data, tmp_path / "out").model_dump(exclude_unset=True)
    given["data"] = given["data"] | {"scaling": "standard"}
    given["fixed"] = FIXED | {"method.spherical": True}
    with pytest.raises(SettingsError, match="suggests nothing"):
        own.write_text(own.read_text().replace("    trial.suggest_int('method.n_clusters', 2, 3)\n", ""))
        tune(TuneSettings(**given | {"space": str(own)}))
    given["fixed"] = FIXED
    own.write_text(own.read_text().replace("return", "trial.suggest_int('method.restarts', 1, 9)\n    return"))
    summary = tune(TuneSettings(**given | {"space": str(own), "trials": 2, "replicas": 1}))
    assert {entry["settings"]["data.scaling"] for entry in summary["trials"] if entry["settings"]} == {"standard"}
    points = [entry["point"] for entry in summary["trials"] if not entry["baseline"]]
    assert all(point["method.restarts"] == 3 and point["data.scaling"] == "standard" for point in points)
    with pytest.raises(SettingsError, match=r"method\.name: expected method\.\* \(but for n_clusters and name\)"):
        tune(asked(data, tmp_path / "other", fixed={"method.name": "dec"}))


def test_a_space_may_not_suggest_what_has_no_effect_on_the_rows(data: str, tmp_path: Path) -> None:
    own = tmp_path / "space.py"
    own.write_text(
        "def space(trial):\n    trial.suggest_int('method.network.kernel', 3, 5)\n    return {'method.name': 'dec'}\n"
    )
    with pytest.raises(SettingsError, match=r"space: method.network.kernel: 3 has no effect on rows of shape \(8,\)"):
        tune(asked(data, tmp_path / "out", space=str(own)))
    assert not (tmp_path / "out").exists()


MIDDLE = {
    "method.network.latent": 10,
    "method.pretrain.corruption": 0.2,
    "method.pretrain.length": "50 epochs",
    "method.pretrain.optimizer.lr": 1e-3,
    "method.nu": 1.0,
    "method.power": 2.0,
    "method.cluster.optimizer.lr": 1e-4,
    "method.cluster.update_every": "1 epochs",
}


def test_what_is_fixed_takes_the_effect_from_what_a_space_suggests() -> None:
    space = load_space("dec")
    fixed = {"method.pretrain.length": 0}
    point = suggest(space, optuna.trial.FixedTrial(MIDDLE), (4, 4), fixed=fixed)
    assert "method.pretrain.corruption" not in point
    assert "method.pretrain.corruption" in suggest(space, optuna.trial.FixedTrial(MIDDLE), (4, 4))
