"""Several nodes on one request: who is waited for, who is left out, and what is said of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import pytest
from graphs import clock
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.agents import Agent
from moa.budget import Budget
from moa.context import RunContext
from moa.endpoints import Completion, Prompt
from moa.endpoints.wrappers import Retried
from moa.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointUnavailable,
    QuorumNotMet,
)
from moa.mixing.fan_out import Drawn, fan_out
from moa.node import Reply, Result
from moa.testing import SimulatedEndpoint
from moa.trace import Event, NodeFinished, NodeSkipped, NodeStarted, TextDelta


class Options(TypedDict, total=False):
    quorum: int
    timeout_s: float
    straggler_timeout_s: float | None
    hurry_s: float
    enough: Callable[[Sequence[str]], bool]


@dataclass
class Member:
    """Answers with its name after some seconds, or raises."""

    name: str
    seconds: float = 0.3
    error: Exception | None = None
    ended: list[str] = field(default_factory=list[str])

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        try:
            await asyncio.sleep(self.seconds)
            if self.error is not None:
                raise self.error
            return Result(output=f"{self.name}: {request}")
        finally:
            self.ended.append(self.name)


def dead(name: str, seconds: float = 0.0) -> Member:
    return Member(name, seconds, EndpointUnavailable("connection refused", endpoint=name))


def six(last: Member) -> list[Member]:
    return [*(Member(name) for name in "abcde"), last]


def names(drawn: Sequence[Drawn[str]]) -> str:
    return "".join(one.name for one in drawn)


def asked(
    members: Sequence[Member],
    *,
    context: RunContext | None = None,
    **options: Unpack[Options],
) -> tuple[list[Drawn[str]], float, RunContext]:
    """Fan out on a clock that jumps; gives what came, when, and the run."""
    run = context or RunContext(node="mixture")

    async def main() -> tuple[list[Drawn[str]], float]:
        drawn = await fan_out(members, "hello", run, **options)
        return drawn, clock.now()

    drawn, seconds = clock.run(main())
    return drawn, seconds, run


def test_all_answers_come_in_the_order_of_the_members() -> None:
    drawn, seconds, run = asked([Member("a", 0.3), Member("b", 0.1), Member("c", 0.2)])
    assert [(one.place, one.output) for one in drawn] == [
        (0, "a: hello"),
        (1, "b: hello"),
        (2, "c: hello"),
    ]
    assert seconds == pytest.approx(0.3)
    assert not run.trace


def test_a_dead_member_is_left_out_and_named() -> None:
    drawn, seconds, run = asked(six(dead("f")))
    assert names(drawn) == "abcde"
    assert seconds == pytest.approx(0.3)
    (note,) = run.trace
    assert (note.kind, note.node) == ("failed", "mixture")
    assert note.text == "'f' gave no answer: f: connection refused"


def test_the_last_one_gets_its_patience_and_no_more() -> None:
    hanging = Member("f", 30.0)
    drawn, seconds, run = asked(six(hanging))
    assert names(drawn) == "abcde"
    assert seconds == pytest.approx(0.5)
    assert hanging.ended == ["f"]
    (note,) = run.trace
    assert note.kind == "dropped"
    assert note.text == "'f' gave no answer in time: 5 others had answered 0.2 s before"


def test_who_waits_for_its_turn_at_an_endpoint_is_not_late() -> None:
    class OneAtATime(SimulatedEndpoint):
        concurrency = 1

        async def complete(self, prompt: Prompt, context: RunContext, /) -> Completion:
            async with gate:
                return await super().complete(prompt, context)

    gate = asyncio.Semaphore(1)
    endpoint = OneAtATime(rule=lambda _: "a word", latency_s=1.0)
    members = [Agent(Retried(endpoint), "Say it.", name=name) for name in "abc"]
    drawn = clock.run(fan_out(members, "Hi", RunContext(), straggler_timeout_s=0.2))
    assert [one.name for one in drawn] == ["a", "b", "c"]


def test_a_little_late_is_not_too_late() -> None:
    drawn, seconds, _ = asked(six(Member("f", 0.45)))
    assert names(drawn) == "abcdef"
    assert seconds == pytest.approx(0.45)


def test_one_dead_and_one_hanging_hold_nobody_up() -> None:
    members = [Member("a"), Member("b"), dead("c"), Member("d", 30.0)]
    drawn, seconds, run = asked(members)
    assert names(drawn) == "ab"
    assert seconds == pytest.approx(0.5)
    assert [note.kind for note in run.trace] == ["failed", "dropped"]


def test_the_second_of_two_answers_is_waited_for() -> None:
    drawn, _, _ = asked([Member("a"), dead("b"), Member("c", 9.0)])
    assert names(drawn) == "ac"


def test_two_members_are_both_waited_for() -> None:
    drawn, _, _ = asked([Member("a", 0.1), Member("b", 9.0)])
    assert names(drawn) == "ab"


def test_a_quorum_ends_the_waiting_earlier() -> None:
    members = [Member(name, place / 1) for place, name in enumerate("abcdef")]
    drawn, seconds, _ = asked(members, quorum=3, straggler_timeout_s=0.5)
    assert names(drawn) == "abc"
    assert seconds == pytest.approx(2.5)


def test_patience_without_an_end_waits_for_all() -> None:
    drawn, seconds, _ = asked(six(Member("f", 30.0)), quorum=2, straggler_timeout_s=None)
    assert names(drawn) == "abcdef"
    assert seconds == pytest.approx(30.0)


def test_a_member_has_its_own_time() -> None:
    hanging = [Member("a", 0.1), Member("b", 30.0)]
    drawn, seconds, run = asked(hanging, timeout_s=1.0)
    assert names(drawn) == "a"
    assert seconds == pytest.approx(1.0, rel=0.01)
    assert run.trace[0].text == "'b' gave no answer: b: no answer within 1.00 s"


def test_a_quorum_that_is_not_met_says_every_cause() -> None:
    members = [Member("a"), dead("b"), Member("c", 30.0)]
    with pytest.raises(QuorumNotMet) as caught:
        asked(members, quorum=2, timeout_s=1.0)
    assert str(caught.value) == (
        "mixture: 1 of 3 answered, and 2 must:"
        "\n  - b: b: connection refused"
        "\n  - c: c: no answer within 1.00 s"
    )
    assert isinstance(caught.value.causes["b"], EndpointUnavailable)
    assert isinstance(caught.value.causes["c"], DeadlineExceeded)


def test_one_answer_is_enough_to_go_on_without_a_quorum() -> None:
    drawn, _, run = asked([dead("a"), dead("b"), Member("c"), dead("d")])
    assert names(drawn) == "c"
    assert [note.kind for note in run.trace] == ["failed"] * 3


def test_all_dead_is_one_error() -> None:
    with pytest.raises(QuorumNotMet, match="0 of 2 answered, and 1 must") as caught:
        asked([dead("a"), dead("b")])
    assert list(caught.value.causes) == ["a", "b"]


def test_enough_ends_it_at_once() -> None:
    members = [Member("a", 0.1), Member("b", 0.2), Member("c", 0.3), Member("d", 30.0)]
    drawn, seconds, run = asked(members, enough=lambda outputs: len(outputs) == 2)
    assert names(drawn) == "ab"
    assert seconds == pytest.approx(0.2)
    assert [(note.kind, note.text) for note in run.trace] == [
        ("skipped", "'c' is not needed: 2 answers are enough"),
        ("skipped", "'d' is not needed: 2 answers are enough"),
    ]


def test_a_hurry_takes_what_is_there() -> None:
    members = [Member("a", 0.1), Member("b", 30.0), Member("c", 30.0), Member("d", 30.0)]
    drawn, seconds, run = asked(members, hurry_s=2.0)
    assert names(drawn) == "a"
    assert seconds == pytest.approx(2.0)
    assert {note.kind for note in run.trace} == {"dropped"}


def test_a_hurry_waits_on_where_nothing_is_there() -> None:
    drawn, seconds, _ = asked([Member(name, 5.0) for name in "abc"], hurry_s=2.0)
    assert names(drawn) == "abc"
    assert seconds == pytest.approx(5.0)


def test_a_retry_gets_no_more_patience_than_anyone() -> None:
    endpoint = SimulatedEndpoint(
        name="down",
        rule=lambda _: EndpointUnavailable("refused", endpoint="down", retry_after_s=9.0),
    )
    fine = SimulatedEndpoint(name="fine", latency_s=0.3, rule=lambda _: "a word")
    members = [Agent(fine, "Say it.", name=name) for name in "ab"]
    retrying = Retried(endpoint, attempts=9)
    members.append(Agent(retrying, "Say it.", name="c"))
    run = RunContext()

    async def main() -> float:
        drawn = await fan_out(members, "hello", run)
        assert [one.name for one in drawn] == ["a", "b"]
        return clock.now()

    assert clock.run(main()) == pytest.approx(0.5)
    tried, dropped = [note for note in run.trace if note.kind != "answered"]
    assert (tried.kind, dropped.kind) == ("retried", "dropped")
    assert dropped.text.endswith("0.2 s before; it was asked again after 9.0 s: down: refused")


def test_a_member_with_a_bug_is_left_out_like_any_that_fails() -> None:
    drawn, _, run = asked([Member("a", 0.1, ZeroDivisionError("by 0")), Member("b")])
    assert names(drawn) == "b"
    assert run.trace[0].text == "'a' gave no answer: a: ZeroDivisionError: by 0"


def test_of_members_with_a_bug_alone_the_cause_is_kept() -> None:
    with pytest.raises(QuorumNotMet) as caught:
        asked([Member("a", 0.1, ZeroDivisionError("by 0"))])
    assert isinstance(caught.value.causes["a"].__cause__, ZeroDivisionError)


def test_whoever_cancels_the_run_cancels_its_members() -> None:
    members = [Member("a", 30.0), Member("b", 30.0)]

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await fan_out(members, "hello", RunContext())

    clock.run(main())
    assert [member.ended for member in members] == [["a"], ["b"]]


def test_a_member_that_cancels_itself_is_left_out() -> None:
    class Cancelled(Member):
        async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
            raise asyncio.CancelledError

    drawn, _, run = asked([Member("a"), Cancelled("b")])
    assert names(drawn) == "a"
    assert "'b' gave no answer" in run.trace[0].text


def test_the_same_node_several_times_is_told_apart() -> None:
    member = Member("sample")
    drawn, _, _ = asked([member, member, Member("other")])
    assert [one.name for one in drawn] == ["sample 1", "sample 2", "other"]


def test_what_members_write_is_not_streamed() -> None:
    events: list[Event] = []
    run = RunContext(node="mixture", listener=events.append)
    endpoint = SimulatedEndpoint(rule=lambda _: "a few words")
    members = [Agent(endpoint, "Say it.", name="a"), Agent(endpoint, "Say it.", name="b")]
    asyncio.run(fan_out(members, "hello", run))
    assert not [event for event in events if isinstance(event, TextDelta)]
    assert [e.node for e in events if isinstance(e, NodeStarted)] == ["mixture/a", "mixture/b"]
    finished = [event for event in events if isinstance(event, NodeFinished)]
    assert [event.output for event in finished] == [Reply(text="a few words")] * 2


def test_whoever_listens_is_told_who_is_left_out() -> None:
    events: list[Event] = []
    asked(six(dead("f")), context=RunContext(node="mixture", listener=events.append))
    (event,) = [event for event in events if isinstance(event, NodeSkipped)]
    assert event.node == "mixture/f"
    assert "refused" in event.reason


@pytest.mark.parametrize("quorum", [0, 3])
def test_a_quorum_that_no_one_can_meet_is_refused(quorum: int) -> None:
    with pytest.raises(ConfigError, match="the quorum is at least 1"):
        asked([Member("a"), Member("b")], quorum=quorum or -1)


def test_nobody_to_ask_is_refused() -> None:
    with pytest.raises(ConfigError, match="has 0 members"):
        asked([])


def test_a_run_without_time_asks_nobody() -> None:
    member = Member("a")
    with pytest.raises(DeadlineExceeded):
        asked([member], context=RunContext(timeout_s=-1.0))
    assert not member.ended


def test_where_the_run_is_late_that_is_the_error() -> None:
    async def main() -> None:
        with pytest.raises(DeadlineExceeded, match="0 of 2 answered"):
            await fan_out(
                [Member("a", 30.0), Member("b", 30.0)], "hello", RunContext(timeout_s=0.02)
            )

    asyncio.run(main())


@given(
    calls=st.integers(0, 8),
    delays=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 5.0]), min_size=1, max_size=8),
    quorum=st.none() | st.integers(1, 8),
)
@settings(deadline=None)
def test_no_interleaving_passes_a_limit(
    calls: int, delays: list[float], quorum: int | None
) -> None:
    members = [
        Agent(SimulatedEndpoint(rule=lambda _: "a word", latency_s=delay), "Say it.")
        for delay in delays
    ]
    run = RunContext(budget=Budget(calls=calls))
    drawn: list[Drawn[Reply]] = []

    async def main() -> None:
        with suppress(BudgetExceeded):
            drawn.extend(
                await fan_out(members, "hello", run, quorum=quorum and min(quorum, len(members)))
            )

    clock.run(main())
    sent = min(calls, len(members))
    assert run.usage.calls == sent
    assert len(drawn) <= sent
    notes = Counter(note.kind for note in run.trace)
    assert notes["failed"] == len(members) - sent
    assert not drawn or len(drawn) + notes["dropped"] == sent
