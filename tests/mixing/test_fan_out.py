"""Several nodes on one request: who is waited for, who is left out, and what is said of them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypedDict, Unpack

import pytest
from graphs import clock
from hypothesis import given, settings
from hypothesis import strategies as st
from tenacity import stop_after_attempt

from moa.agents.agent import Agent
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeadlineExceeded,
    EndpointUnavailable,
    QuorumNotMet,
)
from moa.core.node import Reply, Result
from moa.core.trace import Event, NodeFinished, NodeSkipped, NodeStarted, TextDelta
from moa.endpoints import Completion, Prompt
from moa.endpoints.retries import Retried
from moa.graphs.mixing.fan_out import MemberResult, fan_out
from moa.testing import SimulatedEndpoint


class Options(TypedDict, total=False):
    quorum: int
    timeout_s: float
    straggler_timeout_s: float | None
    hurry_s: float
    is_enough: Callable[[Sequence[str]], bool]


@dataclass
class Member:
    """Answers with its name after some seconds, or raises."""

    name: str
    seconds: float = 0.3
    error: BaseException | None = None
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


def names(drawn: Sequence[MemberResult[str]]) -> str:
    return "".join(one.name for one in drawn)


def asked(
    members: Sequence[Member],
    *,
    context: RunContext | None = None,
    **options: Unpack[Options],
) -> tuple[list[MemberResult[str]], float, RunContext]:
    """Fan out on a clock that jumps; gives what came, when, and the run."""
    run = context or RunContext(node="mixture")

    async def main() -> tuple[list[MemberResult[str]], float]:
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


def each(seconds: Sequence[float]) -> list[Member]:
    return [Member(name, takes) for name, takes in zip("abcdef", seconds, strict=False)]


def down(*names: str) -> list[str]:
    return [f"failed: '{name}' gave no answer: {name}: connection refused" for name in names]


def late(names: str, others: int, seconds: float = 0.2) -> list[str]:
    before = f"{others} others had answered {seconds} s before"
    return [f"dropped: '{name}' gave no answer in time: {before}" for name in names]


def left_out(kind: str, names: str, why: str) -> list[str]:
    return [f"{kind}: '{name}' {why}" for name in names]


A, B, BUG = Member("a"), Member("b"), ZeroDivisionError("by 0")
THREE_OF_SIX: Options = {"quorum": 3, "straggler_timeout_s": 0.5}
NO_END: Options = {"quorum": 2, "straggler_timeout_s": None}
NOT_NEEDED, NO_TIME = "is not needed: 2 answers are enough", "no answer in the time that is left"
CASES: dict[str, tuple[list[Member], Options, str, float, list[str]]] = {
    "dead": (six(dead("f")), {}, "abcde", 0.3, down("f")),
    "the last one late": (six(Member("f", 30.0)), {}, "abcde", 0.5, late("f", 5)),
    "a little late": (six(Member("f", 0.45)), {}, "abcdef", 0.45, []),
    "one dead, one late": (
        [A, B, dead("c"), Member("d", 30.0)],
        {},
        "ab",
        0.5,
        down("c") + late("d", 2),
    ),
    "the second of two": ([A, dead("b"), Member("c", 9.0)], {}, "ac", 9.0, down("b")),
    "two members": (each([0.1, 9.0]), {}, "ab", 9.0, []),
    "a quorum": (each(range(6)), THREE_OF_SIX, "abc", 2.5, late("def", 3, 0.5)),
    "patience without an end": (six(Member("f", 30.0)), NO_END, "abcdef", 30.0, []),
    "its own time": (
        each([0.1, 30.0]),
        {"timeout_s": 1.0},
        "a",
        1.0,
        ["failed: 'b' gave no answer: b: no answer within 1.00 s"],
    ),
    "one without a quorum": ([dead("a"), B, dead("c")], {}, "b", 0.3, down("a", "c")),
    "enough": (
        each([0.1, 0.2, 0.3, 30.0]),
        {"is_enough": lambda outputs: len(outputs) == 2},
        "ab",
        0.2,
        left_out("skipped", "cd", NOT_NEEDED),
    ),
    "a hurry": (
        each([0.1, 30.0, 30.0]),
        {"hurry_s": 2.0},
        "a",
        2.0,
        left_out("dropped", "bc", f"gave {NO_TIME} for it"),
    ),
    "a hurry where nothing is there": (each([5.0] * 3), {"hurry_s": 2.0}, "abc", 5.0, []),
    "a bug": (
        [Member("a", 0.1, BUG), B],
        {},
        "b",
        0.3,
        left_out("failed", "a", "gave no answer: a: ZeroDivisionError: by 0"),
    ),
    "cancelled from within": (
        [A, Member("b", 0.1, asyncio.CancelledError())],
        {},
        "a",
        0.3,
        left_out("failed", "b", "gave no answer: b: CancelledError: "),
    ),
}


@pytest.mark.parametrize(("members", "options", "came", "after", "told"), CASES.values(), ids=CASES)
def test_who_is_waited_for_and_what_is_said_of_the_others(
    members: list[Member], options: Options, came: str, after: float, told: list[str]
) -> None:
    drawn, took, run = asked(members, **options)
    assert (names(drawn), took) == (came, pytest.approx(after, rel=0.01))
    texts = [re.sub(r" \(test_fan_out.py:\d+\)$", "", note.text) for note in run.trace]
    assert [f"{note.kind}: {text}" for note, text in zip(run.trace, texts, strict=True)] == told
    assert {note.node for note in run.trace} <= {"mixture"}
    assert all(member.ended for member in members)


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


def test_a_quorum_that_is_not_met_says_every_cause() -> None:
    members = [Member("a"), dead("b"), Member("c", 30.0)]
    with pytest.raises(QuorumNotMet) as caught:
        asked(members, quorum=2, timeout_s=1.0)
    assert isinstance(caught.value.causes["b"], EndpointUnavailable)
    assert isinstance(caught.value.causes["c"], DeadlineExceeded)


def test_a_retry_gets_no_more_patience_than_anyone() -> None:
    endpoint = SimulatedEndpoint(
        name="down",
        rule=lambda _: EndpointUnavailable("refused", endpoint="down", retry_after_s=9.0),
    )
    fine = SimulatedEndpoint(name="fine", latency_s=0.3, rule=lambda _: "a word")
    members = [Agent(fine, "Say it.", name=name) for name in "ab"]
    retrying = Retried(endpoint, stop=stop_after_attempt(9))
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


@pytest.mark.parametrize(("members", "quorum"), [("ab", -1), ("ab", 3), ("", None)])
def test_a_quorum_that_no_one_can_meet_is_refused(members: str, quorum: int | None) -> None:
    options: Options = {} if quorum is None else {"quorum": quorum}
    with pytest.raises(ConfigError, match=f"has {len(members)} members .* at least 1"):
        asked([*map(Member, members)], **options)


def test_a_run_without_time_asks_nobody() -> None:
    member = Member("a")
    with pytest.raises(DeadlineExceeded):
        asked([member], context=RunContext(timeout_s=-1.0))
    assert not member.ended


def test_where_the_run_is_late_that_is_the_error() -> None:
    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
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
    drawn: list[MemberResult[Reply]] = []

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
