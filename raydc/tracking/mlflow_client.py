"""MLflow: runs on record, registered models, and models found by name. The only file (with `pyfunc.py`) that knows it.

Whatever writes may be called again with the same effect: it looks for what is there before it creates. So a call whose
answer was lost is simply repeated, by raydc and not by MLflow's client, which would create the same thing twice.
"""

import contextlib
import difflib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mlflow
import mlflow.pyfunc
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from sqlalchemy.exc import SQLAlchemyError

from raydc.artifacts.model import ABOUT, FILE, TRUST, ClusteringModel, ModelError, ModelFacts, facts_of
from raydc.settings import flatten
from raydc.settings.redact import redact
from raydc.tracking import mlflow_database
from raydc.tracking.mlflow_options import RETRIES, options
from raydc.tracking.payloads import Point, beats, code_of, environment, example_rows, not_comparable, sha256_of
from raydc.utils.storage import Store

log = logging.getLogger("raydc")

NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,128}")
REFERENCE = re.compile(
    r"models:/(m-[0-9a-f]{32}|[A-Za-z0-9._-]{1,128}(@[A-Za-z0-9._-]{1,128}|/(\d+|latest)))|runs:/[0-9a-f]{32}/[\w.-]+"
)
RUN_ID = re.compile(r"[0-9a-f]{32}")
RECORD = ("config.yaml", "summary.json", "metrics.jsonl", "tune.json", "search.json")
"""Files of a run or a search from which its report can be drawn."""
SETTINGS_OF = ("config.yaml", "tune.json")
"""Those of them that say which rows it was of."""
CHAMPION, CHALLENGER = "champion", "challenger"
NOT_COMPARED = "raydc.not_compared"
"""Tag of a version whose evidence cannot be set against the champion's: why."""
Promotion = Literal["first", "better", "always"]
LONGEST_VALUE = 6000
LARGEST_BATCH = 1000
"""Metrics of a request, as MLflow allows."""
REFUSALS = (400, 403, 404, 409, 413, 422)
"""HTTP statuses of a request that is answered alike however often it is repeated."""
NAMES_SHOWN = 10
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
def _asking(uri: str, retries: int = 0) -> Iterator[MlflowClient]:
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
def _reading(uri: str) -> Iterator[MlflowClient]:
    """A client that asks again: two quick retries instead of MLflow's four minutes, unless the environment says.

    RegistryError where there is no database: who reads makes none.
    """
    path = mlflow_database.file_of(uri)
    if path is not None and not path.exists():
        raise RegistryAway(f"MLflow at {uri}: there is no such file; check --tracking-uri (or MLFLOW_TRACKING_URI)")
    with _asking(uri, RETRIES.get() if RETRIES.name in os.environ else 2) as client:
        yield client


def start_run(
    experiment: str, run_name: str, key: str, config: Mapping[str, Any], uri: str, replaces: str | None = None
) -> str:
    """The run of this `key` (sha256 of what is computed), found or created; its id.

    `config` (nested) becomes parameters; `replaces` is a run of the same key that was deleted.
    """
    check_name(key, "run key")
    with _asking(uri) as client:
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
    with _asking(uri) as client:
        try:
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as problem:
            if problem.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise


def remark(run_id: str, refused: Sequence[str], uri: str) -> None:
    """Write on a run what its record lacks, because MLflow refused it."""
    with _asking(uri) as client:
        client.set_tag(run_id, "raydc.refused", _cut(redact("\n".join(refused))))


def set_status(run_id: str, status: str, uri: str) -> None:
    """A run is running, finished, failed or interrupted."""
    with _asking(uri) as client:
        if status == "running":
            client.update_run(run_id, status="RUNNING")
        else:
            client.set_terminated(run_id, {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}[status])


def log_points(run_id: str, points: Sequence[Point], uri: str, warnings: Sequence[str] = ()) -> None:
    """Metrics, and warnings as a tag. A point that is sent again with its own time adds nothing."""
    with _asking(uri) as client:
        for start in range(0, len(points), LARGEST_BATCH):
            client.log_batch(run_id, metrics=[Metric(*point) for point in points[start : start + LARGEST_BATCH]])
        if warnings:
            client.set_tag(run_id, "raydc.warnings", _cut("\n".join(warnings)))


def log_folder(run_id: str, folder: str | Path, at: str | None, uri: str) -> None:
    """Every file of a folder, under `at` of the run."""
    with _asking(uri, 2) as client:
        client.log_artifacts(run_id, str(folder), at)


def log_trial(parent: str, trial: Mapping[str, Any], uri: str) -> None:
    """A finished child run of the run `parent`.

    A trial has `key` (of what was computed), `name`, `status` ("finished" or "failed"), and by name `settings`, `tags`
    and `metrics`, the last as lists of (step, value).
    """
    with _asking(uri) as client:
        experiment_id = client.get_run(parent).info.experiment_id
        run = _find_run(client, experiment_id, trial["key"])
        if run is not None and run.info.status in ("FINISHED", "FAILED"):
            return
        tags = {"raydc.run_key": trial["key"], "mlflow.parentRunId": parent}
        tags |= {key: _cut(redact(str(value))) for key, value in trial["tags"].items()}
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
    with _asking(uri) as client:
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


def register(
    model_uri: str,
    name: str,
    sha256: str,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    tracking_uri: str | None = None,
    promotion: Promotion = "first",
) -> int:
    """A version of the registered model `name`: the present one of the same `sha256`, else one of `log_model`'s URI.

    It becomes champion if it is the `first` version, or also if it is the `better` one by its tags, or `always`; else
    challenger. Why its tags cannot be set against the champion's, where they cannot, stands in a tag of the version.
    """
    check_name(name)
    uri = find(tracking_uri)
    with _asking(uri) as client:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        marks = {key: _cut(redact(str(value))) for key, value in (tags or {}).items()} | {"raydc.sha256": sha256}
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("raydc.sha256") == sha256:
                number = int(version.version)
                break
        else:
            model_id = model_uri.removeprefix("models:/")
            # a server resolves the URI itself; in this process MLflow would ask the store of the process for it
            location = model_uri if uri.startswith("http") else client.get_logged_model(model_id).artifact_location
            made = client.create_model_version(name, location, run_id=run_id, tags=marks, model_id=model_id)
            number = int(made.version)
        aliases = client.get_registered_model(name).aliases
        if CHAMPION not in aliases:
            client.set_registered_model_alias(name, CHAMPION, str(number))
        elif str(aliases[CHAMPION]) != str(number):
            theirs = client.get_model_version(name, str(aliases[CHAMPION])).tags
            if promotion == "always" or (promotion == "better" and beats(marks, theirs)):
                promote(name, number, uri)
            else:
                client.set_registered_model_alias(name, CHALLENGER, str(number))
                if reason := not_comparable(marks, theirs):
                    said = f"not compared with version {aliases[CHAMPION]}, the champion: {reason}"
                    client.set_model_version_tag(name, str(number), NOT_COMPARED, said)
    return number


def promote(name: str, version: int, tracking_uri: str | None = None) -> None:
    """Make a version the champion; it is no challenger any more. RegistryRefused lists those there are."""
    check_name(name)
    with _asking(find(tracking_uri)) as client:
        _version(client, name, str(version), is_alias=False)
        client.set_registered_model_alias(name, CHAMPION, str(version))
        if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == str(version):
            client.delete_registered_model_alias(name, CHALLENGER)


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: int
    alias: str
    """champion, challenger, or empty."""
    tags: Mapping[str, str]


def versions(name: str | None = None, tracking_uri: str | None = None) -> list[Version]:
    """Versions of the registered model of this name, or of all, by name and number; RegistryRefused if it has none."""
    with _reading(find(tracking_uri)) as client:
        if name is not None:
            _version(client, check_name(name), "latest", is_alias=False)
        query = {} if name is None else {"filter_string": f"name = '{name}'"}
        found = []
        for model in client.search_registered_models(max_results=1000, **query):
            aliases = {str(number): alias for alias, number in client.get_registered_model(model.name).aliases.items()}
            for one in client.search_model_versions(f"name = '{model.name}'"):
                found.append(Version(model.name, int(one.version), aliases.get(str(one.version), ""), dict(one.tags)))
    return sorted(found, key=lambda version: (version.name, version.number))


def shown(tracking_uri: str | None = None) -> str:
    """The tracking store as it may be printed."""
    return redact(find(tracking_uri))


def standing_of(name: str, version: int, tracking_uri: str | None = None) -> str:
    """champion, or challenger and why it was not compared; empty if the version is neither (any more)."""
    check_name(name)
    with _asking(find(tracking_uri)) as client:
        aliases = client.get_registered_model(name).aliases
        tags = client.get_model_version(name, str(version)).tags
    if str(aliases.get(CHAMPION)) == str(version):
        return CHAMPION
    if str(aliases.get(CHALLENGER)) != str(version):
        return ""
    return f"{CHALLENGER}; {tags[NOT_COMPARED]}" if NOT_COMPARED in tags else CHALLENGER


def champion(name: str, tracking_uri: str | None = None) -> tuple[int, dict[str, str]] | None:
    """Version and tags of the present champion; None if there is none."""
    check_name(name)
    with _asking(find(tracking_uri)) as client:
        if not client.search_registered_models(f"name = '{name}'"):
            return None
        version = client.get_registered_model(name).aliases.get(CHAMPION)
        return None if version is None else (int(version), dict(client.get_model_version(name, str(version)).tags))


def load(uri: str, tracking_uri: str | None = None, allow_code: Collection[str] = ()) -> ClusteringModel:
    """The model of models:/NAME@ALIAS, models:/NAME/3, models:/NAME/latest, models:/m-..., runs:/.../model, or a URI.

    A folder may be the model's or a run's output directory. Raises RegistryError or ModelError; checksums are
    compared, and no code that came with the model is run, nor that of another method than raydc's own unless
    `allow_code` names it.
    """
    if not uri.startswith(("models:", "runs:")):
        store = Store(uri)
        store = store if store.exists(ABOUT) else store / "model"
        if not store.exists(ABOUT):
            raise ModelError(
                f"no model at {uri}: expected models:/NAME@champion, a run's output directory, or its model/"
            )
        return ClusteringModel.of({name: store.read_bytes(name) for name in store.list()}, store.root, allow_code)
    with tempfile.TemporaryDirectory(prefix="raydc-") as folder:
        return ClusteringModel.load(_download(uri, folder, find(tracking_uri)), allow_code)


@dataclass(frozen=True)
class Origin:
    """Where a model comes from."""

    version: str
    """The model by a name that does not change, such as models:/digits/3; empty of a folder."""
    data: Mapping[str, Any] | None
    """Settings of the rows that it was trained on; none where no run says."""


def origin(uri: str, tracking_uri: str | None = None) -> Origin:
    """Where the model of a URI, as `load` takes it, comes from."""
    if not uri.startswith(("models:", "runs:")):
        places = (Store(uri), Store(Store(uri).root.rstrip("/").rpartition("/")[0]))
        return Origin("", next((_data_settings(place) for place in places if _data_settings(place)), None))
    with _reading(find(tracking_uri)) as client, tempfile.TemporaryDirectory(prefix="raydc-") as folder:
        name, *chosen = re.split("[@/]", uri.removeprefix("models:/"))
        if uri.startswith("runs:"):
            run_id = uri.split("/")[1]
        elif not chosen:
            run_id = client.get_logged_model(name).source_run_id
        else:
            version = _version(client, name, chosen[0], "@" in uri)
            uri, run_id = f"models:/{name}/{version}", client.get_model_version(name, version).run_id
        for item in client.list_artifacts(run_id) if run_id else []:
            if item.path in SETTINGS_OF:
                client.download_artifacts(run_id, item.path, folder)
        return Origin(uri, _data_settings(Store(folder)))


def _data_settings(store: Store) -> Mapping[str, Any] | None:
    """Settings of the rows of a run or a search; none where the folder is of neither."""
    if store.exists("config.yaml"):
        return yaml.safe_load(store.read_text("config.yaml"))["data"]
    return json.loads(store.read_text("tune.json"))["settings"]["data"] if store.exists("tune.json") else None


def _download(uri: str, folder: str, tracking_uri: str) -> Path:
    """The folder of a model's files, which have the checksum that was recorded."""
    if not REFERENCE.fullmatch(uri):
        raise RegistryError(
            f"expected models:/NAME@ALIAS, models:/NAME/VERSION, models:/NAME/latest or runs:/RUN_ID/model, got {uri!r}"
        )
    with _reading(tracking_uri) as client:
        location, expected = _locate(client, uri)
        files = f"{location}/artifacts/model"
        model = Path(mlflow.artifacts.download_artifacts(files, dst_path=folder, tracking_uri=tracking_uri))
    others = sorted(path.name for path in model.iterdir() if not FILE.fullmatch(path.name))
    if others:
        raise ModelError(f"{uri} is no model of raydc: it also holds {', '.join(others)[:200]}")
    if expected is not None and sha256_of(model) != expected:
        raise ModelError(f"{uri} is damaged: its files do not have the checksum of its registration")
    return model


def _locate(client: MlflowClient, uri: str) -> tuple[str, str | None]:
    """Where a model's files are, and the checksum that it was recorded with."""
    if uri.startswith("runs:/"):
        run_id = uri.split("/")[1]
        tags = client.get_run(run_id).data.tags
        if "raydc.model_uri" not in tags:
            raise RegistryError(f"run {run_id} has no model of raydc; was it finished?")
        return _locate(client, tags["raydc.model_uri"])
    name, *chosen = re.split("[@/]", uri.removeprefix("models:/"))
    if not chosen:
        model = client.get_logged_model(name)
        return str(model.artifact_location), model.tags.get("raydc.sha256")
    version = _version(client, name, chosen[0], "@" in uri)
    expected = client.get_model_version(name, version).tags.get("raydc.sha256")
    if expected is None:
        raise RegistryError(f"{uri} was not registered by raydc: it has no tag raydc.sha256")
    location = str(client.get_model_version_download_uri(name, version))
    if location.startswith("models:/m-"):
        location = str(client.get_logged_model(location.removeprefix("models:/")).artifact_location)
    return location, expected


def _version(client: MlflowClient, name: str, chosen: str, is_alias: bool) -> str:
    """The version of a registered model that an alias, a number or "latest" stands for; RegistryError lists others."""
    versions = sorted(int(version.version) for version in client.search_model_versions(f"name = '{name}'"))
    if not versions:
        known = [model.name for model in client.search_registered_models(max_results=1000)]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {_listed(known) or 'none'}"
        raise RegistryRefused(f"MLflow has no registered model {name!r} with a version; {hint}")
    if chosen == "latest" and not is_alias:
        return str(versions[-1])
    aliases = {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    if is_alias and chosen in aliases:
        return aliases[chosen]
    if not is_alias and int(chosen) in versions:
        return str(int(chosen))
    held = [*(f"@{alias} (version {version})" for alias, version in sorted(aliases.items()))]
    held += [f"/{version}" for version in reversed(versions)]
    what = f"alias {chosen!r}" if is_alias else f"version {chosen}"
    raise RegistryRefused(f"models:/{name} has no {what}; it has {_listed(held)}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def fetch(run_id: str, folder: str | Path, tracking_uri: str | None = None) -> None:
    """Put what a recorded run or search wrote (what its report is drawn from, assignments, model) into `folder`."""
    if not RUN_ID.fullmatch(run_id):
        raise RegistryError(f"expected an MLflow run id (32 hexadecimal digits) or a run's directory, got {run_id!r}")
    uri = find(tracking_uri)
    with _reading(uri) as client:
        for item in client.list_artifacts(run_id):
            if item.path in (*RECORD, "assignments"):
                client.download_artifacts(run_id, item.path, str(folder))
    with tempfile.TemporaryDirectory(prefix="raydc-") as scratch:
        shutil.copytree(_download(f"runs:/{run_id}/model", scratch, uri), Path(folder, "model"), dirs_exist_ok=True)


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
    params = [Param(k, _cut(redact(str(v)))) for k, v in flatten(config).items() if k not in run.data.params]
    refused = [name for start in range(0, len(params), 100) for name in _log_some(client, run, params[start:][:100])]
    if refused:
        client.set_tag(run.info.run_id, "raydc.refused_parameters", _cut(", ".join(refused)))


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


def _cut(text: str) -> str:
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
