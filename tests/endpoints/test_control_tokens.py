"""No control token of a chat template survives, and nothing else changes."""
# ruff: noqa: RUF001

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moa.endpoints.tokens import neutralise

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
