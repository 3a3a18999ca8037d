"""Signs in a reply that it is right or wrong, without asking a model."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.graphs.mixing.answer_extraction import find_final_answer
from moa.guards.reply_signs import find_prompt_numbers, reply_features
from moa.routing.recorded import prompt_features

PROMPT = "Ann has 12 apples. She gives a third of them to Bob and buys 5 more. How many are left?"
RIGHT = "She gives 12 / 3 = 4 away.\nShe keeps 12 - 4 = 8.\nThen 8 + 5 = 13.\nThe answer is 13"


@pytest.mark.parametrize(
    ("reply", "marked", "number"),
    [
        ("… The answer is 1,200 dollars", True, Fraction(1200)),
        ("So the answer is 7.5.", True, Fraction(15, 2)),
        (r"\boxed{42}", True, Fraction(42)),
        ("First The answer is 3, then The answer is 4", True, Fraction(4)),
        ("She has 8 apples, of 12", False, Fraction(12)),
        (r"\boxed{\frac{3}{4}} of it, in 5 days", True, Fraction(3, 4)),
        ("The answer is -$1,200.50, a loss", True, Fraction(-2401, 2)),
        ("It falls by 3/4 to \N{MINUS SIGN}2", False, Fraction(-2)),
        ("On 12/05/2024, for ages 3-5", False, Fraction(5)),
        ("Due on 12/05/2024", False, Fraction(2024)),
        ("It is 5/0", False, Fraction(5)),
        ("Nobody knows.", False, None),
        ("It was 9. The answer is can't be told", True, Fraction(9)),
    ],
)
def test_the_final_answer_is_found(reply: str, marked: bool, number: Fraction | None) -> None:
    found = find_final_answer(reply)
    assert (found.marked, found.number) == (marked, number)


def test_a_right_reply_gives_no_cause_for_doubt() -> None:
    found = reply_features(PROMPT, RIGHT)
    assert found["any doubt"] == 0
    assert found["all on the path"] == 1
    assert found["final is last result"] == 1
    assert (found["sums"], found["path"], found["results not used"]) == (3, 3, 0)


@pytest.mark.parametrize(
    ("reply", "kinds"),
    [
        pytest.param(RIGHT.replace("8 + 5 = 13", "8 + 5 = 14"), 1, id="wrong sum"),
        pytest.param("She gives 12 / 3 = 4 away. She keeps 12 - 4", 2, id="cut off"),
        pytest.param("That is not specified. The answer is 13", 1, id="hedge"),
        pytest.param("12 / 5 = 2.4\nThe answer is 2.4", 1, id="half an apple"),
        pytest.param("The answer is none", 1, id="no number"),
        pytest.param("Pens come in a whole number, so The answer is 3", 1, id="rounded"),
    ],
)
def test_doubt_has_its_kinds(reply: str, kinds: int) -> None:
    found = reply_features(PROMPT, reply)
    assert (found["kinds of doubt"], found["any doubt"]) == (kinds, 1)


def test_a_number_that_leads_nowhere_is_seen() -> None:
    found = reply_features(PROMPT, "12 + 5 = 17\nThe answer is 17")
    assert found["share not on the path"] == pytest.approx(1 / 3)
    assert (found["all on the path"], found["all but words on the path"]) == (0, 0)


def test_a_number_without_a_source_is_seen() -> None:
    assert reply_features(PROMPT, "12 + 55 = 67\nThe answer is 67")["numbers without a source"] == 1


def test_a_result_that_is_not_used_is_seen() -> None:
    found = reply_features(PROMPT, "12 / 3 = 4\n12 + 5 = 17\nThe answer is 17")
    assert (found["results not used"], found["off the path"]) == (1, 1)


def test_quantities_are_told_once_and_places_are_none() -> None:
    told = find_prompt_numbers(
        "The 3rd of 8 weeks. After 8 weeks 30% off, twice, two thirds, 2/5, half."
    )
    assert [number.forms[0] for number in told] == [8, 30, 2, Fraction(2, 3), Fraction(2, 5), 0.5]
    assert {Fraction(3, 10), Fraction(7, 10), Fraction(13, 10)} <= set(told[1].forms)


def test_a_fraction_over_nothing_is_no_quantity() -> None:
    assert find_prompt_numbers("3/0") == []


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_texts_give_the_same_finite_features(prompt: str, reply: str) -> None:
    found = {**prompt_features(prompt), **reply_features(prompt, reply)}
    assert list(found) == list({**prompt_features(""), **reply_features("", "")})
    assert all(abs(value) < 1e9 for value in found.values())
