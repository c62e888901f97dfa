"""A sqlite database of MLflow's: several processes meet at it, are killed, or find it half made."""

import multiprocessing
import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from raydc.tracking import mlflow_client, mlflow_database, registry
from raydc.tracking.mlflow_client import RegistryAway
from raydc.tracking.mlflow_database import DatabaseUnusable, absolute, ensure, file_of

FRESH = multiprocessing.get_context("spawn")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    ensure(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(whole, tmp_path) -> Path:
    """A copy of a whole one, to be spoiled."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(whole.read_bytes())
    return path


def execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def start_run(uri: str, key: str, answers) -> None:
    try:
        answers.put(mlflow_client.start_run("meet", key, key, {"a": 1}, uri))
    except BaseException as problem:
        answers.put(repr(problem))
        raise


@pytest.mark.slow
def test_runs_that_meet_at_a_new_database_are_all_recorded(tmp_path) -> None:
    uri, answers = f"sqlite:///{tmp_path}/deep/mlflow.db", FRESH.Queue()
    processes = [FRESH.Process(target=start_run, args=(uri, f"key-{i}", answers)) for i in range(3)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=240) for _ in processes]
    for process in processes:
        process.join()
    assert all(registry.RUN_ID.fullmatch(run) for run in found) and len(set(found)) == 3, found
    assert names(tmp_path / "deep") == {"mlflow.db", ".mlflow.db.lock", "mlruns"}


@pytest.mark.slow
def test_a_maker_that_is_killed_leaves_nothing_half(tmp_path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    process = FRESH.Process(target=ensure, args=(uri,))
    process.start()
    while not any(path.stat().st_size > 0 for path in tmp_path.glob(".mlflow.db.new-*")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "mlflow.db").exists()
    assert mlflow_client.start_run("killed", "x", "x", {}, uri)
    assert names(tmp_path) == {"mlflow.db", ".mlflow.db.lock", "mlruns"}


@pytest.mark.parametrize(
    "spoil",
    [
        "update alembic_version set version_num = '39d1c3be5f05'",
        "delete from alembic_version",
        "drop table alembic_version",
    ],
)
def test_a_database_left_half_way_is_named_and_left_alone(database, monkeypatch, spoil) -> None:
    monkeypatch.setattr(mlflow_database, "STILL", 0.3)
    execute(database, spoil)
    before = database.read_bytes()
    with pytest.raises(
        RegistryAway, match=r"is no whole database of MLflow .*`mlflow db upgrade sqlite:.*move it away"
    ):
        mlflow_client.start_run("half", "x", "x", {}, f"sqlite:///{database}")
    assert database.read_bytes() == before


def test_a_database_that_another_program_migrates_is_waited_for(database, monkeypatch) -> None:
    monkeypatch.setattr(mlflow_database, "STILL", 1.0)
    newest = mlflow_database._newest()
    steps = ["39d1c3be5f05", "a8c4a736bde6", newest]
    execute(database, "update alembic_version set version_num = 'first'")

    def migrate() -> None:
        for step in steps:
            time.sleep(0.6)
            execute(database, f"update alembic_version set version_num = '{step}'")

    other = threading.Thread(target=migrate)
    other.start()
    started = time.monotonic()
    ensure(f"sqlite:///{database}")
    assert 1.2 < time.monotonic() - started
    other.join()


def test_what_is_no_database_is_named(tmp_path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(DatabaseUnusable, match=r"mlflow\.db: file is not a database"):
        ensure(f"sqlite:///{tmp_path}/mlflow.db")


def test_an_empty_file_becomes_a_database_and_mlflow_says_nothing_between_our_lines(tmp_path, capfd) -> None:
    path = tmp_path / "a b#c.db"
    path.touch()
    ensure(f"sqlite:///{path}")
    assert mlflow_client.start_run("quiet", "x", "x", {}, f"sqlite:///{path}")
    assert names(tmp_path) == {path.name, f".{path.name}.lock", "mlruns"}
    shown = "".join(capfd.readouterr())
    assert "alembic" not in shown and "INFO" not in shown


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///mlflow.db", "mlflow.db"),
        ("sqlite:////x/mlflow.db?timeout=30", "/x/mlflow.db"),
        ("sqlite:////x/run%253A/mlflow.db", "/x/run%3A/mlflow.db"),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("http://server/mlflow.db", None),
        ("postgresql://server/mlflow", None),
    ],
)
def test_the_file_of_a_uri(uri: str, file: str | None, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_of(uri) == (None if file is None else Path(file))
    assert file_of(absolute(uri)) == (None if file is None else tmp_path / file)
    assert mlflow_client.find(uri) == absolute(uri)


@pytest.mark.parametrize("name", ["run%3A", "a b", "ä#?é"])
def test_the_default_store_lies_in_the_working_directory_whatever_its_name(tmp_path, monkeypatch, name) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert file_of(mlflow_client.find()) == tmp_path / name / "mlflow.db"
    assert file_of(mlflow_client.find("sqlite:///mlflow.db")) == tmp_path / name / "mlflow.db"
