"""Text: its words, in languages with spaces between them and without."""

from __future__ import annotations

import re

# Thai to Khmer, kana, Chinese characters.
UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]+")
"""Writing without spaces between its words."""
_WORD = re.compile(r"\w+")


def words_in(text: str) -> list[str]:
    """List the words of a text in small letters, without what stands between them."""
    return _WORD.findall(text.casefold())


def word_count(text: str) -> int:
    """Count what stands between blanks; of writing without spaces each character, as is usual."""
    return sum(map(_in, text.split()))


def _in(token: str) -> int:
    unspaced = sum(map(len, UNSPACED.findall(token)))
    if not unspaced:
        return 1
    others = UNSPACED.sub(" ", token).split()
    return unspaced + sum(any(map(str.isalnum, each)) for each in others)
