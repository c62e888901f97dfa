"""The front over replicas that are made up: which of their deaths a request survives."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, RayActorError

from raydc.pipelines.serving import deployments
from raydc.pipelines.serving.access import Access
from raydc.pipelines.serving.deployments import Front
from raydc.pipelines.serving.settings import Serving
from raydc.pipelines.serving.web import Away

UNREACHED = ActorUnavailableError("the connection ended", b"1" * 16)


def asked(monkeypatch: pytest.MonkeyPatch, *ends: Any) -> Any:
    """What the front says where replicas end a request so, one after the other; none of the ends is left over."""
    left = list(ends)

    async def remote(*arguments: Any) -> Any:
        end = left.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    monkeypatch.setattr(deployments, "PAUSE", 0.001)
    model: Any = SimpleNamespace(about=SimpleNamespace(remote=remote))
    found = asyncio.run(Front(Serving(model="a", timeout=5), Access(None, True), model).about())
    assert not left
    return found


def test_a_replica_that_cannot_be_reached_for_a_while_is_one_that_is_lost(monkeypatch):
    assert asked(monkeypatch, *[UNREACHED] * 9, RayActorError("2"), {"model": "b"}) == {"model": "b"}


def test_a_request_over_which_three_replicas_are_lost_is_not_asked_again(monkeypatch):
    with pytest.raises(Away, match="3 replicas were lost over this request"):
        asked(monkeypatch, *[RayActorError(str(number)) for number in range(3)])
