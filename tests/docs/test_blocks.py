"""Every command and Python block of README and manual, run page by page in its order."""

import ast
import re
import subprocess
import sys
from itertools import pairwise

import pytest

from tests.support.manual import ROOT, at_home, blocks, written_pages

NOT_RUN = {
    "CONTRIBUTING.md": 1,  # make
    "docs/benchmarks.md": 6,  # hours
    "docs/choosing-k.md": 1,  # hours
    "docs/cluster.md": 3,  # machines
    "docs/serving.md": 2,  # an address of its own; a server that never ends
    "docs/start.md": 3,  # an installation, the demo, a search of six minutes
}
"""How many blocks of a page need what a test has not."""
CODE = {page: [*blocks(page, (ROOT / page).read_text())] for page in written_pages()}
RUN = [page for page, codes in CODE.items() if any(code.mark != "no-run" for code in codes)]


def test_the_blocks_that_are_not_run_are_those_listed():
    marks = {page: [code.mark for code in codes if code.mark] for page, codes in CODE.items()}
    assert all(mark == "no-run" for found in marks.values() for mark in found)
    assert {page: len(found) for page, found in marks.items() if found} == NOT_RUN


def test_every_block_says_in_what_language_it_is():
    for page in CODE:
        fences = [line for line in (ROOT / page).read_text().splitlines() if line.startswith("```")]
        assert all(line.strip("`") for line in fences[::2]) and not any(line.strip("`") for line in fences[1::2]), page


@pytest.mark.parametrize("page", CODE)
def test_blocks_can_be_read(page):
    for code in CODE[page]:
        if code.language == "python":
            ast.parse(code.text)
        else:
            subprocess.run(["bash", "-n", "-c", code.text], check=True)


@pytest.mark.parametrize("page", CODE)
def test_no_line_of_a_paragraph_begins_a_list(page):
    lines = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL).splitlines()
    for before, line in pairwise(lines):
        if re.match(r"[-+*>] ", line):
            assert not before or before[0] in "-+*> ", f"{page}: a list for Markdown: {line}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", RUN)
def test_blocks_do_what_they_say(page, tmp_path):
    environment = at_home(tmp_path)
    subprocess.run([sys.executable, "-m", "tests.support.manual", page], cwd=tmp_path, env=environment, check=True)
