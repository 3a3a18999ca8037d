"""Passages, sentences and lengths: nothing is lost, and each piece knows where it stands."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.documents import Document
from moa.documents.index import passages_of
from moa.documents.sentences import Length, sentences

TEXTS = st.text(st.sampled_from("aB1 .!?。\n-[])é中"), max_size=120)


@given(TEXTS)
def test_passages_stand_where_they_say_and_lose_nothing_but_blanks(text: str) -> None:
    document = Document(id="a", title="A", text=text)
    passages = passages_of(document, max_tokens=8)
    assert all(text[each.start : each.end] == each.text for each in passages)
    assert "".join("".join(each.text for each in passages).split()) == "".join(text.split())


@given(TEXTS)
def test_sentences_stand_where_they_say_and_lose_nothing_but_blanks(text: str) -> None:
    found = sentences(text)
    assert all(text[start : start + len(each)] == each for start, each in found)
    assert "".join("".join(each for _, each in found).split()) == "".join(text.split())


def test_a_passage_knows_the_page_on_which_it_begins() -> None:
    document = Document(id="a.pdf", title="A", text="One.\n\nTwo.\n\nThree.", pages=(0, 6, 12))
    pages = [(each.text, each.page) for each in passages_of(document, max_tokens=2)]
    assert pages == [("One.", 1), ("Two.", 2), ("Three.", 3)]
    assert passages_of(document, max_tokens=2)[1].source == "A, page 2"


def test_a_sentence_knows_where_it_stands_in_the_document() -> None:
    (passage,) = passages_of(Document(id="a", title="A", text="  One is. Two are."))
    first, second = passage.sentences()
    assert (first.text, first.start, second.text, second.start) == ("One is.", 2, "Two are.", 10)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid 3.50 dollars. He left.", ["Dr. Smith paid 3.50 dollars.", "He left."]),
        ("He said “Stop.” Then he left.", ["He said “Stop.”", "Then he left."]),
        ("It is red. [1][2] It is big [3].", ["It is red. [1][2]", "It is big [3]."]),
        ("Is it? Yes! it is.", ["Is it?", "Yes!", "it is."]),
        ("J. S. Bach wrote it, e.g. in Leipzig.", ["J. S. Bach wrote it, e.g. in Leipzig."]),
        ("これは本です。赤い。", ["これは本です。", "赤い。"]),
        ("A heading\n\nA text", ["A heading", "A text"]),
        ("Of three:\n- one\n- two", ["Of three:", "- one", "- two"]),
        ("Er kam am 3. März an. Sie ging.", ["Er kam am 3. März an.", "Sie ging."]),
    ],
)
def test_a_text_is_split_into_its_sentences(text: str, expected: list[str]) -> None:
    assert [each for _, each in sentences(text)] == expected


@pytest.mark.parametrize("unit", ["\n", " \n", "...", "\n- "])
def test_sentences_of_any_text_take_linear_time(unit: str) -> None:
    started = time.monotonic()
    sentences(unit * 50_000 + "x")
    assert time.monotonic() - started < 5


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
    assert Length(sentences=2).shorten(text) == text


@given(st.text(alphabet="ab .!\n", max_size=80), st.integers(1, 5))
def test_what_is_cut_begins_the_text_and_fits_or_is_one_sentence(text: str, words: int) -> None:
    length = Length(words=words, sentences=2)
    cut = length.shorten(text)
    assert text.startswith(cut)
    assert not length.too_long(cut) or len(length.shorten(cut)) == len(cut)


def test_a_long_text_without_spaces_is_cut_to_its_words() -> None:
    assert Length(words=6).shorten("今天天气很好。" * 3) == "今天天气很好。"
