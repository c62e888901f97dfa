"""A server from its start to its end: checks before anything listens, and requests in hand are answered at the end."""

import importlib.util
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from raydc.core.settings import SettingsError
from raydc.distributed import ray_cluster
from raydc.pipelines.serving.access import access
from raydc.pipelines.serving.settings import Serving

NEEDED = ("fastapi", "grpc_reflection", "starlette", "uvicorn")
"""Packages that Ray Serve does not start without."""
LOOK = 2.0
"""Seconds between looks at whether the application still stands."""


class ServingFailed(RuntimeError):
    """The application came to an end that nobody asked for."""


@dataclass(frozen=True)
class Started:
    """A server that answers."""

    url: str
    model: str
    """Which model answers at first, such as models:/digits/3."""
    token: bool
    """Whether one is asked for."""
    metrics: tuple[str, ...]
    """Where Prometheus finds what is counted: an address a node."""


def serve(
    serving: Serving, started: Callable[[Started], None], stop: threading.Event, told: Callable[[str], None]
) -> None:
    """Serve until `stop`; `started` is called once requests are answered, `told` what changes then, in a line.

    Raises SettingsError, RegistryError, ModelError, NotPermitted or OSError before anything is started, and as
    `ray_cluster.check` does; ServingFailed if the application falls.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(f"serve needs more packages ({', '.join(missing)}): pip install 'raydc[serve]'")
    permitted = access(serving, serving.host)
    ray_cluster.check()
    from raydc.core import compat
    from raydc.pipelines.serving.deployments import bound, require_token
    from raydc.pipelines.serving.served import load
    from raydc.tracking.mlflow_client import find

    serving = serving.model_copy(update={"tracking_uri": find(serving.tracking_uri), "model": _absolute(serving.model)})
    first = load(serving).uri
    if not ray_cluster.joined():
        _require_free(serving.host, serving.port)
    with ray_cluster.connected(serving.replicas + 1):
        import ray
        from ray import serve as ray_serve
        from ray.serve.config import HTTPOptions

        ray.get(ray.remote(num_cpus=0)(require_token).remote(ray_cluster.insecure()))
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= serving.replicas else 0
        # longer than the front waits, so that it is the front that says what became of a request
        options = HTTPOptions(host=serving.host, port=serving.port, request_timeout_s=2 * serving.timeout)
        ray_serve.start(proxy_location="EveryNode", http_options=options)
        _require_ours(serving, *compat.serve_listens_at())
        front = ray_serve.run(bound(serving, permitted, gpus), name=serving.name, route_prefix=serving.route)
        try:
            metrics = tuple(
                f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
                for node in ray.nodes()
                if node["Alive"]
            )
            url = f"http://{serving.host}:{serving.port}{serving.route.rstrip('/')}"
            started(Started(url, first, permitted.digest is not None, metrics))
            last = now = words_of({"model": first})
            while not stop.wait(LOOK):
                if serving.name not in ray_serve.status().applications:
                    raise ServingFailed(f"the application {serving.name} was deleted by somebody else")
                before, now = now, words_of(_asked(front))
                if last != now == before:  # for a moment replicas may differ, or be away
                    told(now)
                    last = now
        finally:
            ray_serve.delete(serving.name)


def words_of(about: Mapping[str, Any] | None) -> str:
    """Which model answers, and why no other one, by what it says of itself; None where none says anything."""
    if about is None:
        return f"no replica answers in {LOOK:g} seconds"
    if problem := about.get("problem"):
        return f"{about['model']} goes on answering: {problem}"
    return f"{about['model']} answers"


def _asked(front: Any) -> Mapping[str, Any] | None:
    """What some replica says of its model; None if none does in a moment."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    asked = front.about.remote()
    try:
        found: Mapping[str, Any] = asked.result(timeout_s=LOOK)
        return found
    except (TimeoutError, RayError, RayServeException):
        asked.cancel()
        return None


def _absolute(model: str) -> str:
    """A folder by a name that means the same in every process."""
    from raydc.core.storage import Store

    return model if model.startswith(("models:", "runs:")) else Store(model).root


def _require_free(host: str, port: int) -> None:
    """OSError if nobody can listen there, before a model is loaded by other processes."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as problem:
            raise SettingsError(f"--host {host} --port {port}: {problem.strerror}; name another one") from problem


def _require_ours(serving: Serving, host: str, port: int) -> None:
    """SettingsError where the cluster's Ray Serve listens elsewhere, or has another application of this name."""
    from ray import serve as ray_serve

    if (host, port) != (serving.host, serving.port):
        raise SettingsError(
            f"Ray Serve on this cluster listens at {host}:{port} already, for all its applications: --host {host} "
            f"--port {port}, or 'serve shutdown' first"
        )
    if serving.name in ray_serve.status().applications:
        theirs = ray_serve.get_app_handle(serving.name).settings.remote().result(timeout_s=serving.timeout)
        if theirs.model != serving.model:
            raise SettingsError(f"--name {serving.name}: on this cluster it serves {theirs.model}; take another name")
