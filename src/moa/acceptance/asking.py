"""Asking: acceptance policies that ask a model about a reply."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

from pydantic import BaseModel

from moa.acceptance import Judgement, Policy, all_of, sampled, share, text_of
from moa.acceptance.arithmetic import NUMBER, numbers
from moa.acceptance.verifying import final_answer
from moa.context import RunContext
from moa.errors import ConfigError
from moa.node import Node
from moa.questions import Choice, Predicate, Score

_BESIDE = 3
"""Words beside the number of a text that is taken for a number with its unit."""
_WORDS = re.compile(r"\w+")
_OPENS = " \t\n:*`\"'(="
_ENDS = re.compile(r"[.!?](?=\s|$)|[,;:](?=\s)|(?<!\d)\s[-\u2013\u2014]\s|[(\n]")
"""Where the first clause of a text ends: what follows explains it."""


@dataclass(frozen=True, slots=True)
class Plausible(Policy):
    """Asks a deciding node whether the reply is plausible; the score is the probability of yes.

        class Verdict(BaseModel):
            right: Predicate = predicate("Is the reply a correct answer to the request?")

        Plausible(Decider(small, Verdict))

    A model asked about its own reply mostly agrees with it: ask another one, and fit it.

    Args:
        node: Takes a text, the request and the reply in it, and gives a `Predicate`, or a model
            of them, of which the lowest counts.
        least: Probability from which on a reply is accepted.

    Raises:
        ConfigError: the probability is not between 0 and 1.
    """

    node: Node[Any, Any]
    least: float = 0.5

    def __post_init__(self) -> None:
        share(self.least, "least")

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        """Ask the node.

        Raises:
            ConfigError: the node gives no predicate.
            MoaError: asking failed.
        """
        text = f"Request:\n{text_of(request)}\n\nReply:\n{text_of(reply)}"
        output: Any = (await self.node.run(text, context)).output
        answers = _predicates(output)
        if not answers:
            raise ConfigError(
                f"{self.node.name} gives {type(output).__name__}, in which there is no Predicate: "
                "a plausibility question is answered by yes or no"
            )
        if any(answer.status != "answered" for answer in answers):
            return Judgement(0.0, False, (f"{self.node.name} did not answer",))
        score = min(_yes(answer) for answer in answers)
        reason = f"{self.node.name} finds it plausible with {score:.3f}, {self.least:.3f} is needed"
        return Judgement(score, score >= self.least, (reason,))


@dataclass(frozen=True, slots=True)
class Agreement(Policy):
    """Samples further replies, and accepts one that enough of them agree with.

    The score is the share of samples with the same answer (Wang et al. 2023, "Self-consistency
    improves chain of thought reasoning in language models", arXiv:2203.11171). The node must give
    different replies to one request: with a temperature above 0, and no cache.

    Args:
        node: Answers the request again.
        samples: How often.
        least: Share from which on a reply is accepted.
        match: Turns a reply into what is compared; `None`: `answer_of`.

    Raises:
        ConfigError: there is nothing to sample, or the share is not between 0 and 1.
    """

    node: Node[Any, Any]
    samples: int = 4
    least: float = 0.5
    match: Callable[[Any], object] | None = None

    def __post_init__(self) -> None:
        share(self.least, "least")
        if self.samples < 1:
            raise ConfigError(f"samples={self.samples}, but it takes at least one to agree with")
        sampled(self.node, self.samples + 1)  # and the reply that they are compared with

    async def judge(self, request: Any, reply: Any, context: RunContext) -> Judgement:
        """Sample side by side, and compare.

        Raises:
            MoaError: a sample failed.
        """
        match = self.match or answer_of
        wanted = match(reply)
        results = await all_of(self.node.run(request, context) for _ in range(self.samples))
        same = sum(match(result.output) == wanted for result in results)
        score = same / self.samples
        reason = f"{same} of {self.samples} samples agree"
        return Judgement(score, score >= self.least, (reason,))


def answer_of(reply: Any) -> object:
    """Read what a reply answers, so that equal answers are equal.

    The label of a decision; the number where the answer is hardly more than that, which is what
    stands behind a mark such as "The answer is", up to the end of its first clause, or a text as
    short; else the words, in small letters and without punctuation.
    """
    if isinstance(reply, Predicate | Choice | Score):
        return cast("Any", reply).picked
    text = text_of(reply)
    found = final_answer(text)
    answer = found.after if found.marked else text
    first = _ENDS.split(answer.lstrip(_OPENS), maxsplit=1)[0] if found.marked else answer
    number = _number_of(first)
    return " ".join(_WORDS.findall(answer.casefold())) if number is None else number


def _number_of(clause: str) -> Fraction | None:
    """Read the one number of a clause that is hardly more; of a sum it is what it comes to.

    Behind other words the same number can be part of opposite answers: "buy within 30 days" and
    "rent for 30 days"; and so can one of several: "3 of 5" and "3 of 7".
    """
    words = _WORDS.findall(NUMBER.sub("0", clause))
    beside = [word for word in words if not word[0].isdigit()]
    found = set(numbers(clause.rpartition("=")[2]))
    if len(found) != 1 or len(beside) > _BESIDE or len(beside) == len(words):
        return None
    return found.pop()


def _predicates(output: Any) -> list[Predicate]:
    if isinstance(output, Predicate):
        return [output]
    if not isinstance(output, BaseModel):
        return []
    fields = (getattr(output, name) for name in type(output).model_fields)
    return [value for value in fields if isinstance(value, Predicate)]


def _yes(answer: Predicate) -> float:
    return float(answer.value) if answer.probability is None else answer.probability
