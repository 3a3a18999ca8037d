"""Told numbers: the quantities that a prompt gives, in every form that a sum may use them in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from moa.acceptance.arithmetic import NUMBER, numbers

Kind = Literal["figure", "part", "times", "word"]
"""In digits; a part such as "two thirds"; a multiple such as "twice"; any other number word, and 1,
which need not be computed with."""
KINDS: tuple[Kind, ...] = get_args(Kind)

_N = NUMBER.pattern
_TOLD = re.compile(
    rf"""(?P<percent>{_N})\s*(?:%|percent)
    | (?P<fraction>\d{{1,20}}\s*/\s*\d{{1,20}}(?!\d))
    | (?P<figure>{_N})(?P<place>st|nd|rd|th)?\b
    | \b(?P<count>a|an|one|two|three|four|five)[\s-]
      (?P<part>hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|sixths?|eighths?|tenths?)\b
    | \b(?P<half>half)\b
    | \b(?P<word>[a-z]+)\b""",
    re.VERBOSE,
)
_COUNTS = {"a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5}
_PARTS = {"ha": 2, "th": 3, "qu": 4, "fo": 4, "fi": 5, "si": 6, "ei": 8, "te": 10}
_TIMES = {"twice": 2, "double": 2, "doubled": 2, "triple": 3, "tripled": 3, "thrice": 3}
_WORDS = {
    "two": 2, "pair": 2, "couple": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "dozen": 12, "fifteen": 15,
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "hundred": 100,
}  # fmt: skip
_UNIT = re.compile(r"[\s-]*([a-z]{3,})")


@dataclass(frozen=True, slots=True)
class ToldNumber:
    """A quantity of a prompt."""

    kind: Kind
    forms: tuple[Fraction, ...]
    """As told, and as a sum may use it: 30 % is 0.3, 0.7, 1.3, 70, …"""


def told_numbers(prompt: str) -> list[ToldNumber]:
    """Give the quantities of a prompt; one told again with the same noun is given once.

    Places ("the 3rd", "the third") are none. Number words are known in English.
    """
    text = prompt.lower()
    found: dict[tuple[Fraction, str], ToldNumber] = {}
    for match in _TOLD.finditer(text):
        told = _read(match)
        if told is not None:
            noun = _UNIT.match(text, match.end())
            unit = noun[1].rstrip("s")[:5] if noun else ""
            found.setdefault((told.forms[0], unit), told)
    return list(found.values())


def _read(match: re.Match[str]) -> ToldNumber | None:
    if shown := match["percent"]:
        return next((ToldNumber("figure", _of_percent(n)) for n in numbers(shown)), None)
    if shown := match["fraction"]:
        over, under = (Fraction(part) for part in shown.split("/"))
        return ToldNumber("figure", _of_fraction(over, under)) if under else None
    if shown := match["figure"]:
        read = () if match["place"] else tuple(numbers(shown))
        return ToldNumber("word" if read[0] == 1 else "figure", read) if read else None
    if part := match["part"]:
        over, under = Fraction(_COUNTS[match["count"]]), Fraction(_PARTS[part[:2]])
        return ToldNumber("part", _of_fraction(over, under))
    if match["half"]:
        return ToldNumber("part", _of_fraction(Fraction(1), Fraction(2)))
    word = match["word"]
    if word in _TIMES:
        return ToldNumber("times", (Fraction(_TIMES[word]),))
    return ToldNumber("word", (Fraction(_WORDS[word]),)) if word in _WORDS else None


def _of_percent(percent: Fraction) -> tuple[Fraction, ...]:
    share = percent / 100
    return percent, share, 1 - share, 1 + share, 100 - percent, 100 + percent


def _of_fraction(over: Fraction, under: Fraction) -> tuple[Fraction, ...]:
    share = over / under
    return share, under, 1 - share, 100 * share, over, under - over, Fraction(round(100 * share))
