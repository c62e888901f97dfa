"""A real server beside a real registry, where champions come that cannot be served, and the registry goes away."""

import json
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import raydc
from benchmarks.serve import Load, Server, load, register, serving
from raydc.tracking import registry
from tests.support import run_cases
from tests.support.servers import MLflowServer
from tests.support.waiting import Patience

ENCODER = """
import numpy as np
from raydc.data.encoders import Encoder


class Lengths(Encoder):
    takes, version, digest, width = "text", "1", "0" * 64, 2

    def vectors(self, values):
        return np.array([[1.0, len(text)] for text in values])
"""
POLL = 0.5


@pytest.fixture
def mlflow(tmp_path):
    (tmp_path / "mlflow").mkdir()
    server = MLflowServer(tmp_path / "mlflow").start()
    yield server
    server.stop()


def another(data: str, out: Path, uri: str, **settings: Any) -> None:
    """k-means of other rows as another version of digits."""
    settings |= {"output.register_as": "digits", "output.tracking_uri": uri}
    raydc.train(data, "kmeans", 3, out=str(out), workers=0, settings=settings)


def damage(files: Path) -> None:
    """Flip a byte in the weights of the model that was uploaded last."""
    weights = max(files.rglob("state.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 255
    weights.write_bytes(data)


def about(server: Server, path: str = "model") -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/{path}", timeout=120) as answer:
        return json.load(answer)


def until(true: Callable[[], bool], what: Callable[[], object]) -> None:
    patience = Patience(120)
    while not true():
        assert not patience.over(), what()
        time.sleep(0.1)


def answered(seen: Load, more: int = 30) -> None:
    """Wait for so many answers more."""
    before = len(seen.ended)
    until(lambda: len(seen.ended) >= before + more, lambda: seen.ended[-3:])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_champions_that_cannot_be_served_and_a_registry_that_is_away_cost_no_request(tmp_path, mlflow, monkeypatch):
    uri, folder = mlflow.url, tmp_path / "here"
    folder.mkdir()
    said = folder / "serve.log"
    for seed in (0, 1, 2):
        register(tmp_path, uri, seed)
    damage(mlflow.folder / "artifacts")
    another(run_cases.write(run_cases.table(), tmp_path / "table.parquet"), tmp_path / "run-4", uri)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lengths_of.py").write_text(ENCODER)
    texts = pa.table({"note": [f"parcel {'number ' * (i % 3)} of today" for i in range(60)]})
    with monkeypatch.context() as elsewhere:
        elsewhere.syspath_prepend(tmp_path / "elsewhere")
        settings = {"data.encoder": "lengths_of:Lengths", "data.types": "note=text"}
        another(run_cases.write(texts, tmp_path / "texts.parquet"), tmp_path / "run-5", uri, **settings)
    refused = {
        3: "is damaged",
        4: "takes other rows than models:/digits/1",
        5: "models:/digits/5: data.encoder: lengths_of",
    }
    options = ("--model", "models:/digits@champion", "--tracking-uri", uri, "--poll", str(POLL))
    with serving(folder, *options, "--allow-code", "lengths_of:Lengths") as server, load(server.port, 4) as seen:
        for version, why in refused.items():
            registry.promote("digits", version, uri)
            until(lambda why=why: why in (about(server)["problem"] or ""), lambda: about(server))
            assert about(server)["model"] == "models:/digits/1" and about(server, "ready")["current"] is False
            answered(seen)
            until(lambda why=why: why in said.read_text(), said.read_text)
        registry.promote("digits", 1, uri)
        until(lambda: about(server)["problem"] is None, lambda: about(server))
        assert seen.models == {"models:/digits/1"} and about(server, "ready")["current"] is True
        mlflow.process.send_signal(signal.SIGSTOP)
        time.sleep(4 * POLL)
        answered(seen)
        mlflow.process.send_signal(signal.SIGCONT)
        mlflow.stop()
        until(lambda: uri in (about(server)["problem"] or ""), lambda: about(server))
        answered(seen)
        assert seen.models == {"models:/digits/1"}
        mlflow.start()
        registry.promote("digits", 2, uri)
        until(lambda: about(server)["model"] == "models:/digits/2", lambda: about(server))
        answered(seen, 100)
        until(lambda: said.read_text().endswith("raydc: models:/digits/2 answers\n"), said.read_text)
        assert about(server)["problem"] is None
    assert not seen.lost and seen.models == {"models:/digits/1", "models:/digits/2"}, seen.lost
