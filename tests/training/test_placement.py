"""Trainings that begin with the nodes there are, lose some, and get others."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raydc.cli import main as cli
from raydc.core.settings import SettingsError, build
from raydc.training.config import Training, Workers
from tests.cli.test_main import options
from tests.support.ray_nodes import Nodes
from tests.support.waiting import Patience

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("text", "least", "most"), [("3", 3, 3), (2, 2, 2), ("1..4", 1, 4), ("2..2", 2, 2), (0, 0, 0)])
def test_a_number_of_workers_or_a_range(text, least, most):
    training = build(Training, {"workers": text})
    assert (training.workers.least, training.workers) == (least, most)
    again = build(Training, json.loads(training.model_dump_json()))
    assert (again.workers.least, again.workers) == (least, most)


@pytest.mark.parametrize("text", ["4..1", "0..2", "-1", "1..", "many", "1.5", None])
def test_other_numbers_of_workers_are_refused(text):
    with pytest.raises(SettingsError, match=r"training\.workers: expected a number of workers such as 2, or a range"):
        build(Training, {"workers": text}, at="training")


def test_workers_travel_between_processes():
    import pickle

    found = pickle.loads(pickle.dumps(Workers(4, 1)))
    assert (found, found.least) == (4, 1)


class Driver:
    """`raydc train` on the cluster, from outside it."""

    def __init__(self, nodes: Nodes, out: Path, *options: str) -> None:
        environment = nodes.environment(nodes.folder / "driver") | {"RAY_ADDRESS": nodes.address}
        environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.log = out.with_suffix(".log")
        command = [sys.executable, "-m", "raydc", "train", *options, f"--out={out}"]
        command.append(f"--tracking-uri=sqlite:///{nodes.folder}/mlflow.db")
        with open(self.log, "wb") as file:
            self.process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)

    def wait_for(self, text: str, after: str = "", seconds: float = 240) -> None:
        patience = Patience(seconds)
        while not re.search(f"{after}.*{text}", self.log.read_text(), re.DOTALL):
            assert self.process.poll() is None and not patience.over(), self.log.read_text()
            time.sleep(0.1)

    def end(self, seconds: float) -> int:
        """Its exit code."""
        patience = Patience(seconds)
        while self.process.poll() is None:
            assert not patience.over(), self.log.read_text()
            time.sleep(0.1)
        return self.process.returncode

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *problem: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def whole(out: Path, workers: int) -> None:
    """Every row has been assigned once, by that many workers, and no epoch is missing or told twice."""
    parts = list((out / "assignments").iterdir())
    assert len(parts) == workers
    assert pq.read_table(out / "assignments")["row"].to_pylist() == list(range(1797))
    steps = [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and len(steps) > 0


@pytest.mark.ray
@pytest.mark.slow  # some 60 s where nothing else runs
@pytest.mark.timeout(1200)
def test_training_goes_on_with_the_nodes_that_are_left(tmp_path):
    out = tmp_path / "run"
    lengthy = options(training__workers="1..3", method__cluster__length="200 epochs", training__patience=120)
    with Nodes(tmp_path / "nodes", workers=2) as nodes, Driver(nodes, out, *lengthy) as driver:
        driver.wait_for("training with 2 of 3 workers")
        driver.wait_for("cluster 1/200")
        nodes.lose(2)
        driver.wait_for("training with 1 of 3 workers", seconds=90)
        assert driver.end(900) == 0, driver.log.read_text()
    whole(out, 1)


@pytest.mark.ray
@pytest.mark.slow
def test_training_takes_the_nodes_that_come(tmp_path):
    out = tmp_path / "run"
    lengthy = options(training__workers="1..2", method__cluster__length="2000 epochs", training__patience=120)
    with Nodes(tmp_path / "nodes", workers=1) as nodes, Driver(nodes, out, *lengthy) as driver:
        driver.wait_for("training with 1 of 2 workers")
        driver.wait_for("cluster 1/2000")
        nodes.add(2)
        driver.wait_for("training with 2 of 2 workers")
        driver.wait_for("cluster", after="training with 2 of 2 workers")
        driver.process.terminate()  # the rest would take long
        assert driver.end(120) == cli.TRY_AGAIN, driver.log.read_text()
    newest = max((out / "checkpoints").iterdir())
    assert len(json.loads((newest / "manifest.json").read_text())["sizes"]) == 2, "not of two workers"


@pytest.mark.ray
@pytest.mark.slow
def test_without_room_it_says_so_and_gives_up(tmp_path):
    with (
        Nodes(tmp_path / "nodes", workers=1) as nodes,
        Driver(nodes, tmp_path / "run", *options(training__workers=2, training__patience=15)) as driver,
    ):
        assert driver.end(240) == cli.TRY_AGAIN, driver.log.read_text()
    said = driver.log.read_text()
    assert "waiting for room for 2 workers of 1 CPU each" in said and "start the same command again" in said
