"""How long a call may take over all its tries."""

from __future__ import annotations

import asyncio
import time

import pytest
from tenacity import stop_after_attempt, wait_none

from moa.core.context import RunContext
from moa.core.errors import ConfigError, EndpointTimeout, EndpointUnavailable
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Fallback, timeout_of
from moa.testing import ScriptedEndpoint

from .conftest import Answer, Ask, Asked, Served, both_ways, chat

PROMPT = Prompt.of("Hello?")
HUNG = Answer(stuck=True)
DOWN = EndpointUnavailable("HTTP 500", endpoint="scripted", status=500)


def server(timeout_s: float = 0.3, concurrency: int = 64) -> OpenAIEndpoint:
    return OpenAIEndpoint(
        "far",
        model="m",
        base_url="http://far.example/v1",
        timeout_s=timeout_s,
        concurrency=concurrency,
    )


async def slow_500(asked: Asked) -> Answer:
    await asyncio.sleep(0.2)
    return Answer(500, text="down")


@both_ways
async def test_a_server_that_hangs_costs_one_and_a_half_times_of_a_request(
    served: Served, ask: Ask
) -> None:
    served.will(HUNG)
    async with server() as far:
        start, endpoint = time.monotonic(), Retried(far, wait=wait_none())
        with pytest.raises(EndpointTimeout, match="2 tries"):
            await ask(endpoint, PROMPT, RunContext())
        assert 0.4 < time.monotonic() - start < 0.8
    assert len(served.requests) == 2


async def test_a_request_that_hung_once_is_answered_by_its_second_try(served: Served) -> None:
    served.will(HUNG, chat("Hello!"))
    async with server() as far:
        found = await Retried(far, wait=wait_none()).complete(PROMPT, RunContext())
    assert found.text == "Hello!"


async def test_a_try_has_what_those_before_it_have_left(served: Served) -> None:
    served.will(slow_500, HUNG)
    async with server() as far:
        start = time.monotonic()
        with pytest.raises(EndpointTimeout, match="2 tries"):
            await Retried(far, wait=wait_none(), timeout_s=0.3).complete(PROMPT, RunContext())
        assert time.monotonic() - start < 0.45
    assert len(served.requests) == 2


async def test_waiting_for_a_slot_takes_no_time_from_a_call(served: Served) -> None:
    async def answer(asked: Asked) -> Answer:
        await asyncio.sleep(0.07)
        return chat() if len(served.requests) > 10 else Answer(500, text="down")

    served.will(answer)
    async with server(0.6, concurrency=1) as far:
        endpoint = Retried(far, wait=wait_none())
        async with asyncio.TaskGroup() as group:  # the last one is answered after 1.05 s
            for _ in range(5):
                group.create_task(endpoint.complete(PROMPT, RunContext()))


async def test_a_server_that_asks_to_wait_again_and_again_is_given_up_in_time() -> None:
    busy = EndpointUnavailable("HTTP 429", endpoint="scripted", status=429, retry_after_s=0.3)
    endpoint = Retried(ScriptedEndpoint([busy, busy, "hello"]), timeout_s=0.5)
    with pytest.raises(EndpointUnavailable, match="2 tries"):
        await endpoint.complete(PROMPT, RunContext())


async def test_an_error_that_several_calls_met_is_not_changed() -> None:
    endpoint = Retried(ScriptedEndpoint([DOWN] * 4), stop=stop_after_attempt(2), wait=wait_none())
    for _ in range(2):
        with pytest.raises(EndpointUnavailable, match="2 tries"):
            await endpoint.complete(PROMPT, RunContext())
    assert str(DOWN) == "scripted: HTTP 500"


def test_a_call_that_may_fall_back_has_time_for_each() -> None:
    assert timeout_of(Retried(Fallback(server(1.0), server(2.0)))) == 3.0
    with pytest.raises(ConfigError, match="timeout_s"):
        Retried(server(), timeout_s=0)
