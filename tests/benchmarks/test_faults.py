"""One random repeat of the faults that take seconds, and the table; `make faults` provokes all of them, often."""

import os
import random
import re
from mmap import mmap
from pathlib import Path

import pytest

from benchmarks.faults import __main__ as faults
from benchmarks.faults.lab import FAULTS, Fault, Lab

SHORT = ("snapshot_truncated", "snapshot_flipped")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    seed = random.SystemRandom().randrange(2**31)
    print(f"the seed of the faults is {seed}")
    made = Lab(tmp_path_factory.mktemp("lab"), seed)
    yield made
    made.close()


def provoke(lab: Lab, one: Fault) -> None:
    result = lab.repeat(one, random.SystemRandom().randrange(1000))
    assert result["passed"], f"seed {lab.seed}, repeat {result['repeat']}: {result['problem']}"
    assert not [left for left in result["left"] if "scratch" not in left], result["left"]


@pytest.mark.parametrize("name", SHORT)
def test_a_fault_that_takes_a_second(lab, name):
    (one,) = [one for one in FAULTS if one.name == name]
    provoke(lab, one)


@pytest.mark.slow
@pytest.mark.parametrize("one", [one for one in FAULTS if one.name not in SHORT], ids=lambda one: one.name)
def test_any_other_fault(lab, one):
    provoke(lab, one)


def test_a_repeat_that_goes_wrong_is_in_the_table_and_what_is_done_is_not_done_again(tmp_path, monkeypatch, capsys):
    provoked = []

    def half(lab: Lab, repeat: int) -> float:
        provoked.append(repeat)
        (lab.temporary / "forgotten").mkdir()
        assert repeat, "the first one always fails"
        return 90.0

    monkeypatch.setattr(faults, "FAULTS", [Fault("A0", "a fault", 60.0, False, half)])
    assert faults.main(["--out", str(tmp_path), "--repeats-quick", "2"]) == 1
    assert faults.main(["--out", str(tmp_path), "--repeats-quick", "3"]) == 1
    assert provoked == [0, 1, 2]
    text = Path(tmp_path, "table.md").read_text()
    assert "| A0 | a fault | 3 | 2 | 0 | 90.0 s | 60 s | 3 scratch |" in text and text in capsys.readouterr().out
    assert "- A0 repeat 0: AssertionError: the first one always fails" in text
    assert faults.main(["--out", str(tmp_path), "--repeats-quick", "2", "--busy", "1"]) == 1
    assert provoked == [0, 1, 2, 0, 1] and text == Path(tmp_path, "table.md").read_text()
    assert "beside 1 processes that never rest" in Path(tmp_path, "table-busy-1.md").read_text()
    assert faults.main(["--out", str(tmp_path), "--repeats-quick", "9", "--budget", "-1"]) == 1
    assert "| 3 of 9 |" in Path(tmp_path, "table.md").read_text()
    with pytest.raises(SystemExit, match="there are A0"):
        faults.main(["--out", str(tmp_path), "--only", "A99"])


def test_a_soak_counts_what_went_wrong_and_watches_its_memory(tmp_path, monkeypatch, capsys):
    held: list[mmap] = []

    def leaky(lab: Lab, repeat: int) -> float:
        held.append(mmap(-1, 2**22))  # pages of its own: malloc would reuse what earlier tests freed, and nothing grow
        held[-1].write(os.urandom(2**22))
        assert repeat != 3, "the fourth one fails"
        return 0.0

    monkeypatch.setattr(faults, "FAULTS", [Fault("A0", "a fault", 60.0, False, leaky)])
    assert faults.main(["--out", str(tmp_path), "--soak", "6"]) == 1
    text = Path(tmp_path, "soak.md").read_text()
    assert "FAILED: A0 leaky: AssertionError: the fourth one fails" in text and text in capsys.readouterr().out
    slope = float(re.search(r"grew by \+([\d.]+) MB a minute", text)[1])
    assert slope > 1, "some megabytes a second"
