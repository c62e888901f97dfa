"""What others add by name: packages by entry points, notebooks by decorators."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from raydc import methods
from raydc.api import plugins
from raydc.cli import main as cli
from raydc.core import registries
from raydc.core.settings import SettingsError, unflatten
from raydc.data import ArraySource, DataError, DataSettings, open_source
from raydc.methods.kmeans import KMeans
from raydc.search.kinds import IMAGES, methods_for
from raydc.search.space import load_space, space_of
from raydc.training.config import RunConfig
from raydc.training.model import ClusteringModel
from raydc.training.model_files import ModelError
from tests.support import run_cases, stranger

ENTRIES = """[raydc.methods]
farthest = strange_rows.method:Farthest
[raydc.sources]
rings = strange_rows.rows:open_rings
.rings = strange_rows.rows:open_file
[raydc.encoders]
letters = strange_rows.rows:Letters
[raydc.criteria]
evenness = strange_rows.criterion:evenness
[raydc.spaces]
farthest = strange_rows.space:space
"""


def package(folder: Path, name: str, entries: str) -> None:
    """Metadata of an installed package, as pip writes them."""
    place = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (place / "entry_points.txt").write_text(entries)
    (place / "RECORD").write_text(f"{place.name}/entry_points.txt,,\n")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = stranger.write(tmp_path_factory.mktemp("stranger"))
    package(folder, "strange-rows", ENTRIES)
    return folder


@pytest.fixture
def strange(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package, on this process's path."""
    monkeypatch.syspath_prepend(installed)
    yield installed
    for name in [name for name in sys.modules if name.startswith("strange_rows")]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registries, "_registered", {})


def test_an_encoder_of_a_package_encodes(strange: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"body": "aab"}\n{"body": "c"}\n')
    source = open_source(DataSettings(path=str(tmp_path / "rows.jsonl"), types=("body=text",), encoder="letters"))
    np.testing.assert_allclose(source.read(source.pieces[0]).x, [[0.8944, 0.4472, 0], [0, 0, 1]], atol=1e-4)


def test_names_are_known_without_importing_anything(strange: Path) -> None:
    assert methods.available() == [*methods.builtin(), "farthest"] and "farthest" not in methods.builtin()
    assert plugins.listing() == {
        "method": {"farthest": "strange-rows 1.0"},
        "source": {".rings": "strange-rows 1.0", "rings": "strange-rows 1.0"},
        "encoder": {"letters": "strange-rows 1.0"},
        "criterion": {"evenness": "strange-rows 1.0"},
        "search space": {"farthest": "strange-rows 1.0"},
    }
    assert plugins.notes() == [] and "strange_rows" not in sys.modules


def test_the_command_line_lists_and_documents_them(strange: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> str:
        try:
            cli.main(arguments)
        except SystemExit:  # of --help
            pass
        return " ".join(capsys.readouterr().out.split())

    assert "farthest (strange-rows 1.0)" in said("methods") and "strange_rows" not in sys.modules
    assert "Others add: .rings, rings." in (help_of := said("train", "--help")) and "ward, farthest, or" in help_of
    assert "Others add: evenness." in (help_of := said("tune", "--help-all")) and "Others add: farthest." in help_of
    one = said("methods", "farthest")
    assert one.startswith("farthest: Farthest, of strange-rows 1.0") and "How far counts as far. [1.5]" in one
    assert "--method.far" in said("train", "--method", "farthest", "--help-all")


def test_a_source_opens_its_paths(strange: Path, tmp_path: Path) -> None:
    (tmp_path / "three.rings").write_text("3")
    by_name, by_suffix = (open_source(DataSettings(path=path)) for path in ("rings://3", str(tmp_path / "three.rings")))
    assert isinstance(by_name, ArraySource) and by_name.n_rows == by_suffix.n_rows == 150
    for path, problem in (("rings://x", "ValueError: invalid literal"), ("nothing.rings", "FileNotFoundError")):
        with pytest.raises(DataError, match=rf"data\.path: .*{path} cannot be opened by the source .*{problem}"):
            open_source(DataSettings(path=path))


def test_a_space_that_chooses_among_methods_takes_them_in(strange: Path) -> None:
    assert "farthest" in methods_for(IMAGES)
    for space in (load_space("farthest"), space_of("farthest")):
        assert space(_Asked(), IMAGES) == {"method.name": "farthest"}
    assert space_of("nobodys")(_Asked(), IMAGES) == {"method.name": "nobodys"}


class _Asked:
    def suggest_float(self, name: str, low: float, high: float) -> float:
        return low


@pytest.mark.parametrize(
    ("entries", "name", "said"),
    [
        ("m = no_such_package.m:M", "m", r"cannot be had: .*ModuleNotFoundError: .*mend that package, or uninstall it"),
        ("m = json:nothing", "m", r"AttributeError: .*nothing"),
        ("m = this is no entry", "m", "the method 'm' of broken 1.0 cannot be had"),
        ("m = json:dumps", "m", "expected a class derived from"),
    ],
)
def test_a_broken_package_is_named_and_breaks_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    entries: str,
    name: str,
    said: str,
) -> None:
    package(tmp_path, "broken", f"[raydc.methods]\n{entries}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingsError, match=said):
        methods.load(name)
    assert cli.main(["methods"]) == 0
    assert cli.main(["methods", name]) == cli.USAGE_ERROR
    capsys.readouterr()
    assert name not in methods_for(IMAGES)


def test_what_cannot_be_had_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "first", "[raydc.methods]\ndec = json:dumps\nm = json:dumps\n")
    package(tmp_path, "second", "[raydc.methods]\nm = json:dumps\nn = no_such_package:M\n")
    package(tmp_path, "third", "[raydc.methods]\n")
    (tmp_path / "third-1.0.dist-info" / "entry_points.txt").write_bytes(b"[raydc.methods]\n\xff\xfe = x")
    monkeypatch.syspath_prepend(tmp_path)
    notes = "\n".join(plugins.notes())
    assert "third-1.0.dist-info: its entry points cannot be read" in notes
    assert "'dec' of first 1.0 cannot be had: raydc has one of that name" in notes
    assert "'n' of second 1.0 cannot be had: there is no module no_such_package" in notes
    assert "'m' is had by " in notes and "uninstall all but one" in notes
    assert methods.load("dec").__module__ == "raydc.methods.dec"
    with pytest.raises(SettingsError, match="uninstall all but one"):
        methods.load("m")


def test_a_notebook_registers_by_decorators(tmp_path: Path) -> None:
    @plugins.method("mine")
    class Mine(KMeans):
        pass

    @plugins.source("made")
    def made(settings: DataSettings) -> ArraySource:
        return ArraySource(np.repeat(np.eye(3), 20, axis=0), settings=settings)

    assert methods.load("mine") is Mine and methods.describe("mine").title == "Mine"
    out = run_cases.finished(tmp_path / "run", "made", **{"method.name": "mine", "method.n_clusters": 3})
    model = ClusteringModel.load(Path(out) / "model")
    assert type(model.method) is Mine and len(set(model.predict(np.eye(3)))) == 3
    registries._registered.clear()
    with pytest.raises(ModelError, match="the model's method is 'mine', which does not come with raydc"):
        ClusteringModel.load(Path(out) / "model")


@pytest.mark.parametrize(
    ("decorator", "name", "said"),
    [
        (plugins.method, "dec", "raydc has a method 'dec' itself"),
        (plugins.source, ".npy", "raydc has a source '.npy' itself"),
        (plugins.criterion, "ace", "raydc has a criterion 'ace' itself"),
        (plugins.space, "my space", "expected a name of letters"),
        (plugins.method, "mine.py", r"such as my_methods, got 'mine\.py'"),
    ],
)
def test_names_that_cannot_be_had_are_refused(decorator, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decorator(name)


def test_what_a_process_registered_travels_with_a_runs_configuration() -> None:
    from ray import cloudpickle

    plugins.method("mine")(KMeans)
    config = RunConfig.of(unflatten({"method.name": "mine", "data.path": "digits", "output.out": "x"}))
    pickled = cloudpickle.dumps(config)
    registries._registered.clear()
    assert cloudpickle.loads(pickled).method_name == "mine" and methods.load("mine") is KMeans


def test_a_model_of_a_package_that_is_gone_says_which(strange: Path, tmp_path: Path, monkeypatch) -> None:
    out = run_cases.finished(tmp_path / "run", "rings://3", **{"method.name": "farthest"} | stranger.SMALL)
    assert json.loads((Path(out) / "model" / "model.json").read_text())["package"] == "strange-rows 1.0"
    assert type(ClusteringModel.load(Path(out) / "model").method).__name__ == "Farthest"
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(strange)])
    with pytest.raises(ModelError, match=r"'farthest' came from strange-rows 1\.0, which is not installed: install it"):
        ClusteringModel.load(Path(out) / "model")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_a_strangers_package_is_used_through_the_command_line(tmp_path: Path) -> None:
    """Built and installed by pip without a network; trained, also over Ray, searched, assigned, and served alone."""
    place = stranger.install(stranger.write(tmp_path / "package"), tmp_path / "installed")
    settings = [part for name, value in stranger.SMALL.items() for part in (f"--{name}", value)]
    train = ["train", "--method", "farthest", "--data", "rings://3", "--n-clusters", "3", *settings]
    sets = [part for name, value in stranger.SMALL.items() for part in ("--set", f"{name}={value}")]
    tune = ["tune", "--space", "farthest", "--criterion", "evenness", "--data", "rings://3", "--n-clusters", "3", *sets]
    for arguments in (
        [*train, "--workers", "2", "--out", "trained", "--register", "rings"],
        [
            *tune,
            "--trials",
            "1",
            "--replicas",
            "1",
            "--concurrent",
            "1",
            "--evaluation-rows",
            "100",
            "--out",
            "searched",
        ],
        ["assign", "--model", "models:/rings@champion", "--data", "rings://3", "--out", "assigned", "--workers", "1"],
    ):
        done = stranger.raydc(arguments, tmp_path / "empty", place)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "empty" / "searched" / "search.json").read_text())
    assert found["criterion"] == "evenness" and found["criteria"]["evenness"]
    served = (
        "import mlflow, numpy as np; model = mlflow.pyfunc.load_model('models:/rings@champion'); "
        "print(len(model.predict(np.zeros((2, 2), np.float32))))"
    )
    alone = stranger.python(served, tmp_path / "empty")
    assert alone.stdout.strip().endswith("2"), alone.stderr
