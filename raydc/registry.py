"""MLflow: runs on record, registered models, and models found by name. The only file (with `pyfunc.py`) that knows it.

Training never waits for MLflow. Metrics are sent by a thread; those that a server does not take stay in the run's
outbox, with the time at which they arose, so that sending them again adds nothing.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from raydc.model import ClusteringModel, ModelError
from raydc.records import code_of, environment, example_rows, metrics_of, redact, sha256_of, summary_metrics
from raydc.settings import flatten
from raydc.storage import Store

log = logging.getLogger("raydc")

OUTBOX = "mlflow-outbox.jsonl"
NAME = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,128}")
REFERENCE = re.compile(
    r"models:/(m-[0-9a-f]{32}|[A-Za-z0-9._-]{1,128}(@[A-Za-z0-9._-]{1,128}|/\d+))|runs:/[0-9a-f]{32}/[\w.-]+"
)
RUN_ID = re.compile(r"[0-9a-f]{32}")
CHAMPION, CHALLENGER = "champion", "challenger"
LONGEST_VALUE = 6000
UPLOADED_ASSIGNMENTS = 64 * 2**20
"""Bytes of assignments up to which a run's record holds a copy of them."""


class RegistryError(ValueError):
    """MLflow cannot be reached, or has nothing of that name; the message says where and what to do."""


def find(tracking_uri: str | None = None) -> str:
    """The tracking URI given, else the one that MLflow finds (MLFLOW_TRACKING_URI, or its store in this directory)."""
    return tracking_uri or mlflow.get_tracking_uri()


def check_name(name: str, what: str = "model name") -> str:
    """The name, if it can be one; ValueError otherwise."""
    if not NAME.fullmatch(name):
        raise ValueError(f"expected a {what} of letters, digits, '.', '_' and '-', at most 128, got {name!r}")
    return name


@contextlib.contextmanager
def _asking(uri: str) -> Iterator[MlflowClient]:
    """A client for `uri`; what MLflow raises becomes a RegistryError that names it.

    Two quick retries instead of MLflow's four minutes, unless the environment says otherwise.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(uri)
        yield MlflowClient(tracking_uri=uri)
    except (MlflowException, OSError, ImportError) as problem:
        first = redact(str(problem)).strip().split("\n")[0][:400].rstrip(".")
        hint = "; check --tracking-uri (or MLFLOW_TRACKING_URI), and that its server runs"
        if getattr(problem, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            hint = ""
        raise RegistryError(f"MLflow at {redact(uri)}: {first}{hint}") from problem
    finally:
        mlflow.set_tracking_uri(before)


class Tracker:
    """One run's record. Everything may be repeated: what MLflow has already is not written twice."""

    def __init__(self, out: str | Store, tracking_uri: str | None = None, every: float = 1.0) -> None:
        """`out` keeps the outbox; `every` is the least number of seconds between two requests for metrics."""
        self.store = out if isinstance(out, Store) else Store(out)
        self.uri = find(tracking_uri)
        self.run_id = ""
        self._every = every
        self._waiting: list[Metric] = []
        self._logged: set[int] = set()
        self._lock = threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._kept: str = ""

    def start(self, experiment: str, run_name: str, key: str, config: Mapping[str, Any]) -> str:
        """The run of this `key` (sha256 of what is computed), found or created; its id.

        `config` (nested) becomes parameters. Raises RegistryError, naming the URI, if MLflow cannot be reached.
        """
        check_name(key, "run key")
        with _asking(self.uri) as client:
            experiment_id = _experiment(client, self.uri, experiment)
            run = _find_run(client, experiment_id, key)
            if run is None:
                created = client.create_run(experiment_id, tags={"raydc.run_key": key}, run_name=run_name)
                run = _find_run(client, experiment_id, key) or created  # the oldest, if two were made at once
                if run.info.run_id != created.info.run_id:
                    client.set_tag(created.info.run_id, "raydc.duplicate_of", run.info.run_id)
                    client.set_terminated(created.info.run_id, "KILLED")
            else:
                client.update_run(run.info.run_id, status="RUNNING")
            self.run_id = run.info.run_id
            _log_parameters(client, run, config)
            client.log_dict(self.run_id, environment(), "environment.json")
            self._logged = {metric.step for metric in client.get_metric_history(self.run_id, "epoch")}
        if self.store.exists(OUTBOX):
            self._kept = self.store.read_text(OUTBOX)
            self._waiting = [Metric(**json.loads(line)) for line in self._kept.splitlines()]
            self._logged |= {metric.step for metric in self._waiting}
        self._thread = threading.Thread(target=self._send_on, name="raydc-mlflow", daemon=True)
        self._thread.start()
        return self.run_id

    def log(self, progresses: Iterable[Any]) -> None:
        """Epochs (`loop.Progress`, or the same as dictionaries) to be sent soon; those logged before are left out."""
        now = int(time.time() * 1000)
        with self._lock:
            for progress in progresses:
                line = dataclasses.asdict(progress) if dataclasses.is_dataclass(progress) else dict(progress)  # type: ignore[arg-type]
                if line["step"] not in self._logged:
                    self._logged.add(line["step"])
                    self._waiting += [
                        Metric(name, value, now, line["step"]) for name, value in metrics_of(line).items()
                    ]
        self._wake.set()

    def flush(self, seconds: float = 10.0) -> bool:
        """Whether all metrics have been sent; gives up after some time, and keeps the rest in the outbox."""
        end = time.monotonic() + seconds
        self._wake.set()
        while self._waiting and time.monotonic() < end and self._thread and self._thread.is_alive():
            time.sleep(0.02)
        return not self._waiting

    def log_pictures(self, folder: str | Path) -> None:
        """Every file of a folder, under `report/` of the run."""
        with _asking(self.uri) as client:
            client.log_artifacts(self.run_id, str(folder), "report")

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """summary.json's scores as metrics, its warnings as a tag."""
        with _asking(self.uri) as client:
            now = int(time.time() * 1000)
            metrics = [Metric(name, value, now, 0) for name, value in summary_metrics(summary).items()]
            client.log_batch(self.run_id, metrics=metrics)
            if summary.get("warnings"):
                client.set_tag(self.run_id, "raydc.warnings", _cut("\n".join(summary["warnings"])))

    def log_files(self) -> None:
        """Settings, summary, history and (if they are not too large) assignments: what a report is drawn from."""
        names = [name for name in ("config.yaml", "summary.json", "metrics.jsonl") if self.store.exists(name)]
        parts = {name: self.store.read_bytes(name) for name in self.store.list("assignments")}
        if sum(map(len, parts.values())) > UPLOADED_ASSIGNMENTS:
            parts = {}
        with tempfile.TemporaryDirectory(prefix="raydc-") as folder, _asking(self.uri) as client:
            for name in [*names, *parts]:
                path = Path(folder, name)
                path.parent.mkdir(exist_ok=True)
                data = parts[name] if name in parts else self.store.read_bytes(name)
                path.write_bytes(redact(data.decode()).encode() if name == "config.yaml" else data)
            client.log_artifacts(self.run_id, folder)

    def log_model(self, folder: str | Path, example: Any = None, notes: Mapping[str, str] | None = None) -> str:
        """The model folder as this run's MLflow model; its URI. The same model is not logged twice."""
        sha = sha256_of(folder)
        with _asking(self.uri) as client:
            tags = client.get_run(self.run_id).data.tags
            if tags.get("raydc.sha256") == sha and "raydc.model_uri" in tags:
                return str(tags["raydc.model_uri"])
        uri = log_model(folder, self.run_id, self.uri, example, {"raydc.sha256": sha, **(notes or {})})
        with _asking(self.uri) as client:
            client.set_tag(self.run_id, "raydc.model_uri", uri)
            client.set_tag(self.run_id, "raydc.sha256", sha)
        return uri

    def finish(self, status: str = "finished", seconds: float = 10.0) -> bool:
        """Send what is left and end the run as finished, failed or interrupted; whether MLflow has everything.

        It never raises: a server that is away must not fail a training that is over.
        """
        sent = self.flush(seconds)
        self._stop.set()
        self._wake.set()
        if self._thread:
            self._thread.join(timeout=seconds)
        ends = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
        try:
            with _asking(self.uri) as client:
                client.set_terminated(self.run_id, ends[status])
        except RegistryError as problem:
            log.warning("%s", problem)
            sent = False
        if not sent:
            log.warning(
                "MLflow at %s lacks part of this run; it is kept in %s, and the same command sends it",
                redact(self.uri), self.store.root,
            )  # fmt: skip
        return sent

    def _send_on(self) -> None:
        """The thread: send what waits, one request each `every` seconds, and fewer while the server is away."""
        client, pause = MlflowClient(tracking_uri=self.uri), self._every
        while True:
            self._wake.wait(timeout=pause)
            self._wake.clear()
            with self._lock:
                batch = self._waiting[:1000]
            if batch:
                try:
                    client.log_batch(self.run_id, metrics=batch)
                except (MlflowException, OSError) as problem:
                    if pause == self._every:
                        log.warning("MLflow at %s does not answer: %s", redact(self.uri), redact(str(problem))[:200])
                    pause = min(60.0, max(1.0, 2 * pause))
                else:
                    pause = self._every
                    with self._lock:
                        del self._waiting[: len(batch)]
            self._keep(unsent=pause != self._every or self._stop.is_set())
            if self._stop.is_set():
                return
            if self._waiting or batch:
                self._stop.wait(pause)

    def _keep(self, unsent: bool) -> None:
        """Write what is unsent to the outbox, if a server is away or the run ends; else empty it."""
        with self._lock:
            waiting = list(self._waiting) if unsent else []
        fields = ("key", "value", "timestamp", "step")
        text = "".join(json.dumps({name: getattr(metric, name) for name in fields}) + "\n" for metric in waiting)
        if text != self._kept:
            self.store.write_text(OUTBOX, text)
            self._kept = text


def log_trials(parent: str, trials: Iterable[Mapping[str, Any]], tracking_uri: str | None = None) -> None:
    """A finished child run of the run `parent` for each trial: in one batch each, and none twice.

    A trial has `key` (of what was computed), `name`, `status` ("finished" or "failed"), and by name `settings`, `tags`
    and `metrics`, the last as lists of (step, value).
    """
    with _asking(find(tracking_uri)) as client:
        experiment_id = client.get_run(parent).info.experiment_id
        for trial in trials:
            run = _find_run(client, experiment_id, trial["key"])
            if run is not None and run.info.status in ("FINISHED", "FAILED"):
                continue
            tags = {"raydc.run_key": trial["key"], "mlflow.parentRunId": parent}
            tags |= {key: _cut(str(value)) for key, value in trial["tags"].items()}
            run = run or client.create_run(experiment_id, tags=tags, run_name=trial["name"])
            _log_parameters(client, run, trial["settings"])
            now = int(time.time() * 1000)
            points = [(name, *point) for name, line in trial["metrics"].items() for point in line]
            metrics = [Metric(name, float(value), now, int(step)) for name, step, value in points]
            client.log_batch(run.info.run_id, metrics=metrics)
            client.set_terminated(run.info.run_id, {"finished": "FINISHED", "failed": "FAILED"}[trial["status"]])


def log_model(
    folder: str | Path,
    run_id: str,
    tracking_uri: str | None = None,
    example: Any = None,
    tags: Mapping[str, str] | None = None,
) -> str:
    """A model folder as an MLflow model (models from code, no pickle) of a run; its URI.

    The signature states outputs and parameters but no input schema: MLflow's would refuse a float64 or uint8 array
    where float32 was declared, and arrays where columns were. The model checks its input itself, by name and number.
    """
    model = ClusteringModel.load(folder)
    outputs = [ColSpec(DataType.long, "cluster"), ColSpec(DataType.float, "confidence")]
    outputs += [ColSpec(DataType.float, f"p{k}", required=False) for k in range(model.n_clusters)]
    soft = ParamSpec("soft", DataType.boolean, False)
    with _asking(find(tracking_uri)) as client, _undisturbed():
        experiment_id = client.get_run(run_id).info.experiment_id
        made = client.create_logged_model(experiment_id, name="model", source_run_id=run_id, tags=dict(tags or {}))
        logged = Model.log(
            artifact_path=None,
            name="model",
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=made.model_id,
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"model": str(Path(folder).absolute())},
            code_paths=code_of(model),
            signature=ModelSignature(outputs=Schema(outputs), params=ParamSchema([soft])),
            input_example=example_rows(model) if example is None else example,
            pip_requirements=_requirements(),
            metadata={
                "raydc": {
                    "method": model.method_name,
                    "n_clusters": model.n_clusters,
                    "columns": list(model.columns),
                    "shape": list(model.shape),
                }
            },
        )
    return str(logged.model_uri)


def register(
    model_uri: str,
    name: str,
    sha256: str,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    tracking_uri: str | None = None,
) -> int:
    """A version of the registered model `name`: the present one of the same `sha256`, else a new one.

    The first version becomes champion; later ones challenger, until `promote`.
    """
    check_name(name)
    with _asking(find(tracking_uri)) as client:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("raydc.sha256") == sha256:
                number = int(version.version)
                break
        else:
            marks = {key: _cut(str(value)) for key, value in (tags or {}).items()} | {"raydc.sha256": sha256}
            source = model_uri
            model_id = model_uri.removeprefix("models:/") if model_uri.startswith("models:/m-") else None
            made = client.create_model_version(name, source, run_id=run_id, tags=marks, model_id=model_id)
            number = int(made.version)
        aliases = client.get_registered_model(name).aliases
        if CHAMPION not in aliases:
            client.set_registered_model_alias(name, CHAMPION, str(number))
        elif str(aliases[CHAMPION]) != str(number):
            client.set_registered_model_alias(name, CHALLENGER, str(number))
    return number


def promote(name: str, version: int, tracking_uri: str | None = None) -> None:
    """Make a version the champion; it is no challenger any more."""
    check_name(name)
    with _asking(find(tracking_uri)) as client:
        client.get_model_version(name, str(version))
        client.set_registered_model_alias(name, CHAMPION, str(version))
        if str(client.get_registered_model(name).aliases.get(CHALLENGER)) == str(version):
            client.delete_registered_model_alias(name, CHALLENGER)


def champion(name: str, tracking_uri: str | None = None) -> tuple[int, dict[str, str]] | None:
    """Version and tags of the present champion; None if there is none."""
    check_name(name)
    with _asking(find(tracking_uri)) as client:
        if not client.search_registered_models(f"name = '{name}'"):
            return None
        version = client.get_registered_model(name).aliases.get(CHAMPION)
        return None if version is None else (int(version), dict(client.get_model_version(name, str(version)).tags))


def load(uri: str, tracking_uri: str | None = None) -> ClusteringModel:
    """The model of models:/NAME@alias, models:/NAME/3, models:/m-..., runs:/.../model, or of a folder or URI.

    A folder may be the model's or a run's output directory. Raises RegistryError or ModelError; checksums are
    compared, and no code that came with the model is run.
    """
    if not uri.startswith(("models:", "runs:")):
        store = Store(uri)
        store = store if store.exists("model.json") else store / "model"
        if not store.exists("model.json"):
            raise ModelError(
                f"no model at {uri}: expected models:/NAME@champion, a run's output directory, or its model/"
            )
        return ClusteringModel.of({name: store.read_bytes(name) for name in store.list()})
    if not REFERENCE.fullmatch(uri):
        raise RegistryError(f"expected models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID/model, got {uri!r}")
    with tempfile.TemporaryDirectory(prefix="raydc-") as folder:
        with _asking(find(tracking_uri)) as client:
            location, expected = _locate(client, uri)
            target = f"{location}/artifacts/model"
            model = Path(mlflow.artifacts.download_artifacts(artifact_uri=target, dst_path=folder))
        if expected is not None and sha256_of(model) != expected:
            raise ModelError(f"{uri} is damaged: its files do not have the checksum of its registration")
        return ClusteringModel.load(model)


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
    find_version = client.get_model_version_by_alias if "@" in uri else client.get_model_version
    expected = find_version(name, chosen[0]).tags.get("raydc.sha256")
    if expected is None:
        raise RegistryError(f"{uri} was not registered by raydc: it has no tag raydc.sha256")
    return uri, expected


def fetch(run_id: str, folder: str | Path, tracking_uri: str | None = None) -> None:
    """Put a recorded run's files (settings, summary, history, assignments, model) into `folder`, as runs write them."""
    if not RUN_ID.fullmatch(run_id):
        raise RegistryError(f"expected an MLflow run id (32 hexadecimal digits) or a run's directory, got {run_id!r}")
    with _asking(find(tracking_uri)) as client:
        for item in client.list_artifacts(run_id):
            if item.path in ("config.yaml", "summary.json", "metrics.jsonl", "assignments"):
                client.download_artifacts(run_id, item.path, str(folder))
    load(f"runs:/{run_id}/model", tracking_uri).save(Path(folder, "model"))


def _experiment(client: MlflowClient, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if uri.startswith("sqlite:///"):  # beside the database, not in whatever directory this runs
        location = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlruns").as_uri()
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
    """Those that the run does not have yet; a parameter never changes, so a run that goes on keeps its first ones."""
    params = [Param(k, _cut(redact(str(v)))) for k, v in flatten(config).items() if k not in run.data.params]
    for start in range(0, len(params), 100):
        client.log_batch(run.info.run_id, params=params[start : start + 100])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 20] + " ... (truncated)"


def _requirements() -> list[str]:
    versions = {
        name: importlib.metadata.version(name).split("+")[0] for name in ("mlflow", "torch", "numpy", "pydantic")
    }
    return [f"{name}=={version}" for name, version in versions.items()]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Leaves the import path as it was, and leaves out MLflow's advice on type hints and signatures.

    Logging a model tries it out, which puts the copy of the code that travels with it first on the path.
    """
    logger = logging.getLogger("mlflow")
    level, path = logger.level, list(sys.path)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        sys.path[:] = path
