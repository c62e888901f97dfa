"""Every space suggests settings that exist, over its whole range, and there is a space for every method."""

import json
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from raydc import methods
from raydc.core import compat
from raydc.core.settings import SettingsError
from raydc.search import spaces
from raydc.search.kinds import methods_for
from raydc.search.opponents import OPPONENTS
from raydc.search.space import (
    IMAGES,
    Rows,
    _Corner,
    check_space,
    default_method,
    digest,
    load_space,
    suggest,
)
from tests.support.searches import own_space


def test_every_method_has_a_space() -> None:
    assert spaces.names() == sorted([*methods.available(), "any"])


@pytest.mark.parametrize("name", spaces.names())
def test_every_point_is_a_configuration(name: str) -> None:
    space = load_space(name)
    names = check_space(space, (2, 30))
    assert names
    expected = "idec" if name == "any" else name
    assert default_method(space) == expected
    assert ("method.n_clusters" in names) == (name not in ("dcc", "dnc"))


def test_any_takes_every_method_that_can_take_the_rows() -> None:
    images, table = methods_for(Rows(1000, (1, 16, 16))), methods_for(Rows(1000, (16,)))
    assert images == methods.available()
    assert set(images) - set(table) == {
        "aljalbout",
        "catgan",
        "ccnn",
        "dac",
        "dac_code",
        "dbc",
        "depict",
        "dsc",
        "infogan",
        "jule",
    }
    assert not {"dsc", "jule"} & set(methods_for(Rows(10**8, (1, 16, 16))))
    space, names = load_space("any"), set()
    for choice in range(len(images) - len(OPPONENTS)):
        point = suggest(space, _Corner(False, choice), (10, 10), Rows(1000, (1, 16, 16)))
        names.add(point["method.name"])
        assert ("method.n_clusters" in point) == (point["method.name"] not in ("dcc", "dnc"))
    assert names == set(images) - set(OPPONENTS)  # which every search begins with


def made(tmp_path: Path, body: str) -> Any:
    file = tmp_path / "space.py"
    file.write_text(f"def space(trial):\n    {body}\n    return {{'method.name': 'dec'}}\n")
    return load_space(file)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("trial.suggest_float('method.nuu', 0.5, 2.0)", r"method.nuu: no such setting; did you mean method.nu\?"),
        ("trial.suggest_float('method.nu', -1.0, 2.0)", r"method.nu: .*greater than 0, got -1.0"),
        ("trial.suggest_float('method.nu', 2.0, 1.0)", "low"),
        ("trial.suggest_categorical('output.out', ['a', 'b'])", "output.out: a space may suggest"),
        ("trial.suggest_float('training.batch_size', 0.5, 2.0)", "training.batch_size"),
        ("pass", "suggests nothing"),
        ("trial.suggest_float(3)", r"space\.py: line 2: TypeError: "),
        ("{'paper': 1}['papers']", r"space\.py: line 2: KeyError: 'papers'"),
        ("trial.number", r"space\.py: line 2: AttributeError: trial.number: a space may ask suggest_float"),
    ],
)
def test_a_bad_space_is_refused_by_name(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        check_space(made(tmp_path, body), (10, 10))


def test_conditional_settings_are_checked_on_both_branches(tmp_path: Path) -> None:
    body = (
        "trial.suggest_categorical('method.recipe', ['default', 'paper']) == 'paper' and trial.suggest_int('no', 1, 2)"
    )
    with pytest.raises(SettingsError, match="no: "):
        check_space(made(tmp_path, body), (10, 10))


def test_a_file_that_is_no_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="no file"):
        load_space(tmp_path / "none.py")
    (tmp_path / "bad.py").write_text("def space(:")
    with pytest.raises(SettingsError, match=r"bad.py cannot be loaded: .*line 1"):
        load_space(tmp_path / "bad.py")
    (tmp_path / "wrong.py").write_text("known = {}\nnu = known['nu']")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "wrong.py", "wrong.py"):
        with pytest.raises(SettingsError, match=r"wrong.py cannot be loaded: line 2: KeyError: 'nu'"):
            load_space(path)
    (tmp_path / "empty.py").write_text("x = 1")
    with pytest.raises(SettingsError, match="no function space"):
        load_space(tmp_path / "empty.py")


def test_clusters_are_suggested_only_where_they_are_free(tmp_path: Path) -> None:
    space = made(tmp_path, "trial.suggest_float('method.nu', 0.5, 2.0)")
    assert check_space(space, (10, 10)) == ["method.nu"]
    assert check_space(space, (2, 12)) == ["method.nu", "method.n_clusters"]

    class Middle:
        def suggest_float(self, name: str, low: float, high: float, **options: Any) -> float:
            return (low + high) / 2

        def suggest_int(self, name: str, low: int, high: int, **options: Any) -> int:
            return (low + high) // 2

    fixed = {"method.nu": "0.7", "method.n_clusters": 3}
    assert suggest(space, Middle(), (2, 12), fixed=fixed) == {"method.name": "dec", **fixed}
    assert suggest(space, Middle(), (2, 12)) == {"method.name": "dec", "method.nu": 1.25, "method.n_clusters": 7}


def test_a_space_of_several_files(tmp_path: Path) -> None:
    before, path = set(sys.modules), [*sys.path]
    space = load_space(own_space(tmp_path))
    point = suggest(space, _Corner(False), (4, 4))
    assert point == {
        "method.name": "dec",
        "method.power": 2.0,
        "method.nu": 0.5,
        "method.network.hidden": [16],
        "method.cluster.update_every": 1,
        "training.batch_size": 32,
        "method.n_clusters": 4,
    }
    assert json.loads(json.dumps(point)) == point and type(point["method.name"]) is str
    told = ("method.name", "method.power", "method.n_clusters")
    assert set(check_space(space, (4, 4))) == {name for name in point if name not in told}
    left = {name for name in set(sys.modules) - before if "helper" in name or "ranges" in name or "space" in name}
    assert not left and sys.path == path


def test_spaces_of_one_process_have_their_own_neighbours(tmp_path: Path) -> None:
    spaces = []
    for width in (1.0, 2.0):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "helper.py").write_text(f"HIGH = {width}\n")
        body = "import helper\n\n\ndef space(trial):\n    import helper as late\n"
        body += "    trial.suggest_float('method.nu', 0.5, helper.HIGH)\n"
        (folder / "space.py").write_text(body + "    return {'method.name': 'dec', 'method.power': 1.0 + late.HIGH}\n")
        spaces.append(load_space(folder / "space.py"))
    points = [suggest(space, _Corner(True), (4, 4)) for space in (*spaces, spaces[0])]
    assert [point["method.nu"] for point in points] == [1.0, 2.0, 1.0]
    assert [point["method.power"] for point in points] == [2.0, 3.0, 2.0]


def test_the_digest_of_a_space_is_that_of_all_its_files(tmp_path: Path) -> None:
    path = own_space(tmp_path)
    first, again = (digest(load_space(path), (4, 4)) for _ in range(2))
    (tmp_path / "ranges" / "most.py").write_text("MOST = 12\n")
    assert first == again != digest(load_space(path), (4, 4))


def test_lists_are_choices(tmp_path: Path) -> None:
    """Optuna's storage gives back another list than it was given, and would refuse to go on."""
    space = made(tmp_path, "trial.suggest_categorical('method.network.hidden', [(16,), (16, 16), None][:2])")
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="one", sampler=optuna.samplers.RandomSampler(0))
    points = [suggest(space, study.ask(), (4, 4)) for _ in range(8)]
    assert {tuple(point["method.network.hidden"]) for point in points} == {(16,), (16, 16)}
    again = optuna.load_study(storage=storage, study_name="one")
    trials = [compat.asked_before(again, trial) for trial in again.get_trials()]
    assert [suggest(space, trial, (4, 4)) for trial in trials] == points


@pytest.mark.parametrize("value", ["object()", "len", "{1, 2}", "b'x'"])
def test_values_that_no_record_keeps_are_refused_by_name(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"space: method.nu: expected a number, a text, .* got"):
        check_space(made(tmp_path, f"trial.suggest_categorical('method.nu', [{value}])"), (4, 4))


@pytest.mark.parametrize(
    ("parameters", "given"),
    [("trial", 16), ("trial, rows", 16), ("trial, about", 16), ("trial, rows=None", 16), ("trial, depth=3", 3)],
)
def test_rows_are_told_to_those_who_ask(tmp_path: Path, parameters: str, given: int) -> None:
    second = parameters.partition(", ")[2].partition("=")[0]
    value = {"": "16", "depth": "depth"}.get(second, f"{second}.shape[-1]")
    (tmp_path / "space.py").write_text(
        f"def space({parameters}):\n    trial.suggest_int('method.network.latent', 1, {value})\n"
        "    return {'method.name': 'dec'}\n"
    )
    point = suggest(load_space(tmp_path / "space.py"), _Corner(True), (4, 4), IMAGES)
    assert point["method.network.latent"] == given
