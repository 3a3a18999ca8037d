"""Picking: places are swapped, ties told from unreadable verdicts, and policies may judge."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from moa.agents.deciding import Decider
from moa.core.errors import EndpointUnavailable
from moa.core.questions import Predicate, predicate
from moa.guards.verifiers import Arithmetic, Length, Plausible
from moa.recipes.judges import Best, ByPolicy, Candidates, Listwise, distinct
from moa.testing import ScriptedEndpoint, SimulatedEndpoint, Step

DOWN = EndpointUnavailable("refused", endpoint="judge")
_SHOWN = re.compile(r"Reply (\d+):\n<data>\n(.*?)\n</data>", re.DOTALL)


def among(*replies: str) -> Candidates:
    return Candidates(request="Which?", replies=replies)


def shown(prompt: str) -> list[tuple[str, str]]:
    return _SHOWN.findall(prompt)


def longest(prompt: str) -> Step:
    """A judge that prefers the longest reply, wherever it stands."""
    name, _ = max(shown(prompt), key=lambda reply: len(reply[1]))
    return Best(best=int(name))


def first(prompt: str) -> Step:
    """A judge that prefers whatever stands first."""
    name, _ = shown(prompt)[0]
    return Best(best=int(name))


async def test_the_best_reply_wins_wherever_it_stands() -> None:
    for place in range(4):
        replies = ["short"] * 4
        replies = [f"{text} {n}" for n, text in enumerate(replies)]
        replies[place] = "the longest of them all"
        judge = SimulatedEndpoint(name="judge", tier="llm", rule=longest)
        picked = (await Listwise(judge).run(among(*replies))).output
        assert (picked.place, picked.verdict, picked.tied) == (place, "won", ())


async def test_a_judge_that_prefers_a_place_tells_nothing_apart() -> None:
    judge = SimulatedEndpoint(name="judge", tier="llm", rule=first)
    picked = (await Listwise(judge).run(among("one", "two"))).output
    assert (picked.place, picked.verdict, picked.tied) == (0, "tied", (1,))


async def test_an_unreadable_verdict_is_no_tie() -> None:
    judge = SimulatedEndpoint(name="judge", tier="llm", rule=lambda _: "I like both.")
    picked = (await Listwise(judge).run(among("one", "two", "three"))).output
    assert (picked.place, picked.verdict, picked.tied) == (0, "unreadable", ())


async def test_a_number_that_no_reply_has_is_asked_for_again() -> None:
    judge = ScriptedEndpoint(steps=[Best(best=7), Best(best=1), Best(best=2)])
    picked = (await Listwise(judge).run(among("one", "two"))).output
    assert picked.place in (0, 1)
    judge.assert_used_up()


async def test_a_verdict_takes_two_calls_however_many_replies_there_are() -> None:
    judge = SimulatedEndpoint(name="judge", tier="llm", rule=longest)
    replies = among("1", "22", "333", "4444", "55555")
    assert (await Listwise(judge).run(replies)).usage.calls == 2


async def test_a_judge_that_is_down_is_an_error() -> None:
    judge = SimulatedEndpoint(name="judge", rule=lambda _: DOWN)
    with pytest.raises(EndpointUnavailable):
        await Listwise(judge).run(among("one", "two"))


async def test_a_verifier_picks_the_reply_whose_sums_hold() -> None:
    picked = (await ByPolicy(Arithmetic()).run(among("3 * 4 = 13", "3 * 4 = 12"))).output
    assert (picked.place, picked.verdict) == (1, "won")


async def test_replies_that_a_policy_scores_alike_are_tied() -> None:
    picked = (await ByPolicy(Arithmetic()).run(among("1 + 1 = 2", "no sums", "2 + 2 = 4"))).output
    assert (picked.place, picked.verdict, picked.tied) == (0, "tied", (2,))


async def test_a_reply_that_could_not_be_judged_comes_last() -> None:
    class Verdict(BaseModel):
        right: Predicate = predicate("Is it right?")

    low = {"right": {"yes": 0.1}}
    node = Decider(ScriptedEndpoint(steps=[DOWN, low]), Verdict)
    result = await ByPolicy(Plausible(node)).run(among("one", "two"))
    assert (result.output.place, result.output.verdict) == (1, "won")
    assert [note.kind for note in result.trace if note.kind == "failed"] == ["failed"]


async def test_a_policy_that_fails_on_every_reply_is_an_error() -> None:
    class Verdict(BaseModel):
        right: Predicate = predicate("Is it right?")

    node = Decider(SimulatedEndpoint(rule=lambda _: DOWN), Verdict)
    with pytest.raises(EndpointUnavailable):
        await ByPolicy(Plausible(node)).run(among("one", "two"))


@given(st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=6, unique=True))
async def test_a_judge_without_a_fault_finds_a_best_reply(replies: list[str]) -> None:
    judge = SimulatedEndpoint(name="judge", rule=longest)
    picked = (await Listwise(judge).run(among(*replies))).output
    assert len(replies[picked.place]) == max(map(len, replies))


async def test_a_length_that_fits_is_preferred_to_a_higher_score() -> None:
    policy = Length(least=2, most=3)
    picked = (await ByPolicy(policy).run(among("one two three four", "one two"))).output
    assert picked.place == 1


def test_the_first_of_equal_texts_stands_for_them() -> None:
    assert distinct(["a", "b", "a", "c", "b"]) == [0, 1, 3]
