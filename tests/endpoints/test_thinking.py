"""What a model thought stays apart from what it answered, whole or in pieces."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.endpoints.openai import ThinkingSplitter


def split(*pieces: str) -> tuple[str, str | None]:
    splitter = ThinkingSplitter()
    shown = "".join(map(splitter.feed, pieces)) + splitter.finish()
    text, thought = splitter.split()
    assert shown == text or shown.lstrip().endswith(text)  # a thought without its opening tag
    return text, thought


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
    assert split(text) == (answer, thought)


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
    sizes = data.draw(st.lists(st.integers(0, len(text))))
    places = [0, *sorted(sizes), len(text)]
    assert split(*(text[i:j] for i, j in pairwise(places))) == split(text)


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
