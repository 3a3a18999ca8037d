"""Reply signs: features of a model's reply that indicate right or wrong, without a model.

They recompute its equations, follow its steps from the numbers of the prompt to the final answer,
and look for signs of doubt in its form.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from math import log1p

from moa.core.numbers import NUMBER, find_numbers
from moa.graphs.mixing.answer_extraction import FinalAnswer, find_final_answer
from moa.guards.arithmetic import Equation, find_equations

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
"""Maximum characters to read of a prompt, and of the end of a reply."""
_MOST_JOINED = 100
"""Maximum of prompt numbers to combine in pairs."""
_KNOWN = {Fraction(n) for n in (1, 2, 3, 4, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000)}
"""Numbers that need no source: units of time, halves, percent."""


@dataclass(frozen=True, slots=True)
class PromptNumber:
    """A quantity of a prompt."""

    forms: tuple[Fraction, ...]
    """The number as written, and as an equation may use it: 30 % is 0.3, 0.7, 1.3, 70, …"""
    must_be_used: bool = True
    """False for words such as "two" and for 1, which a solution may ignore."""


def find_prompt_numbers(prompt: str) -> list[PromptNumber]:
    """Return the quantities of a prompt; a repeated one with the same noun counts once.

    Ordinals ("the 3rd", "the third") are none. Number words are recognised in English.
    """
    text = prompt[:_READ].lower()
    numbers: dict[tuple[Fraction, str], PromptNumber] = {}
    for match in _TOLD.finditer(text):
        number = _read_number(match)
        if number is not None:
            noun = _UNIT.match(text, match.end())
            unit = noun[1].rstrip("s")[:5] if noun else ""
            numbers.setdefault((number.forms[0], unit), number)
    return list(numbers.values())


def _read_number(match: re.Match[str]) -> PromptNumber | None:
    if text := match["percent"]:
        return next((PromptNumber(_percent_forms(n)) for n in find_numbers(text)), None)
    if text := match["fraction"]:
        numerator, denominator = (Fraction(part) for part in text.split("/"))
        return PromptNumber(_fraction_forms(numerator, denominator)) if denominator else None
    if text := match["figure"]:
        numbers = () if match["place"] else tuple(find_numbers(text))
        return PromptNumber(numbers, must_be_used=numbers[0] != 1) if numbers else None
    if part := match["part"]:
        numerator, denominator = Fraction(_COUNTS[match["count"]]), Fraction(_PARTS[part[:2]])
        return PromptNumber(_fraction_forms(numerator, denominator))
    if match["half"]:
        return PromptNumber(_fraction_forms(Fraction(1), Fraction(2)))
    word = match["word"]
    if word in _TIMES:
        return PromptNumber((Fraction(_TIMES[word]),))
    value = _NUMBER_WORDS.get(word)
    return None if value is None else PromptNumber((Fraction(value),), must_be_used=False)


def _percent_forms(percent: Fraction) -> tuple[Fraction, ...]:
    share = percent / 100
    return percent, share, 1 - share, 1 + share, 100 - percent, 100 + percent


def _fraction_forms(numerator: Fraction, denominator: Fraction) -> tuple[Fraction, ...]:
    share = numerator / denominator
    return (
        share,
        denominator,
        1 - share,
        100 * share,
        numerator,
        denominator - numerator,
        Fraction(round(100 * share)),
    )


def reply_features(prompt: str, reply: str) -> dict[str, float]:
    """Compute features of a reply: equations, final answer, steps, sources, doubt."""
    equations, answer = find_equations(reply), find_final_answer(reply)
    results = [e.value for e in equations]
    wrong = sum(not e.holds for e in equations)
    number = answer.number if answer.number is not None else Fraction(0)
    doubts = sum(_doubts(reply, answer, wrong=wrong > 0))
    return {
        "reply characters": log1p(len(reply)),
        "sums": float(len(results)),
        "wrong sums": float(wrong),
        "marked": float(answer.marked),
        "final is last result": float(bool(results) and _is_near(results[-1], number)),
        **_step_signs(equations, answer),
        **_source_signs(prompt, equations, answer),
        "kinds of doubt": float(doubts),
        "any doubt": float(doubts > 0),
    }


def _step_signs(equations: Sequence[Equation], answer: FinalAnswer) -> dict[str, float]:
    """Check that each result is used later, or is the final answer."""
    operands = [set(find_numbers(e.left)) for e in equations]
    unused = sum(
        not any(e.value in later for later in operands[index + 1 :])
        for index, e in enumerate(equations)
        if answer.number is None or not _is_near(e.value, answer.number)
    )
    uses = Counter(number for numbers in operands for number in numbers)
    return {
        "results not used": float(unused),
        "results used twice": float(sum(uses[e.value] > 1 for e in equations)),
        "results found twice": float(len(equations) - len({e.value for e in equations})),
        "longest sum": float(max((len(find_numbers(e.left)) for e in equations), default=0)),
        "terms": float(sum(len(find_numbers(e.left)) for e in equations)),
    }


def _source_signs(
    prompt: str, equations: Sequence[Equation], answer: FinalAnswer
) -> dict[str, float]:
    """Check that the numbers of the prompt, and no others, lead to the final answer."""
    prompt_numbers = find_prompt_numbers(prompt)
    path = _find_path(equations, answer.number)
    operands = [n for e in path for n in find_numbers(e.left)]
    known_numbers = {form for number in prompt_numbers for form in number.forms}
    known_numbers |= {n for e in equations for n in (e.value, *find_numbers(e.right))}
    strange = [number for number in operands if number not in known_numbers]
    not_on_path = _find_unused(prompt_numbers, operands, set(strange))
    return {
        "prompt numbers": float(len(prompt_numbers)),
        "all on the path": float(not not_on_path),
        "all but words on the path": float(not any(number.must_be_used for number in not_on_path)),
        "share not on the path": len(not_on_path) / max(1, len(prompt_numbers)),
        "path": float(len(path)),
        "off the path": float(len(equations) - len(path)),
        "numbers without a source": float(sum(n not in _KNOWN for n in strange)),
        "known constants": float(sum(n in _KNOWN for n in strange)),
        "sums for a prompt number": len(equations) / max(1, len(prompt_numbers)),
    }


def _find_path(equations: Sequence[Equation], final: Fraction | None) -> list[Equation]:
    """Return the equations that lead to the final answer, followed back from it."""
    ends = [i for i, e in enumerate(equations) if final is not None and _is_near(e.value, final)]
    results = [{e.value, *find_numbers(e.right)} for e in equations]
    waiting, seen = ends[-1:], set[int]()
    while waiting:
        index = waiting.pop()
        if index in seen:
            continue
        seen.add(index)
        for number in find_numbers(equations[index].left):
            sources = (i for i in reversed(range(index)) if number in results[i])
            waiting += islice(sources, 1)
    return [equations[index] for index in sorted(seen)]


def _find_unused(
    prompt_numbers: Sequence[PromptNumber], operands: Sequence[Fraction], strange: set[Fraction]
) -> list[PromptNumber]:
    """Return the prompt numbers that no operand stands for; each operand stands for one.

    An unexplained operand made of two prompt numbers stands for both: a mental step.
    """
    left = Counter(operands)
    missing: list[PromptNumber] = []
    for number in prompt_numbers:
        form = next((form for form in number.forms if left[form]), None)
        if form is None:
            missing.append(number)
        else:
            left[form] -= 1
    values = [number.forms[0] for number in prompt_numbers[:_MOST_JOINED]]
    return [
        number
        for index, number in enumerate(missing)
        if index >= _MOST_JOINED
        or not any(_is_mental_step(number.forms[0], value, strange) for value in values)
    ]


def _is_mental_step(a: Fraction, b: Fraction, operands: set[Fraction]) -> bool:
    if a == b or 0 in (a, b):
        return False
    results = {a + b, a - b, b - a, a * b, a / b, b / a}
    return not operands.isdisjoint(results - {a, b})


def _doubts(reply: str, answer: FinalAnswer, *, wrong: bool) -> tuple[bool, ...]:
    """Detect kinds of plain doubt; one is significant, and further ones add little."""
    return (
        not answer.marked and not _CLOSED.search(reply[-_READ:]),  # cut off
        wrong,
        bool(_HEDGE.search(reply, 0, _READ)),
        bool(_ROUNDED.search(reply, 0, _READ)),
        answer.number is not None and answer.number.denominator > 1,
        not NUMBER.search(answer.after),
    )


def _is_near(first: Fraction, second: Fraction) -> bool:
    return abs(first - second) <= Fraction(1, 100) * max(Fraction(1), abs(second))
