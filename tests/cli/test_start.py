"""A start of the command line imports what it uses: help and lists do without the packages that take seconds."""

import json
import subprocess
import sys

import pytest

from raydc import methods
from raydc.methods import index

HEAVY = {"torch", "ray", "mlflow", "optuna", "pandas", "sklearn", "scipy", "pyarrow", "numba", "matplotlib"}
IMPORTED = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr))
"""


def imported(program: str) -> set[str]:
    """Packages that a fresh Python has imported when the program ends."""
    ended = subprocess.run([sys.executable, "-c", IMPORTED + program], capture_output=True, text=True, check=True)
    return set(json.loads(ended.stderr))


@pytest.mark.parametrize(
    "command",
    ["--help", "methods", *(f"{name} --help" for name in ("train", "train --method dec", "tune", "assign", "report"))],
)
def test_help_and_lists_import_nothing_heavy(command):
    found = imported(f"import raydc.cli.main\nraydc.cli.main.main({command.split()!r})")
    assert "argparse" in found and not found & HEAVY


def test_the_package_imports_next_to_nothing():
    assert not imported("import raydc") & {*HEAVY, "numpy", "pydantic", "yaml", "rich"}


def test_the_index_says_what_the_classes_say():
    assert index.FILE.read_text() == index.text(), "make index writes raydc/methods/index.json anew"


def test_the_index_holds_every_method_of_raydc():
    assert [*index.read()] == methods.available()


def test_a_method_of_ones_own_is_described_from_its_class(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "plus.py").write_text("from raydc.methods.dec import DEC\n\n\nclass Plus(DEC):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    own, dec = methods.describe("own.plus"), methods.describe("dec")
    assert own.title == "Plus" and (own.info, own.settings) == (dec.info, dec.settings)


def test_training_imports_nothing_of_the_search():
    assert not imported("import raydc.cli.console, raydc.pipelines.train") & {"ray", "optuna"}


def test_garbage_is_collected_again_when_work_begins_and_not_among_what_was_imported():
    program = """
import gc, sys
from raydc.cli.main import main
from raydc.core import garbage
sys.argv = ["raydc", "methods"]
main()
assert not gc.isenabled()
before = len(gc.get_objects())
garbage.collect()
assert gc.isenabled() and gc.get_freeze_count() >= before
"""
    imported(program)


def test_a_program_that_calls_a_command_keeps_its_collector():
    imported('import gc\nfrom raydc.cli.main import main\nmain(["methods"])\nassert gc.isenabled()')
