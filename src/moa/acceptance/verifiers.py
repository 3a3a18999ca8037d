"""Verifiers: acceptance policies that check a reply without asking a model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from moa.acceptance import Judgement, Policy, share, text_of
from moa.acceptance.arithmetic import check, numbers
from moa.acceptance.verifying import reply_features
from moa.acceptance.words import word_count
from moa.context import RunContext
from moa.errors import ConfigError

_WORD = re.compile(r"[^\W\d_]{4,}")
_STEM = 6
"""Words with the same first letters, this many, count as one: inflected forms of it."""
_PLAIN = frozenset(
    """
    about above after again also because been before being below between both cannot could does down
    each from further have having here however into itself just more most only other over same
    should some such than that their them then there therefore these they this those through under
    until very were what when where which while whom will with within without would your yours
    answer based passage text according
    """.split()  # noqa: SIM905 - a list of them takes a screen
)


@dataclass(frozen=True, slots=True)
class Arithmetic(Policy):
    """Re-computes the sums that a reply states, `3 * 4 = 12`; a wrong one is not accepted.

    The score is the share of sums that hold, and 0.5 where there are none.

    Args:
        least: Fewest sums that a reply must state to be accepted.
    """

    least: int = 0

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        """Re-compute the sums of the reply."""
        del request, context
        checked = check(text_of(reply))
        total, wrong = len(checked.equations), checked.wrong
        score = 1.0 - len(wrong) / total if total else 0.5
        if wrong:
            said = f"{len(wrong)} of {total} sums are wrong, such as {wrong[0].left} = "
            return Judgement(score, False, (f"{said}{wrong[0].right}",))
        reason = f"{total} of {total} sums hold" if total else "it states no sums"
        return Judgement(score, total >= self.least, (reason,))


@dataclass(frozen=True, slots=True)
class Format(Policy):
    """Accepts a reply of a form.

    Args:
        form: `"json"` for any JSON; a compiled regular expression, to be found somewhere in the
            reply; or a type that pydantic can read from JSON, such as a model.
    """

    form: Literal["json"] | re.Pattern[str] | type

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        """Read the reply."""
        del request, context
        fault = self._fault(text_of(reply))
        return Judgement(0.0 if fault else 1.0, not fault, (fault or "it has the form asked for",))

    def _fault(self, text: str) -> str:
        if isinstance(self.form, re.Pattern):
            return "" if self.form.search(text) else f"{self.form.pattern!r} is not found in it"
        try:
            if self.form == "json":
                json.loads(text)
            else:
                TypeAdapter[Any](self.form).validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            return f"it is no valid {_name(self.form)}: {where} {first['msg']}".replace(":  ", ": ")
        except (json.JSONDecodeError, RecursionError) as error:
            return f"it is no JSON: {error}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length(Policy):
    """Accepts a reply that is neither too short nor too long.

    The score of one that is, is how near it comes, as a share.

    Args:
        least: Fewest units.
        most: Most units; `None` is no limit.
        unit: What is counted.

    Raises:
        ConfigError: the limits leave no length.
    """

    least: int = 1
    most: int | None = None
    unit: Literal["words", "characters"] = "words"

    def __post_init__(self) -> None:
        if self.least < 0 or (self.most is not None and self.most < self.least):
            raise ConfigError(f"least={self.least} and most={self.most} leave no length")

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        """Count the words or the characters."""
        del request, context
        text = text_of(reply).strip()
        found = word_count(text) if self.unit == "words" else len(text)
        if found < self.least:
            return Judgement(
                found / self.least, False, (f"{found} {self.unit}, at least {self.least} needed",)
            )
        if self.most is not None and found > self.most:
            return Judgement(
                self.most / found, False, (f"{found} {self.unit}, at most {self.most} allowed",)
            )
        return Judgement(1.0, True, (f"{found} {self.unit}",))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounded(Policy):
    """Accepts a reply whose words and numbers stand in given passages.

    The score is the share of the reply's content words and numbers that are found there. It sees
    what was made up, not what was put together wrongly.

    Args:
        passages: Finds them in the request; `None`: the request is the passage.
        least: Share from which on a reply is accepted.
        numbers: Whether every number must be found, whatever the share.

    Raises:
        ConfigError: the share is not between 0 and 1.
    """

    passages: Callable[[Any], Sequence[str]] | None = None
    least: float = 0.8
    numbers: bool = True

    def __post_init__(self) -> None:
        share(self.least, "least")

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        """Look the reply's words and numbers up."""
        del context
        passages = self.passages(request) if self.passages else [text_of(request)]
        known = set[str | Fraction]().union(*(_content(passage) for passage in passages))
        found = _content(text_of(reply))
        if not found:
            return Judgement(0.0, False, ("there is nothing in it that could be looked up",))
        missing = found - known
        score = 1.0 - len(missing) / len(found)
        made_up = sorted(str(item) for item in missing if isinstance(item, Fraction))
        reason = (
            f"{len(found) - len(missing)} of {len(found)} words and numbers are in the passages"
        )
        if self.numbers and made_up:
            return Judgement(score, False, (f"{reason}; the number {made_up[0]} is not",))
        return Judgement(score, score >= self.least, (reason,))


@dataclass(frozen=True, slots=True)
class Signs(Policy):
    """Gathers what sums, steps and form tell of a reply to a problem, for a policy to be fitted.

    It accepts everything: what the signs mean is found by `fit`.
    """

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        """Gather the signs."""
        del context
        signs = reply_features(text_of(request), text_of(reply))
        return Judgement(0.5, True, (f"{len(signs)} signs gathered",), signs)


def _content(text: str) -> set[str | Fraction]:
    words = {word for word in _WORD.findall(text.casefold()) if word not in _PLAIN}
    return {*(word[:_STEM] for word in words), *numbers(text)}


def _name(form: Any) -> str:
    return getattr(form, "__name__", str(form))
