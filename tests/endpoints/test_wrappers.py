"""Endpoints that wrap endpoints: retried, limited, cached, fallback."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tenacity import stop_after_attempt, wait_none

from moa.core._async import closing_stream
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointRejected,
    EndpointUnavailable,
    StoreError,
)
from moa.core.questions import Option, Question
from moa.endpoints import Completion, Endpoint, Prompt
from moa.endpoints.retries import Retried
from moa.endpoints.wrappers import Cached, Fallback, Limited, Wrapping
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .conftest import streamed

PROMPT = Prompt.of("Hello?")
SPAM = Question("spam", "predicate", "Spam?", (Option("yes", True), Option("no", False)))
DOWN = EndpointUnavailable("HTTP 503", endpoint="scripted", status=503)


def kinds(context: RunContext) -> list[str]:
    return [note.kind for note in context.trace]


def retried(*steps: str | Exception, attempts: int = 3) -> Retried:
    return Retried(
        ScriptedEndpoint(steps=steps), stop=stop_after_attempt(attempts), wait=wait_none()
    )


def with_another(endpoint: Endpoint) -> Fallback:
    return Fallback(endpoint, ScriptedEndpoint(steps=["other"]))


class Gated(Wrapping):
    """Counts who is inside, and lets nobody out before the gate opens."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.gate = asyncio.Event()
        self.inside = self.most = 0
        self.full = asyncio.Event()

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        self.inside += 1
        self.most = max(self.most, self.inside)
        if self.inside == 3:
            self.full.set()
        try:
            await self.gate.wait()
            return await super().complete(prompt, context)
        finally:
            self.inside -= 1


class Stuck(Wrapping):
    """Can't be closed."""

    async def close(self) -> None:
        raise OSError("stuck")


class Breaking(Wrapping):
    """Breaks off in the middle of every stream."""

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        yield "Good "
        raise DOWN


async def test_a_failure_that_can_mend_is_retried_and_noted() -> None:
    context = RunContext()
    completion = await retried(DOWN, DOWN, "hello").complete(PROMPT, context)
    assert completion.text == "hello"
    assert kinds(context) == ["retried", "retried", "answered"]
    assert "503" in context.trace[0].text
    assert context.usage.calls == 3


async def test_the_last_error_is_raised_when_the_tries_are_used_up() -> None:
    context = RunContext()
    with pytest.raises(EndpointUnavailable, match="503"):
        await retried(DOWN, DOWN, attempts=2).complete(PROMPT, context)
    assert kinds(context) == ["retried"]


async def test_a_wrong_request_is_not_sent_again() -> None:
    rejected = EndpointRejected("HTTP 400", endpoint="scripted", status=400)
    context = RunContext()
    with pytest.raises(EndpointRejected):
        await retried(rejected, "hello").complete(PROMPT, context)
    assert context.usage.calls == 1


async def test_a_retry_is_not_sent_past_the_budget() -> None:
    with pytest.raises(BudgetExceeded):
        await retried(DOWN, "hello").complete(PROMPT, RunContext(budget=Budget(calls=1)))


async def test_a_server_that_says_when_to_come_back_is_obeyed() -> None:
    busy = EndpointUnavailable("HTTP 429", endpoint="scripted", retry_after_s=0.06)
    start = asyncio.get_running_loop().time()
    await retried(busy, "hello").complete(PROMPT, RunContext())
    assert asyncio.get_running_loop().time() - start >= 0.055


@pytest.mark.parametrize(
    ("asked_s", "settings", "timeout_s"),
    [
        pytest.param(3600.0, {}, 30, id="past the deadline"),
        pytest.param(86400.0, {}, None, id="too long"),
        pytest.param(0.02, {"longest_asked_s": 0.01}, None, id="longer than is set"),
    ],
)
@pytest.mark.parametrize("first", [(), (DOWN,)], ids=["at once", "after another try"])
async def test_a_server_that_asks_for_too_long_a_wait_is_not_waited_for(
    first: tuple[Exception, ...], asked_s: float, settings: Any, timeout_s: float | None
) -> None:
    busy = EndpointUnavailable("HTTP 429", endpoint="scripted", retry_after_s=asked_s)
    context = RunContext(timeout_s=timeout_s)
    inner = ScriptedEndpoint(steps=[*first, busy, "hello"])
    async with asyncio.timeout(5):
        with pytest.raises(EndpointUnavailable, match="429"):
            await Retried(inner, wait=wait_none(), **settings).complete(PROMPT, context)
    assert (context.usage.calls, kinds(context)) == (len(first) + 1, ["retried"] * len(first))


async def test_a_stream_is_retried_before_its_first_piece() -> None:
    context = RunContext()
    *pieces, whole = await streamed(retried(DOWN, "good morning"), PROMPT, context)
    assert "".join(map(str, pieces)) == "good morning"
    assert isinstance(whole, Completion)


@pytest.mark.parametrize("wrap", [Retried, with_another])
async def test_a_stream_that_began_is_not_started_again(
    wrap: Callable[[Endpoint], Endpoint],
) -> None:
    pieces = wrap(Breaking(ScriptedEndpoint())).stream(PROMPT, RunContext())
    assert await anext(pieces) == "Good "
    with pytest.raises(EndpointUnavailable):
        await anext(pieces)


class Endless(Wrapping):
    """Writes until it is closed."""

    closed = False

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        try:
            while True:
                yield "on and "
        finally:
            self.closed = True


@pytest.mark.parametrize("wrap", [Retried, with_another, Limited, Cached])
async def test_a_stream_that_is_left_is_closed_at_once(
    wrap: Callable[[Endpoint], Endpoint],
) -> None:
    endless = Endless(ScriptedEndpoint())
    async with closing_stream(wrap(endless).stream(PROMPT, RunContext())) as pieces:
        assert await anext(pieces) == "on and "
    assert endless.closed


async def test_no_more_than_the_limit_are_in_flight() -> None:
    gated = Gated(SimulatedEndpoint())
    endpoint = Limited(gated, concurrency=3)
    calls = asyncio.gather(*(endpoint.complete(PROMPT, RunContext()) for _ in range(10)))
    await gated.full.wait()
    gated.gate.set()
    assert len(await calls) == 10
    assert gated.most == 3


async def test_waiting_for_a_turn_ends_with_the_run() -> None:
    gated = Gated(SimulatedEndpoint())
    endpoint = Limited(gated, concurrency=1)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(endpoint.complete(PROMPT, RunContext()))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await endpoint.complete(PROMPT, RunContext(timeout_s=0.01))
        gated.gate.set()
    assert first.result().text == "Hello?"


async def test_a_start_past_the_deadline_is_refused_at_once() -> None:
    endpoint = Limited(SimulatedEndpoint(), per_second=0.001)
    await endpoint.complete(PROMPT, RunContext())
    with pytest.raises(DeadlineExceeded):
        await endpoint.complete(PROMPT, RunContext(timeout_s=10))


async def test_starts_are_spaced_evenly() -> None:
    endpoint = Limited(SimulatedEndpoint(), per_second=50)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await asyncio.gather(*(endpoint.complete(PROMPT, RunContext()) for _ in range(4)))
    assert loop.time() - start >= 0.055


async def test_a_hit_costs_nothing_and_is_noted() -> None:
    endpoint = Cached(ScriptedEndpoint(steps=["hello"]))
    first = await endpoint.complete(PROMPT, RunContext())
    context = RunContext()
    second = await endpoint.complete(PROMPT, context)
    assert second.text == first.text
    assert second.amount.calls == 0
    assert context.usage.calls == 0
    assert kinds(context) == ["cached"]


@pytest.mark.parametrize(("text", "schema"), [("hello", None), ("no JSON", {"type": "object"})])
async def test_the_same_request_at_the_same_time_is_sent_once_also_if_its_answer_is_not_kept(
    text: str, schema: dict[str, str] | None
) -> None:
    gated = Gated(ScriptedEndpoint(steps=[text]))
    endpoint, prompt = Cached(gated), Prompt.of("Hello?", json_schema=schema)
    calls = asyncio.gather(*(endpoint.complete(prompt, RunContext()) for _ in range(5)))
    await asyncio.sleep(0)
    gated.gate.set()
    assert [completion.text for completion in await calls] == [text] * 5
    assert gated.most == 1


async def test_a_failure_reaches_all_who_wait_for_it_and_is_not_kept() -> None:
    scripted = ScriptedEndpoint(steps=[DOWN, "hello"])
    gated = Gated(scripted)
    endpoint = Cached(gated)
    calls = asyncio.gather(
        *(endpoint.complete(PROMPT, RunContext()) for _ in range(3)), return_exceptions=True
    )
    await asyncio.sleep(0)
    gated.gate.set()
    assert await calls == [DOWN] * 3
    assert (await endpoint.complete(PROMPT, RunContext())).text == "hello"


async def test_who_waits_takes_over_from_one_who_was_cancelled() -> None:
    gated = Gated(ScriptedEndpoint(steps=["hello"]))
    endpoint = Cached(gated)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(endpoint.complete(PROMPT, RunContext()))
        second = group.create_task(endpoint.complete(PROMPT, RunContext()))
        await asyncio.sleep(0)
        first.cancel()
        gated.gate.set()
    assert second.result().text == "hello"


async def test_the_oldest_answer_goes_first() -> None:
    endpoint = Cached(SimulatedEndpoint(), size=2)
    for text in ("a", "b", "a", "c"):
        await endpoint.complete(Prompt.of(text), RunContext())
    context = RunContext()
    await endpoint.complete(Prompt.of("a"), context)
    await endpoint.complete(Prompt.of("b"), context)
    assert kinds(context) == ["cached", "answered"]


async def test_what_is_to_be_sampled_anew_is_not_cached() -> None:
    endpoint = Cached(ScriptedEndpoint(steps=["one", "two"]))
    prompt = Prompt.of("Hello?", temperature=0.7)
    texts = [(await endpoint.complete(prompt, RunContext())).text for _ in range(2)]
    assert texts == ["one", "two"]


class Cut(Wrapping):
    """Says of each answer that it was cut by its length."""

    async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
        completion = await self.endpoint.complete(prompt, context)
        return replace(completion, finish_reason="length")

    async def stream(
        self, prompt: Prompt, context: RunContext, /
    ) -> AsyncIterator[str | Completion]:
        yield await self.complete(prompt, context)


@pytest.mark.parametrize("streams", [False, True])
async def test_an_answer_that_was_cut_by_its_length_is_not_kept(streams: bool) -> None:
    endpoint = Cached(Cut(ScriptedEndpoint(steps=["half a", "half an answer"])))
    if streams:
        await streamed(endpoint, PROMPT, RunContext())
    else:
        await endpoint.complete(PROMPT, RunContext())
    assert (await endpoint.complete(PROMPT, RunContext())).text == "half an answer"


async def test_an_answer_to_a_schema_that_is_no_json_is_not_kept() -> None:
    endpoint = Cached(ScriptedEndpoint(steps=["no JSON", "{}"]))
    prompt = Prompt.of("Hello?", json_schema={"type": "object"})
    texts = [(await endpoint.complete(prompt, RunContext())).text for _ in range(3)]
    assert texts == ["no JSON", "{}", "{}"]


async def test_a_decision_is_cached_with_the_questions_of_who_asks() -> None:
    endpoint = Cached(ScriptedEndpoint(steps=[{"spam": {"yes": 0.9}}]))
    await endpoint.decide("text", [SPAM], RunContext())
    context = RunContext()
    decision = await endpoint.decide("text", [SPAM], context)
    assert decision.answers[0].question is SPAM
    assert kinds(context) == ["cached"]


async def test_a_file_answers_later_processes(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    first = ScriptedEndpoint(steps=["Hello", {"spam": {"yes": 0.9}}])
    async with Cached(first, file=file) as cached:
        await cached.complete(PROMPT, RunContext())
        await cached.decide("Buy!", [SPAM], RunContext())
        await cached.embed(["Buy!"], RunContext())
    assert file.stat().st_mode & 0o077 == 0
    assert b"Hello?" not in file.read_bytes()
    silent = ScriptedEndpoint(steps=[])
    async with Cached(silent, file=file) as cached:
        context = RunContext()
        assert (await cached.complete(PROMPT, context)).text == "Hello"
        decision = await cached.decide("Buy!", [SPAM], context)
        assert decision.answers[0].probabilities == (0.9, pytest.approx(0.1))
        assert len((await cached.embed(["Buy!"], context)).vectors) == 1
        assert kinds(context) == ["cached"] * 3
        assert context.usage.calls == 0


async def test_a_file_tells_apart_who_was_asked(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    for name in ("small", "large"):
        async with Cached(ScriptedEndpoint(steps=[name], name=name), file=file) as cached:
            assert (await cached.complete(PROMPT, RunContext())).text == name


async def test_an_answer_of_another_version_is_asked_anew(tmp_path: Path) -> None:
    file = tmp_path / "answers.sqlite"
    async with Cached(ScriptedEndpoint(steps=["old"]), file=file) as cached:
        await cached.complete(PROMPT, RunContext())
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("update answers set answer = '{}'")
    async with Cached(ScriptedEndpoint(steps=["new"]), file=file) as cached:
        assert (await cached.complete(PROMPT, RunContext())).text == "new"


async def test_a_file_that_is_no_cache_is_left_as_it_is_and_named(tmp_path: Path) -> None:
    file = tmp_path / "letters.txt"
    file.write_text("Dear all, " * 99)
    async with Cached(ScriptedEndpoint(steps=["Hello"]), file=file) as cached:
        with pytest.raises(StoreError, match=r"letters\.txt"):
            await cached.complete(PROMPT, RunContext())
    assert file.read_text().startswith("Dear all")


async def test_a_kept_text_streams_in_one_piece() -> None:
    endpoint = Cached(ScriptedEndpoint(steps=["good morning"]))
    await streamed(endpoint, PROMPT, RunContext())
    context = RunContext()
    pieces = await streamed(endpoint, PROMPT, context)
    assert pieces[0] == "good morning"
    assert kinds(context) == ["cached"]


async def test_the_next_endpoint_answers_when_one_fails() -> None:
    endpoint = Fallback(
        ScriptedEndpoint(name="small", steps=[DOWN]),
        ScriptedEndpoint(name="large", steps=["hello"]),
    )
    context = RunContext()
    completion = await endpoint.complete(PROMPT, context)
    assert completion.endpoint == "large"
    assert kinds(context) == ["fell back", "answered"]
    assert "503" in context.trace[0].text
    assert {part.endpoint for part in context.usage.parts} == {"small", "large"}


async def test_the_last_endpoint_has_the_last_word() -> None:
    last = EndpointRejected("HTTP 400", endpoint="large")
    endpoint = Fallback(ScriptedEndpoint(steps=[DOWN]), ScriptedEndpoint(steps=[last]))
    with pytest.raises(EndpointRejected):
        await endpoint.complete(PROMPT, RunContext())


async def test_a_budget_is_no_reason_to_ask_another() -> None:
    endpoint = Fallback(ScriptedEndpoint(steps=["a"]), ScriptedEndpoint(steps=["b"]))
    context = RunContext(budget=Budget(calls=0))
    with pytest.raises(BudgetExceeded):
        await endpoint.complete(PROMPT, context)
    assert kinds(context) == []


async def test_a_fallback_can_do_what_all_of_its_endpoints_can() -> None:
    endpoint = Fallback(
        ScriptedEndpoint(), ScriptedEndpoint(capabilities=frozenset(("complete", "embed")))
    )
    assert endpoint.capabilities == {"complete", "embed"}


async def test_a_wrapper_refuses_a_setting_that_cannot_work() -> None:
    with pytest.raises(ConfigError):
        Retried(ScriptedEndpoint(), longest_asked_s=-1)
    with pytest.raises(ConfigError):
        Limited(ScriptedEndpoint(), concurrency=0)
    with pytest.raises(ConfigError):
        Cached(ScriptedEndpoint(), size=0)


async def test_all_are_closed_where_one_cannot_be() -> None:
    before, after = ScriptedEndpoint(), ScriptedEndpoint()
    with pytest.raises(OSError, match="stuck"):
        await Fallback(before, Stuck(ScriptedEndpoint()), after).close()
    assert (before.closed, after.closed) == (True, True)
