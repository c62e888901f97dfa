"""The one-way flow, as a test: who may import whom inside raydc, and which outside packages each room may see."""

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "raydc"
ORDER = [
    {"core"},
    {"distributed"},
    {"data", "networks", "networks/losses", "clustering/metrics"},
    {"clustering"},
    {"clustering/centroid_service", "methods"},
    {"training/model", "training/model_files", "training/labels", "training/baseline"},
    {"training", "tracking"},
    {"pipelines/report", "api/estimator"},
    {"pipelines"},
    {"search"},
    {"api"},
    {"testing"},
    {"cli"},
    {"__main__", "__init__"},
]
"""From the bottom up: a room may import from those of its own floor, in one direction, and from the floors below.

A folder in a room that stands here is a room of its own."""
ROOMS = {name for rooms in ORDER for name in rooms}
ONLY = {
    "ray": {
        "distributed/ray_cluster",
        "distributed/tasks",
        "clustering/centroid_service/actors",
        "training/placement",
        "training/data_profiling",
        "training/ray_worker",
        "training/trainer",
        "pipelines/chunks",
        "pipelines/serving/deployments",
        "pipelines/serving/run",
        "search",
        "core/compat",
    },
    "mlflow": {
        "tracking/mlflow_client",
        "tracking/mlflow_database",
        "tracking/mlflow_options",
        "tracking/pyfunc",
        "tracking/registry",
        "core/compat",
    },
    "optuna": {"search", "core/compat"},
}
MODULES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return room_of(path.relative_to(ROOT).with_suffix("").parts)


def room_of(parts: Sequence[str]) -> str:
    """The innermost room of a module or of a name in it."""
    return max((each for each in ROOMS if tuple(each.split("/")) == tuple(parts[: each.count("/") + 1])), key=len)


def floor(name: str) -> int:
    (found,) = [i for i, rooms in enumerate(ORDER) if name in rooms]
    return found


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_below(path: Path) -> set[str]:
    """Rooms of raydc that a module imports from, without its own."""
    parts = [name.split(".") for name in imports(path)]
    return {room_of(part[1:]) for part in parts if part[0] == "raydc" and len(part) > 1} - {room(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_downwards(path):
    for name in rooms_below(path):
        assert floor(name) <= floor(room(path)), f"{path.relative_to(ROOT)} may not import raydc.{name}"
    own = str(path.relative_to(ROOT).with_suffix(""))
    for name in imports(path):
        allowed = ONLY.get(name.split(".")[0])
        assert allowed is None or {own, room(path)} & allowed, f"{own} may not import {name}"


def test_rooms_form_no_circle():
    below = {room(path): set[str]() for path in MODULES}
    for path in MODULES:
        below[room(path)] |= rooms_below(path)
    for _ in below:  # transitively
        for known in below.values():
            known |= {far for near in [*known] for far in below[near]}
    assert not [name for name, known in below.items() if name in known]


def test_the_package_can_be_taken_in_at_a_glance():
    assert len([path for path in ROOT.iterdir() if path.name != "__pycache__"]) <= 16, "a new thing goes into a room"
    assert not [str(path) for path in MODULES if len(path.read_text().splitlines()) > 500], "split by idea"


def test_a_method_knows_no_files_and_no_loop():
    for path in (ROOT / "methods").rglob("*.py"):
        assert not {name.split(".")[0] for name in imports(path)} & {"ray", "mlflow", "os", "pathlib", "logging"}, path


def test_the_loop_does_not_ask_which_method_it_trains():
    names = {path.stem for path in (ROOT / "methods").glob("*.py")}
    text = (ROOT / "training" / "loop.py").read_text()
    imported = set(imports(ROOT / "training" / "loop.py"))
    assert not any(name.startswith("raydc.methods.") and not name.startswith("raydc.methods.base") for name in imported)
    assert not any(f'"{name}"' in text for name in names)


@pytest.mark.parametrize("path", sorted((ROOT / "methods").rglob("*.py")), ids=lambda path: path.stem)
def test_clusters_is_all_that_a_method_sees_of_other_workers(path):
    assert "distributed" not in rooms_below(path)
