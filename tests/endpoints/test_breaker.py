"""A server that is down is left alone, and found when it is back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import stop_after_attempt, wait_none

from moa.core.context import RunContext
from moa.core.errors import (
    DeadlineExceeded,
    EndpointError,
    EndpointTimeout,
    EndpointUnavailable,
)
from moa.endpoints import Completion, Prompt
from moa.endpoints.breaker import Breaker, breaker_of, is_down
from moa.endpoints.calls import mark_replaceable
from moa.endpoints.neutral import ask_neutrally
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Fallback, Wrapping
from moa.testing import ScriptedEndpoint, SimulatedEndpoint
from moa.vllm.replicas import Replicas

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


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.01)


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


class Gateway(SimulatedEndpoint):
    """Fails for poisoned inputs, or for all; a hung probe gets no answer."""

    def __init__(self, name: str = "far") -> None:
        super().__init__(name=name)
        self.error: EndpointError = failed(504)
        self.dead = False
        self.hung = False
        self.probes = 0
        self.most_probes = 0
        """Most probes in flight at once."""
        self.asked = 0
        self._in_flight = 0

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        if prompt.max_tokens > 1:
            self.asked += 1
            if self.dead or "poison" in prompt.messages[-1].content:
                raise self.error
            return await super().complete(prompt, context)
        self.probes += 1
        self._in_flight += 1
        self.most_probes = max(self.most_probes, self._in_flight)
        try:
            await self._wait(3600.0 if self.hung else 0.01, context)
        finally:
            self._in_flight -= 1
        if self.dead:
            raise self.error
        return await super().complete(prompt, context)


def run_of(owner: str, timeout_s: float | None = None) -> RunContext:
    context = RunContext(timeout_s=timeout_s)
    context.owner = owner
    return context


async def send(
    gateway: Gateway, owner: str, text: str = "poison", *, timeout_s: float = 1.0
) -> None:
    """Ask once, without a second try, and without a wait for a server that is down."""
    endpoint = Retried(gateway, stop=stop_after_attempt(1), timeout_s=timeout_s)
    with suppress(EndpointError), mark_replaceable():
        await endpoint.complete(Prompt.of(text), run_of(owner))


async def test_inputs_of_one_owner_close_a_server_for_nobody_while_a_probe_is_answered() -> None:
    gateway = Gateway()
    for _ in range(20):
        await send(gateway, "ann")
    assert not breaker_of(gateway).is_open
    assert gateway.asked == 20
    assert 0 < gateway.probes < 20 / 3


async def test_failures_of_one_owner_and_a_failed_probe_open_it() -> None:
    gateway = Gateway()
    gateway.dead = True
    for _ in range(4):
        await send(gateway, "ann", timeout_s=0.2)
    assert breaker_of(gateway).is_open
    assert (gateway.asked, gateway.probes) == (3, 1)


async def test_failures_of_two_owners_open_it_and_a_probe_closes_it() -> None:
    gateway = Gateway()
    for owner in ("ann", "bob", "ann"):
        await send(gateway, owner)
    assert breaker_of(gateway).is_open
    assert gateway.probes == 0
    breaker_of(gateway).probe_at = time.monotonic()
    await send(gateway, "cat", "Hello?")
    assert not breaker_of(gateway).is_open
    assert (gateway.asked, gateway.probes) == (4, 1)


async def test_a_server_that_can_not_be_reached_needs_no_second_owner() -> None:
    gateway = Gateway()
    gateway.error = failed(None)
    for _ in range(3):
        await send(gateway, "ann")
    assert breaker_of(gateway).is_open
    assert gateway.probes == 0


async def test_a_connection_that_an_input_may_have_cut_needs_a_second_owner() -> None:
    gateway = Gateway()
    gateway.error = EndpointUnavailable("cut", endpoint="far", begun=True)
    for _ in range(3):
        await send(gateway, "ann")
    assert not breaker_of(gateway).is_open


@pytest.mark.parametrize("hung", [False, True])
async def test_inputs_that_take_long_open_it_only_if_a_probe_hangs_too(hung: bool) -> None:
    gateway = Gateway()
    gateway.error, gateway.hung = timeout(120.0), hung
    for owner in ("ann", "bob", "ann", "bob"):
        await send(gateway, owner, timeout_s=0.2)
    assert breaker_of(gateway).is_open == hung
    assert gateway.probes == 1


async def test_an_open_server_is_probed_by_no_input_and_by_one_call_at_a_time() -> None:
    gateway = Gateway()
    await send(gateway, "ann", "Hello?")
    gateway.dead = True
    for owner in ("ann", "bob", "ann"):
        await send(gateway, owner)
    contexts = [run_of(f"key {i}") for i in range(20)]
    async with asyncio.TaskGroup() as group:
        for context in contexts:
            group.create_task(Retried(gateway).complete(PROMPT, context))
        await until(lambda: gateway.probes >= 2)
        assert gateway.asked == 1 + 3
        gateway.dead = False
    assert gateway.asked == 1 + 3 + 20
    assert gateway.most_probes == 1


async def test_a_probe_that_its_call_gives_too_little_time_says_nothing() -> None:
    gateway = Gateway()
    gateway.dead = gateway.hung = True
    for owner in ("ann", "bob", "ann"):
        await send(gateway, owner)
    breaker = breaker_of(gateway)
    opened = breaker.times_opened
    breaker.probe_at = time.monotonic()
    endpoint = Retried(gateway, timeout_s=60.0)
    with pytest.raises(DeadlineExceeded):
        await endpoint.complete(PROMPT, run_of("ann", timeout_s=0.2))
    assert (gateway.probes, breaker.times_opened) == (1, opened)
    gateway.dead = gateway.hung = False
    await endpoint.complete(PROMPT, run_of("ann"))  # its place was left to the next


async def test_a_probe_is_a_token_that_its_run_pays() -> None:
    small, context = SimulatedEndpoint(name="small"), RunContext()
    await ask_neutrally(small, context)
    assert [prompt.max_tokens for prompt in small.prompts] == [1]
    assert context.usage.calls == 1


async def test_a_probe_of_replicas_is_answered_by_any_of_them() -> None:
    dead, alive = ScriptedEndpoint([failed(None)] * 9, name="a"), SimulatedEndpoint(name="b")
    dead.model = alive.model
    dead.tier = alive.tier
    for _ in range(2):
        await ask_neutrally(Replicas("both", [dead, alive]), RunContext())
    assert alive.prompts


async def test_replicas_that_an_input_takes_out_need_a_second_owner() -> None:
    pair = [Gateway(name) for name in "ab"]
    for gateway in pair:
        gateway.error = failed(502)
    replicas = Replicas("both", pair)
    endpoint = Retried(replicas, stop=stop_after_attempt(1))
    for _ in range(3):
        with pytest.raises(EndpointUnavailable) as caught:
            await endpoint.complete(Prompt.of("poison"), run_of("ann"))
        assert caught.value.status == 502
    assert not breaker_of(replicas).is_open


class World:
    """A server and its breaker, whose callers do what `Retried` does, on a clock of their own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.breaker = Breaker(clock=self.clock)
        self.dead = False
        self._calls = 0

    def ask(self, owner: str, error: EndpointError | None) -> bool:
        """Make a call with an input that fails so; `None`: it fails if the server is dead.

        Returns:
            True if it was sent.
        """
        with self.breaker.probe(only_due=True) as is_due:
            if is_due and self.dead:
                self.breaker.fail(failed(504), probes=True)
            elif is_due:
                self.breaker.close()
        if self.breaker.is_open:
            return False
        self._calls += 1
        with suppress(EndpointError), self.breaker.watch(self._calls, owner):
            if error or self.dead:
                raise error or failed(504)
        return True


SECONDS = st.floats(0, 60)
ERRORS = st.sampled_from([failed(502), failed(504), timeout(60.0), failed(429)])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["ann", "bob"]), st.one_of(st.none(), ERRORS)),
        st.sampled_from(["dies", "recovers"]),
        SECONDS,
    ),
    max_size=40,
)


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob"]), ERRORS, SECONDS), max_size=40))
def test_whatever_one_owner_sends_all_calls_of_others_are_sent(
    events: list[tuple[str, EndpointError, float]],
) -> None:
    world = World()
    for owner, error, seconds in events:
        assert world.ask(owner, error if owner == "ann" else None)
        world.clock.now += seconds


@given(EVENTS)
def test_whatever_came_before_a_dead_server_is_skipped_soon_and_one_that_is_back_is_found(
    events: list[tuple[str, EndpointError | None] | str | float],
) -> None:
    world = World()
    for event in events:
        if isinstance(event, tuple):
            world.ask(*event)
        elif isinstance(event, float):
            world.clock.now += event
        else:
            world.dead = event == "dies"
    world.dead = True
    for _ in range(3):
        world.ask("ann", None)
    world.clock.now += 30  # the longest wait of a probe
    assert not any(world.ask("ann", None) for _ in range(9))
    assert world.breaker.is_open
    world.dead = False
    assert world.breaker.wait_s <= 30
    world.clock.now += world.breaker.wait_s
    assert world.ask("bob", None)
    assert not world.breaker.is_open
