"""The application on Ray Serve: a front that takes requests, and replicas of a model that answer them.

A replica that dies takes nothing with it: the front still holds what it was asked, and asks another.
"""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from fastapi import FastAPI
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.config import BackpressureConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.metrics import Counter, Gauge, Histogram

from raydc.core import compat
from raydc.core.settings import build
from raydc.distributed import ray_cluster
from raydc.pipelines.serving.access import Access, access
from raydc.pipelines.serving.payloads import Question, Reply
from raydc.pipelines.serving.served import Prepared, answer, follow, load, prepare
from raydc.pipelines.serving.settings import Serving
from raydc.pipelines.serving.web import Away, application

log = logging.getLogger("ray.serve")

ATTEMPTS = 3
"""Replicas that a request may lose before it is thought to be the cause."""
PAUSE = 0.1
"""Seconds before another replica is asked: one that ends may be named for a moment longer."""
BATCH = 256
"""Requests that are answered together at most: of one row each, as many as the model takes at a time."""
HEALTH = {"health_check_period_s": 2, "health_check_timeout_s": 10}
"""Seconds between looks at whether a process still answers, and until it is replaced."""
SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30]
"""Boundaries of the histogram of latencies."""
ROWS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536]
"""Boundaries of the histogram of rows that are answered together."""


class Model:
    """A replica: it holds the model, answers several requests together, and takes up a new champion between two."""

    def __init__(self, serving: Serving) -> None:
        torch.set_num_threads(1)
        self.serving, self.problem = serving, ""
        self.threads = ThreadPoolExecutor(3)  # to read a request, answer those before it, and ask the registry
        self.served = load(serving)
        self.rows = Counter("raydc_serve_rows", description="rows answered")
        self.together = Histogram("raydc_serve_batch_rows", "rows answered together", boundaries=ROWS)
        self.version = Gauge("raydc_serve_model", "1 of the model that answers", tag_keys=("model",))
        self.looked = Gauge("raydc_serve_looked_at_registry", "when the registry was last asked, in seconds since 1970")
        self.behind = Gauge("raydc_serve_behind", "1 while what is asked for is not known, or cannot be had")
        self._tell()
        self.following = asyncio.get_running_loop().create_task(self._follow())  # Ray Serve constructs within its loop

    async def answer(self, question: Question) -> Reply:
        """The reply to a question."""
        prepared = await self._apart(prepare, question, self.served, self.serving)
        return prepared if isinstance(prepared, Reply) else await self.answer_together(prepared)

    async def about(self) -> dict[str, Any]:
        """What there is to know of the model, and why a new champion was not taken up."""
        return self.served.about() | {"asked_for": self.serving.model, "problem": self.problem or None}

    # by their number: by rows, Ray Serve fails a request that is larger than a batch
    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=0)
    async def answer_together(self, prepared: list[Prepared]) -> list[Reply]:
        """The replies to what has come in while those before were answered."""
        replies: list[Reply] = await self._apart(answer, prepared)
        if rows := sum(reply.rows for reply in replies):
            self.rows.inc(rows)
            self.together.observe(rows)
        return replies

    async def _follow(self) -> None:
        """Look at the registry again and again. Requests that were begun end with the model that they began with."""
        while True:
            await asyncio.sleep(self.serving.poll)
            try:
                found, self.problem = await self._apart(follow, self.serving, self.served), ""
                if found is not self.served:
                    log.warning(f"{found.uri} answers in the place of {self.served.uri}")
                    self.version.set(0, {"model": self.served.uri})
                self.served = found
                self._tell()
            except Exception as problem:  # whatever it is, the model that is there goes on answering
                if str(problem) != self.problem:
                    log.warning(f"{self.served.uri} goes on answering: {problem}")
                self.problem = str(problem)
                self.behind.set(1)

    def _tell(self) -> None:
        self.version.set(1, {"model": self.served.uri})
        self.looked.set(time.time())
        self.behind.set(0)

    async def _apart(self, function: Any, *arguments: Any) -> Any:
        """What a function returns that would keep others waiting."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)


class Front:
    """Takes requests, within limits, and has a replica answer each."""

    def __init__(self, serving: Serving, permitted: Access, model: DeploymentHandle) -> None:
        self.serving, self.permitted, self.model = serving, permitted, model
        self.requests = Counter("raydc_serve_requests", "requests by route and status", ("route", "status"))
        self.seconds = Histogram("raydc_serve_seconds", "seconds of a request", boundaries=SECONDS, tag_keys=("route",))
        self.repeated = Counter("raydc_serve_repeated", "requests asked again, as a replica died")

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The routes; Ray Serve calls this once the front is there."""
        return application(self.serving, self.permitted, self)

    async def answer(self, question: Question) -> Reply:
        """The reply of some replica."""
        return await self._asked("answer", question)

    async def about(self) -> dict[str, Any]:
        """What some replica says of its model."""
        return await self._asked("about")

    def settings(self) -> Serving:
        """How this application is served."""
        return self.serving

    def count(self, route: str, status: int, seconds: float) -> None:
        """A request has ended."""
        self.requests.inc(tags={"route": route, "status": str(status)})
        self.seconds.observe(seconds, {"route": route})

    async def _asked(self, method: str, *arguments: Any) -> Any:
        """What a replica returns; another one is asked where it dies. Away if none has returned in time."""
        lost = set[str]()
        try:
            async with asyncio.timeout(self.serving.timeout):
                while len(lost) < ATTEMPTS:
                    try:
                        return await getattr(self.model, method).remote(*arguments)
                    except RayActorError as problem:  # of one that cannot be reached it may come several times
                        lost.add(problem.actor_id or f"unknown {len(lost)}")
                        self.repeated.inc()
                        await asyncio.sleep(PAUSE)
        except TimeoutError:
            raise Away(f"no answer in {self.serving.timeout:g} seconds") from None
        raise Away(f"{len(lost)} replicas were lost over this request")


def bound(serving: Serving, permitted: Access, gpus: int = 0) -> Application:
    """The application, ready to be run."""
    shutdown = {"graceful_shutdown_timeout_s": serving.drain, "graceful_shutdown_wait_loop_s": 0.2}
    model = serve.deployment(
        num_replicas=serving.replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
        max_ongoing_requests=serving.waiting,
        **HEALTH,
        **shutdown,
    )(Model)
    front = serve.deployment(
        ray_actor_options={"num_cpus": 0},
        # the front sends away what is too much itself; what not even it gets to see is bounded as well
        max_ongoing_requests=4 * serving.waiting,
        max_queued_requests=serving.waiting,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        **HEALTH,
        **shutdown,
    )(serve.ingress()(Front))
    return front.bind(serving, permitted, model.bind(serving))


def require_token(insecure: bool) -> None:
    """NotPermitted, unless `insecure`, where the processes of this cluster answer calls that give no token.

    Ray Serve's replicas listen for pickled calls at every address of their machine, also where Ray itself does not.
    """
    if not insecure and not compat.asks_for_token():
        raise ray_cluster.NotPermitted(
            "this Ray cluster asks for no token, and the replicas of Ray Serve listen at every address of their "
            "machine: whoever reaches it runs code on it. Start the cluster with RAY_AUTH_MODE=token; --insecure (or "
            f"{ray_cluster.INSECURE}=1) serves as it is"
        )


def build_app(settings: dict[str, Any]) -> Application:
    """The application of settings as in `Serving`, for a Serve configuration file or a RayService.

    Who listens is decided there, so a token is asked for unless the settings say that it is public.
    """
    require_token(ray_cluster.insecure())
    serving = build(Serving, settings)
    return bound(serving, access(serving, None))
