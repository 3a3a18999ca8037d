"""Arithmetic: recompute the equations in a text, exactly and without running code."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise

from moa.core.errors import InputError
from moa.core.numbers import MONEY, NUMBER, find_numbers, without_latex

_LONGEST = 200
"""Maximum characters of an expression."""
_MOST_SUMS = 200
_READ = 50_000
_BIGGEST = 10**30
_MOST_POWER = 64

_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: Fraction.__truediv__,
}
_SIGNS = str.maketrans(
    {
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{MIDDLE DOT}": "*",
        "\N{DIVISION SIGN}": "/",
        "\N{MINUS SIGN}": "-",
        "\N{EN DASH}": "-",
        "\\": None,
    }
)
_TIMES = re.compile(r"(?<=[\d)%\s])[xX](?=[\s\d(.$])")
# Possessive and bounded, so that no text takes longer than its length: it may be made to.
_REST = rf"{NUMBER.pattern}[%)\s]*+"
_TERM = rf"[(\s{MONEY}]*+{_REST}"
_MORE = rf"(?:[-+*/^][-\s]*+{_TERM}){{0,40}}+"
_STATED = re.compile(
    rf"(?<![\w.,)*/+({MONEY}-])(?<![)*/+({MONEY}-]\s)"
    rf"((?=\S)[({MONEY}]*+{_REST}{_MORE}=\s*+(?:{_TERM}{_MORE}=\s*+){{0,6}}"
    rf"-?\s*+[{MONEY}]?-?{NUMBER.pattern}%?)"
    r"(?!\s*[*/+(^]|\w)"
)
_UNITS = re.compile(
    r"(?<=\d)(?:\s?/\s?|[\s-])[a-z]{1,15}(?:[\s/-][a-z]{1,15}){0,3}\s?(?=[-+*/=])", re.IGNORECASE
)
"""Words between a number and a sign, such as those of `3 bags * 4 apples/bag = 12`."""
_ARITHMETIC = re.compile(r"[\d\s+\-*/().]+", re.ASCII)
_SHOWN = re.compile(r"-?[\d.]+")


@dataclass(frozen=True, slots=True)
class Equation:
    """Two expressions that a text claims to be equal."""

    left: str
    right: str
    error: float
    """Relative difference of the sides; 0 if the right side is exact, or rounded to the digits it
    shows."""
    exact: bool
    """True if the sides are equal without rounding."""
    value: Fraction
    """Value of the left side."""

    @property
    def holds(self) -> bool:
        """True if the sides are equal, rounding allowed."""
        return self.error == 0


def evaluate(expression: str) -> Fraction:
    """Compute an expression such as `2 x (1,000 + 50%)`, exactly.

    It supports numbers, `+ - * / x ^`, `%`, brackets and currency signs, and nothing else.

    Raises:
        InputError: the expression isn't supported, is too long or large, or divides by zero.
    """
    if len(expression) > _LONGEST:
        raise InputError(f"{len(expression)} characters are no sum: at most {_LONGEST}")
    code = _to_python(expression)
    if not _ARITHMETIC.fullmatch(code):
        raise InputError(f"{expression!r} has something in it that is no part of a sum")
    try:
        return _compute(ast.parse(code, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError, ArithmeticError) as error:
        raise InputError(f"{expression!r} can't be computed: {error}") from error


def find_equations(text: str) -> tuple[Equation, ...]:
    """Recompute each equation in a text, such as `3 x 4 = 12`.

    An equation repeated in a line is returned once. The order is that of the lines; reading stops
    after 200 equations or 50,000 characters.
    """
    equations: list[Equation] = []
    for line in text[:_READ].splitlines():
        plain_line = _UNITS.sub(" ", _plain_signs(without_latex(line)))
        line_equations: dict[tuple[object, ...], Equation] = {}
        for stated in islice(_STATED.findall(plain_line), _MOST_SUMS):
            line_equations.update(
                (_terms(equation), equation) for equation in _compute_pairs(stated)
            )
        equations += line_equations.values()
        if len(equations) >= _MOST_SUMS:
            break
    return tuple(equations[:_MOST_SUMS])


def _terms(equation: Equation) -> tuple[object, ...]:
    return (*sorted(find_numbers(equation.left)), equation.value, equation.holds)


def _compute_pairs(stated: str) -> Iterator[Equation]:
    """Yield the neighbours in `a = b = c` that can be computed, unless both are numbers."""
    sides = [side.strip() for side in stated.split("=")]
    for left, right in pairwise(sides):
        if NUMBER.fullmatch(left) and NUMBER.fullmatch(right):
            continue
        try:
            first, second = evaluate(left), evaluate(right)
        except InputError:
            continue
        difference = abs(first - second)
        largest = max(abs(first), abs(second))
        # Writers leave a sign out: `100% - 45% = 55`, or `3/4 * 100 = 75%`.
        percent = "%" in stated and 100 in (first / (second or 1), second / (first or 1))
        close = percent or difference <= _rounding_error(right)
        yield Equation(
            left=left,
            right=right,
            error=0.0 if close else float(difference / largest),
            exact=not difference,
            value=first,
        )


def _rounding_error(number: str) -> Fraction:
    """Return the maximum rounding error of a number as shown; 0 for any other expression."""
    digits = number.replace(",", "").strip(f" {MONEY}")
    if not _SHOWN.fullmatch(digits):
        return Fraction(0)
    places = len(digits.partition(".")[2])
    return Fraction(1, 2 * 10**places) if places else Fraction(0)


def _plain_signs(text: str) -> str:
    return _TIMES.sub("*", text.translate(_SIGNS))


def _to_python(expression: str) -> str:
    code = re.sub(rf"[{MONEY},]", "", _plain_signs(without_latex(expression))).strip()
    code = code.replace("^", "**").replace("%", "*(1/100)")
    return re.sub(r"(?<![\d.])0+(?=\d)", "", code)


def _compute(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _check_size(Fraction(str(number)))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_compute(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return _compute(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_compute(left), _compute(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _check_size(_OPERATIONS[type(op)](_compute(left), _compute(right)))
        case _:
            raise ValueError(f"{type(node).__name__} is no part of a sum")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > _MOST_POWER or abs(base) > _BIGGEST:
        raise ValueError("the exponent is no small whole number")
    return _check_size(Fraction(base**exponent.numerator))


def _check_size(value: Fraction) -> Fraction:
    if abs(value.numerator) > _BIGGEST**2 or value.denominator > _BIGGEST**2:
        raise ValueError("the number is too large")
    return value
