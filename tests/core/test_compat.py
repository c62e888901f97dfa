"""What other packages do not promise: it still is what raydc/core/compat.py takes it for, and nobody else uses it."""

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from numba import njit, types
from numba.extending import intrinsic
from packaging.requirements import Requirement
from packaging.version import Version

from raydc.core import compat

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "raydc").rglob("*.py"))
COMPAT = Path(inspect.getfile(compat))
UNPROMISED = re.compile(r"(ray\.train\.v2|numba\.(core|np)|ray\.util\.client|sklearn\.externals|mlflow\.store)(\.|$)")
"""Modules of other packages that have no underscore and are yet their own business."""
DOCUMENTED = {"os._exit"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def own_names() -> set[str]:
    """Private names that raydc defines."""
    names = set()
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return names


def unpromised(tree: ast.AST, own: set[str]) -> Iterator[str]:
    """Imports, attributes and quoted names that are another package's own business."""
    for node in ast.walk(tree):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
            found = [ast.unparse(node)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = re.findall(
                r"\b(?:ray|torch|numba|sklearn|optuna|mlflow|pyarrow|numpy)(?:\.\w+)*\._[a-z]\w*", node.value
            )
        for name in found:
            if (
                name not in DOCUMENTED
                and not name.startswith("raydc.")
                and (UNPROMISED.match(name) or any(map(private, name.split("."))))
            ):
                yield name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_else_uses_what_is_not_promised(path: Path) -> None:
    if path != COMPAT:
        assert not list(unpromised(parsed(path), own_names()))


@pytest.mark.parametrize(
    "line",
    [
        "from ray._private import services",
        "import numba.core.cgutils",
        "from ray.train.v2.api.config import LoggingConfig",
        "from sklearn.utils.validation import _check_sample_weight",
        "torch.cpu._is_avx512_bf16_supported()",
        "optuna.Trial(study, trial._trial_id)",
        "program = 'from ray._raylet import GcsClient'",
    ],
)
def test_what_is_not_promised_is_noticed(line: str) -> None:
    assert list(unpromised(ast.parse(line), own_names()))


def test_compat_imports_nothing_before_it_is_needed() -> None:
    slow = ("ray", "mlflow", "numba", "optuna", "torch", "sklearn", "numpy")
    program = f"import sys, raydc.core.compat; sys.exit(bool(set({slow}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0


@pytest.mark.parametrize("package", ["ray", "numba", "optuna"])
def test_versions_end_before_the_next_minor_one(package: str) -> None:
    """Of packages that stand in compat.py; the version that the tests run with is among those allowed."""
    assert re.search(rf"^ +(from|import) {package}\b", COMPAT.read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    allowed = [each.specifier for each in map(Requirement, listed) if each.name == package]
    found = Version(version(package))
    assert allowed
    for versions in allowed:
        assert found in versions
        assert Version(f"{found.major}.{found.minor + 1}.0") not in versions


def test_no_other_package_stands_in_compat() -> None:
    imported = {
        name.split(".")[0] for name in re.findall(r"^ +(?:from|import) ([\w.]+)", COMPAT.read_text(), re.MULTILINE)
    }
    assert imported == {"ray", "numba", "optuna"}


@pytest.fixture(scope="module")
def gcs() -> Iterator[str]:
    """The address of a Ray cluster that asks for no token."""
    import ray

    with compat.loopback_alone():
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.ray
def test_nodes_are_known_without_joining_and_listen_on_loopback_alone(gcs: str) -> None:
    command = [sys.executable, "-c", compat.NODES_WITHOUT_JOINING, gcs]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert asked.stdout.split() == ["127.0.0.1"], asked.stderr


def test_the_switch_that_loopback_alone_turns_is_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import services, worker

    monkeypatch.setattr(worker, "_global_node", None)
    monkeypatch.setattr(services, "node_ip_address_from_perspective", lambda address: "10.0.0.1")
    assert services.get_node_ip_address() == "10.0.0.1"
    with suppress(ZeroDivisionError), compat.loopback_alone():
        assert services.get_node_ip_address() == "127.0.0.1"
        raise ZeroDivisionError
    assert services.get_node_ip_address() == "10.0.0.1"


def test_a_node_has_the_time_to_start_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import node, services

    assert "services.get_node(" in inspect.getsource(node), "what a starting node waits for"
    asked = []

    def late(address: str, name: str) -> str:
        asked.append(name)
        if len(asked) < 3:
            raise RuntimeError("no such node")
        return f"{name} at {address}"

    monkeypatch.setattr(services, "get_node", late)
    with compat.node_may_take(60):
        assert services.get_node("here", "node") == "node at here"
    assert services.get_node is late and len(asked) == 3
    asked.clear()
    with pytest.raises(RuntimeError, match="no such node"), compat.node_may_take(0):
        services.get_node("here", "node")


def test_ray_says_that_a_node_was_not_ready_in_time_in_these_words() -> None:
    from ray._private import node

    assert compat.SLOW_START in inspect.getsource(node)


def test_a_trial_that_another_process_asked_for_goes_on() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=0.5))
    first = study.ask()
    x = first.suggest_float("x", 0, 1)
    again = compat.asked_before(study, study.get_trials(deepcopy=False)[0])
    assert again.number == first.number and again.suggest_float("x", 0, 1) == x
    again.report(0.25, 1)
    assert again.should_prune()
    study.tell(again, 0.25)
    assert study.best_trial.number == first.number and study.best_value == 0.25


@intrinsic
def squares(typing: Any, array: types.Array, count: types.Type) -> Any:
    """Sum of the squares of the first `count` elements, and 1 is written over the first: all parts of code in use."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = compat.array_data(context, builder, array, arguments[0])
        zero = arguments[1].type(0)
        answer = compat.variable(builder, context.get_constant(types.float32, 0.0))
        with compat.steps(builder, zero, arguments[1], arguments[1].type(2)) as (index, done):
            element = builder.load(builder.gep(data, [index]))
            scaled = builder.fmul(element, builder.sitofp(done, element.type))
            builder.store(builder.fadd(builder.load(answer), scaled), answer)
        return builder.load(answer)

    return types.float32(array, types.intp), emit


@intrinsic
def clear(typing: Any, array: types.Array) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store(
            context.get_constant(types.float32, 0.0), compat.array_data(context, builder, array, arguments[0])
        )
        return compat.nothing(context)

    return types.void(array), emit


def test_code_made_for_numba_reads_writes_and_repeats() -> None:
    @njit
    def every_other(x: np.ndarray) -> float:
        return squares(x, 5)

    @njit
    def cleared(x: np.ndarray) -> None:
        clear(x)

    x = np.array([3, 5, 7, 11, 13, 17], np.float32)
    assert every_other(x) == 0 * 3 + 1 * 7 + 2 * 13  # elements 0, 2, 4 by the number of steps before
    cleared(x)
    assert x.tolist() == [0, 5, 7, 11, 13, 17]


def read_by(folder: Path) -> bytes:
    """What names of the environment Ray's Python files and its compiled ones have."""
    parts = ("_common", "_private", "air", "train", "tune")
    files = [folder / "_raylet.so", *(path for part in parts for path in (folder / part).rglob("*.py"))]
    return b"\n".join(path.read_bytes() for path in files)


def stands(name: str, text: bytes) -> bool:
    """Whether it stands there as a word; a pattern that begins with a boundary is slow in so many megabytes."""
    ends = (found.start() for found in re.finditer(rf"{name}\b".encode(), text))
    return any(re.match(rb"\w", text[max(at - 1, 0) : at]) is None for at in ends)


def test_ray_reads_every_variable_of_the_environment_that_is_set_for_it() -> None:
    spec = find_spec("ray")
    assert spec is not None and spec.origin is not None
    known = read_by(Path(spec.origin).parent)
    names = {
        node.value
        for path in SOURCES
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"(RAY|TUNE|TORCH)_\w+", node.value)
    }
    assert {"RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S", "TUNE_GLOBAL_CHECKPOINT_S"} <= names
    for name in names:  # Ray's own settings stand there in small letters, without the prefix
        own = name.removeprefix("RAY_").encode()
        assert stands(name, known) or (name != name.upper() and own in known), name


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_process_of_ray_tells_whether_it_asks_for_a_token(mode, tmp_path):
    (tmp_path / "token").write_text("0" * 64)
    environment = {**os.environ, "RAY_AUTH_MODE": mode, "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    program = "from raydc.core import compat; print(compat.asks_for_token())"
    said = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(mode == "token")
