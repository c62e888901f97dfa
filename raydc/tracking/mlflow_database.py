"""MLflow's database where it is a sqlite file: made by one process at a time, and never found half made.

MLflow makes its tables by some sixty migrations that are no transaction. Two processes that do so at once fail, and the
file may stay for ever in a state that neither can use; so may one whose maker is killed. Here the file is made beside
its place by a process of its own, which also keeps MLflow's log of it to itself, and then put into its place whole.
"""

import fcntl
import functools
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, make_url

LONGEST_MAKING = 600.0
"""Seconds after which the process that makes a database is given up."""
STILL = 5.0
"""Seconds without a further migration after which a database that another program migrates counts as left half way."""


class DatabaseUnusable(OSError):
    """A sqlite file that MLflow cannot use as it is; the message says what to do."""


def file_of(uri: str) -> Path | None:
    """The file of a tracking URI of sqlite's; None of any other, or of one in memory."""
    if not uri.startswith("sqlite"):
        return None
    name = make_url(uri).database
    return None if not name or name == ":memory:" or name.startswith("file:") else Path(name)


def absolute(uri: str) -> str:
    """The same store from any working directory."""
    path = file_of(uri)
    if path is None or path.is_absolute():
        return uri
    return make_url(uri).set(database=str(path.absolute())).render_as_string(hide_password=False)


def ensure(uri: str) -> None:
    """Have the database of a sqlite URI made unless it is there; wait for whoever makes it now.

    Raises DatabaseUnusable where it is of another version of MLflow, or was left half way.
    """
    path = file_of(uri)
    if path is None or _revision(path) == _newest():
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        if _revision(path) is None:
            _make(path)
        _wait(path)


@functools.cache
def _newest() -> str:
    """The migration with which a database of the MLflow installed ends."""
    migrations = Path(mlflow.__file__).parent / "store" / "db_migrations"
    return str(ScriptDirectory(str(migrations)).get_current_head())


def _revision(path: Path) -> str | None:
    """The last migration of a database, "" before the first one; None where there is no table yet, or no file."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=20)) as database:
            tables = {name for (name,) in database.execute("select name from sqlite_master where type = 'table'")}
            if not tables:
                return None
            if "alembic_version" not in tables:
                return ""
            return next((name for (name,) in database.execute("select version_num from alembic_version")), "")
    except sqlite3.Error as problem:
        raise DatabaseUnusable(f"{path}: {problem}") from problem


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time makes a database; a killed one's lock goes with it."""
    with path.with_name(f".{path.name}.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(path: Path) -> None:
    """The database, whole at once; what a killed process left beside it goes."""
    beside = f".{path.name}.new-"
    for left in path.parent.iterdir():
        if left.name.startswith(beside):
            left.unlink(missing_ok=True)
    new = path.with_name(f"{beside}{uuid.uuid4().hex}")
    url = URL.create("sqlite", database=str(new)).render_as_string()
    # as `mlflow db upgrade` does it, without the rest of MLflow's command line, whose import takes as long again
    command = [sys.executable, "-P", "-c", "from mlflow.db import commands; commands()", "upgrade", url]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LONGEST_MAKING)
        if done.returncode or _revision(new) != _newest():
            said = done.stderr.strip().splitlines()
            raise DatabaseUnusable(f"{path} cannot be made: {said[-1] if said else 'MLflow says nothing'}")
        if _revision(path) is None:  # else a program that knows no lock was faster
            os.replace(new, path)
    except subprocess.TimeoutExpired:
        raise DatabaseUnusable(f"{path} was not made within {LONGEST_MAKING:.0f} s") from None
    finally:
        new.unlink(missing_ok=True)


def _wait(path: Path) -> None:
    """Until a program that knows no lock, such as `mlflow server`, has migrated the database."""
    before, since = "", time.monotonic()
    while (found := _revision(path)) != _newest():
        if found != before:
            before, since = found or "", time.monotonic()
        elif time.monotonic() - since >= STILL:
            raise DatabaseUnusable(
                f"{path} is no whole database of MLflow {mlflow.__version__}: it is at migration {found or 'none'}, "
                f"expected {_newest()}. If another version of MLflow made it, copy it and run `mlflow db upgrade "
                f"{URL.create('sqlite', database=str(path)).render_as_string()}`; if that fails, its making was broken "
                "off: move it away, and it is made anew"
            )
        time.sleep(0.2)
