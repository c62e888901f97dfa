"""Every space suggests settings that exist, over its whole range, and there is a space for every method."""

from pathlib import Path
from typing import Any

import pytest

from raydc import methods
from raydc.search.space import Rows, _Corner, check_space, default_method, load_space, methods_for, suggest
from raydc.settings import SettingsError

SPACES = Path(__file__).parents[2] / "tune_spaces"
FILES = sorted(SPACES.glob("*.py"))


def test_every_method_has_a_space() -> None:
    assert {file.stem for file in FILES} == {*methods.available(), "any"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_point_is_a_configuration(file: Path) -> None:
    space = load_space(file)
    names = check_space(space, (2, 30))
    assert names
    expected = "idec" if file.stem == "any" else file.stem
    assert default_method(space) == expected
    assert ("method.n_clusters" in names) == (file.stem != "dcc")


def test_any_takes_every_method_that_can_take_the_rows() -> None:
    images, table = methods_for(Rows(1000, (1, 16, 16))), methods_for(Rows(1000, (16,)))
    assert images == methods.available()
    assert set(images) - set(table) == {"aljalbout", "dac", "dbc", "depict", "dsc", "infogan", "jule"}
    assert not {"dsc", "jule"} & set(methods_for(Rows(10**8, (1, 16, 16))))
    space, names = load_space(SPACES / "any.py"), set()
    for choice in range(len(images)):
        point = suggest(space, _Corner(False, choice), (10, 10), Rows(1000, (1, 16, 16)))
        names.add(point["method.name"])
        assert ("method.n_clusters" in point) == (point["method.name"] != "dcc")
    assert names == set(images)


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
