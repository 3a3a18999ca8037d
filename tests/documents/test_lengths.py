from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.documents.sentences import Length


@pytest.mark.parametrize(
    ("length", "text", "fault"),
    [
        pytest.param(Length(words=10), "word " * 10, None, id="as asked"),
        pytest.param(Length(words=10), "word " * 11, None, id="near enough"),
        pytest.param(Length(words=10), "word " * 12, "it has 12 words", id="too many words"),
        pytest.param(Length(words=10), "word " * 5, "it has 5 words", id="too few words"),
        pytest.param(Length(words=10), "word", "it has 1 word,", id="one word"),
        pytest.param(
            Length(words=10), "今天天气很好。我们去公园吧", "it has 12 words", id="Chinese"
        ),
        pytest.param(Length(words=10), "今天 5 GB 天气很好", None, id="mixed"),
        pytest.param(Length(sentences=1), "One. Two.", "it has 2 sentences", id="two sentences"),
        pytest.param(Length(sentences=3), "One. Two.", None, id="fewer sentences"),
        pytest.param(Length(), "Anything. At all.", None, id="any length"),
    ],
)
def test_a_fault_says_how_a_text_misses_its_length(
    length: Length, text: str, fault: str | None
) -> None:
    found = length.fault(text)
    assert found is None if fault is None else found is not None and found.startswith(fault)


def test_it_is_written_as_it_is_asked_for() -> None:
    assert str(Length(sentences=1)) == "1 sentence"
    assert str(Length(sentences=3, words=50)) == "3 sentences and about 50 words"


def test_a_text_that_is_short_enough_is_not_cut() -> None:
    text = "One.\n\nTwo, with a blank line before."
    assert Length(sentences=2).cut(text) == text


@given(st.text(alphabet="ab .!\n", max_size=80), st.integers(1, 5))
def test_what_is_cut_begins_the_text_and_fits_or_is_one_sentence(text: str, words: int) -> None:
    length = Length(words=words, sentences=2)
    cut = length.cut(text)
    assert text.startswith(cut)
    assert not length.too_long(cut) or len(length.cut(cut)) == len(cut)


def test_a_long_text_without_spaces_is_cut_to_its_words() -> None:
    assert Length(words=6).cut("今天天气很好。" * 3) == "今天天气很好。"
