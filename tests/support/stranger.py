"""A stranger's package: a method, a source, a criterion and a search space, offered by entry points."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support.waiting import run

ROOT = Path(__file__).parents[2]
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "strange-rows"
version = "1.0"

[project.entry-points."raydc.methods"]
farthest = "strange_rows.method:Farthest"

[project.entry-points."raydc.sources"]
rings = "strange_rows.rows:open_rings"
".rings" = "strange_rows.rows:open_file"

[project.entry-points."raydc.encoders"]
letters = "strange_rows.rows:Letters"

[project.entry-points."raydc.criteria"]
evenness = "strange_rows.criterion:evenness"

[project.entry-points."raydc.spaces"]
farthest = "strange_rows.space:space"

[tool.setuptools]
packages = ["strange_rows"]
"""
METHOD = '''
"""An autoencoder's code, clustered by k-means: AEKMeans under another name, with a setting of its own."""

from typing import ClassVar

from pydantic import Field

from raydc.methods.ae_kmeans import AEKMeans
from raydc.methods.base import MethodInfo


class Farthest(AEKMeans):
    info: ClassVar[MethodInfo] = MethodInfo(
        source="a stranger 2026",
        architecture="MLP",
        features="encoder output",
        network_loss="autoencoder reconstruction",
        clustering_loss="none",
        combination="pretraining",
        updates="none",
    )

    class Config(AEKMeans.Config):
        far: float = Field(1.5, gt=1)
        """How far counts as far."""
'''
ROWS = '''
"""Rings of points: rings://3 has three of them, a .rings file says how many."""

from pathlib import Path

import numpy as np

from raydc.data import ArraySource, DataSettings
from raydc.data.encoders import Encoder


class Letters(Encoder):
    """How often a text has a, b and c."""

    takes, version, digest, width = "text", "letters 1", "0" * 64, 3

    def vectors(self, values: list[str]) -> np.ndarray:
        return np.array([[text.count(letter) for letter in "abc"] for text in values], float)


def open_rings(settings: DataSettings) -> ArraySource:
    return rings(int(settings.path.partition("://")[2] or 2), settings)


def open_file(settings: DataSettings) -> ArraySource:
    return rings(int(Path(settings.path).read_text()), settings)


def rings(number: int, settings: DataSettings) -> ArraySource:
    draw = np.random.default_rng(0)
    ring, angle = draw.integers(number, size=150), draw.uniform(0, 6.28, 150)
    x = (1 + 3 * ring[:, None]) * np.stack([np.cos(angle), np.sin(angle)], 1) + draw.normal(0, 0.1, (150, 2))
    return ArraySource(x.astype(np.float32), settings=settings)
'''
CRITERION = '''
import numpy as np


def evenness(labels: np.ndarray, graph: object) -> float:
    """1 where all clusters are of one size."""
    sizes = np.bincount(labels) / len(labels)
    return float(1 - sizes.max() + sizes.min())
'''
SPACE = """
def space(trial):
    trial.suggest_float("method.far", 1.1, 3.0)
    return {"method.name": "farthest"}
"""
SMALL = {
    "method.network.hidden": "16",
    "method.network.latent": "4",
    "method.denoise.length": "1 epochs",
    "method.pretrain.length": "2 epochs",
}
"""A short training of its method."""


def write(folder: Path) -> Path:
    """The package as its author has it."""
    files = {"method": METHOD, "rows": ROWS, "criterion": CRITERION, "space": SPACE, "__init__": ""}
    (folder / "strange_rows").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    for name, text in files.items():
        (folder / "strange_rows" / f"{name}.py").write_text(textwrap.dedent(text).lstrip())
    return folder


def install(package: Path, to: Path) -> Path:
    """The package as pip installs it, into a folder of its own, without a network."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(to), str(package)], check=True, capture_output=True)
    return to


def raydc(arguments: list[str], at: Path, installed: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """The command line in another process, in an empty folder, where the package is installed or is not."""
    return _run(["-m", "raydc", *arguments], at, installed)


def python(program: str, at: Path, installed: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """A program there."""
    return _run(["-c", program], at, installed)


def _run(arguments: list[str], at: Path, installed: Path | None) -> "subprocess.CompletedProcess[str]":
    at.mkdir(exist_ok=True)
    places = [str(ROOT), *([] if installed is None else [str(installed)])]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(places), "MLFLOW_TRACKING_URI": f"sqlite:///{at}/mlflow.db"}
    command = [sys.executable, *arguments]
    return run(command, 900, cwd=at, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
