"""The Ray cluster that a command works on: one that asks for a token, or one of its own that only this machine reaches.

Whoever reaches the ports of a Ray cluster runs code on it, unless it asks for a token. Where the cluster is and how to
get in stands in the environment, as Ray itself reads it: RAY_ADDRESS, RAY_AUTH_MODE, RAY_AUTH_TOKEN_PATH.
"""

import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from raydc.core import compat
from raydc.core.nouns import counted
from raydc.core.settings import SettingsError

INSECURE = "RAYDC_INSECURE"
"""Set by --insecure: clusters that ask for no token are used too."""
LOOPBACK = ("127.0.0.1", "::1")
"""Where Ray listens for this machine alone; a node at another address, 127.0.0.2 as well, listens for everybody."""
PROCESS_GROUPS = {"TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2"}
"""Seconds that Ray Train waits for workers to take leave of each other (else 30): with one that hangs they never do."""
NICENESS = "RAY_worker_niceness"
"""Of the workers of a cluster that raydc starts: 0, if the environment says nothing else. Ray's own 15 leaves them
next to nothing of a processor that anybody else uses."""
START = 30.0
"""Seconds, on a machine with nothing else to do, that the node of a cluster of our own has to be ready."""
PATIENCE = 60
"""Seconds for a cluster to say who it is; Ray's own patience of 30, and the start of a process, fit in."""


class NotPermitted(RuntimeError):
    """The cluster lets everybody in, or this process not."""


def joined() -> bool:
    """Whether there is a cluster to join, else raydc starts one of its own."""
    return os.environ.get("RAY_ADDRESS", "local") != "local"


def insecure() -> bool:
    """Whether clusters that ask for no token are used too."""
    return bool(os.environ.get(INSECURE))


def check() -> None:
    """Look at the cluster of RAY_ADDRESS, before any work, and without joining it.

    Raises NotPermitted if it listens for other machines and asks for no token, ConnectionError if it is not there.
    """
    if not joined() or insecure():
        return
    address = os.environ["RAY_ADDRESS"]
    reached = sorted(set(_reached_without_token(address)) - set(LOOPBACK))
    if reached:
        raise NotPermitted(
            f"the Ray cluster at {address} (nodes {', '.join(reached)}) asks for no token: whoever reaches it runs "
            "code on it. Make a token with 'ray get-auth-token --generate', copy ~/.ray/auth_token to every node, and "
            "start every node, and this command, with RAY_AUTH_MODE=token. --insecure uses the cluster as it is"
        )


@cache
def _reached_without_token(address: str) -> list[str]:
    """Addresses of the cluster's nodes; none if it turns away those without a token, as the process that asks here."""
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # sooner than Ray's own patience ends
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as problem:
        raise ConnectionError(f"no Ray cluster at {address} (RAY_ADDRESS): {problem.strerror or problem}") from None
    without = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
    command = [sys.executable, "-c", compat.NODES_WITHOUT_JOINING, address]
    environment = without | {"RAY_AUTH_MODE": "disabled"}
    try:
        asked = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"no Ray cluster at {address} (RAY_ADDRESS): no answer in {PATIENCE} s") from None
    if asked.returncode:
        said = asked.stderr.strip() or f"the process that asked it ended with code {asked.returncode}"
        raise ConnectionError(f"no Ray cluster at {address} (RAY_ADDRESS): {said.splitlines()[-1]}")
    return asked.stdout.split()


@contextmanager
def connected(cpus: int) -> Iterator[None]:
    """The Ray cluster this process belongs to, or a local one of its own for as long as this lasts.

    Raises as `check` does, and NotPermitted if the cluster does not take this process's token.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")  # the default of 2 s delays the end of a run
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for name, value in PROCESS_GROUPS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    with _own_signals():
        if joined():
            _connect()
        else:
            _start(cpus)
    try:
        yield
    finally:
        ray.shutdown()


def _connect() -> None:
    """To the cluster of RAY_ADDRESS."""
    import ray
    from ray.exceptions import AuthenticationError

    check()
    private_token()
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": PROCESS_GROUPS})
    except (ConnectionError, AuthenticationError) as problem:
        raise NotPermitted(
            f"the Ray cluster at {os.environ['RAY_ADDRESS']} does not let this process in: {problem}. Set "
            "RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token or the file of RAY_AUTH_TOKEN_PATH"
        ) from problem


def _start(cpus: int) -> None:
    """A cluster of this machine, which listens on loopback alone (but for the store of torch's rendezvous)."""
    import ray

    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token":
        private_token(create=True)
    os.environ.setdefault(NICENESS, "0")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    crowd = max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
    try:
        with compat.loopback_alone(), compat.node_may_take(START * crowd):
            ray.init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, cpus),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
            )
    except Exception as problem:  # Ray has no narrower class for it
        if compat.SLOW_START not in str(problem):
            raise
        raise ConnectionError(
            f"Ray did not start on this machine within {START * crowd:.0f} s (load average {os.getloadavg()[0]:.0f} on "
            f"{os.cpu_count()} CPUs). Try again when less runs beside it: the same command goes on"
        ) from problem


def gpu_for_each(device: str, workers: int) -> bool:
    """Whether each of so many workers gets a GPU. SettingsError if `device` is cuda and the cluster has too few.

    A cluster that was joined may grow: it is taken at its word.
    """
    import ray

    there = int(ray.cluster_resources().get("GPU", 0))
    if device == "cuda" and joined():
        return True
    if device == "cuda" and there < workers:
        raise SettingsError(
            f"training.device cuda: a GPU each for {counted(workers, 'worker')} is needed, the cluster has {there}"
        )
    return device != "cpu" and there >= workers


def private_token(create: bool = False) -> None:
    """Nobody but its owner reads the token file; Ray itself would make it for all to read."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file, suppress(FileExistsError):
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, path)  # whole at once, unless another process was faster
    elif path.exists():
        found = path.stat()
        if found.st_uid == os.getuid() and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO) and os.access(path, os.W_OK):
            path.chmod(0o600)


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep the handlers of Ctrl-C and SIGTERM that stand now: `ray.init` replaces them, and its own end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
