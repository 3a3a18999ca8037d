"""When answers say the same, and which one stands for the others."""

from __future__ import annotations

import pytest
from moa.mixing.answer_extraction import last_number

from moa.errors import ConfigError
from moa.mixing.voting import agree, likeness, most_agreed


@pytest.mark.parametrize(
    ("answers", "enough"),
    [
        pytest.param(["Paris.", "  paris", "Rome"], True, id="case, blanks and full stops"),
        pytest.param(["1,200", "1200.0", "7"], True, id="numbers"),
        pytest.param(["It costs 4 x 3. #### 12", "The answer is 12"], True, id="marked"),
        pytest.param(["Paris", "Rome", "Oslo"], False, id="all differ"),
        pytest.param(["", " ", "..."], False, id="nothing agrees with nothing"),
        pytest.param([], False, id="none"),
    ],
)
def test_answers_agree(answers: list[str], *, enough: bool) -> None:
    assert agree(2)(answers) is enough


def test_what_is_compared_can_be_chosen() -> None:
    assert agree(2, key=last_number)(["so 3 apples", "it must be 3 then"])


def test_one_answer_agrees_with_nobody() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        agree(1)


def test_the_largest_group_has_the_answer() -> None:
    assert most_agreed(["#### 5", "#### 7", "#### 7"]) == 1


def test_where_all_differ_the_most_usual_words_have_it() -> None:
    odd = "bananas are yellow and sweet and long"
    answers = [odd, "the sea is cold in spring and calm", "the sea is cold in spring and rough"]
    assert most_agreed(answers) in (1, 2)


def test_likeness_is_between_nothing_and_the_same() -> None:
    assert likeness("one two three four", "One, two, three: four!") == 1.0
    assert likeness("one two three four", "five six seven eight") == 0.0
    assert 0 < likeness("one two three four", "one two three five") < 1
