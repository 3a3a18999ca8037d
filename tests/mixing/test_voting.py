"""Voting: what counts as the same answer, and that stopping early never changes the winner."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.errors import ConfigError
from moa.core.node import Reply
from moa.core.questions import Choice
from moa.graphs.mixing.answer_extraction import format_answer, last_number, stated, write_answer
from moa.graphs.mixing.voting import Tally, agreement_test, find_most_agreed, likeness
from moa.recipes.reasoner import Reasoned

answers = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=9)


def counted(given: Sequence[str | None], order: Sequence[int] | None = None) -> Tally:
    tally = Tally(left=len(given))
    for place in order if order is not None else range(len(given)):
        tally = tally.with_vote(place, given[place])
    return tally


@given(answers.flatmap(lambda a: st.tuples(st.just(a), st.permutations(range(len(a))))))
def test_the_order_in_which_votes_come_does_not_matter(
    case: tuple[list[str | None], list[int]],
) -> None:
    given_answers, order = case
    one, other = counted(given_answers), counted(given_answers, order)
    assert list(one.counts.items()) == list(other.counts.items())
    assert (one.leaders, one.share) == (other.leaders, other.share)


@given(answers, st.randoms())
def test_which_sample_gave_which_answer_changes_no_majority(
    given_answers: list[str | None], random: Any
) -> None:
    moved: list[str | None] = random.sample(given_answers, len(given_answers))
    assert counted(given_answers).counts == counted(moved).counts
    assert set(counted(given_answers).leaders) == set(counted(moved).leaders)


@given(answers, st.randoms())
def test_stopping_early_never_changes_the_winner(
    given_answers: list[str | None], random: Any
) -> None:
    order: list[int] = random.sample(range(len(given_answers)), len(given_answers))
    tally = Tally(left=len(given_answers))
    for place in order:
        if tally.is_settled:
            break
        tally = tally.with_vote(place, given_answers[place])
    assert tally.leaders[:1] == counted(given_answers).leaders[:1]
    if tally.left:
        assert len(counted(given_answers).leaders) == 1


@given(answers, st.integers(1, 9))
def test_no_fewer_samples_than_wanted_could_settle_it(
    given_answers: list[str | None], left: int
) -> None:
    tally = Tally(left=left + len(given_answers))
    for place, answer in enumerate(given_answers):
        tally = tally.with_vote(place, answer)
    best = tally.leaders[0] if tally.leaders else "a"
    after = tally
    for further in range(tally.minimum_needed):
        assert not after.is_settled
        after = after.with_vote(len(given_answers) + further, best)
    assert after.is_settled


def test_a_sample_that_fails_is_not_waited_for() -> None:
    tally = Tally(left=5).with_vote(0, "a").with_vote(1, "a")
    assert not tally.is_settled
    assert tally.drop(2).is_settled


def test_unreadable_samples_count_against_the_confidence() -> None:
    voted = counted(["a", None, "a", "b"]).record_vote("It is a.", "a")
    assert (voted.confidence, voted.unreadable, voted.votes) == (0.5, 1, {"a": 2, "b": 1})


def test_a_tie_is_said_and_the_first_sample_counts() -> None:
    tally = counted(["b", "a", "a", "b"])
    assert tally.leaders == ("b", "a")
    assert tally.record_vote("b", "b").tied == ("a",)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (Reply(text="3 and 4 make 7. The answer is 7."), Fraction(7)),
        (Reply(text="The answer is Canberra."), "canberra"),
        (Reasoned[int](reasons="3 + 4", answer=7), Fraction(7)),
        (Reasoned[str](reasons="a capital", answer="Canberra!"), "canberra"),
        (Reasoned[bool](reasons="so it is", answer=True), "true"),
        (Choice(label="card"), "card"),
        (Reply(text="..."), None),
        (Reply(text="2 x 9 = 18. The answer is 2 x 9 = $18 per day."), Fraction(18)),
        (Reply(text="They make 1,080.\nThe answer is 1,080"), Fraction(1080)),
        (Reply(text="So it is \\boxed{42}."), Fraction(42)),
        (Reply(text="**Answer:** 42, because 6 x 7 is 42"), Fraction(42)),
        (Reply(text="The answer is **42** apples (6 x 7)."), Fraction(42)),
        (Reply(text="42 apples"), Fraction(42)),
    ],
)
def test_what_a_reply_answers_is_read(reply: Any, answer: object) -> None:
    assert stated(reply) == answer


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The answer is to buy within 30 days.", "The answer is to rent for 30 days."),
        ("The short answer is no: 3 of 5 fail.", "The short answer is yes: 3 of 5 pass."),
        ("The answer is no: 3.", "The answer is yes: 3."),
        ("3 of 5", "4 of 5"),
        ("As nobody comes by train today, x = 3", "As everybody comes by train today, x = 3"),
    ],
)
def test_answers_that_only_share_a_number_are_not_the_same(one: str, other: str) -> None:
    assert stated(Reply(text=one)) != stated(Reply(text=other))


def test_the_last_number_counts_where_none_is_marked() -> None:
    assert last_number("6 times 7 is 42, and that takes them 3 days") == 3
    assert last_number("The answer is 42, since 6 times 7") == 42
    assert last_number("nobody knows") is None


@pytest.mark.parametrize(
    ("answer", "text"),
    [(Fraction(1200), "1200"), (Fraction(5, 2), "2.5"), (Fraction(1, 3), "1/3"), ("no", "no")],
)
def test_answers_are_shown_as_one_writes_them(answer: Any, text: str) -> None:
    assert format_answer(answer) == text


def test_of_a_typed_output_the_answer_is_its_text() -> None:
    assert write_answer(Reasoned[int](reasons="3 + 4", answer=7), Fraction(7)) == "7"
    assert write_answer(Reply(text="It is 7."), Fraction(7)) == "It is 7."


@pytest.mark.parametrize(
    ("answers", "enough"),
    [
        pytest.param(["Paris.", "  paris", "Rome"], True, id="case, blanks and full stops"),
        pytest.param(["1,200", "1200.0", "7"], True, id="numbers"),
        pytest.param(["It costs 4 x 3. The answer is 12", "The answer is 12"], True, id="marked"),
        pytest.param(["Paris", "Rome", "Oslo"], False, id="all differ"),
        pytest.param(["", " ", "..."], False, id="nothing agrees with nothing"),
        pytest.param([], False, id="none"),
    ],
)
def test_answers_agree(answers: list[str], *, enough: bool) -> None:
    assert agreement_test(2)(answers) is enough


def test_one_answer_agrees_with_nobody() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        agreement_test(1)


def test_the_largest_group_has_the_answer() -> None:
    assert find_most_agreed(["The answer is 5", "The answer is 7", "The answer is 7"]) == 1


def test_where_all_differ_the_most_usual_words_have_it() -> None:
    odd = "bananas are yellow and sweet and long"
    answers = [odd, "the sea is cold in spring and calm", "the sea is cold in spring and rough"]
    assert find_most_agreed(answers) in (1, 2)


def test_likeness_is_between_nothing_and_the_same() -> None:
    assert likeness("one two three four", "One, two, three: four!") == 1.0
    assert likeness("one two three four", "five six seven eight") == 0.0
    assert 0 < likeness("one two three four", "one two three five") < 1
