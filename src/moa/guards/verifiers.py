"""Verifiers: acceptance policies that check a reply, some of them by asking a model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from moa.core._async import gather
from moa.core._text import word_count
from moa.core.context import RunContext
from moa.core.errors import ConfigError
from moa.core.node import Node, text_of
from moa.core.numbers import find_numbers
from moa.core.questions import Predicate, answers_in
from moa.decisions.acceptance import Judgement, Policy, check_sampling, check_share
from moa.graphs.mixing.answer_extraction import answer_of
from moa.guards.arithmetic import find_equations
from moa.guards.reply_signs import reply_features

_WORD = re.compile(r"[^\W\d_]{4,}")
_STEM = 6
"""Number of first letters to compare, so that most inflected forms of a word are equal."""
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
    """Recomputes the equations of a reply, such as `3 * 4 = 12`, and rejects wrong ones.

    The score is the share of equations that hold, and 0.5 without any.

    Args:
        least: Minimum number of equations in an accepted reply.
    """

    least: int = 0

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Recompute the equations of the reply."""
        sums = find_equations(text_of(reply))
        total, wrong = len(sums), [equation for equation in sums if not equation.holds]
        score = 1.0 - len(wrong) / total if total else 0.5
        if wrong:
            opening = f"{len(wrong)} of {total} sums are wrong, such as {wrong[0].left} = "
            return Judgement(score, False, (f"{opening}{wrong[0].right}",))
        reason = f"{total} of {total} sums hold" if total else "it states no sums"
        return Judgement(score, total >= self.least, (reason,))


@dataclass(frozen=True, slots=True)
class Format(Policy):
    """Accepts a reply of a given form.

    Args:
        form: `"json"` for any JSON; a compiled regular expression to find in the reply; or a
            type that pydantic can read from JSON, such as a model.
    """

    form: Literal["json"] | re.Pattern[str] | type[object]

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Check the form of the reply."""
        fault = self._fault(text_of(reply))
        return Judgement(0.0 if fault else 1.0, not fault, (fault or "it has the form asked for",))

    def _fault(self, text: str) -> str:
        if isinstance(self.form, re.Pattern):
            return "" if self.form.search(text) else f"{self.form.pattern!r} is not found in it"
        try:
            if self.form == "json":
                json.loads(text)
            else:
                TypeAdapter(self.form).validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            location = ".".join(str(part) for part in first["loc"])
            name = getattr(self.form, "__name__", str(self.form))
            return f"it is no valid {name}: {location} {first['msg']}".replace(":  ", ": ")
        except (json.JSONDecodeError, RecursionError) as error:
            return f"it is no JSON: {error}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Length(Policy):
    """Accepts a reply of a given length.

    The score of a rejected reply is the ratio of its length and the limit.

    Args:
        least: Minimum of units.
        most: Maximum of units; `None` is no limit.
        unit: The unit of length.

    Raises:
        ConfigError: the limits leave no length.
    """

    least: int = 1
    most: int | None = None
    unit: Literal["words", "characters"] = "words"

    def __post_init__(self) -> None:
        if self.least < 0 or (self.most is not None and self.most < self.least):
            raise ConfigError(f"least={self.least} and most={self.most} leave no length")

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Count the words or the characters."""
        text = text_of(reply).strip()
        length = word_count(text) if self.unit == "words" else len(text)
        summary = f"{length} {self.unit}"
        if length < self.least:
            reason = f"{summary}, at least {self.least} needed"
            return Judgement(length / self.least, False, (reason,))
        if self.most is not None and length > self.most:
            return Judgement(
                self.most / length, False, (f"{summary}, at most {self.most} allowed",)
            )
        return Judgement(1.0, True, (summary,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grounded(Policy):
    """Accepts a reply whose words and numbers occur in given passages.

    The score is the share of the reply's content words and numbers found there. It detects
    inventions, not wrong combinations.

    Args:
        passages: Returns the passages of the request; `None`: the request is the passage.
        least: Minimum share for acceptance.
        numbers: Require every number to be found, whatever the share.

    Raises:
        ConfigError: the share is not between 0 and 1.
    """

    passages: Callable[[Any], Sequence[str]] | None = None
    least: float = 0.8
    numbers: bool = True

    def __post_init__(self) -> None:
        check_share(self.least, "least")

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Look up the reply's words and numbers."""
        passages = self.passages(request) if self.passages else [text_of(request)]
        passage_words = set[str | Fraction]().union(
            *(_content_words(passage) for passage in passages)
        )
        reply_words = _content_words(text_of(reply))
        if not reply_words:
            return Judgement(0.0, False, ("there is nothing in it that could be looked up",))
        missing = reply_words - passage_words
        score = 1.0 - len(missing) / len(reply_words)
        made_up = sorted(str(item) for item in missing if isinstance(item, Fraction))
        reason = (
            f"{len(reply_words) - len(missing)} of {len(reply_words)} words and numbers are in the "
            "passages"
        )
        if self.numbers and made_up:
            return Judgement(score, False, (f"{reason}; the number {made_up[0]} is not",))
        return Judgement(score, score >= self.least, (reason,))


@dataclass(frozen=True, slots=True)
class Signs(Policy):
    """Collects features of a reply to a problem, for a policy to be fitted.

    It accepts everything: `fit` finds the meaning of the signs.
    """

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Collect the signs."""
        signs = reply_features(text_of(request), text_of(reply))
        return Judgement(0.5, True, (f"{len(signs)} signs gathered",), signs)


@dataclass(frozen=True, slots=True)
class Plausible(Policy):
    """Asks a deciding node whether the reply is plausible; the score is the probability of yes.

        class Verdict(BaseModel):
            right: Predicate = predicate("Is the reply a correct answer to the request?")

        Plausible(Decider(small, Verdict))

    A model asked about its own reply mostly agrees with it: ask another one, and fit it.

    Args:
        node: Takes a text with request and reply, and returns a `Predicate`, or a model with
            several; the lowest counts.
        least: Minimum probability for acceptance.

    Raises:
        ConfigError: the probability is not between 0 and 1.
    """

    node: Node[str, object]
    least: float = 0.5

    def __post_init__(self) -> None:
        check_share(self.least, "least")

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Ask the node, which must give a predicate."""
        text = f"Request:\n{text_of(request)}\n\nReply:\n{text_of(reply)}"
        output = (await self.node.run(text, context)).output
        answers = [
            answer for answer in answers_in(output).values() if isinstance(answer, Predicate)
        ]
        if not answers:
            raise ConfigError(
                f"{self.node.name} gives {type(output).__name__}, in which there is no Predicate: "
                "a plausibility question is answered by yes or no"
            )
        if any(answer.status != "answered" for answer in answers):
            return Judgement(0.0, False, (f"{self.node.name} did not answer",))
        score = min(
            float(answer.value) if answer.probability is None else answer.probability
            for answer in answers
        )
        reason = f"{self.node.name} finds it plausible with {score:.3f}, {self.least:.3f} is needed"
        return Judgement(score, score >= self.least, (reason,))


@dataclass(frozen=True, slots=True)
class Agreement(Policy):
    """Samples further replies, and accepts a reply that enough of them agree with.

    The score is the share of samples with the same answer (Wang et al. 2023, "Self-consistency
    improves chain of thought reasoning in language models", arXiv:2203.11171). The node must give
    varying replies to one request: with a temperature above 0, and without a cache.

    Args:
        node: Answers the request again.
        samples: Number of samples.
        least: Minimum share for acceptance.
        match: Maps a reply to the value to compare; `None`: `answer_of`.

    Raises:
        ConfigError: there is nothing to sample, or the share is not between 0 and 1.
    """

    node: Node[Any, object]
    samples: int = 4
    least: float = 0.5
    match: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        check_share(self.least, "least")
        if self.samples < 1:
            raise ConfigError(f"samples={self.samples}, but it takes at least one to agree with")
        check_sampling(self.node, self.samples + 1)  # and the reply that they are compared with

    async def judge(self, request: object, reply: object, context: RunContext) -> Judgement:
        """Sample concurrently, and compare."""
        match = self.match or answer_of
        answer = match(reply)
        results = await gather(self.node.run(request, context) for _ in range(self.samples))
        matches = sum(match(result.output) == answer for result in results)
        score = matches / self.samples
        reason = f"{matches} of {self.samples} samples agree"
        return Judgement(score, score >= self.least, (reason,))


def _content_words(text: str) -> set[str | Fraction]:
    words = {word for word in _WORD.findall(text.casefold()) if word not in _PLAIN}
    return {*(word[:_STEM] for word in words), *find_numbers(text)}
