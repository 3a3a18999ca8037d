"""A server that is down is left alone, and found when it is back."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

import pytest
from tenacity import stop_after_attempt, wait_none

from moa.context import RunContext
from moa.endpoints import Completion, Prompt
from moa.endpoints.breaker import Breaker, breaker_of, is_down
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Fallback, Wrapping
from moa.errors import DeadlineExceeded, EndpointError, EndpointTimeout, EndpointUnavailable
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

PROMPT = Prompt.of("Hello?")


def failed(status: int | None = 503) -> EndpointUnavailable:
    return EndpointUnavailable("HTTP", endpoint="far", status=status)


class Server(Wrapping):
    """Is up, down or hung as it is told, and counts what it is asked."""

    def __init__(self, *, up: bool = True) -> None:
        super().__init__(SimulatedEndpoint(name="far"))
        self.up = up
        self.hung = False
        self.asked = 0
        self.error: EndpointError = failed()

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        self.asked += 1
        if self.hung:
            await asyncio.Event().wait()
        if not self.up:
            raise self.error
        return await super().complete(prompt, context)


@dataclass
class Clock:
    """Goes on when it is told to."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


async def answered(server: Server) -> Server:
    """It has answered, and is down since."""
    await Retried(server).complete(PROMPT, RunContext())
    server.up, server.asked = False, 0
    return server


def kinds(context: RunContext) -> list[str]:
    return [note.kind for note in context.trace]


async def test_another_endpoint_takes_over_at_once_from_one_that_is_down() -> None:
    server, start = await answered(Server()), time.monotonic()
    both = Fallback(Retried(server, wait=wait_none()), SimulatedEndpoint())
    context = RunContext()
    for _ in range(11):
        context = RunContext()
        await both.complete(PROMPT, context)
    assert server.asked < 8  # 3 + 1, and a probe for every half second that this took
    assert time.monotonic() - start < 4
    assert kinds(context) == ["fell back", "answered"]


async def test_calls_wait_for_a_server_that_was_up_before_and_one_at_a_time_looks_for_it() -> None:
    server = await answered(Server())
    contexts = [RunContext() for _ in range(20)]
    endpoint = Retried(server, wait=wait_none(), stop=stop_after_attempt(2))
    async with asyncio.TaskGroup() as group:
        for context in contexts:
            group.create_task(endpoint.complete(PROMPT, context))
        await asyncio.sleep(0.8)
        assert server.asked <= 20 + 2
        server.up = True
    assert all("waited" in kinds(context) for context in contexts[:1] + contexts[3:])


async def test_a_server_that_was_never_there_is_waited_for_once() -> None:
    server, start = Server(up=False), time.monotonic()
    endpoint = Retried(server, wait=wait_none())
    calls = [endpoint.complete(PROMPT, RunContext()) for _ in range(20)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in found} == {EndpointUnavailable}
    assert server.asked == 3 + 1
    assert time.monotonic() - start < 5


async def test_after_some_looks_no_call_waits_for_a_server_that_was_never_there() -> None:
    server = Server(up=False)
    endpoint, breaker = Retried(server, wait=wait_none()), breaker_of(server)
    for _ in range(6):
        breaker.fail(failed(), probes=True)
    start = time.monotonic()
    calls = [endpoint.complete(PROMPT, RunContext()) for _ in range(20)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in found} == {EndpointUnavailable}
    assert time.monotonic() - start < 1
    server.up, breaker.probe_at = True, time.monotonic()
    await endpoint.complete(PROMPT, RunContext())


async def test_one_request_that_fails_again_and_again_opens_nothing() -> None:
    server = await answered(Server())
    with pytest.raises(EndpointUnavailable, match="9 tries"):
        await Retried(server, stop=stop_after_attempt(9), wait=wait_none()).complete(
            PROMPT, RunContext()
        )
    assert not breaker_of(server).is_open


async def test_who_waits_gives_up_when_the_time_of_its_call_or_its_run_is_over() -> None:
    server = await answered(Server())
    breaker = breaker_of(server)
    breaker.fail(failed(), probes=True)
    breaker.probe_at = time.monotonic() + 60
    with pytest.raises(EndpointUnavailable, match="is down"):
        await Retried(server, timeout_s=0.1).complete(PROMPT, RunContext())
    with pytest.raises(DeadlineExceeded):
        await Retried(server).complete(PROMPT, RunContext(timeout_s=0.1))
    assert server.asked == 0


async def test_a_probe_that_is_cancelled_leaves_its_place_to_the_next() -> None:
    server = await answered(Server())
    breaker_of(server).fail(failed(), probes=True)
    server.hung = True
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.8):
            await Retried(server).complete(PROMPT, RunContext())
    assert server.asked == 1
    server.hung, server.up = False, True
    await Retried(server).complete(PROMPT, RunContext())  # another `Retried` of it knows too
    assert not breaker_of(server).is_open


def test_a_probe_that_hangs_keeps_off_no_other_for_ever() -> None:
    clock = Clock()
    breaker = Breaker(failures=1, clock=clock)
    breaker.fail(failed())
    clock.now += 1
    with breaker.probe():
        assert not breaker.is_due
        clock.now += 31
        assert breaker.is_due
        with breaker.probe():
            assert not breaker.is_due


def test_the_wait_doubles_up_to_half_a_minute_until_an_answer() -> None:
    clock = Clock()
    breaker = Breaker(failures=1, clock=clock)
    waits: list[float] = []
    for _ in range(8):
        breaker.fail(failed(), probes=True)
        waits.append(breaker.wait_s)
        clock.now += breaker.wait_s
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]
    breaker.succeed()
    breaker.fail(failed())
    assert breaker.wait_s == 0.5


def timeout(seconds: float) -> EndpointTimeout:
    error = EndpointTimeout("late", endpoint="far")
    error.seconds = seconds
    return error


@pytest.mark.parametrize("error", [failed(None), failed(502), failed(504), timeout(120.0)])
def test_what_says_that_a_server_is_down(error: EndpointError) -> None:
    assert is_down(error)


@pytest.mark.parametrize("error", [failed(429), failed(500), failed(529), timeout(0.5)])
async def test_a_server_that_answers_or_is_given_too_little_time_is_not_down(
    error: EndpointError,
) -> None:
    assert not is_down(error)
    server = await answered(Server())
    server.error = error
    for _ in range(4):
        with pytest.raises(EndpointError):
            await Retried(server, wait=wait_none()).complete(PROMPT, RunContext())
    assert server.asked == 12


async def test_an_answer_between_failures_forgets_them() -> None:
    endpoint = ScriptedEndpoint([failed(), failed(), "yes", failed(), failed(), "yes"])
    calls = (
        Retried(endpoint, stop=stop_after_attempt(1)).complete(PROMPT, RunContext())
        for _ in range(6)
    )
    for call in calls:
        with suppress(EndpointUnavailable):
            await call
    endpoint.assert_used_up()
