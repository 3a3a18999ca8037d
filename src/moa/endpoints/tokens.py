"""Tokens: count those of a text, estimate and read those of a call, and disarm control tokens.

Servers tokenize the rendered prompt as a whole, so `<|im_end|>` written by a user ends the turn as
if the application had written it. A space after the first character keeps the text readable, and
makes it plain text for every tokenizer. Look-alikes of such tokens get the same space: a server, or
the model, may read them as real.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import Protocol, runtime_checkable

from moa.core._json import is_list, is_object
from moa.core.context import RunContext
from moa.core.errors import EndpointError
from moa.core.messages import Message
from moa.core.usage import Amount, Price
from moa.endpoints import Endpoint
from moa.endpoints.wrappers import innermost

BYTES_A_TOKEN = 3
"""Bytes of UTF-8 per token in approximate counts."""
_PICTURE_TOKENS = 16_384
"""Maximum tokens of a picture. Qwen reads as many, OpenAI, Anthropic and Google at most 10,000 but
for `gpt-4o-mini`, which bills up to 48,169."""
_MOST = 10**7
"""Maximum tokens of any request, for a model with an unknown context window."""
_LONGEST_MEAN = 16
"""Upper limit of the mean characters per token of a text. English has four to seven."""
_PIECE = 2**12
_SHORT = 64
"""Maximum characters that may be a single token: some vocabularies have such tokens."""
_WIDE = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
"""Chinese, Japanese and Korean, which have a third as many characters per token."""
_RUN = re.compile(r"(\s)\s+|(\S)\2+")
"""Repeated white space, or a repeated character. It may be one token, however long."""
_HOLDS_TEXT = frozenset(
    (
        *("messages", "choices", "message", "delta", "content", "text", "thinking", "refusal"),
        *("prompt", "input", "state", "reasoning_content", "reasoning"),
        *("tool_calls", "function", "arguments"),
    )
)
"""Keys of requests and answers whose texts every server counts as tokens."""
NO_USAGE = "the answer states no usage, or one that can't be true, so the estimate is charged"
"""The trace's note when `amount_of` returns `None`."""
_UNSEEN = frozenset(
    chr(code)
    for first, last in (
        *((code, code) for code in (0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x3164, 0xFEFF, 0xFFA0)),
        *((0x17B4, 0x17B5), (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E)),
        *((0x2060, 0x206F), (0xFE00, 0xFE0F), (0xE0000, 0xE0FFF)),
    )
    for code in range(first, last + 1)
)
_LOOKS = {
    character: plain
    for first, last in (
        *((0x2100, 0x217F), (0x24B6, 0x24E9), (0xFE50, 0xFE6B), (0xFF01, 0xFF5E)),
        (0x1D400, 0x1D7FF),
    )
    for character in map(chr, range(first, last + 1))
    if re.fullmatch(r"[\w<>\[\]|/]", plain := unicodedata.normalize("NFKC", character), re.ASCII)
} | dict(
    zip(
        "аеорсухіјѕһԁԛԝкмтАВЕКМНОРСТХУІЈЅανιοΑΒΕΖΗΙΚΜΝΟΡΤΥΧıɡɑ‹〈〈⟨❮ᐸ˂›〉〉⟩❯ᐳ˃∣ǀ│❘￨∕⁄⧸",  # noqa: RUF001
        "aeopcyxijshdqwkmtABEKMHOPCTXYIJSavioABEZHIKMNOPTYXiga<<<<<<<>>>>>>>|||||///",
        strict=True,
    )
)
"""Compatibility forms, and the nearest look-alikes of Unicode Technical Standard 39."""
_TRANSLATED = str.maketrans(_LOOKS | dict.fromkeys(_UNSEEN))
_ODD = _UNSEEN | _LOOKS.keys()
_ASCII = bytes(range(128))
"""None of `_ODD` is among them."""
_NAMED = (
    r"s|[se]op|__media__|unk|pad|bos|eos|cls|sep|mask|image|audio|video|image_soft_token"
    r"|(?:start|end)_of_(?:turn|image|audio|text|role)|(?:begin|end)_of_(?:text|sentence|turn)"
    r"|think(?:ing)?|thought|tools?|(?:minimax:)?tool_(?:call|calls|response|result|results|output)"
    r"|function_calls?|fim[_-](?:prefix|middle|suffix|pad)|repo_?name|file_sep|filename|gh_stars"
    r"|issue_(?:start|comment|closed)|jupyter_(?:start|text|code|output|script)|empty_output"
    r"|commit_(?:before|msg|after)|(?:unused|reserved_|reserved_token_|extra_id_|extra_|SPECIAL_)[0-9]+"
    r"|(?:start|end)_function_(?:call|declaration|response)|escape|arg_(?:key|value)|role|eod"
    r"|(?:AVAILABLE_TOOLS|TOOL_?CALL|TOOL_RESPONSE)|longcat_[a-z_]+|img|IMG_CONTEXT|ref|box|quad"
    r"|end_of_utterance|fake_token_around_image|global-img|row_[0-9]+_col_[0-9]+|用户|AI"
    r"|(?:BOS|EOS|PAD|UNK|CLS|SEP|MASK)_TOKEN|seed:[a-z_]+(?::[a-z_]+)?"
)
_BRACKETED = (
    r"INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_(?:RESULTS|CALLS|CONTENT)|MODEL_SETTINGS|CALL_ID|ARGS"
    r"|THINK|IMG(?:_BREAK|_END)?|(?:BEGIN_)?AUDIO|PREFIX|MIDDLE|SUFFIX|[gs]?MASK|CLS|SEP|PAD|UNK"
    r"|BOS|EOS|control_[0-9]+|REF(?:ERENCE_DOC_[0-9]+)?|unused[0-9]+"
)
_CONTROL = re.compile(
    r"<(?=</?SYS>>|/?(?=[^<>\s])(?:"
    r"\|(?:[^<>\s]{0,100}>|DSML\|)"  # <|im_start|>, <|turn>, and DeepSeek's wide bars
    r"|[^<>\s|]{1,100}\|>"  # <turn|>
    rf"|(?:{_NAMED})>))"
    rf"|\[(?=[/\w|])(?=/?(?:{_BRACKETED})\]|\|[^\[\]\s]{{0,100}}\|\]|e~\[)"  # [INST], [|user|]
    r"|>(?=>(?:TITLE|ABSTRACT|INTRODUCTION|SUMMARY|COMMENT|QUESTION|ANSWER|DOMAIN)<<)"
    r"|\](?=~!?b[\[\]])"
)
"""Pattern of control tokens, which matches their first character alone."""
_OPENER = re.compile(f"[<>[\\]{''.join(look for look, sign in _LOOKS.items() if sign in '<>[]')}]")
_FEW = 16
"""Number of different characters up to which replacing each of them is faster than translating."""
_AT_ONCE = 1 << 16
"""Characters that a single call of `re` or `str` looks through."""
_HINTS = re.compile(f"[>\\]~|{''.join(look for look, sign in _LOOKS.items() if sign in '>]|')}]")


def approximate_tokens(text: str) -> int:
    """Estimate tokens without a tokenizer, conservatively: one per three bytes of UTF-8.

    English has more than four bytes per token, Chinese three and a half.
    """
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // BYTES_A_TOKEN)


@runtime_checkable
class CountsTokens(Protocol):
    """An endpoint whose server offers its tokenizer. Counting is free and not recorded."""

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        """Count the tokens of a text, without adding special tokens such as its start."""
        ...


async def tokens_of(endpoint: Endpoint | None, text: str, context: RunContext) -> int:
    """Count tokens with the endpoint's tokenizer, else by a conservative estimate."""
    server = None if endpoint is None else innermost(endpoint)
    if text and isinstance(server, CountsTokens):
        with suppress(EndpointError):  # no tokenizer after all: estimate
            return await server.count_tokens(text, context)
    return approximate_tokens(text)


def window_of(endpoint: Endpoint | None) -> int | None:
    """Return the maximum tokens of a request, prompt and answer together; `None` if unknown."""
    server = None if endpoint is None else innermost(endpoint)
    window: object = getattr(server, "context_window", None)
    return window if isinstance(window, int) else None


def estimate_of(*texts: str, max_tokens: int, price: Price, pictures: Sequence[str] = ()) -> Amount:
    """Estimate a call from the length of its texts, with its cost if the price is known.

    Args:
        texts: All that is sent.
        max_tokens: Maximum tokens of the answer.
        price: Price of the endpoint.
        pictures: URLs in the texts. Each counts as the most that a picture takes, and not by its
            length.
    """
    tokens = sum(map(approximate_tokens, texts))
    tokens += sum(_PICTURE_TOKENS - len(url) // BYTES_A_TOKEN for url in pictures)
    return price.charge(Amount(calls=1, input_tokens=tokens, output_tokens=max_tokens))


def texts_in(sent: object, *, left_out: str = "") -> list[str]:
    """Collect the texts of a request or an answer in JSON. A token id counts as four characters.

    Pictures, schemas, tools and the words around them are left out, as servers count them
    differently. So is the value of the key `left_out`: in a stream some servers repeat the whole
    `message`.
    """
    texts: list[str] = []
    pending = [sent]
    while pending:
        part = pending.pop()
        if isinstance(part, str):
            texts.append(part)
        elif is_list(part):
            items = [item for item in part if not isinstance(item, int)]
            if ids := len(part) - len(items):
                texts.append("id, " * ids)
            pending += items
        elif is_object(part):
            for key, value in part.items():
                is_repeated = key == "reasoning" and part.get("reasoning_content")
                if key in _HOLDS_TEXT and key != left_out and not is_repeated:
                    pending.append(value)
    return texts


def amount_of(
    body: Mapping[str, object],
    *,
    estimate: Amount,
    sent: object = None,
    texts: Sequence[str] = (),
    window: int | None = None,
) -> Amount | None:
    """Read the `usage` of an answer, in the format of OpenAI, System One or LangChain.

    Impossible values are rejected: an invalid or negative count; no prompt tokens; more cached than
    read tokens; a total below its parts; fewer tokens than one per sixteen characters of the texts,
    repeated characters aside (Chinese, Japanese and Korean ones count threefold); and more than the
    window and the longest answer together.

    Args:
        body: The answer, or its part with `usage`.
        estimate: The reserved maximum of the call.
        sent: The request, or its texts.
        texts: Texts of the answer. The count may include more, such as hidden thoughts.
        window: Maximum tokens of a request. `None`: ten million.

    Returns:
        The usage, not priced yet; `None` if none is stated, or it is impossible.
    """
    usage = body.get("usage")
    if not is_object(usage):
        return None
    try:
        input_tokens = _count(usage, "prompt_tokens", "input_tokens") or 0
        answer_tokens = _count(usage, "completion_tokens", "output_tokens")
        total = _count(usage, "total_tokens") or 0
        cached = _cached_tokens(usage)
    except ValueError:
        return None
    # A proxy that knows no count may state 0, but every prompt has tokens.
    is_unstated = not input_tokens and estimate.input_tokens
    is_unstated = is_unstated or (answer_tokens is None and not total and estimate.output_tokens)
    if is_unstated or cached > input_tokens or 0 < total < input_tokens + (answer_tokens or 0):
        return None
    # Gemini's compatible endpoint counts reasoning only in the total.
    output = max(answer_tokens or 0, total - input_tokens)
    if input_tokens + output > (window or _MOST) + estimate.output_tokens:
        return None
    # The estimate has a token per three bytes, so it mostly suffices to know the length sent.
    is_likely = input_tokens * _LONGEST_MEAN >= estimate.input_tokens * BYTES_A_TOKEN
    if not (is_likely or may_fit(input_tokens, texts_in(sent))) or not may_fit(output, texts):
        return None
    return Amount(
        calls=estimate.calls,
        input_tokens=input_tokens,
        cached_input_tokens=cached,
        output_tokens=output,
        encodings=estimate.encodings,
    )


def may_fit(tokens: int, texts: Sequence[str]) -> bool:
    """Return True if a tokenizer could turn these texts into as few as `tokens` tokens."""
    if tokens * _LONGEST_MEAN >= 3 * sum(map(len, texts)):  # almost always
        return True
    text, length = "".join(texts), 0
    longest = _SHORT + _LONGEST_MEAN * tokens if tokens else 0
    for start in range(0, len(text), _PIECE):  # stop once it is too long
        piece = _RUN.sub(r"\1\2", text[start : start + _PIECE])
        length += len(piece) if piece.isascii() else len(piece) + 2 * len(_WIDE.findall(piece))
        if length > longest:
            return False
    return True


def _cached_tokens(usage: Mapping[str, object]) -> int:
    for key in ("prompt_tokens_details", "input_tokens_details", "input_token_details"):
        details = usage.get(key)
        if is_object(details):
            return _count(details, "cached_tokens", "cache_read") or 0
    # The names of DeepSeek, Mistral and pydantic-ai.
    return _count(usage, "prompt_cache_hit_tokens", "num_cached_tokens", "cache_read_tokens") or 0


def _count(usage: Mapping[str, object], *names: str) -> int | None:
    """Read the first of several counts; `None` without any. `ValueError`: it isn't a count."""
    value = next((usage[name] for name in names if usage.get(name) is not None), None)
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf:
        return int(value)
    raise ValueError(f"{value!r} is no count")


def length_of(messages: Sequence[Message]) -> int:
    """Count the characters in which control tokens may stand; files have none."""
    return sum(
        len(message.content) + sum(len(call.arguments) for call in message.tool_calls)
        for message in messages
    )


def neutralise(text: str) -> str:
    """Make every control token of a chat template in `text` plain text.

    A text without control tokens is returned unchanged, byte for byte. A second call changes
    nothing.
    """
    if not _HINTS.search(text):
        return text
    return rewrite(_CONTROL, text, "{} ")


def rewrite(pattern: re.Pattern[str], text: str, written: str) -> str:
    """Rewrite the characters of a text that match a pattern in its visible form.

    In the visible form, letters, brackets, bars and slashes are plain ones, and invisible
    characters are removed.

    Args:
        pattern: Matches a single character, one of `<`, `[`, `>` and `]`, with lookahead for its
            context.
        text: The text.
        written: Stands for each match; `{}` in it is the character as the text has it.
    """
    odd = set[str]() if text.isascii() else _ODD & set(_without_ascii(text))
    looks = _looks(text, odd)
    pieces, at = list[str](), 0
    # Both have as many openers, in the same order.
    for place, seen_at in zip(_openers(text), _openers(looks), strict=True):
        if pattern.match(looks, seen_at):
            pieces += text[at:place], written.format(text[place])
            at = place + 1
    return "".join([*pieces, text[at:]]) if pieces else text


def _openers(text: str) -> Iterator[int]:
    """Yield where characters are with which a control token may begin."""
    # A single call of `re` over megabytes would hold Python's lock for all other threads.
    for begin in range(0, len(text), _AT_ONCE):
        for match in _OPENER.finditer(text, begin, begin + _AT_ONCE):
            yield match.start()


def _looks(text: str, odd: Set[str]) -> str:
    """Return the visible form of a text that has these odd characters."""
    if len(odd) > _FEW:
        begins = range(0, len(text), _AT_ONCE)
        return "".join(text[at : at + _AT_ONCE].translate(_TRANSLATED) for at in begins)
    for character in odd:
        text = text.replace(character, _LOOKS.get(character, ""))
    return text


def _without_ascii(text: str) -> str:
    # Fast, since a text of megabytes is looked through while others wait.
    rest = text.encode("utf-8", "surrogatepass").translate(None, _ASCII)
    return rest.decode("utf-8", "surrogatepass")
