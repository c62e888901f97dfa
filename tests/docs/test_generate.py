"""Pages that are made from the code."""

import importlib.util
import re
import shlex
import subprocess

import pytest

from raydc import methods
from raydc.cli import main as cli
from raydc.core.settings import fields
from tests.support.manual import ROOT, blocks, written_pages

SPEC = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
assert SPEC and SPEC.loader
generate = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(generate)


@pytest.mark.parametrize("name", methods.available())
def test_a_methods_page_has_its_settings_figures_and_advice(name):
    page, kind = generate.method_page(name), methods.load(name)
    for heading in ("When to take it", "Figures", "Cost", "Settings"):
        assert f"## {heading}" in page
    assert all(f"| `method.{path}`" in page for path, _ in fields(kind.Config))
    assert page.count(f"| {name} |") == 1 and kind.info.source in page
    (command,) = blocks(name, page)
    assert subprocess.run(["bash", "-n", "-c", command.text]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", methods.available())
def test_a_methods_command_prints_its_cost(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (command,) = blocks(name, generate.method_page(name))
    program, *arguments = shlex.split(command.text.replace("\\\n", " "))
    assert program == "raydc" and cli.main(arguments) == 0
    assert "nothing was started" in capsys.readouterr().out and not (tmp_path / "runs").exists()


def test_the_manual_lists_every_method_from_its_info(capsys):
    assert cli.main(["methods", "--markdown"]) == 0
    table = capsys.readouterr().out.strip()
    assert table in generate.methods_index(methods.available())
    assert all(f"| {name} |" in table for name in methods.available())


def test_the_readmes_figures_are_the_manuals():
    assert generate.short_figures() in (ROOT / "README.md").read_text(), "put docs/figures.json's into README.md"


def test_docstrings_are_no_markup():
    assert generate.markdown("sum_k p_k [N, K] < 1, `x_y`, *all* **kwargs") == (
        "sum\\_k p\\_k \\[N, K\\] \\< 1, `x_y`, *all* \\*\\*kwargs"
    )
    assert generate.markdown("An example:\n\n    a_b = [1]") == "An example:\n\n    a_b = [1]"
    assert generate.markdown("+++\n% x") == "\\+++\n\\% x"


def test_public_names_reach_the_reference():
    page = generate.package_page()
    assert "{py:class} DeepClustering(" in page and "{py:method} predict(X: Any)" in page
    assert ":type: float" in generate.room_page("methods") and "_own" not in generate.room_page("methods")


def test_all_that_readme_and_contributing_link_to_is_there():
    for page in written_pages():
        for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
            if "generated/" not in target:  # made by the build, which checks these
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
