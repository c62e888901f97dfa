"""What somebody sees who gives bad input: every kind of it, through the command line. `pytest -s` prints the list."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raydc.cli import main as cli
from raydc.cli.main import DATA_ERROR, NO_OUTPUT, TRY_AGAIN, UNAVAILABLE, USAGE_ERROR
from tests.data.test_source import X, array, both, raw, ray_tensor, write
from tests.test_security import CANARY, plant_in_model

CASES: list[Any] = []
ROWS = np.random.default_rng(0).normal(size=(60, 3))
COLUMNS = {name: ROWS[:, at] for at, name in enumerate(("length", "width", "height"))}
TRAIN = ("train", "--data={path}", "--method=kmeans", "--workers=0", "--out={path}/../out")
FEW = "--n-clusters=3"


def case(
    number: str,
    what: str,
    code: int,
    parts: str,
    *arguments: str,
    data: Callable[[Path], Any] = lambda folder: None,
    line: tuple[str, ...] = TRAIN,
) -> None:
    """Input, exit code, and parts of the message, between which | stands. {path} is the folder of `data`."""
    CASES.append(pytest.param(what, code, parts.split("|"), [*line, *arguments], data, id=f"{number}: {what}"))


def bad(value: float | None) -> Callable[[Path], Any]:
    """A value in row 31, which lies in the fourth row group."""
    width = [*ROWS[:31, 1], value, *ROWS[32:, 1]]

    def make(folder: Path) -> None:
        pq.write_table(pa.table({**COLUMNS, "width": width}), folder / "a.parquet", row_group_size=10)

    return make


def lists(rows: list[list[float]]) -> Callable[[Path], Any]:
    return write({"x": pa.array(rows, pa.list_(pa.float64()))})


fix = "--on-bad-row drop"
case("C1", "a missing value", DATA_ERROR, f"a.parquet|row group 3|row 31|width|null|{fix}", FEW, data=bad(None))
case("C1", "NaN", DATA_ERROR, f"a.parquet|row group 3|row 31|width|nan|{fix}", FEW, data=bad(np.nan))
case("C1", "infinity", DATA_ERROR, f"row 31|width|inf|{fix}", FEW, data=bad(np.inf))
case("C1", "dropped", 0, "1 of 60 rows", FEW, "--on-bad-row=drop", "--dry-run", data=bad(None))
case("C2", "lists of several lengths", DATA_ERROR, "a.parquet|row 1|x", FEW, data=lists([[1, 2], [1, 2, 3]]))
case(
    "C2",
    "a list for a class",
    DATA_ERROR,
    "label_column: c in|is list",
    FEW,
    "--label-column=c",
    data=write({"x": [1.0], "c": [[1]]}),
)
case(
    "C3",
    "x and y",
    DATA_ERROR,
    "y may be a coordinate|--columns|--label-column y",
    FEW,
    data=write({"x": [1.0], "y": [1.0]}),
)
case("C3", "text", DATA_ERROR, "no column to cluster|t: of one value in all rows", FEW, data=write({"t": ["a"] * 9}))
case(
    "C3", "bytes asked for", DATA_ERROR, "t in|is binary; features must", FEW, "--columns=t", data=write({"t": [b"a"]})
)
case(
    "C3",
    "text in an array",
    DATA_ERROR,
    "X holds <U1|expected numbers",
    FEW,
    "--data={path}/a.npy",
    data=array("a.npy", X=np.array([["a"]] * 9)),
)
case("C4", "no rows", DATA_ERROR, "no rows in 1 file", FEW, data=write({"x": pa.array([], pa.float64())}))
case(
    "C4",
    "an empty file among others",
    0,
    "1 of 2 files hold no rows",
    FEW,
    "--dry-run",
    data=both(write(COLUMNS), write({n: pa.array([], pa.float64()) for n in COLUMNS}, "b.parquet")),
)
case(
    "C5",
    "a constant column",
    0,
    "1 of 3 features never change, such as length",
    FEW,
    "--dry-run",
    data=write({**COLUMNS, "length": [1.0] * 60}),
)
case("C6", "fewer distinct rows than clusters", 0, "2 clusters", FEW, data=write({"x": [1.0, 2.0] * 30}))
case(
    "C7",
    "fewer rows than clusters",
    DATA_ERROR,
    "60 rows cannot form 61 clusters",
    "--n-clusters=61",
    data=write(COLUMNS),
)
case("C8", "fewer row groups than workers", DATA_ERROR, "|workers", FEW, "--workers=99", data=write(COLUMNS))
case(
    "C9",
    "a renamed column",
    DATA_ERROR,
    "differ from those of|b.parquet: no width|wide besides",
    FEW,
    data=both(write(COLUMNS), write({"wide" if n == "width" else n: v for n, v in COLUMNS.items()}, "b.parquet")),
)
case(
    "C9",
    "another type in a second file",
    DATA_ERROR,
    "b.parquet: x is string, not double",
    FEW,
    data=both(write({"x": [1.0]}), write({"x": ["a"]}, "b.parquet")),
)
case("C10", "nothing there", DATA_ERROR, "nothing at|none; expected a file", FEW, "--data={path}/none")
case(
    "C10",
    "a truncated file",
    DATA_ERROR,
    "a.parquet: cannot be decoded",
    FEW,
    data=raw("a.parquet", b"PAR1" + b"x" * 100),
)
case("C10", "a file of 0 bytes", DATA_ERROR, "a.parquet: 0 bytes", FEW, data=raw("a.parquet", b""))


def flipped(folder: Path) -> None:
    pq.write_table(pa.table(COLUMNS), folder / "a.parquet", write_page_checksum=True)
    data = bytearray((folder / "a.parquet").read_bytes())
    data[200] ^= 1
    (folder / "a.parquet").write_bytes(data)


case("C11", "a flipped bit in a page with a checksum", DATA_ERROR, "a.parquet|", FEW, data=flipped)
case("C12", "a huge value", DATA_ERROR, f"row 31|width|1e+20 (beyond 1e+15)|{fix}", FEW, data=bad(1e20))
case(
    "C13",
    "a row of zeros on the sphere",
    0,
    "3 clusters",
    FEW,
    "--method.spherical=true",
    data=write({name: np.where(np.arange(60) == 31, 0, values) for name, values in COLUMNS.items()}),
)
case(
    "C14",
    "stray files",
    0,
    "60 rows of 3",
    FEW,
    "--dry-run",
    data=both(write(COLUMNS), raw("_SUCCESS", b""), raw(".a.crc", b""), raw("notes.csv", b"a,b")),
)


def another(folder: Path) -> None:
    """A run that has ended, and other rows in the place of its own."""
    write(COLUMNS)(folder)
    assert cli.main([part.format(path=folder) for part in (*TRAIN, FEW)]) == 0
    write({name: values + 1 for name, values in COLUMNS.items()})(folder)


case(
    "C15",
    "other rows when a run goes on",
    DATA_ERROR,
    "holds a run of other rows|changed: |a.parquet|Put them back, or name another --out",
    FEW,
    data=another,
)

good = write(COLUMNS)
case("D1", "an unknown setting", USAGE_ERROR, "method.n_cluster|did you mean method.n_clusters", "--method.n_cluster=5")
case("D1", "an unknown option", USAGE_ERROR, "--nclusters: no such option", "--nclusters=3")
case("D1", "an unknown method", USAGE_ERROR, "deec|did you mean dec", "--method=deec")
case(
    "D1",
    "an unknown group in a file",
    USAGE_ERROR,
    "trainig: no such group",
    FEW,
    "--config={path}/c.yaml",
    data=raw("c.yaml", b"trainig: {seed: 1}"),
)
case("D1", "no such file of settings", USAGE_ERROR, "none.yaml: cannot be read", "--config={path}/none.yaml")
case("D2", "text for a number", USAGE_ERROR, "method.n_clusters: |ten", "--n-clusters=ten")
case(
    "D2",
    "out of range, several at once",
    USAGE_ERROR,
    "method.n_clusters: |method.restarts: |training.seed: ",
    "--n-clusters=-1",
    "--method.restarts=0",
    "--seed=-1",
)
case(
    "D2",
    "no rows named",
    USAGE_ERROR,
    "data.path: has to be given. Rows: Parquet",
    line=("train", "--method=dec", "--out=x"),
)
case("D2", "no method named", USAGE_ERROR, "method.name: expected one of", line=("train", "--data=digits", "--out=x"))
case("D2", "a number of workers", USAGE_ERROR, "training.workers: |such as 2, or a range", "--workers=4..1")
case("D5", "a name that leads elsewhere", USAGE_ERROR, "output.register_as: ", FEW, "--register=../x", data=good)
case(
    "D5",
    "a folder with other files",
    USAGE_ERROR,
    "holds other files (a.parquet); name a new or empty directory",
    FEW,
    "--out={path}",
    data=good,
)
case("D5", "no place to write", NO_OUTPUT, "|the same command goes on", FEW, "--out=/proc/raydc", data=good)
case(
    "D6",
    "a password in a path",
    USAGE_ERROR,
    "data.path: |without names and passwords",
    FEW,
    f"--data=s3://me:{CANARY}@bucket/x",
)
case(
    "D7",
    "no Ray cluster where there should be one",
    UNAVAILABLE,
    "no Ray cluster at 127.0.0.1:1 (RAY_ADDRESS)",
    FEW,
    "--workers=1",
    data=good,
)
case(
    "D10",
    "a column whose type may carry code",
    DATA_ERROR,
    "arrow.py_extension_type|may carry",
    FEW,
    data=lambda folder: pq.write_table(ray_tensor(X, b"[6]", b"arrow.py_extension_type"), folder / "a.parquet"),
)
case(
    "D12",
    "a model at an address",
    DATA_ERROR,
    "http://169.254.169.254/x: expected a directory |such as s3://bucket/folder",
    line=("assign", "--model=http://169.254.169.254/x", "--data={path}", "--out={path}/../out"),
    data=good,
)
case(
    "D13",
    "more clusters than rows",
    DATA_ERROR,
    "60 rows cannot form 1000000000 clusters",
    "--n-clusters=1000000000",
    data=good,
)
case(
    "D13",
    "more memory than there is",
    TRY_AGAIN,
    "200000 rows|GB are free|rows fit; train on",
    "--method=dsc",
    FEW,
    "--data={path}/a.npy",
    data=array("a.npy", X=np.zeros((200_000, 4), np.uint8)),
)


@pytest.mark.parametrize(("what", "code", "parts", "line", "data"), CASES)
def test_a_newcomer_is_told(what, code, parts, line, data, tmp_path, mlflow_uri, capsys, request, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_uri)
    if code == UNAVAILABLE:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    folder = tmp_path / "rows"
    folder.mkdir()
    data(folder)
    capsys.readouterr()
    found = cli.main([part.format(path=folder) for part in line])
    captured = capsys.readouterr()
    said = " ".join((captured.err if code else captured.out + captured.err).split())
    show(request, capsys, what, found, said.replace(str(tmp_path), "~"))
    assert found == code and CANARY not in said, said
    assert all(part in said for part in parts), said
    assert not code or what.startswith("other rows") or not (tmp_path / "out").exists(), "work had begun"


def show(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str], what: str, code: int, said: str) -> None:
    if request.config.getoption("capture") == "no":
        with capsys.disabled():
            print(
                f"\n{request.node.callspec.id if hasattr(request.node, 'callspec') else what} (exit {code})\n  {said}"
            )


def test_a_model_with_a_pickle_in_it(tmp_path, table_run, capsys, request):
    shutil.copytree(table_run, tmp_path / "run")
    plant_in_model(tmp_path / "run" / "model", tmp_path / "exploded")
    code = cli.main(["assign", f"--model={tmp_path}/run", f"--data={good_rows(tmp_path)}", f"--out={tmp_path}/new"])
    said = capsys.readouterr().err
    show(request, capsys, "D3: a model with a pickle in it", code, said.replace(str(tmp_path), "~"))
    assert code == DATA_ERROR and "is no safetensors file" in said and not (tmp_path / "exploded").exists()


def good_rows(folder: Path) -> Path:
    good(folder)
    return folder / "a.parquet"
