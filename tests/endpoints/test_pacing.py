"""How many requests are in flight follows from what the server says and does."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenacity import stop_after_attempt, wait_random_exponential

from moa.core.context import RunContext
from moa.core.errors import DeadlineExceeded, EndpointUnavailable
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.pacing import Pacing, Slots
from moa.endpoints.retries import Retried
from moa.endpoints.transport import seconds_until

from .conftest import Answer, Asked, Served, chat

PROMPT = Prompt.of("Hello?")
KIND = ("http://far.example/v1/chat/completions", 8, 8)
BUSY = Answer(429, text="slow down")


def far(concurrency: int = 64) -> OpenAIEndpoint:
    return OpenAIEndpoint(
        "far", model="m", base_url="http://far.example/v1", concurrency=concurrency
    )


def stated(headers: dict[str, str]) -> Answer:
    answer = chat()
    answer.headers |= headers
    return answer


class Places:
    """A server that refuses what is more than its places."""

    def __init__(self, served: Served, places: int) -> None:
        served.will(self)
        self.places = places
        self.in_flight = self.most = self.refused = 0

    async def __call__(self, asked: Asked) -> Answer:
        self.in_flight += 1
        try:
            if self.in_flight > self.places:
                self.refused += 1
                return BUSY
            self.most = max(self.most, self.in_flight)
            await asyncio.sleep(0.01)
            return chat()
        finally:
            self.in_flight -= 1


async def test_fewer_are_in_flight_where_the_server_refuses_more(served: Served) -> None:
    places = Places(served, 4)
    async with far() as endpoint:
        retried = Retried(
            endpoint, stop=stop_after_attempt(9), wait=wait_random_exponential(multiplier=0.05)
        )
        for _ in range(6):
            await asyncio.gather(*(retried.complete(PROMPT, RunContext()) for _ in range(40)))
    assert places.refused < 40 + 40  # at first all but four; later a few
    assert places.most == 4


async def test_no_more_than_the_limit_are_in_flight_and_all_come_to_their_turn(
    served: Served,
) -> None:
    places = Places(served, 99)
    async with far(concurrency=3) as endpoint:
        await asyncio.gather(*(endpoint.complete(PROMPT, RunContext()) for _ in range(20)))
    assert places.most == 3


def test_the_number_falls_by_a_part_and_rises_by_one_a_round() -> None:
    pacing = Pacing(20)
    pacing.learn_refusal(time.monotonic(), 19, None)
    assert pacing.limit == pytest.approx(18)
    for _ in range(18):
        pacing.learn_answer(time.monotonic(), KIND, 18, {})
    assert pacing.limit == pytest.approx(19)
    for _ in range(2000):
        pacing.learn_answer(time.monotonic(), KIND, 17, {})
    assert pacing.limit == 20


def test_a_burst_that_is_refused_leaves_as_many_as_were_taken() -> None:
    pacing, sent = Pacing(64), time.monotonic()
    for others in range(63, 7, -1):
        pacing.learn_refusal(sent, others, None)
    assert 6 <= pacing.limit <= 8


def test_where_even_a_single_request_is_refused_all_wait_longer_each_time() -> None:
    pacing = Pacing(8)
    pacing.learn_refusal(time.monotonic(), 0, None)
    holds: list[float] = []
    for _ in range(3):
        pacing.learn_refusal(time.monotonic(), 0, None)
        holds.append(pacing.paused_until - time.monotonic())
    assert holds == sorted(holds)
    assert 0.05 < holds[0] < holds[-1] < 1


def test_fewer_are_in_flight_where_the_server_lets_them_queue() -> None:
    pacing = Pacing(64)
    pacing.learn_answer(time.monotonic() - 0.1, KIND, 64, {})
    for _ in range(64 * 20):
        pacing.learn_answer(time.monotonic() - 0.1 * pacing.limit / 8, KIND, int(pacing.limit), {})
    assert 32 < pacing.limit < 60


@pytest.mark.parametrize("mixed", [False, True])
def test_a_batch_that_brings_more_or_long_requests_beside_short_ones_are_no_queue(
    mixed: bool,
) -> None:
    pacing = Pacing(64)
    for number in range(1, 2000):
        in_flight = min(64, number)
        seconds = (0.1 if number % 2 else 1.0) if mixed else 0.1 * (1 + 0.05 * in_flight)
        pacing.learn_answer(time.monotonic() - seconds, KIND, in_flight, {})
    assert pacing.limit == 64


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "300ms"},
        {"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "0.3"},
        {"ratelimit-remaining": "0", "ratelimit-reset": "0.3"},
    ],
)
async def test_nothing_is_sent_before_a_limit_is_renewed_that_is_used_up(
    served: Served, headers: dict[str, str]
) -> None:
    served.will(stated(headers), chat())
    context, start = RunContext(), time.monotonic()
    async with far() as endpoint:
        await endpoint.complete(PROMPT, context)
        with pytest.raises(DeadlineExceeded):
            await endpoint.complete(PROMPT, RunContext(timeout_s=0.05))
        await endpoint.complete(PROMPT, context)
    assert time.monotonic() - start >= 0.28
    assert [note.kind for note in context.trace if note.kind == "waited"] == ["waited"]
    assert len(served.requests) == 2


async def test_one_call_that_is_told_to_wait_holds_the_others(served: Served) -> None:
    served.will(Answer(429, text="slow", headers={"retry-after-ms": "300"}), chat())
    start = time.monotonic()
    async with far() as endpoint:
        with pytest.raises(EndpointUnavailable):
            await endpoint.complete(PROMPT, RunContext())
        await endpoint.complete(PROMPT, RunContext())
    assert time.monotonic() - start >= 0.28


async def test_a_wait_of_an_hour_is_not_begun(served: Served) -> None:
    served.will(Answer(429, text="slow", headers={"retry-after": "3600"}), chat())
    async with far() as endpoint, asyncio.timeout(5):
        with pytest.raises(EndpointUnavailable, match="3600"):
            await endpoint.complete(PROMPT, RunContext())
        await endpoint.complete(PROMPT, RunContext())


async def test_who_gives_up_waiting_takes_no_slot_along() -> None:
    slots = Slots(Pacing(1))
    assert slots.take()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(slots.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        slots.free()
        waiting[1].cancel()  # it has just been given the slot
        await asyncio.sleep(0)
    assert waiting[2].done()
    assert slots.in_flight == 1


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("6m0s", 360), ("20ms", 0.02), ("1.5", 1.5), ("soon", None), ("", None), ("1m soon", None)],
)
def test_a_span_is_read(written: str, seconds: float | None) -> None:
    assert seconds_until(written) == seconds


@pytest.mark.parametrize("form", ["{0:.0f}", "{1:.0f}", "{2}"])
def test_a_time_is_read(form: str) -> None:
    then = time.time() + 30
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(then))
    found = seconds_until(form.format(then, then * 1000, stamp))
    assert found == pytest.approx(30, abs=2)


def _owned(owner: str, timeout_s: float | None = None) -> RunContext:
    context = RunContext(timeout_s=timeout_s)
    context.owner = owner
    return context


async def test_refused_inputs_of_one_owner_hold_back_no_other(served: Served) -> None:
    served.will(Answer(429, text="too large", headers={"retry-after": "30"}), chat())
    async with far() as endpoint:
        with pytest.raises(EndpointUnavailable):
            await endpoint.complete(PROMPT, _owned("mallory"))
        await endpoint.complete(PROMPT, _owned("alice", timeout_s=5))
        with pytest.raises(DeadlineExceeded):
            await endpoint.complete(PROMPT, _owned("mallory", timeout_s=0.05))


@given(
    refused=st.lists(st.tuples(st.booleans(), st.sampled_from((None, 0.0, 30.0))), max_size=60),
)
def test_what_one_owner_meets_leaves_another_s_pace(
    refused: list[tuple[bool, float | None]],
) -> None:
    pacing = Pacing(16)
    for is_refused, asked_s in refused:
        now = time.monotonic()
        if is_refused:
            pacing.of("mallory").learn_refusal(now, 3, asked_s)
        else:
            pacing.of("mallory").learn_answer(now, KIND, 3, {})
    assert (pacing.of("alice").limit, pacing.of("alice").paused_until) == (16, 0)


async def test_owners_who_wait_for_slots_take_turns() -> None:
    slots, order = Slots(Pacing(1)), list[str]()

    async def one(owner: str) -> None:
        await slots.wait(owner)
        order.append(owner)
        await asyncio.sleep(0)
        slots.free(owner)

    await asyncio.gather(*map(one, ["mallory"] * 5 + ["alice", "bob"]))
    assert sorted(order[:4]) == ["alice", "bob", "mallory", "mallory"]
    assert (slots.in_flight, len(order)) == (0, 7)


@given(
    most=st.integers(1, 4),
    moves=st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40),
)
def test_no_more_than_the_most_are_in_flight_of_all_owners(
    most: int, moves: list[tuple[str, bool]]
) -> None:
    pacing = Pacing(most)
    slots = Slots(pacing)
    for owner, takes in moves:
        if takes:
            pacing.of(owner)
            had_room = slots.in_flight < most and slots.count(owner) < pacing.share
            assert slots.take(owner) is had_room
        elif slots.count(owner):
            slots.free(owner)
        assert slots.in_flight == sum(map(slots.count, "abc")) <= most


def test_a_large_request_that_was_answered_pauses_nothing_while_small_ones_fit() -> None:
    left = {"x-ratelimit-remaining-tokens": "150000", "x-ratelimit-reset-tokens": "30s"}
    pacing = Pacing(8)
    for size in (40, 900_000, 900_000):
        pacing.learn_headers(time.monotonic(), size, left)
    assert pacing.paused_until == 0
    pacing.learn_headers(time.monotonic(), 40, {**left, "x-ratelimit-remaining-tokens": "9"})
    assert pacing.paused_until > time.monotonic()


def test_one_of_several_owners_has_half_of_the_slots() -> None:
    slots = Slots(Pacing(4))
    assert [slots.take("mallory") for _ in range(5)] == [True] * 4 + [False]
    assert not slots.take("alice")  # the first time; from now on there are several
    for _ in range(3):
        slots.free("mallory")
    assert [slots.take("mallory") for _ in range(2)] == [True, False]
    assert [slots.take("alice") for _ in range(3)] == [True, True, False]


async def test_a_long_pause_of_one_owner_is_no_other_s() -> None:
    pacing = Pacing(4)
    pacing.of("mallory").learn_refusal(time.monotonic(), 0, 30.0)
    pacing.of("alice").learn_refusal(time.monotonic(), 0, 0.1)
    slots = Slots(pacing)
    mallory = asyncio.ensure_future(slots.wait("mallory"))
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await slots.wait("alice")
    mallory.cancel()
