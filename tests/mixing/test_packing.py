"""What an aggregator reads: within its window, anonymous, in a drawn order, with dissent kept."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa.core.errors import InputError
from moa.core.node import Consultation
from moa.graphs.mixing.packing import CUT, Packing, pack

_TOKEN = re.compile(r"\S+")
SAME = "It rains a lot in spring because warm air meets the cold sea, so take a coat with you."


def write(consulted: Consultation) -> str:
    return "\n".join((consulted.request, *consulted.answers))


async def words(text: str) -> int:
    return len(_TOKEN.findall(text))


def packed(*answers: str, request: str = "Why?", room: int | None = None, seed: int = 0) -> Packing:
    return asyncio.run(pack(request, answers, write=write, count=words, room=room, seed=seed))


def said(word: str, times: int) -> str:
    return " ".join(f"{word}{i}" for i in range(times))


def test_everything_is_read_where_it_fits() -> None:
    found = packed("one", "two", "three")
    assert sorted(found.consulted.answers) == ["one", "three", "two"]
    assert (found.cut, found.merged, found.left_out) == ({}, {}, ())


def test_the_order_is_drawn_by_seed_and_request() -> None:
    answers = [str(i) for i in range(8)]
    first = packed(*answers)
    assert first.order != tuple(range(8))
    assert first == packed(*answers)
    assert first.order != packed(*answers, seed=1).order
    assert first.order != packed(*answers, request="Why not?").order
    assert first.consulted.answers == tuple(answers[place] for place in first.order)


def test_a_long_answer_is_cut_in_the_middle() -> None:
    found = packed(said("a", 300), "short", room=100)
    assert found.tokens <= 100
    (place,) = found.cut
    assert place == 0
    shown = found.consulted.answers[found.order.index(0)]
    assert shown.startswith("a0 a1 ")
    assert shown.endswith(" a299")
    assert CUT in shown
    assert "short" in found.consulted.answers


def test_near_duplicates_are_merged_before_anything_is_cut() -> None:
    found = packed(SAME, f"{SAME} Really.", said("b", 60), room=90)
    assert found.merged == {1: 0}
    assert not found.cut
    shown = found.consulted.answers[found.order.index(0)]
    assert shown == f"{SAME}\n[another answer says nearly the same]"


def test_duplicates_stay_where_there_is_room() -> None:
    assert packed(SAME, SAME).consulted.answers == (SAME, SAME)


def test_the_only_one_that_says_so_is_not_cut_first() -> None:
    agreeing = [f"{said(word, 80)} The answer is 12" for word in "abc"]
    dissent = f"{said('d', 80)} The answer is 15"
    found = packed(*agreeing, dissent, room=250)
    assert set(found.cut) == {0, 1, 2}
    assert dissent in found.consulted.answers


def test_the_only_one_that_says_so_is_not_left_out_first() -> None:
    agreeing = [f"{said(word, 80)} The answer is 12" for word in "abc"]
    dissent = f"{said('d', 20)} The answer is 15"
    found = packed(*agreeing, dissent, room=60)
    assert 3 in found.order
    assert found.left_out
    assert found.tokens <= 60


def test_short_answers_stay_whole_beside_long_ones() -> None:
    found = packed(said("a", 400), said("b", 30), said("c", 400), room=250)
    assert set(found.cut) == {0, 2}
    assert abs(found.cut[0] - found.cut[2]) < 10


def test_a_request_that_is_too_long_is_refused() -> None:
    with pytest.raises(InputError):
        packed("yes", request=said("why", 50), room=10)


ANSWERS = st.lists(
    st.text(st.sampled_from("ab 7é\n中."), max_size=400) | st.sampled_from([SAME, f"{SAME} Yes."]),
    max_size=7,
)


async def odd(text: str) -> int:
    """Counts like no tokenizer that adds up: joined texts may have more tokens, or fewer."""
    return len(text.encode()) // 3 + text.count("a") % 3


@given(answers=ANSWERS, room=st.integers(0, 400), seed=st.integers(0, 3), by_words=st.booleans())
@settings(deadline=None, max_examples=200)
def test_it_never_passes_the_room_and_loses_no_answer_in_silence(
    answers: list[str], room: int, seed: int, *, by_words: bool
) -> None:
    count = words if by_words else odd
    try:
        found = asyncio.run(pack("Why?", answers, write=write, count=count, room=room, seed=seed))
    except InputError:
        assert asyncio.run(count(write(Consultation(request="Why?", answers=())))) > room
        return
    assert asyncio.run(count(write(found.consulted))) == found.tokens <= room
    fates = [*found.order, *found.merged, *found.left_out]
    assert sorted(fates) == list(range(len(answers)))
    for place, shown in zip(found.order, found.consulted.answers, strict=True):
        if place in found.cut:
            assert CUT in shown
        else:
            assert shown.split("\n[")[0] == answers[place].split("\n[")[0]
