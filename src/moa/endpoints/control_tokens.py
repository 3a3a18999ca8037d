"""Control tokens: takes the power from chat-template tokens that stand inside a user's text.

Servers tokenise the rendered prompt as a whole, so `<|im_end|>` written by a user ends the turn
as if the application had written it. A space after the first character leaves the text readable
and makes it plain text for every tokenizer.
"""

from __future__ import annotations

import re

_BARS = "|\N{FULLWIDTH VERTICAL LINE}"
_NAMED = (
    "s",
    "unk",
    "pad",
    "bos",
    "eos",
    "cls",
    "sep",
    "mask",
    "image",
    "audio",
    "video",
    "image_soft_token",
    "(?:start|end)_of_(?:turn|image|audio|text|role)",
    "(?:begin|end)_of_(?:text|sentence|turn)",
    "think(?:ing)?",
    "thought",
    "tools?",
    "tool_(?:call|calls|response|result|results|output)",
    "function_calls?",
    "fim_(?:prefix|middle|suffix|pad)",
    "repo_?name",
    "file_sep",
    "filename",
    "gh_stars",
    "issue_(?:start|comment|closed)",
    "jupyter_(?:start|text|code|output|script)",
    "empty_output",
    "commit_(?:before|msg|after)",
    "(?:unused|reserved_|extra_id_|extra_|SPECIAL_)[0-9]+",
    "(?:BOS|EOS|PAD|UNK|CLS|SEP|MASK)_TOKEN",
    "seed:[a-z_]+(?::[a-z_]+)?",
)
_BRACKETED = (
    "INST",
    "SYSTEM_PROMPT",
    "AVAILABLE_TOOLS",
    "TOOL_(?:RESULTS|CALLS|CONTENT)",
    "MODEL_SETTINGS",
    "CALL_ID",
    "ARGS",
    "THINK",
    "IMG(?:_BREAK|_END)?",
    "(?:BEGIN_)?AUDIO",
    "PREFIX",
    "MIDDLE",
    "SUFFIX",
    "[gs]?MASK",
    "CLS",
    "SEP",
    "PAD",
    "UNK",
    "BOS",
    "EOS",
    "control_[0-9]+",
)
_TOKEN = re.compile(
    "|".join(
        (
            rf"<(?=[{_BARS}][^<>\s]{{0,100}}>)",  # <|im_start|>, <|turn>, DeepSeek's wide bars
            rf"<(?=/?[^<>\s{_BARS}]{{1,100}}[{_BARS}]>)",  # <turn|>
            rf"<(?=/?(?:{'|'.join(_NAMED)})>)",
            r"<(?=</?SYS>>)",
            rf"\[(?=/?(?:{'|'.join(_BRACKETED)})\])",
            rf"\[(?=[{_BARS}][^\[\]\s]{{0,100}}[{_BARS}]\])",  # [|user|]
            r"\](?=~!?b[\[\]])",
            r"\[(?=e~\[)",
        )
    )
)
_HINTS = (">", "]", "~")


def neutralise(text: str) -> str:
    """Make every control token of a chat template in `text` plain text.

    Text without control tokens comes back unchanged, byte for byte. Doing it twice changes
    nothing more.
    """
    if not any(hint in text for hint in _HINTS):
        return text
    return _TOKEN.sub(lambda found: f"{found[0]} ", text)
