"""Reply signs: signs in a model's reply that it is right or wrong, without asking a model.

The sums in it are re-computed, its steps are followed from the numbers of the prompt to the final
answer, and plain doubt is looked for in its form.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import log1p

from moa.calibration.arithmetic import NUMBER, Equation, check, numbers

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
_NUMBER_WORDS = {
    "two": 2, "pair": 2, "couple": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "dozen": 12, "fifteen": 15,
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "hundred": 100,
}  # fmt: skip
_UNIT = re.compile(r"[\s-]*([a-z]{3,})")
_MARK = re.compile(
    r"\\boxed\{|\b(?:the )?(?:final )?answer(?: is|:)|\*\*answer:?\*\*", re.IGNORECASE
)
_HEDGE = re.compile(
    r"\b(?:however|assum\w*|not possible|impossible|cannot|can't|mistake|sorry|unclear|"
    r"not enough|doesn't (?:say|make sense)|not specified|no information|contradict\w*|"
    r"not sure|don't know|unable|ambiguous)\b",
    re.IGNORECASE,
)
_ROUNDED = re.compile(
    r"fraction of|whole number|round(?:ed|ing)? (?:up|down|to)|can't (?:buy|have)|"
    r"cannot (?:buy|have)|approximately|roughly",
    re.IGNORECASE,
)
_CLOSED = re.compile(r"[.!?)\]}\"'*>`]\s*$")
_READ = 50_000
"""Characters of a prompt, and of the end of a reply, that are read."""
_MOST_JOINED = 100
"""Told numbers of which each is tried with each."""
_KNOWN = {Fraction(n) for n in (1, 2, 3, 4, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)}
"""Numbers that anyone may use without a source: units of time, halves, percent."""


@dataclass(frozen=True, slots=True)
class ToldNumber:
    """A quantity of a prompt."""

    forms: tuple[Fraction, ...]
    """As told, and as a sum may use it: 30 % is 0.3, 0.7, 1.3, 70, …"""
    needed: bool = True
    """Whether it is to be computed with: a word such as "two" need not be, and 1 need not."""


def told_numbers(prompt: str) -> list[ToldNumber]:
    """Give the quantities of a prompt; one told again with the same noun is given once.

    Places ("the 3rd", "the third") are none. Number words are known in English.
    """
    text = prompt[:_READ].lower()
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
        return next((ToldNumber(_of_percent(n)) for n in numbers(shown)), None)
    if shown := match["fraction"]:
        over, under = (Fraction(part) for part in shown.split("/"))
        return ToldNumber(_of_fraction(over, under)) if under else None
    if shown := match["figure"]:
        read = () if match["place"] else tuple(numbers(shown))
        return ToldNumber(read, needed=read[0] != 1) if read else None
    if part := match["part"]:
        over, under = Fraction(_COUNTS[match["count"]]), Fraction(_PARTS[part[:2]])
        return ToldNumber(_of_fraction(over, under))
    if match["half"]:
        return ToldNumber(_of_fraction(Fraction(1), Fraction(2)))
    word = match["word"]
    if word in _TIMES:
        return ToldNumber((Fraction(_TIMES[word]),))
    known = _NUMBER_WORDS.get(word)
    return None if known is None else ToldNumber((Fraction(known),), needed=False)


def _of_percent(percent: Fraction) -> tuple[Fraction, ...]:
    share = percent / 100
    return percent, share, 1 - share, 1 + share, 100 - percent, 100 + percent


def _of_fraction(over: Fraction, under: Fraction) -> tuple[Fraction, ...]:
    share = over / under
    return share, under, 1 - share, 100 * share, over, under - over, Fraction(round(100 * share))


@dataclass(frozen=True, slots=True)
class FinalAnswer:
    """The answer that a reply ends with."""

    marked: bool
    """Whether it stands behind a mark, such as `\\boxed{` or "the answer is"."""
    number: Fraction | None
    """The number behind the mark, else the last of the reply; `None` where there is none."""
    before: str
    """The reply up to the mark."""
    after: str
    """What stands behind the mark; empty without one."""


def final_answer(reply: str) -> FinalAnswer:
    """Find the answer that a reply ends with, in its last 50,000 characters."""
    reply = reply[-_READ:]
    marks = list(_MARK.finditer(reply))
    mark = marks[-1] if marks else None
    before, after = (reply[: mark.start()], reply[mark.end() :]) if mark else (reply, "")
    found = numbers(after)[:1] or numbers(before)[-1:]
    return FinalAnswer(mark is not None, found[0] if found else None, before, after)


def reply_features(prompt: str, reply: str) -> dict[str, float]:
    """Describe a reply to a prompt by numbers: sums, final answer, steps, sources, doubt."""
    equations, answer = check(reply), final_answer(reply)
    results = [e.value for e in equations]
    wrong = sum(not e.holds for e in equations)
    number = answer.number if answer.number is not None else Fraction(0)
    doubts = sum(_doubts(reply, answer, wrong=wrong > 0))
    return {
        "reply characters": log1p(len(reply)),
        "sums": float(len(results)),
        "wrong sums": float(wrong),
        "marked": float(answer.marked),
        "final is last result": float(bool(results) and _near(results[-1], number)),
        **_steps(equations, answer),
        **_sources(prompt, equations, answer),
        "kinds of doubt": float(doubts),
        "any doubt": float(doubts > 0),
    }


def _steps(equations: Sequence[Equation], answer: FinalAnswer) -> dict[str, float]:
    """Whether each result is used later, or is the final answer."""
    operands = [set(numbers(e.left)) for e in equations]
    unused = sum(
        not any(e.value in later for later in operands[place + 1 :])
        for place, e in enumerate(equations)
        if answer.number is None or not _near(e.value, answer.number)
    )
    used = Counter(number for found in operands for number in found)
    return {
        "results not used": float(unused),
        "results used twice": float(sum(used[e.value] > 1 for e in equations)),
        "results found twice": float(len(equations) - len({e.value for e in equations})),
        "longest sum": float(max((len(numbers(e.left)) for e in equations), default=0)),
        "terms": float(sum(len(numbers(e.left)) for e in equations)),
    }


def _sources(prompt: str, equations: Sequence[Equation], answer: FinalAnswer) -> dict[str, float]:
    """Whether the numbers of the prompt lead to the final answer, and no others do."""
    told = told_numbers(prompt)
    path = _path(equations, answer.number)
    operands = [n for e in path for n in numbers(e.left)]
    known = {form for number in told for form in number.forms}
    known |= {n for e in equations for n in (e.value, *numbers(e.right))}
    strange = [number for number in operands if number not in known]
    not_on_path = _not_taken(told, operands, set(strange))
    return {
        "prompt numbers": float(len(told)),
        "all on the path": float(not not_on_path),
        "all but words on the path": float(not any(number.needed for number in not_on_path)),
        "share not on the path": len(not_on_path) / max(1, len(told)),
        "path": float(len(path)),
        "off the path": float(len(equations) - len(path)),
        "numbers without a source": float(sum(n not in _KNOWN for n in strange)),
        "known constants": float(sum(n in _KNOWN for n in strange)),
        "sums for a prompt number": len(equations) / max(1, len(told)),
    }


def _path(equations: Sequence[Equation], final: Fraction | None) -> list[Equation]:
    """Give the sums that the final answer is made of, followed back from it."""
    ends = [i for i, e in enumerate(equations) if final is not None and _near(e.value, final)]
    made = [{e.value, *numbers(e.right)} for e in equations]
    waiting, seen = ends[-1:], set[int]()
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        for number in numbers(equations[place].left):
            sources = (i for i in reversed(range(place)) if number in made[i])
            waiting += islice(sources, 1)
    return [equations[place] for place in sorted(seen)]


def _not_taken(
    told: Sequence[ToldNumber], operands: Sequence[Fraction], strange: set[Fraction]
) -> list[ToldNumber]:
    """Give the told numbers that no operand stands for; each operand stands for one.

    A strange one that is made of two told numbers stands for both: a step done in the head.
    """
    left = Counter(operands)
    missing: list[ToldNumber] = []
    for number in told:
        form = next((form for form in number.forms if left[form]), None)
        if form is None:
            missing.append(number)
        else:
            left[form] -= 1
    first = [number.forms[0] for number in told[:_MOST_JOINED]]
    return [
        number
        for place, number in enumerate(missing)
        if place >= _MOST_JOINED
        or not any(_in_the_head(number.forms[0], other, strange) for other in first)
    ]


def _in_the_head(one: Fraction, other: Fraction, operands: set[Fraction]) -> bool:
    if one == other or 0 in (one, other):
        return False
    made = {one + other, one - other, other - one, one * other, one / other, other / one}
    return not operands.isdisjoint(made - {one, other})


def _doubts(reply: str, answer: FinalAnswer, *, wrong: bool) -> tuple[bool, ...]:
    """Kinds of plain doubt: one is telling, and further ones add little."""
    return (
        not answer.marked and not _CLOSED.search(reply[-_READ:]),  # cut off
        wrong,
        bool(_HEDGE.search(reply, 0, _READ)),
        bool(_ROUNDED.search(reply, 0, _READ)),
        answer.number is not None and answer.number.denominator > 1,
        not NUMBER.search(answer.after),
    )


def _near(first: Fraction, second: Fraction) -> bool:
    return abs(first - second) <= Fraction(1, 100) * max(Fraction(1), abs(second))
