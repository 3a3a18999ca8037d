"""What a model thought stays apart from what it answered, whole or in pieces."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.endpoints.openai import ThinkingSplitter, split_thinking


@pytest.mark.parametrize(
    ("text", "answer", "thought"),
    [
        ("hello", "hello", None),
        ("<think>hm</think>hello", "hello", "hm"),
        ("\n<think>\nhm\n</think>\n\nhello", "hello", "hm"),
        ("hm</think>hello", "hello", "hm"),
        ("<thought>hm</thought>hello", "hello", "hm"),
        ("[THINK]hm[/THINK]hello", "hello", "hm"),
        ("hm</thought>hello", "hm</thought>hello", None),
        ("<think>hm", "", "hm"),
        ("<think></think>hello", "hello", ""),
        ("say <think> and </think>", "say <think> and </think>", None),
        ("", "", None),
    ],
)
def test_a_whole_text_is_split(text: str, answer: str, thought: str | None) -> None:
    assert split_thinking(text) == (answer, thought)


@given(
    st.sampled_from(["", "\n", "<think>", "\n<think>\n", "<thought>", "[THINK]"]),
    st.text("ab<think/> \n", max_size=12),
    st.sampled_from(["", "</think>", "</think>\n\n", "</thought>", "[/THINK]"]),
    st.text("ab<> \n", max_size=8),
    st.data(),
)
def test_pieces_are_split_like_the_whole(
    opening: str, thought: str, closing: str, answer: str, data: st.DataObject
) -> None:
    text = opening + thought + closing + answer
    whole, reasoning = split_thinking(text)
    if not opening.strip() and reasoning is not None:
        return  # without its opening tag a thought can't be told before its end
    splitter = ThinkingSplitter()
    rest, pieces = text, ""
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces += splitter.feed(rest[:size])
        rest = rest[size:]
    pieces += splitter.finish()
    assert pieces == splitter.text == whole
    assert splitter.reasoning == (reasoning or "")


@pytest.mark.parametrize("before", ["", "<think>", "<think>hm</think>", "hello"])
def test_a_text_in_many_small_pieces_takes_time_by_its_length(before: str) -> None:
    def seconds(pieces: int) -> float:
        splitter = ThinkingSplitter()
        start = time.process_time()
        splitter.feed(before)
        for _ in range(pieces):
            splitter.feed(" ")
        return time.process_time() - start

    seconds(1000)
    assert seconds(100_000) < 40 * max(seconds(10_000), 0.001)
