"""MLflow: a server that is asked, runs and models on record; `registry.py` registers models and finds them by name.

Whatever writes may be called again with the same effect: it looks for what is there before it creates. So a call whose
answer was lost is simply repeated, by raydc and not by MLflow's client, which would create the same thing twice.
"""

import contextlib
import importlib.metadata
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from sqlalchemy.exc import SQLAlchemyError

from raydc.core.redact import redact
from raydc.core.settings import flatten
from raydc.tracking import mlflow_database
from raydc.tracking.mlflow_options import RETRIES, options
from raydc.tracking.payloads import Point, code_of, environment, example_rows, sha256_of
from raydc.training.model import TRUST
from raydc.training.model_files import ModelError, ModelFacts, facts_of

log = logging.getLogger("raydc")

NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,128}")
RECORD = ("config.yaml", "summary.json", "metrics.jsonl", "tune.json", "search.json")
"""Files of a run or a search from which its report can be drawn."""
LONGEST_VALUE = 6000
LARGEST_BATCH = 1000
"""Metrics of a request, as MLflow allows."""
REFUSALS = (400, 403, 404, 409, 413, 422)
"""HTTP statuses of a request that is answered alike however often it is repeated."""
MOST_EXPERIMENTS = 100
"""Deleted experiments of one name that are passed over."""


class RegistryError(ValueError):
    """MLflow cannot be reached, or has nothing of that name; the message says where and what to do."""


class RegistryAway(RegistryError, ConnectionError):
    """MLflow cannot be reached, or does not work."""


class RegistryRefused(RegistryError):
    """MLflow says no to what it is asked, and would say so again."""


def find(tracking_uri: str | None = None) -> str:
    """The tracking URI given, else the one that MLflow finds (MLFLOW_TRACKING_URI, or its store in this directory).

    A sqlite file is named by its absolute path: what is kept for it may be sent from another directory.
    """
    if tracking_uri and "//***@" in tracking_uri:
        raise RegistryError(
            f"tracking_uri {tracking_uri}: a run does not write its password down; give it again by --tracking-uri, or "
            "by MLFLOW_TRACKING_URI and none in the settings"
        )
    return mlflow_database.absolute(tracking_uri or mlflow.get_tracking_uri())


def check_name(name: str, what: str = "model name") -> str:
    """The name, if it can be one; ValueError otherwise."""
    if not NAME.fullmatch(name):
        raise ValueError(f"expected a {what} of letters, digits, '.', '_' and '-', at most 128, got {name!r}")
    return name


@contextlib.contextmanager
def asking(uri: str, retries: int = 0) -> Iterator[MlflowClient]:
    """A client for `uri`; whatever MLflow and its libraries raise becomes a RegistryError that names it.

    `retries`: how often MLflow itself repeats a request; never where that could create something twice.
    """
    try:
        with options(retries):
            mlflow_database.ensure(uri)
            yield MlflowClient(tracking_uri=uri)
    except (RegistryError, ModelError):
        raise
    except Exception as problem:
        first = redact(str(problem)).strip().split("\n")[0][:400].rstrip(".") or type(problem).__name__
        said = f"MLflow at {redact(uri)}: {first}"
        if _is_refusal(problem):
            raise RegistryRefused(said) from problem
        if isinstance(problem, mlflow_database.DatabaseUnusable):
            raise RegistryAway(said) from problem
        hint = "check --tracking-uri (or MLFLOW_TRACKING_URI), and that its server runs"
        raise RegistryAway(f"{said}; {hint}") from problem


def _is_refusal(problem: Exception) -> bool:
    """Whether a request would fail again; a database that fails is no refusal, whatever status MLflow gives it."""
    if isinstance(problem, MlflowException):
        return problem.get_http_status_code() in REFUSALS and not isinstance(problem.__cause__, SQLAlchemyError)
    return getattr(getattr(problem, "response", None), "status_code", None) in REFUSALS


@contextlib.contextmanager
def reading(uri: str) -> Iterator[MlflowClient]:
    """A client that asks again: two quick retries instead of MLflow's four minutes, unless the environment says.

    RegistryError where there is no database: who reads makes none.
    """
    path = mlflow_database.file_of(uri)
    if path is not None and not path.exists():
        raise RegistryAway(f"MLflow at {uri}: there is no such file; check --tracking-uri (or MLFLOW_TRACKING_URI)")
    with asking(uri, RETRIES.get() if RETRIES.name in os.environ else 2) as client:
        yield client


def start_run(
    experiment: str, run_name: str, key: str, config: Mapping[str, Any], uri: str, replaces: str | None = None
) -> str:
    """The run of this `key` (sha256 of what is computed), found or created; its id.

    `config` (nested) becomes parameters; `replaces` is a run of the same key that was deleted.
    """
    check_name(key, "run key")
    with asking(uri) as client:
        experiment_id = _experiment(client, uri, experiment)
        run = _find_run(client, experiment_id, key)
        if run is None:
            tags = {"raydc.run_key": key} | ({} if replaces is None else {"raydc.replaces": replaces})
            created = client.create_run(experiment_id, tags=tags, run_name=run_name)
            run = _find_run(client, experiment_id, key) or created  # the oldest, if two were made at once
            if run.info.run_id != created.info.run_id:
                client.set_tag(created.info.run_id, "raydc.duplicate_of", run.info.run_id)
                client.set_terminated(created.info.run_id, "KILLED")
        run_id = str(run.info.run_id)
        _log_parameters(client, run, config)
        client.log_dict(run_id, environment(), "environment.json")
    return run_id


def holds_run(run_id: str, uri: str) -> bool:
    """Whether a run is there, and not deleted."""
    with asking(uri) as client:
        try:
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise


def remark(run_id: str, refused: Sequence[str], uri: str) -> None:
    """Write on a run what its record lacks, because MLflow refused it."""
    with asking(uri) as client:
        client.set_tag(run_id, "raydc.refused", cut(redact("\n".join(refused))))


def set_status(run_id: str, status: str, uri: str) -> None:
    """A run is running, finished, failed or interrupted."""
    with asking(uri) as client:
        if status == "running":
            client.update_run(run_id, status="RUNNING")
        else:
            client.set_terminated(run_id, {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[status])


def log_points(run_id: str, points: Sequence[Point], uri: str, warnings: Sequence[str] = ()) -> None:
    """Metrics, and warnings as a tag. A point that is sent again with its own time adds nothing."""
    with asking(uri) as client:
        for start in range(0, len(points), LARGEST_BATCH):
            client.log_batch(run_id, metrics=[Metric(*point) for point in points[start : start + LARGEST_BATCH]])
        if warnings:
            client.set_tag(run_id, "raydc.warnings", cut("\n".join(warnings)))


def log_folder(run_id: str, folder: str | Path, at: str | None, uri: str) -> None:
    """Every file of a folder, under `at` of the run."""
    with asking(uri, 2) as client:
        client.log_artifacts(run_id, str(folder), at)


def log_trial(parent: str, trial: Mapping[str, Any], uri: str) -> None:
    """A finished child run of the run `parent`.

    A trial has `key` (of what was computed), `name`, `status` ("finished" or "failed"), and by name `settings`, `tags`
    and `metrics`, the last as lists of (step, value).
    """
    with asking(uri) as client:
        experiment_id = client.get_run(parent).info.experiment_id
        run = _find_run(client, experiment_id, trial["key"])
        if run is not None and run.info.status in ("FINISHED", "FAILED"):
            return
        tags = {"raydc.run_key": trial["key"], "mlflow.parentRunId": parent}
        tags |= {key: cut(redact(str(value))) for key, value in trial["tags"].items()}
        run = run or client.create_run(experiment_id, tags=tags, run_name=trial["name"])
        _log_parameters(client, run, trial["settings"])
        # the time is the run's own, so that points which are sent again are the same points
        at = run.info.start_time
        points = [(name, *point) for name, line in trial["metrics"].items() for point in line]
        metrics = [Metric(name, float(value), at, int(step)) for name, step, value in points]
        client.log_batch(run.info.run_id, metrics=metrics)
        client.set_terminated(run.info.run_id, {"finished": "FINISHED", "failed": "FAILED"}[trial["status"]])


def log_model(folder: str | Path, run_id: str, tracking_uri: str | None = None, example: Any = None) -> str:
    """A model folder as an MLflow model (models from code, no pickle) of a run; its URI. The same one only once.

    The signature states outputs and parameters but no input schema: MLflow's would refuse a float64 or uint8 array
    where float32 was declared, and arrays where columns were. The model checks its input itself, by name and number.
    """
    uri, sha = find(tracking_uri), sha256_of(folder)
    facts = facts_of(folder)
    with asking(uri) as client:
        experiment_id = client.get_run(run_id).info.experiment_id
        mine = f"source_run_id = '{run_id}' AND tags.`raydc.sha256` = '{sha}'"
        made = next(iter(client.search_logged_models([experiment_id], mine)), None)
        if made is not None and made.status != LoggedModelStatus.READY:
            client.delete_logged_model(made.model_id)  # left half by a server that went away
            made = None
        if made is None:
            tags = {"raydc.sha256": sha}
            made = client.create_logged_model(experiment_id, name="model", source_run_id=run_id, tags=tags)
            _log_files(client, facts, folder, run_id, made.model_id, uri, example)
        client.set_tag(run_id, "raydc.model_uri", f"models:/{made.model_id}")
        client.set_tag(run_id, "raydc.sha256", sha)
    return f"models:/{made.model_id}"


def _log_files(
    client: MlflowClient, facts: ModelFacts, folder: str | Path, run_id: str, model_id: str, uri: str, example: Any
) -> None:
    outputs = [ColSpec(DataType.long, "cluster")]
    outputs += [ColSpec(DataType.float, name) for name in TRUST]
    outputs += [ColSpec(DataType.float, f"p{k}", required=False) for k in facts.clusters]
    params = ParamSchema(
        [
            ParamSpec("soft", DataType.boolean, False),
            ParamSpec("outliers", DataType.double, 0.0),  # 0: none are told apart
            ParamSpec("level", DataType.long, 0),  # 0: the clusters as they are
        ]
    )
    with tempfile.TemporaryDirectory(prefix="raydc-") as scratch:
        copied = shutil.copytree(folder, Path(scratch, "model"))
        with _undisturbed():
            mlflow.pyfunc.save_model(
                path=str(Path(scratch, "logged")),
                mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
                python_model=str(Path(__file__).with_name("pyfunc.py")),
                artifacts={"model": copied.as_uri()},  # a URI: MLflow decodes what it is given
                code_paths=code_of(facts),
                signature=ModelSignature(outputs=Schema(outputs), params=params),
                input_example=example_rows(facts) if example is None else example,
                pip_requirements=_requirements(),
                metadata={
                    "raydc": {
                        "method": facts.method_name,
                        "n_clusters": len(facts.clusters),
                        "columns": list(facts.columns),
                        "shape": list(facts.shape),
                    }
                },
            )
        for pycache in Path(scratch, "logged").rglob("__pycache__"):
            shutil.rmtree(pycache)
        # files of the same names replace each other, so that sending them again does no harm
        with options(retries=2):
            client.log_model_artifacts(model_id, str(Path(scratch, "logged")))
    client.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    client.finalize_logged_model(model_id, LoggedModelStatus.READY)


def shown(tracking_uri: str | None = None) -> str:
    """The tracking store as it may be printed."""
    return redact(find(tracking_uri))


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The experiment of a name, found or made; where it is deleted, that of the name with the next number."""
    for number in range(1, MOST_EXPERIMENTS + 1):
        numbered = name if number == 1 else f"{name} ({number})"
        found = client.get_experiment_by_name(numbered)
        if found is None:
            return _make_experiment(client, uri, numbered)
        if found.lifecycle_stage == "active":
            return str(found.experiment_id)
        log.warning("MLflow's experiment %r is deleted; the record goes to %r", numbered, f"{name} ({number + 1})")
    raise RegistryRefused(f"MLflow's experiment {name!r} and {MOST_EXPERIMENTS - 1} after it are deleted; name another")


def _make_experiment(client: MlflowClient, uri: str, name: str) -> str:
    database = mlflow_database.file_of(uri)
    # beside the database, not in whatever directory this runs
    location = None if database is None else (database.absolute().parent / "mlruns").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        found = client.get_experiment_by_name(name)  # another run has just made it
        if found is None:
            raise
        return str(found.experiment_id)


def _find_run(client: MlflowClient, experiment_id: str, key: str) -> Any:
    runs = client.search_runs([experiment_id], f"tags.`raydc.run_key` = '{key}'", order_by=["start_time ASC"])
    runs = [run for run in runs if "raydc.duplicate_of" not in run.data.tags]
    return min(runs, key=lambda run: (run.info.start_time, run.info.run_id)) if runs else None


def _log_parameters(client: MlflowClient, run: Any, config: Mapping[str, Any]) -> None:
    """Those that the run does not have yet; a parameter never changes, so a run that goes on keeps its first ones.

    One that MLflow refuses is left out, and named in a tag.
    """
    params = [Param(k, cut(redact(str(v)))) for k, v in flatten(config).items() if k not in run.data.params]
    refused = [name for start in range(0, len(params), 100) for name in _log_some(client, run, params[start:][:100])]
    if refused:
        client.set_tag(run.info.run_id, "raydc.refused_parameters", cut(", ".join(refused)))


def _log_some(client: MlflowClient, run: Any, params: list[Param]) -> list[str]:
    """Log parameters together, or each by itself where MLflow refuses some; the names of those."""
    try:
        client.log_batch(run.info.run_id, params=params)
    except MlflowException as problem:
        if not _is_refusal(problem):
            raise
        if len(params) == 1:
            return [params[0].key]
        return [name for param in params for name in _log_some(client, run, [param])]
    return []


def cut(text: str) -> str:
    """A value that is not longer than MLflow keeps."""
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 20] + " ... (truncated)"


def _requirements() -> list[str]:
    versions = {
        name: importlib.metadata.version(name).split("+")[0]
        for name in ("mlflow", "torch", "numpy", "numba", "scipy", "pydantic", "safetensors")
    }
    return [f"{name}=={version}" for name, version in versions.items()]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leaves the import path as it was: saving a model puts the code that travels with it first on the path."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
