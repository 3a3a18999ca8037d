"""WaitForReady: a server that is started again is waited for, one that isn't, not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from tenacity import stop_after_attempt, wait_none

from moa.core.context import RunContext
from moa.core.errors import DeadlineExceeded, EndpointUnavailable
from moa.endpoints import Prompt
from moa.endpoints.retries import Retried
from moa.testing import ScriptedEndpoint, Step
from moa.vllm.endpoint import WaitingEndpoint

PROMPT = Prompt.of("Hello")
GONE = EndpointUnavailable("cannot reach it", endpoint="scripted")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa.vllm.endpoint._POLL_S", 0.001)


def waiting(*steps: Step, looks: Iterator[bool], coming: bool = True) -> WaitingEndpoint:
    async def is_ready() -> bool:
        return next(looks)

    inner = ScriptedEndpoint(steps)
    return WaitingEndpoint(inner, is_coming=lambda: coming, is_ready=is_ready)


async def test_a_server_that_comes_back_is_asked_again_as_soon_as_it_is_there() -> None:
    looks = iter([False, False, False, True])
    context = RunContext()
    endpoint = Retried(
        waiting(GONE, "hello", looks=looks), stop=stop_after_attempt(2), wait=wait_none()
    )
    assert (await endpoint.complete(PROMPT, context)).text == "hello"
    assert next(looks, None) is None
    assert any("waited for the server" in note.text for note in context.trace)


async def test_a_stream_that_could_not_start_is_started_when_the_server_is_back() -> None:
    endpoint = Retried(
        waiting(GONE, "good morning", looks=iter([False, True])),
        stop=stop_after_attempt(2),
        wait=wait_none(),
    )
    *pieces, whole = [piece async for piece in endpoint.stream(PROMPT, RunContext())]
    assert "".join(map(str, pieces)) == "good morning"
    assert whole


async def test_a_server_that_nobody_starts_is_not_waited_for() -> None:
    endpoint = waiting(GONE, looks=iter([]), coming=False)
    with pytest.raises(EndpointUnavailable, match="cannot reach it"):
        await endpoint.complete(PROMPT, RunContext())


async def test_a_failure_of_a_server_that_is_there_is_told_at_once() -> None:
    context = RunContext()
    with pytest.raises(EndpointUnavailable):
        await waiting(GONE, looks=iter([True])).complete(PROMPT, context)
    assert not context.trace


async def test_the_wait_ends_with_the_run() -> None:
    async def never() -> bool:
        await asyncio.sleep(0)
        return False

    inner = ScriptedEndpoint([GONE])
    endpoint = WaitingEndpoint(inner, is_coming=lambda: True, is_ready=never)
    with pytest.raises(DeadlineExceeded):
        await endpoint.complete(PROMPT, RunContext(timeout_s=0.05))
