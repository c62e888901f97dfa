"""A run's record in MLflow, which training never waits for.

Everything that MLflow is to be told becomes a message in the outbox of the output directory. A thread of the driver
sends what waits. What is left at the end, because a server was away, `flush` sends at any later time: each message may
be sent twice, so nothing is lost and nothing is there twice. A message that MLflow refuses is left out, which the log
and a tag of the run say, and a run that somebody deleted meanwhile is recorded anew.
"""

import hashlib
import logging
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from raydc.core.redact import redact
from raydc.core.settings import flatten
from raydc.core.storage import Store, alone
from raydc.tracking import mlflow_client, registry
from raydc.tracking.mlflow_client import RegistryError, RegistryRefused
from raydc.tracking.outbox import OUTBOX, Message, Outbox
from raydc.tracking.payloads import Point, metrics_of, sha256_of, summary_metrics
from raydc.tracking.registry import Promotion
from raydc.training.model_files import ModelError

log = logging.getLogger("raydc")

UPLOADED_ASSIGNMENTS = 64 * 2**20
"""Bytes of assignments up to which a run's record holds a copy of them."""
LONGEST_PAUSE = 30.0
"""Seconds between two attempts while a server is away."""
MOST_ANEW = 3
"""Times that one tracker records a run anew whose record was deleted."""


class RecordPending(RuntimeError):
    """The run is over and its result is kept, but MLflow lacks part of its record."""

    paths: Mapping[str, str] = MappingProxyType({})
    """Where what there is lies, by name, as far as whoever raised this knew."""


class Tracker:
    """One run's record."""

    def __init__(self, out: str | Store, tracking_uri: str | None = None, every: float = 1.0) -> None:
        """`out` keeps the outbox; `every` is the least number of seconds between two requests for metrics."""
        self.store = out if isinstance(out, Store) else Store(out)
        self.uri = mlflow_client.find(tracking_uri)
        self.server = redact(self.uri)
        self.given = tracking_uri is not None
        self.outbox = Outbox(self.store)
        self.problem: Exception | None = None
        """Why the last attempt to send failed."""
        self._every = every
        self._anew = 0
        self._new: list[Message] = []
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, experiment: str, run_name: str, key: str, config: Mapping[str, Any]) -> None:
        """Record a run of this `key` (sha256 of what is computed), found or created; `config` becomes parameters."""
        self.outbox.address(self.server, self.given)
        settings = {name: redact(str(value)) for name, value in flatten(config).items()}
        body = {"experiment": experiment, "name": run_name, "key": mlflow_client.check_name(key, "run key")}
        self._put("run", body | {"settings": settings}, key)
        self._put("status", {"status": "running", "at": time.time()})
        self._thread = threading.Thread(target=self._send_on, name="raydc-mlflow", daemon=True)
        self._thread.start()

    def log(self, progresses: Iterable[Any]) -> None:
        """Epochs (`loop.Progress`, or the same as dictionaries) to be sent soon; an epoch is told once."""
        for progress in progresses:
            line = asdict(progress) if is_dataclass(progress) else dict(progress)  # type: ignore[arg-type]
            body = {"step": line["step"], "metrics": metrics_of(line)}
            self._put("epoch", body, f"{line['step']} {line['phase']}")
        self._wake.set()

    def log_look(self, metrics: Mapping[str, float], key: str) -> None:
        """Metrics of one look of many at the same model, by the time when they were first put here; `key` names it."""
        self._put("look", {"step": int(time.time()), "metrics": dict(metrics)}, key)

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """summary.json's scores as metrics, its warnings as a tag."""
        self._put("summary", {"metrics": summary_metrics(summary), "warnings": [*summary.get("warnings", ())]})

    def log_trial(self, trial: Mapping[str, Any]) -> None:
        """A child run, as `registry.log_trial` takes it."""
        self._put("trial", trial, trial["key"])

    def log_pictures(self) -> None:
        """Every file of the output directory's report/."""
        self._put("pictures", {"sha256": self._sha256("report")})

    def log_files(self) -> None:
        """What a report is drawn from, and (if they are not too large) assignments."""
        self._put("files", {"sha256": self._sha256(*mlflow_client.RECORD)})

    def log_model(self) -> None:
        """The model of the output directory's model/."""
        self._put("model", {"sha256": self._sha256("model")})

    def register(self, name: str, tags: Mapping[str, str], promotion: Promotion = "first") -> None:
        """That model as a version of a registered one."""
        body = {"name": mlflow_client.check_name(name), "tags": dict(tags), "promotion": promotion}
        self._put("register", body | {"sha256": self._sha256("model")})

    def finish(self, status: str = "finished", patience: float = 10.0) -> dict[str, str]:
        """Send what is left, and say where everything is; the run is finished, failed or interrupted.

        Raises RecordPending if MLflow still lacks something when it has failed for `patience` seconds.
        """
        self._put("status", {"status": status, "at": time.time()})
        self._stop.set()
        self._wake.set()
        if self._thread:
            self._thread.join()
        return self.send(patience)

    def send(self, patience: float = 10.0) -> dict[str, str]:
        """Send everything now, in this thread; as `finish` does."""
        failing_since = None
        while True:
            left = len(self.outbox.pending(self.server))
            if self._attempt():
                return self.paths()
            if failing_since is None or len(self.outbox.pending(self.server)) < left:
                failing_since = time.monotonic()
            if time.monotonic() - failing_since >= patience:
                break
            time.sleep(min(0.5, patience / 4))
        again = " once MLFLOW_TRACKING_URI, or --tracking-uri, says the password, which is not kept"
        raise RecordPending(
            f"{self.problem}\n{len(self.outbox.pending(self.server))} messages for MLflow are kept in "
            f"{self.store.root}, beside the result; `raydc registry flush --out {self.store.root}` sends them"
            f"{again if self.server != self.uri else f' to {self.server}'}"
        )

    def paths(self) -> dict[str, str]:
        """MLflow's store, and where it has the run, its model and the registered version, as far as it was told."""
        names = {"run": "mlflow run", "model": "model", "register": "registered as"}
        found = {name: self.outbox.answer(kind, self.server) for kind, name in names.items()}
        told = {name: answer for name, answer in found.items() if answer is not None}
        return {"tracking store": self.server, **told}

    def _put(self, kind: str, body: Mapping[str, Any], key: str | None = None) -> None:
        with self._lock:
            self._new.append(Message.of(kind, body, key))

    def _sha256(self, *names: str) -> str:
        """Of the files of the output directory that have these names, or lie in folders of these names."""
        digest = hashlib.sha256()
        for name in names:
            for file in self.store.list(name) or [name]:
                digest.update(file.encode() + b"\0" + (self.store.read_bytes(file) if self.store.exists(file) else b""))
        return digest.hexdigest()

    def _send_on(self) -> None:
        """The thread: send what waits, one request each `every` seconds, and fewer while the server is away."""
        pause = self._every
        while not self._stop.is_set():
            self._wake.wait(timeout=pause)
            self._wake.clear()
            was = self.problem
            if self._attempt():
                pause = self._every
            else:
                pause = min(LONGEST_PAUSE, max(1.0, 2 * pause))
                if was is None:
                    log.warning("%s; the run goes on, and its record waits in %s", self.problem, self.store.root)
            self._stop.wait(pause)

    def _attempt(self) -> bool:
        """Keep what is new, then send all that waits, one attempt at a time; whether that worked."""
        with self._sending:
            try:
                with self._lock:
                    new = list(self._new)
                self.outbox.add(new)
                with self._lock:
                    del self._new[: len(new)]
                while batch := next(_batches(self.outbox.pending(self.server)), None):
                    self._deliver(batch)
            except (ValueError, OSError) as problem:  # of MLflow, or of the files that it is sent
                self.problem = problem
                return False
            self.problem = None
            return True

    def _deliver(self, batch: Sequence[Message]) -> None:
        """Tell MLflow; what it refuses is left out, so that it holds up nothing else."""
        try:
            answer = self._tell(batch)
        except (RegistryRefused, ModelError) as problem:
            if batch[0].kind == "run":
                raise  # without a run there is nothing that the others could be sent to
            self._leave_out(batch, problem)
        else:
            self.outbox.sent(batch, self.server, answer)

    def _leave_out(self, batch: Sequence[Message], problem: Exception) -> None:
        """Find which of these MLflow refuses, and go on without it; or record the run anew, if that was deleted."""
        run_id = self.outbox.answer("run", self.server)
        if not mlflow_client.holds_run(run_id, self.uri):
            self._anew += 1
            if self._anew > MOST_ANEW:
                raise problem
            log.warning("MLflow's run %s was deleted: it is recorded anew", run_id)
            self.outbox.forget(self.server, run_id)
        elif len(batch) > 1:
            for message in batch:
                if message in self.outbox.pending(self.server):
                    self._deliver([message])
        else:
            log.warning("MLflow refuses a message (%s), which its record will lack: %s", batch[0].kind, problem)
            self.outbox.refused(batch[0], self.server, redact(str(problem)))
            mlflow_client.remark(run_id, self.refusals(), self.uri)

    def refusals(self) -> list[str]:
        """What MLflow refused, a line each."""
        problems = self.outbox.problems
        found = [(message, problems.get((message.id, self.server))) for message in self.outbox.messages.values()]
        return [f"{message.kind}: {problem}" for message, problem in found if problem is not None]

    def _tell(self, batch: Sequence[Message]) -> Any:
        """Tell MLflow; its answer. Every kind may be told twice."""
        message, uri = batch[0], self.uri
        body, run_id = message.body, self.outbox.answer("run", self.server)
        match message.kind:
            case "run":
                run = body["experiment"], body["name"], body["key"], body["settings"]
                return mlflow_client.start_run(*run, uri, self.outbox.lost.get(self.server))
            case "status":
                mlflow_client.set_status(run_id, body["status"], uri)
            case "epoch" | "look":
                mlflow_client.log_points(run_id, [point for one in batch for point in _points(one)], uri)
            case "summary":
                mlflow_client.log_points(run_id, _points(message), uri, body["warnings"])
            case "trial":
                mlflow_client.log_trial(run_id, body, uri)
            case "pictures":
                with local_folder(self.store, "report") as folder:
                    mlflow_client.log_folder(run_id, folder, "report", uri)
            case "files":
                with tempfile.TemporaryDirectory(prefix="raydc-") as folder:
                    self._copy_files(Path(folder))
                    mlflow_client.log_folder(run_id, folder, None, uri)
            case "model":
                with local_folder(self.store, "model") as folder:
                    return mlflow_client.log_model(folder, run_id, uri)
            case "register":
                model = self.outbox.answer("model", self.server)
                if model is None:
                    raise RegistryRefused(
                        f"{body['name']}: MLflow refused the model, so no version of it is registered"
                    )
                with local_folder(self.store, "model") as folder:
                    sha = sha256_of(folder)
                name = body["name"]
                version = registry.register(model, name, sha, run_id, body["tags"], uri, body["promotion"])
                standing = registry.standing_of(name, version, uri)
                return f"models:/{name}/{version}" + (f" ({standing})" if standing else "")
            case unknown:
                raise RegistryError(f"{self.store.root}: no such kind of message: {unknown!r}; update raydc")
        return None

    def _copy_files(self, folder: Path) -> None:
        names = [name for name in mlflow_client.RECORD if self.store.exists(name)]
        parts: dict[str, bytes] = {}
        for name in self.store.list("assignments"):
            parts[name] = self.store.read_bytes(name)
            if sum(map(len, parts.values())) > UPLOADED_ASSIGNMENTS:
                parts = {}
                break
        for name in [*names, *parts]:
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(parts[name] if name in parts else self.store.read_bytes(name))


def flush(out: str, tracking_uri: str | None = None, patience: float = 10.0) -> tuple[dict[str, int], dict[str, str]]:
    """Send what an output directory still holds for MLflow, and once more what MLflow refused.

    Returns how many messages of each kind were sent, and where everything is.

    The tracking URI is the one given, else the one that the run's or search's settings gave, else MLFLOW_TRACKING_URI,
    else where MLflow was found then. Raises ValueError where the directory holds no record, RegistryError where a
    password has to be given again, and RecordPending if MLflow cannot be told.
    """
    store = Store(out)
    if not store.exists(OUTBOX):
        raise ValueError(f"{out} holds no record for MLflow: expected the --out of a training or a search")
    with alone(store):
        server, given = Outbox(store).server or (None, False)
        if tracking_uri is None and (given or "MLFLOW_TRACKING_URI" not in os.environ):
            tracking_uri = server
        tracker = Tracker(store, tracking_uri)
        tracker.outbox.offer_again(tracker.server)
        waiting = tracker.outbox.pending(tracker.server)
        paths = tracker.send(patience)
    sent = [message.kind for message in waiting if (message.id, tracker.server) in tracker.outbox.answers]
    return dict(Counter(sent)), paths


@contextmanager
def local_folder(store: Store, name: str, write: bool = False) -> Iterator[Path]:
    """A folder of the output directory as a local path: itself, or a copy of what is remote."""
    if store.local:
        path = Path(store.path) / name
        path.mkdir(exist_ok=True)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="raydc-") as scratch:
        for file in store.list(name):
            Path(scratch, file).parent.mkdir(parents=True, exist_ok=True)
            Path(scratch, file).write_bytes(store.read_bytes(file))
        Path(scratch, name).mkdir(exist_ok=True)
        yield Path(scratch, name)
        if write:
            for path in Path(scratch, name).iterdir():
                store.write_bytes(f"{name}/{path.name}", path.read_bytes())


def _batches(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Epochs that follow each other go together; anything else alone."""
    batch: list[Message] = []
    for message in messages:
        if batch and not (batch[0].kind == message.kind == "epoch"):
            yield batch
            batch = []
        batch.append(message)
    if batch:
        yield batch


def _points(message: Message) -> list[Point]:
    step = message.body.get("step", 0)
    return [(name, value, message.time, step) for name, value in message.body["metrics"].items()]
