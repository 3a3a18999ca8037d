"""Tokens: those of a text counted, those of a call estimated and read, those that steer disarmed.

Servers tokenise the rendered prompt as a whole, so `<|im_end|>` written by a user ends the turn
as if the application had written it. A space after the first character leaves the text readable
and makes it plain text for every tokenizer. What only looks like a token is treated alike: a
server, or the model, may read it as one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol, cast, runtime_checkable

from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.wrappers import unwrapped
from moa.errors import EndpointError
from moa.usage import Amount, Price

_BYTES_A_TOKEN = 3
_MOST = 10**9
"""Maximum tokens of one request: what is above is no count."""
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
_TOKEN = re.compile(
    "|".join(
        (
            r"<(?=/?\|[^<>\s]{0,100}>)",  # <|im_start|>, <|turn>, and DeepSeek's wide bars
            r"<(?=/?\|DSML\|)",
            r">(?=>(?:TITLE|ABSTRACT|INTRODUCTION|SUMMARY|COMMENT|QUESTION|ANSWER|DOMAIN)<<)",
            r"<(?=/?[^<>\s|]{1,100}\|>)",  # <turn|>
            rf"<(?=/?(?:{_NAMED})>)",
            r"<(?=</?SYS>>)",
            rf"\[(?=/?(?:{_BRACKETED})\])",
            r"\[(?=\|[^\[\]\s]{0,100}\|\])",  # [|user|]
            r"\](?=~!?b[\[\]])",
            r"\[(?=e~\[)",
        )
    )
)
_HINTS = re.compile(f"[>\\]~|{''.join(odd for odd, plain in _LOOKS.items() if plain in '>]|')}]")


def approximate_tokens(text: str) -> int:
    """Count tokens without a tokenizer, on the safe side: one for three bytes of UTF-8.

    English has more than four bytes a token, Chinese three and a half.
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_A_TOKEN)


def fewest_tokens(text: str) -> int:
    """Count tokens without a tokenizer, from below: no token is longer than a word.

    Of writing without spaces that says next to nothing.
    """
    return len(text.split())


@runtime_checkable
class CountsTokens(Protocol):
    """An endpoint whose server lends its tokenizer. Counting is free, and charged nowhere."""

    async def count_tokens(self, text: str, context: RunContext, /) -> int:
        """Count the tokens of a text, in which nothing is a control token."""
        ...


async def tokens_of(endpoint: Endpoint | None, text: str, context: RunContext) -> int:
    """Count tokens by the endpoint's tokenizer, else approximately, on the safe side."""
    server = None if endpoint is None else unwrapped(endpoint)
    if text and isinstance(server, CountsTokens):
        with suppress(EndpointError):  # it lends none after all; a safe count does as well
            return await server.count_tokens(text, context)
    return approximate_tokens(text)


def window_of(endpoint: Endpoint | None) -> int | None:
    """Tokens that fit into one request, prompt and answer together; `None` is unknown."""
    server = None if endpoint is None else unwrapped(endpoint)
    window: object = getattr(server, "context_window", None)
    return window if isinstance(window, int) else None


def estimate_of(*texts: str, max_tokens: int, price: Price) -> Amount:
    """Estimate one call from the length of its texts, priced where the price is known."""
    tokens = sum(map(approximate_tokens, texts))
    return price.charge(Amount(calls=1, input_tokens=tokens, output_tokens=max_tokens))


def amount_of(body: Mapping[str, Any], *, estimate: Amount) -> Amount | None:
    """Read the `usage` of an answer, in the words of OpenAI, of System One or of LangChain.

    It isn't priced yet. `None`: it says nothing readable of what the call took.
    """
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    known = cast("dict[str, Any]", usage)
    taken = _count(known, "prompt_tokens", "input_tokens")
    written = _count(known, "completion_tokens", "output_tokens")
    total = _count(known, "total_tokens")
    # A proxy that knows nothing may say 0, but no prompt has no token.
    if not taken and estimate.input_tokens:
        return None
    if written is None and total is None and estimate.output_tokens:
        return None
    taken = taken or 0
    return Amount(
        calls=estimate.calls,
        input_tokens=taken,
        cached_input_tokens=min(taken, _cached(known) or 0),
        # Gemini's compatible endpoint counts reasoning in the total alone.
        output_tokens=max(written or 0, (total or 0) - taken),
    )


def _cached(usage: Mapping[str, Any]) -> int | None:
    for key in ("prompt_tokens_details", "input_tokens_details", "input_token_details"):
        details = usage.get(key)
        if isinstance(details, dict):
            return _count(cast("dict[str, Any]", details), "cached_tokens", "cache_read")
    # DeepSeek's name for it, Mistral's, and pydantic-ai's.
    return _count(usage, "prompt_cache_hit_tokens", "num_cached_tokens", "cache_read_tokens")


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    """Read the first of several counts; `None`: there is none, or what is there is no count."""
    value = next((usage[name] for name in names if usage.get(name) is not None), None)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return int(value)
    return None


def neutralise(text: str) -> str:
    """Make every control token of a chat template in `text` plain text.

    Text without control tokens comes back unchanged, byte for byte. Doing it twice changes
    nothing more.
    """
    if not _HINTS.search(text):
        return text
    return rewritten(_TOKEN, text, lambda opener: f"{opener} ")


def rewritten(pattern: re.Pattern[str], text: str, write: Callable[[str], str]) -> str:
    """Rewrite characters of a text where a pattern finds them in what the text looks like.

    The pattern matches one character, and what stands around it by looking. Letters, brackets, bars
    and slashes are plain ones to it, and what nobody sees isn't there.
    """
    if text.isascii() or _ODD.isdisjoint(text):
        return pattern.sub(lambda found: write(found[0]), text)
    looks, places = text.translate(_TRANSLATED), range(len(text))
    if len(looks) < len(text):
        places = [i for i in places if text[i] not in _UNSEEN]
    pieces: list[str] = []
    end = 0
    for found in pattern.finditer(looks):
        place = places[found.start()]
        pieces += [text[end:place], write(text[place])]
        end = place + 1
    return "".join((*pieces, text[end:]))
