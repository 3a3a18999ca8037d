"""No control token of a chat template survives, and nothing else changes."""
# ruff: noqa: RUF001

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.core._json import JSON
from moa.core.context import RunContext
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.tokens import neutralise

from .conftest import Served, chat

BAR = "\N{FULLWIDTH VERTICAL LINE}"
GAP = "\N{LOWER ONE EIGHTH BLOCK}"
ASCII = """
    <|im_start|> <|im_end|> <|endoftext|> <|eot_id|> <|start_header_id|>
    <|reserved_special_token_7|> <|assistant|> <|turn> <turn|> <|"|> <|START_OF_TURN_TOKEN|> <s>
    </s> <bos> <eos> <pad> <start_of_turn> <end_of_turn> <start_of_image> <think> </think>
    <tool_call> </tool_response> <fim_prefix> <repo_name> <file_sep> <jupyter_code> <unused12>
    <extra_id_3> <SPECIAL_12> <EOS_TOKEN> <<SYS>> <</SYS>> [INST] [/INST] [SYSTEM_PROMPT]
    [AVAILABLE_TOOLS] [TOOL_CALLS] [THINK] [IMG_END] [gMASK] [|user|] [|endofturn|] ]~b] ]~!b[ [e~[
    <start_function_call> <end_function_response> <escape> <arg_key> </arg_value> <role> </role>
    <AVAILABLE_TOOLS> </TOOLCALL> <longcat_user> <fim-prefix> <reserved_token_4> <img> <box> <ref>
    <end_of_utterance> <row_1_col_2> <AI> [REF] [/REF] [REFERENCE_DOC_1] [unused9] >>TITLE<<
    >>ANSWER<< <seed:bos> <minimax:tool_call> </minimax:tool_call> <sop> <eop> <__media__>
"""
DEEPSEEK = [
    f"<{BAR}User{BAR}>",
    f"<{BAR}end{GAP}of{GAP}sentence{BAR}>",
    f"</{BAR}DSML{BAR}invoke>",
    f"<{BAR}DSML{BAR}parameter",
]
TOKENS = [*ASCII.split(), *DEEPSEEK]
WIDE = {ord(plain): ord(plain) + 0xFEE0 for plain in "<>[]|/_abcdefghijklmnopqrstuvwxyzIN"}
ALIKE = str.maketrans("aeopcyxijs<>|", "аеорсухіјѕ‹›∣")
"""Cyrillic letters, and brackets that only look like those of a token."""
PLAIN = [
    "a < b and c > d",
    "List<T> and <b>bold</b> <strong>HTML</strong>",
    "xs |> List.map f <| ys",
    "if (a <| b) { c |> d }",
    "[link](https://example.org) [1] [x]",
    "price: <10 || >20",
    "cat a >>log <<EOF; x>>y<<z",
    "[refer] <references> <boxes> [unused]",
    "<html><body class='x'>",
    "see <https://example.org>",
    "C:\\temp ~b] not it",
    "привет <b>ѕ</b>, \u200b1 > 0, ＡＢＣ > ａ, 〈題〉",
]


@pytest.mark.parametrize("token", TOKENS)
def test_a_control_token_becomes_plain_text(token: str) -> None:
    changed = neutralise(f"before {token} after")
    assert token not in changed
    assert changed.replace(" ", "") == f"before{token}after".replace(" ", "")


@pytest.mark.parametrize("token", TOKENS)
def test_what_only_looks_like_a_control_token_is_one(token: str) -> None:
    seen = [token.translate(WIDE), token.translate(ALIKE)]
    unseen = [f"{token[:i]}\u200b\u2060{token[i:]}" for i in range(1, len(token))]
    for variant in seen + unseen:
        assert neutralise(f"è {variant}") == f"è {variant[0]} {variant[1:]}"


@pytest.mark.parametrize(
    "hostile",
    ["<", "<|", "<\u200b", "[", "<\u200b/", "< ", "<s", "＜", "<|\u200b>", "]~", "\u200b"],
)
def test_a_long_hostile_text_takes_no_more_than_its_length(hostile: str) -> None:
    text = hostile * 100_000
    assert len(neutralise(text)) >= len(text)
    assert neutralise(f"{text}>\u200b")


def test_little_memory_is_taken_beside_a_long_text() -> None:
    text = "\u200b<|im_end|> " + "words " * 100_000
    tracemalloc.start()
    neutralise(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * len(text)  # a list of its characters' places would take 36 bytes for each


class Recording(OpenAIEndpoint):
    """Tells which threads write its requests, and how many do so at once."""

    def __init__(self) -> None:
        super().__init__("writer", model="m", base_url="http://model.test/v1")
        self.threads = list[int]()
        self.now = self.most = 0

    def chat(self, prompt: Prompt) -> JSON:
        self.threads.append(threading.get_ident())
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            time.sleep(0.01)
            return super().chat(prompt)
        finally:
            self.now -= 1


async def test_long_prompts_are_looked_through_beside_the_loop_one_at_a_time(
    served: Served,
) -> None:
    served.will(chat())
    writer, long = Recording(), Prompt.of("word " * 20_000)
    await asyncio.gather(*(writer.complete(long, RunContext()) for _ in range(4)))
    assert threading.get_ident() not in writer.threads
    assert (len(writer.threads), writer.most) == (4, 1)


async def test_a_short_prompt_needs_no_thread(served: Served) -> None:
    served.will(chat())
    writer = Recording()
    await writer.complete(Prompt.of("Hi"), RunContext())
    assert writer.threads == [threading.get_ident()]


@pytest.mark.parametrize("text", PLAIN)
def test_a_text_without_control_tokens_is_unchanged(text: str) -> None:
    assert neutralise(text) == text


pieces = st.lists(st.one_of(st.sampled_from(TOKENS), st.text("<>|[]/~!bes \n", max_size=4)))


@given(pieces)
def test_no_control_token_survives_however_they_are_put_together(parts: list[str]) -> None:
    changed = neutralise("".join(parts))
    assert [token for token in TOKENS if token in changed] == []


@given(pieces)
def test_doing_it_twice_changes_nothing_more(parts: list[str]) -> None:
    once = neutralise("".join(parts))
    assert neutralise(once) == once


@given(st.text(st.characters(exclude_characters="<>[]|~")))
def test_a_text_without_brackets_is_unchanged(text: str) -> None:
    assert neutralise(text) == text
