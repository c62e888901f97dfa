"""The one-way flow, as a test: who may import whom inside raydc, and which outside packages each layer may see."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "raydc"
ORDER = [
    {"redaction", "compat"},
    {"settings", "collectives", "connection", "precision", "failpoints", "storage", "warden"},
    {"losses", "networks", "data", "metrics", "phases", "augment"},
    {"clusters"},
    {"methods"},
    {"config", "loop"},
    {"model", "checkpoints"},
    {"job", "records", "outbox", "elastic", "surveying", "mlflow_options", "mlflow_database"},
    {"summary", "streamed", "worker"},
    {"train", "registry", "pyfunc", "report", "estimator"},
    {"tracker"},
    {"assign", "run", "search"},
    {"console"},
    {"cli"},
    {"__main__", "__init__"},
]
"""From the bottom up: a module may import from its own layer and from those before it."""
ONLY = {
    "ray": {"connection", "elastic", "train", "worker", "search", "assign", "clusters/ray", "warden", "surveying"},
    "mlflow": {"registry", "pyfunc", "mlflow_options", "mlflow_database"},
    "optuna": {"search"},
}


def level(name: str) -> int:
    (found,) = [i for i, layer in enumerate(ORDER) if name in layer]
    return found


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_downwards(path):
    relative = path.relative_to(ROOT).with_suffix("")
    own = relative.parts[0]
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "raydc" and rest and rest[0] not in ("DeepClustering", own):
            assert level(rest[0]) <= level(own), f"{relative} may not import raydc.{rest[0]}"
        if top in ONLY:
            allowed = ONLY[top] | {"compat"}
            assert own in allowed or str(relative) in allowed, f"{relative} may not import {top}"


def test_a_method_knows_no_files_and_no_loop():
    for path in (ROOT / "methods").glob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"ray", "mlflow", "os", "pathlib", "logging"}, path


def test_the_loop_does_not_ask_which_method_it_trains():
    names = {path.stem for path in (ROOT / "methods").glob("*.py")}
    text = (ROOT / "loop.py").read_text()
    imported = set(imports(ROOT / "loop.py"))
    assert not any(name.startswith("raydc.methods.") and not name.startswith("raydc.methods.base") for name in imported)
    assert not any(f'"{name}"' in text for name in names)
