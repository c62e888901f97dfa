"""What raydc uses of other packages though they do not promise it, each with the reason; only here are such names.

Versions in pyproject.toml end before the next minor one of a package that stands here, and tests/core/test_compat.py
has a test of each. Nothing is imported before it is needed.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

NODES_WITHOUT_JOINING = """
import sys
from ray._private.services import canonicalize_bootstrap_address_or_die
from ray._raylet import GcsClient
from ray.exceptions import AuthenticationError
try:
    nodes = GcsClient(address=canonicalize_bootstrap_address_or_die(sys.argv[1])).get_all_node_info(timeout=30)
except AuthenticationError:
    sys.exit()
print(*(node.node_manager_address for node in nodes.values()))
"""
"""A program: addresses of the nodes of the Ray cluster at its argument; none if it turns away who has no token.

`ray.nodes` asks only a cluster that was joined, and `ray.util.state` a dashboard that need not be there. A process of
its own, as Ray reads whether it has a token once a process.
"""

SLOW_START = "timed out during startup"
"""In the text of what `ray.init` raises where a node is not ready in time: Ray has no class for it."""


@contextmanager
def loopback_alone() -> Iterator[None]:
    """What `ray.init` starts in here listens at 127.0.0.1, as it does on other systems.

    `ray.init` has no argument for it: it replaces 127.0.0.1 by the host's address on Linux.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def node_may_take(seconds: float) -> Iterator[None]:
    """A node that `ray.init` starts in here has this long to be ready: nothing sets Ray's own 30 s."""
    from ray._private import services

    ask, end = services.get_node, time.monotonic() + seconds

    def patient(*which: Any) -> Any:
        while True:
            try:
                return ask(*which)
            except RuntimeError:  # not there yet, and Ray asks again until its time is over
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    services.get_node = patient
    try:
        yield
    finally:
        services.get_node = ask


def asks_for_token() -> bool:
    """Whether this process of Ray's answers none but those who have the cluster's token.

    Ray tells it nowhere; its own servers ask this before they decide.
    """
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return bool(is_token_auth_enabled())


def serve_listens_at() -> tuple[str, int]:
    """Host and port of the Ray Serve that runs on this cluster: `serve.start` passes over those it is given then."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    return client.http_config.host, client.http_config.port


def asked_before(study: Any, trial: Any) -> Any:
    """The Optuna trial that another process had asked the study for, to be told: `study.tell` alone takes numbers, and
    what suggests, reports and prunes is made by `study.ask` alone, for new trials.
    """
    import optuna

    return optuna.Trial(study, trial._trial_id)


def array_data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Pointer to the elements of a numba array of type `kind`, in code that is being made.

    What numba promises to extensions has no access to an array's parts.
    """
    return context.make_array(kind)(context, builder, array).data


def variable(builder: Any, value: Any) -> Any:
    """A place on the stack that holds `value`, made once however often its code runs: llvmlite has single steps."""
    from numba.core import cgutils

    return cgutils.alloca_once_value(builder, value)


def steps(builder: Any, start: Any, stop: Any, step: Any) -> AbstractContextManager[tuple[Any, Any]]:
    """A loop around the code made in here; it gives (index, how many steps before). llvmlite has blocks and jumps."""
    from numba.core import cgutils

    return cgutils.for_range_slice(builder, start, stop, step)


def nothing(context: Any) -> Any:
    """What a function of numba's without a result returns, in code that is being made."""
    return context.get_dummy_value()
