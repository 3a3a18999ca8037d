"""Control tokens: takes the power from chat-template tokens that stand inside a user's text.

Servers tokenise the rendered prompt as a whole, so `<|im_end|>` written by a user ends the turn
as if the application had written it. A space after the first character leaves the text readable
and makes it plain text for every tokenizer. What only looks like a token is treated alike: a
server, or the model, may read it as one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

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
    for first, last in ((0x2100, 0x217F), (0x24B6, 0x24E9), (0xFF01, 0xFF5E), (0x1D400, 0x1D7FF))
    for character in map(chr, range(first, last + 1))
    if re.fullmatch(r"[\w<>\[\]|/]", plain := unicodedata.normalize("NFKC", character), re.ASCII)
} | dict(
    zip(
        "аеорсухіјѕһԁԛԝкмтАВЕКМНОРСТХУІЈЅανιοΑΒΕΖΗΙΚΜΝΟΡΤΥΧıɡɑ‹〈〈⟨❮ᐸ›〉〉⟩❯ᐳ∣ǀ│❘￨∕⁄⧸",  # noqa: RUF001
        "aeopcyxijshdqwkmtABEKMHOPCTXYIJSavioABEZHIKMNOPTYXiga<<<<<<>>>>>>|||||///",
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
    r"|function_calls?|fim_(?:prefix|middle|suffix|pad)|repo_?name|file_sep|filename|gh_stars"
    r"|issue_(?:start|comment|closed)|jupyter_(?:start|text|code|output|script)|empty_output"
    r"|commit_(?:before|msg|after)|(?:unused|reserved_|extra_id_|extra_|SPECIAL_)[0-9]+"
    r"|(?:BOS|EOS|PAD|UNK|CLS|SEP|MASK)_TOKEN|seed:[a-z_]+(?::[a-z_]+)?"
)
_BRACKETED = (
    r"INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_(?:RESULTS|CALLS|CONTENT)|MODEL_SETTINGS|CALL_ID|ARGS"
    r"|THINK|IMG(?:_BREAK|_END)?|(?:BEGIN_)?AUDIO|PREFIX|MIDDLE|SUFFIX|[gs]?MASK|CLS|SEP|PAD|UNK"
    r"|BOS|EOS|control_[0-9]+"
)
_TOKEN = re.compile(
    "|".join(
        (
            r"<(?=\|[^<>\s]{0,100}>)",  # <|im_start|>, <|turn>, and DeepSeek's wide bars
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
_HINTS = re.compile(f"[>\\]~{''.join(odd for odd, plain in _LOOKS.items() if plain in '>]')}]")


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
