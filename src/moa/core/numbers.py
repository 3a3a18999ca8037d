"""Numbers: those that a text writes in digits, in plain notation and in LaTeX."""

from __future__ import annotations

import re
from fractions import Fraction
from itertools import islice

_LONGEST_NUMBER = 60
_PLACES = 12
_LATEX: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:text[a-z]{0,2}|math[a-z]{2}|mbox|boxed)\s?\{([^{}]{0,99})\}", r" \1 "),
        (r"\\[dt]?frac\s?\{([^{}]{1,99})\}\s?\{([^{}]{1,99})\}", r"((\1)/(\2))"),
        (r"\((\d[\d.,]{0,59})\)", r"\1"),  # of a fraction of two numbers
        (r"\\(?:times|cdot|ast)(?![a-z])", "*"),
        (r"\\div(?![a-z])", "/"),
        (r"\\(?:left|right|quad|qquad|displaystyle)(?![a-z])|\\[][(),;:! ]|&", " "),
        (r"\{,\}", ","),
        (r"\^\{(\d{1,9})\}", r"^\1"),
        (r"\s{2,99}", " "),
    )
)
"""Rewrites LaTeX notation of sums as plain notation."""
MONEY = "$€£"
_NUMBER = r"(?>\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)"
NUMBER = re.compile(_NUMBER)
"""A number as a text writes it: digits, with commas and a decimal point."""
_SIGNED = re.compile(
    rf"((?<![\w)])[-\u2212])?[{MONEY}]?"
    rf"(?:(?<![/\d])({_NUMBER})\s?/\s?(\d{{1,20}})(?![\d/])|({_NUMBER}))"
)
"""A number with its sign, or a fraction of two; of `3-5` and of dates each number is one alone."""


def find_numbers(text: str) -> list[Fraction]:
    """Return all numbers written in digits, in order, without signs and units.

    A number of more than 60 characters is skipped.
    """
    numbers = NUMBER.findall(text)
    values = {
        digits: Fraction(digits.replace(",", ""))  # slow, so once for each spelling
        for digits in set(numbers)
        if len(digits) <= _LONGEST_NUMBER
    }
    return [values[digits] for digits in numbers if digits in values]


def has_numbers(text: str, least: int) -> bool:
    """Return True if `find_numbers` would find at least so many; the text is read up to them."""
    found = (match for match in NUMBER.finditer(text) if len(match[0]) <= _LONGEST_NUMBER)
    return next(islice(found, least - 1, None), None) is not None


def find_signed_numbers(text: str) -> list[Fraction]:
    r"""Return all numbers in order, with their signs; `3/4` and `\frac{3}{4}` are one number."""
    numbers: list[Fraction] = []
    for minus, over, under, alone in _SIGNED.findall(without_latex(text)):
        digits, divisor = over or alone, int(under or 1) or 1
        if len(digits) <= _LONGEST_NUMBER:
            value = Fraction(digits.replace(",", "")) / divisor
            numbers.append(-value if minus else value)
    return numbers


def without_latex(text: str) -> str:
    r"""Rewrite LaTeX, such as `\frac{9}{3} \times 2`, as a plain expression."""
    if "\\" not in text:
        return text
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def format_number(value: Fraction) -> str:
    """Write a number in digits, with at most 12 decimal places."""
    integer, fraction = divmod(round(abs(value) * 10**_PLACES), 10**_PLACES)
    decimals = f"{fraction:0{_PLACES}d}".rstrip("0")
    sign = "-" if value < 0 and (integer or fraction) else ""
    return f"{sign}{integer}.{decimals}" if decimals else f"{sign}{integer}"
