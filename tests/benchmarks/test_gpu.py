"""`make gpu` tells what differs, goes on where it was stopped, needs no network; its rows run elsewhere here."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import answers, table
from benchmarks.gpu.row import DrawsOfTheCPU, LeftOut, Row, apart, differ, states_apart
from tests.support.remote_storage import elsewhere


def test_what_differs_is_told() -> None:
    assert apart([1.0, 2.0], [1.0, 2.0]) == 0 and apart([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert apart([float("nan")], [1.0]) == float("inf") and apart([], []) == 0 and apart([1e-9], [0.0]) > 1
    assert differ([1, 2, 3], [1, 3, 3]) == 1
    assert states_apart({"a": torch.ones(2), "b": torch.zeros(1)}, {"a": torch.ones(2), "b": torch.ones(1)}) == 1
    row = Row("row", lambda device: {}, {"labels": 0, "losses": 0.1})
    assert row.beyond({"labels": 0, "losses": 0.1}) == [] and row.beyond({"labels": 1, "losses": 0.2}) == [*row.allowed]
    assert row.beyond({"labels": 0, "losses": float("nan")}) == ["losses"]


def test_draws_of_another_device_are_the_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(device: str) -> list[torch.Tensor]:
        torch.manual_seed(3)
        x = torch.ones(4, 3).to(device)
        made = [
            torch.rand(5, device=device),
            torch.randn_like(x),
            torch.nn.functional.dropout(x, 0.5),
            x.bernoulli_(0.5),
            x,
        ]
        return [each.cpu() for each in made]

    expected = drawn("cpu")
    with elsewhere() as device, DrawsOfTheCPU():
        assert torch.rand(2, device=device).device.type == device
        found = drawn(device)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    with DrawsOfTheCPU():
        assert all(torch.equal(one, other) for one, other in zip(drawn("cpu"), expected, strict=True))


ELSEWHERE = [row for row in answers.METHODS if row.name.split(":")[0] in ("kmeans", "idec")]
ELSEWHERE += [
    row for row in answers.KMEANS if "offset" in row.name or row.name in ("centroid service: weighted", "neighbours")
]


@pytest.mark.parametrize("row", ELSEWHERE, ids=lambda row: row.name)
def test_what_is_done_elsewhere_is_the_same(row: Row) -> None:
    with elsewhere() as device:
        found = row.measure(device)
    assert row.allowed and not row.beyond(found), found


def rows_that(seen: list[str]) -> list[Row]:
    def measured(name: str, found: Any) -> Any:
        def measure(device: str) -> dict[str, Any]:
            seen.append(name)
            if isinstance(found, Exception):
                raise found
            return {"labels": found}

        return measure

    rows = {"same": 0, "differs": 2, "failed": ValueError("no such"), "left out": LeftOut("one device")}
    return [Row(name, measured(name, found), {"labels": 0}) for name, found in rows.items()]


def test_rows_are_done_once_and_those_that_differ_again_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(table, "MODULES", {"some": rows_that(seen)})
    assert table.run(tmp_path, "cpu", budget=-1, only=None, again=False) == table.TRY_AGAIN and seen == []
    assert table.run(tmp_path, "cpu", budget=60, only=None, again=False) == 1
    kept = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: each["is"] for name, each in kept["rows"].items()} == {
        "same": "same",
        "differs": "differs: labels",
        "failed": "failed",
        "left out": "left out",
    }
    assert kept["rows"]["failed"]["found"] == {"because": "ValueError: no such"}
    assert "| differs | differs: labels | labels 2 | labels 0 |" in (tmp_path / "gpu.md").read_text()
    assert table.run(tmp_path, "cpu", budget=60, only=None, again=False) == 1 and len(seen) == 4
    assert table.run(tmp_path, "cpu", budget=60, only=None, again=True) == 1 and seen[4:] == ["differs", "failed"]
    with pytest.raises(SystemExit, match="expected some of some"):
        table.run(tmp_path, "cpu", budget=60, only="others", again=False)
    (tmp_path / "gpu.json").write_text(json.dumps(kept | {"torch": "1.0"}))
    with pytest.raises(SystemExit, match="name another --out"):
        table.run(tmp_path, "cpu", budget=60, only=None, again=False)


def test_a_gpu_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert table.run(tmp_path, "cuda", budget=60, only=None, again=False) == table.UNAVAILABLE
    assert "--device cpu" in capsys.readouterr().err


def test_what_is_missing_comes_from_carried_wheels(tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    about = "carried-1.0.dist-info"
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried.py", "ANSWER = 42\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    program = (
        "import sys; from pathlib import Path; from benchmarks.gpu import __main__ as command\n"
        "command.NEEDED = ('carried',); folder, wheels = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "assert command.missing(folder, None).startswith('carried not installed: carry wheels')\n"
        "assert 'expected a folder with .whl files' in command.missing(folder, folder)\n"
        "assert not command.missing(folder, wheels)\n"
        "import carried; assert carried.ANSWER == 42 and not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    root = Path(command.__file__).parents[2]
    asked = [sys.executable, "-c", program, str(tmp_path / "packages"), str(wheels)]
    done = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
