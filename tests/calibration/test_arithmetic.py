"""Sums that a text states are re-computed exactly, and nothing else is run."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core.errors import InputError
from moa.core.numbers import find_numbers, format_number, has_numbers
from moa.guards.arithmetic import (
    evaluate,
    find_equations,
)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 x (1,000 + 50%)", Fraction(2001)),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("7 / 1 / 2", Fraction(7, 2)),
        ("200/100*40", Fraction(80)),
        ("-3^2", Fraction(-9)),
        ("$18 \\* 007", Fraction(126)),
    ],
)
def test_a_sum_is_computed_exactly(expression: str, value: Fraction) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "1 / 0",
        "9^9^9^9",
        "2 ** 999999999",
        "__import__('os').getcwd()",
        "print(1)",
        "'a' * 9",
        "True + 1",
        "x + 1",
        "1if 2else 3",
        "(1)(2)",
        "1 +",
        "",
        "(" * 150,
        "1" * 201,
        "10000000000 * 10000000000 * 10000000000 ^ 64",
    ],
)
def test_what_is_no_sum_is_refused(expression: str) -> None:
    with pytest.raises(InputError):
        evaluate(expression)


@given(st.text(alphabet="0123456789+-*/x^%(). $,=<>#aé\n", max_size=80))
def test_any_text_is_checked_without_a_crash(text: str) -> None:
    for equation in find_equations(text):
        assert equation.error >= 0


def test_sums_are_found_in_prose_in_order() -> None:
    text = "He has 3 x 4 = 12 apples.\nSo 12+1=13, and 13 apples * $2 = $26.\n2 + 2 = 5"
    assert [(e.left, e.right, e.holds) for e in find_equations(text)] == [
        ("3 * 4", "12", True),
        ("12+1", "13", True),
        ("13 * $2", "$26", True),
        ("2 + 2", "5", False),
    ]


def test_units_may_stand_between() -> None:
    (found,) = find_equations("9 rides * 2 tickets/ride * $2 per ticket = $36")
    assert (found.holds, found.value) == (True, 36)


def test_a_sum_that_a_line_states_twice_is_given_once() -> None:
    assert len(find_equations("3 x 4 = 12, and 4 x 3 = 12")) == 1
    assert len(find_equations("3 x 4 = 12, and 4 x 3 = 13")) == 2


@pytest.mark.parametrize(
    ("text", "holds", "exact"),
    [
        ("250 / 3 = 83.33", True, False),
        ("250 / 3 = 84.33", False, False),
        ("73 / 8 = 9", False, False),
        ("100% - 45% = 55", True, False),
        ("(6 / 12) * 100 = 50%", True, False),
        ("4 * 3 + 6 = 18", True, True),
        ("9,200 - 3,600 = 5,600", True, True),
        ("675 + 120 = 785", False, False),
    ],
)
def test_rounding_to_the_places_shown_is_allowed(text: str, holds: bool, exact: bool) -> None:
    (equation,) = find_equations(text)
    assert (equation.holds, equation.exact) == (holds, exact)


def test_each_step_of_a_chain_is_checked() -> None:
    found = find_equations("5*75+120=675+120=795")
    assert [(e.left, e.holds) for e in found] == [("5*75+120", False), ("675+120", True)]


@pytest.mark.parametrize(
    "text",
    [
        "Blueberries = 5S - 4 = 5 * 20 - 4",
        "2C + D = 304",
        "see p. 4 = 5",
        "40 shirts * $10 = $400, (2 dogs) x 3 = 7",
    ],
)
def test_half_of_a_sum_with_words_in_it_is_not_taken_for_one(text: str) -> None:
    assert all(equation.holds for equation in find_equations(text))


def test_numbers_are_read_with_commas_and_points() -> None:
    assert find_numbers("$1,234.50 for 3 of 007") == [Fraction(2469, 2), Fraction(3), Fraction(7)]


@pytest.mark.parametrize("piece", ["1 + ", "1+1=", "1" + " " * 9, "(", "1 ( ", "- ", "9", "= "])
def test_no_text_takes_longer_than_its_length(piece: str) -> None:
    start = time.perf_counter()
    find_equations(piece * 20_000)
    assert time.perf_counter() - start < 10


def test_a_number_of_thousands_of_digits_is_none() -> None:
    assert find_numbers("9" * 10_000 + " and 5") == [Fraction(5)]


@given(numerator=st.integers(-(10**9), 10**9), denominator=st.sampled_from([1, 2, 5, 8, 100]))
def test_a_number_is_read_as_it_was_written(numerator: int, denominator: int) -> None:
    number = Fraction(numerator, denominator)
    assert evaluate(format_number(number)) == number


def test_a_long_number_is_written_to_twelve_places() -> None:
    assert format_number(Fraction(1, 3)) == "0.333333333333"
    assert format_number(Fraction(-1, 10**13)) == "0"


@pytest.mark.parametrize(
    ("text", "left", "holds"),
    [
        (r"\[ 90 \text{ minutes} + 25 \text{ minutes} = 370 \text{ minutes} \]", "90 + 25", False),
        (r"\(2^{3} = 9\)", "2^3", False),
        (r"Total &= 1{,}200 \cdot 2 = 2{,}400 \\", "1,200 * 2", True),
        (r"$\frac{12 + 6}{3} = 6$", "$((12 + 6)/3)", True),
        (r"\frac{370}{60} = 6.1667", "(370/60)", True),
        (r"\$4.50 \times 3 = \$13.50", "$4.50 * 3", True),
    ],
)
def test_sums_in_latex_are_read(text: str, left: str, holds: bool) -> None:
    assert [(sum.left, sum.holds) for sum in find_equations(text)] == [(left, holds)]


def test_a_number_is_computed_once_however_often_a_text_has_it() -> None:
    first, other, again, digits, same = find_numbers("12 and 1,200, 12 and 1200.0, 1200.0")
    assert first is again
    assert digits is same
    assert (first, other, digits) == (12, 1200, 1200)


@pytest.mark.parametrize(("least", "has"), [(1, True), (2, True), (3, False)])
def test_only_numbers_count_that_are_found(least: int, has: bool) -> None:
    text = f"12, then {'9' * 61}, then 3."
    assert len(find_numbers(text)) == 2
    assert has_numbers(text, least) is has
