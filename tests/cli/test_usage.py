"""What is used wrongly, over all commands: one line for each problem, an exit code, nothing done."""

from pathlib import Path

import pyarrow as pa
import pytest

from raydc.cli import main as cli
from tests.support import run_cases

ROWS = "--data={here}/rows.parquet"
USED = {
    "train": [ROWS, "--method=kmeans", "--n-clusters=3", "--workers=0"],
    "tune": [ROWS, "--n-clusters=2..3", "--trials=1", "--concurrent=0"],
    "embed": ["--data={here}/texts.parquet", "--encoder=wordllama"],
    "assign": ["--model={run}", ROWS],
    "edit": ["--model={run}", "--drop=1"],
    "sample": ["--model={run}", ROWS, "--balanced", "--n=5"],
    "watch": ["--model={run}", ROWS],
    "report": ["--run={run}"],
    "new-method": ["mine"],
}
"""A command as it is used, but for --out."""
NEEDED = {
    "train": ["data.path: has", "method.name: expected one of ", "output.out: has"],
    "tune": ["data.path: has to be given. Rows: Parquet", "out: has"],
    "embed": ["required: ", "--data", "--encoder", "--out"],
    "assign": ["required: ", "--model", "--data", "--out"],
    "edit": ["required: --model"],
    "sample": ["required: ", "--model", "--data", "--out"],
    "watch": ["required: ", "--model", "--data", "--out"],
    "serve": ["model: has"],
    "report": ["required: --run, --out"],
    "registry": ["required: action"],
    "new-method": ["required: NAME"],
}
"""What each says that is asked with nothing; raydc methods needs nothing."""
BAD = {
    "train": ["--workers=x", "--seed=-1", "--n-clusters=ten", "--seeds=4..1"],
    "tune": ["--trials=0", "--n-clusters=9..2", "--criterion=x", "--space=none", "--set=method.n_clusters"],
    "embed": ["--workers=-1", "--workers=x", "--on-bad-row=x"],
    "assign": ["--workers=-1", "--level=x", "--outliers=2"],
    "edit": ["--merge=1", "--rename=x", "--decisions={here}/none.json"],
    "sample": ["--n=0", "--workers=-1", "--seed=x", "--prototypes"],
    "watch": ["--workers=-1", "--workers=x"],
    "report": ["--rows=0", "--rows=x"],
    "new-method": ["--out"],
}
"""Values that cannot be, each beside what else is right."""


@pytest.fixture
def places(tmp_path: Path, table_run: str) -> dict[str, str]:
    run_cases.write(run_cases.table(60), tmp_path / "rows.parquet")
    run_cases.write(
        pa.table(
            {"text": [f"note {row}: what somebody wrote of it, in some words, and no category" for row in range(60)]}
        ),
        tmp_path / "texts.parquet",
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.py").write_text("of mine")
    return {"here": str(tmp_path), "run": table_run}


def told(capsys: pytest.CaptureFixture[str], code: int, command: str, *arguments: str, **places: str) -> str:
    """The line that a command ends with."""
    assert cli.main([command, *(part.format(**places) for part in arguments)]) == code
    said = capsys.readouterr().err
    assert said.startswith("raydc: ") and "Traceback" not in said
    return said.removeprefix("raydc: ")


def test_every_command_is_in_the_tables() -> None:
    assert {*NEEDED} == {*cli.COMMANDS} - {"methods"} and {*USED} == {*BAD} == {*NEEDED} - {"serve", "registry"}


@pytest.mark.parametrize("command", NEEDED)
def test_what_is_missing_is_named_in_a_line_each(command, capsys):
    said = told(capsys, cli.USAGE_ERROR, command)
    assert all(part in said for part in NEEDED[command]), said
    assert len(said.splitlines()) == (len(NEEDED[command]) if command in ("train", "tune") else 1), said


@pytest.mark.parametrize(("command", "left"), [(c, at) for c in USED for at in range(len(USED[c]))])
def test_half_of_what_is_needed_is_told_in_one_line_or_is_enough(command, left, places, capsys):
    optional = ("--n-clusters", "--trials", "--concurrent", "--workers")
    if USED[command][left].startswith(optional):
        pytest.skip("it has a default")
    arguments = [part for at, part in enumerate(USED[command]) if at != left]
    said = told(capsys, cli.USAGE_ERROR, command, *arguments, "--out={here}/out", **places)
    assert len(said.splitlines()) == 1, said


@pytest.mark.parametrize("command", NEEDED)
def test_an_option_that_there_is_none_of(command, places, capsys):
    arguments = USED.get(command, {"registry": ["list"], "serve": ["--model=none"]}.get(command, []))
    said = told(capsys, cli.USAGE_ERROR, command, *arguments, "--out={here}/out", "--colour=red", **places)
    assert said.startswith("--") and "no such option; " in said and len(said.splitlines()) == 1, said


@pytest.mark.parametrize(("command", "value"), [(command, value) for command in BAD for value in BAD[command]])
def test_a_value_that_cannot_be(command, value, places, capsys):
    said = told(capsys, cli.USAGE_ERROR, command, *USED[command], "--out={here}/out", value, **places)
    assert len(said.splitlines()) == 1 and not Path(places["here"], "out").exists(), said


@pytest.mark.parametrize("command", USED)
@pytest.mark.parametrize(("out", "code", "part"), [
    ("full", 64, "mine.py"),  # what is there is never written over, and the line names it
    ("rows.parquet", 73, "rows.parquet is a file, where a directory is expected"),
    ("rows.parquet/x", 73, "rows.parquet is a file, where a directory is expected"),
    ("/proc/raydc", 73, "/proc/raydc"),
])  # fmt: skip
def test_a_place_that_cannot_be_written_to(command, out, code, part, places, capsys):
    said = told(capsys, code, command, *USED[command], f"--out={Path(places['here'], out)}", **places)
    assert part in said and len(said.splitlines()) == 1, said
    assert Path(places["here"], "full", "mine.py").read_text() == "of mine"
