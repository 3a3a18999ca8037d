"""Label reading: answers questions by the log-probabilities of the words of their labels."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from moa.context import RunContext
from moa.endpoints import Decision, Example
from moa.endpoints.demonstrations import DEMONSTRATIONS
from moa.endpoints.known import known
from moa.errors import ConfigError
from moa.questions import Answer, Layout, Question
from moa.usage import NOTHING, Amount


@dataclass(frozen=True, slots=True)
class LabelPrompt:
    """A prompt that stops where the label comes, and the labels as they would go on."""

    text: str
    labels: tuple[str, ...]
    """Continuations. Where one is the start of another, each also ends with what ends a label."""
    layout: Layout = "completion"
    """Whether `text` is to be continued as it is, or is the last turn of a user in a chat."""
    before: tuple[str, ...] = ()
    """Earlier turns of a chat: of the user, of the assistant, in turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelReading:
    """How probable each label is as the continuation of a prompt."""

    logprobs: tuple[float, ...]
    """Natural logarithms, one for each label, in order. Their `exp` adds up to `label_mass`."""
    label_mass: float
    """How much of the probability falls on the first tokens of the labels, 0 to 1."""
    amount: Amount

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Made to add up to 1."""
        highest = max(self.logprobs)
        weights = [math.exp(logprob - highest) for logprob in self.logprobs]
        total = sum(weights)
        return tuple(weight / total for weight in weights)


class LabelReader(Protocol):
    """A server whose log-probabilities can be read."""

    async def read_labels(self, prompt: LabelPrompt, context: RunContext, /) -> LabelReading:
        """Read how probable each label is after a prompt, which is data: no control tokens in it.

        Raises:
            EndpointError: a request failed; `EndpointRejected` where the prompt is too long.
            BudgetExceeded: a limit would be passed; nothing was sent.
            DeadlineExceeded: the run's time is up.
        """
        ...


@dataclass(frozen=True, slots=True)
class TokenReading:
    """How probable some tokens are as the next one, in the whole vocabulary."""

    logprobs: tuple[float, ...]
    amount: Amount


ReadTokens = Callable[[Sequence[int], Sequence[int]], Awaitable[TokenReading]]
"""Reads the log-probabilities of the second tokens as the next after the first."""


async def walk_labels(labels: Sequence[Sequence[int]], read: ReadTokens) -> LabelReading:
    """Read labels of any length with one request for each place where they part.

    The first token is weighed against the whole vocabulary; a later one only against those with
    which another label goes on. What a label shares with no other is its spelling and counts as
    certain, since the sum of all log-probabilities punishes a label for being long.

    Args:
        labels: The tokens of each, none empty.
        read: Called with the tokens that follow the prompt, and the tokens to look at.

    Raises:
        ConfigError: a label is the start of another, or the same.
    """
    for one, other in pairwise(sorted(map(tuple, labels))):
        if other[: len(one)] == one:
            raise ConfigError(
                "a label is the start of another, as the model's tokens have it: end both with "
                "what ends a label in the prompt, or choose other words"
            )
    logprobs = [0.0] * len(labels)
    mass, amount = 1.0, NOTHING
    branches: list[tuple[int, list[int]]] = [(0, list(range(len(labels))))]
    while branches:
        depth, members = branches.pop()
        by_token: dict[int, list[int]] = {}
        for label in members:
            by_token.setdefault(labels[label][depth], []).append(label)
        if depth == 0 or len(by_token) > 1:
            reading = await read(labels[members[0]][:depth], list(by_token))
            amount += reading.amount
            total = _log_sum(reading.logprobs)
            mass = min(1.0, math.exp(total)) if depth == 0 else mass
            for same, logprob in zip(by_token.values(), reading.logprobs, strict=True):
                for label in same:
                    logprobs[label] += logprob if depth == 0 else logprob - total
        branches += [(depth + 1, same) for same in by_token.values() if len(same) > 1]
    return LabelReading(logprobs=tuple(logprobs), label_mass=mass, amount=amount)


def _log_sum(logprobs: Sequence[float]) -> float:
    highest = max(logprobs)
    return highest + math.log(sum(math.exp(logprob - highest) for logprob in logprobs))


_FEW = 3
"""Up to so many options without a description, the demonstrations alone do better."""


def label_prompt(
    question: Question,
    state: str,
    examples: Sequence[Example],
    *,
    layout: Layout = "completion",
) -> LabelPrompt:
    """Lay out a question about a text, in one of two ways.

    As a completion, after demonstrations, the smallest models are good, which as a chat hardly beat
    chance; what is the same for many texts comes first, so that the server caches it. A chat turn
    is better for most questions of models that follow instructions; the text comes first, so that
    it is cached for the next question, and the labels are near the answer. Examples of the question
    itself take the place of the demonstrations.
    """
    words = label_words(question)
    by_name = {option.name: word for word, option in zip(words, question.options, strict=True)}
    labels = [(example.text, example.labels.get(question.name)) for example in examples]
    shown = [(text, by_name[name]) for text, name in labels if name in by_name]
    if layout == "chat":
        before = [turn for text, word in shown for turn in (_turn(question, text, words), word)]
        turn = _turn(question, state, words)
        return LabelPrompt(turn, tuple(f"{word}\n" for word in words), "chat", tuple(before))
    task = one_line(question.text)
    blocks = [] if shown else [_block(*demonstration) for demonstration in DEMONSTRATIONS]
    if not shown and (len(words) > _FEW or any(o.description for o in question.options)):
        shown = [
            (option.description or word, word)
            for word, option in zip(words, question.options, strict=True)
        ]
    blocks += [_block(task, text, word) for text, word in shown]
    blocks.append(f"Task: {task}\nText: {one_line(state)}\nLabel:")
    return LabelPrompt("\n\n".join(blocks), tuple(f" {word}\n\n" for word in words))


def _turn(question: Question, text: str, words: Sequence[str]) -> str:
    described = any(option.description for option in question.options)
    if question.kind == "predicate" and not described:
        asked = f"Answer {words[0]} or {words[1]}."
    elif described:
        lines = [
            f"- {word}: {one_line(option.description)}" if option.description else f"- {word}"
            for word, option in zip(words, question.options, strict=True)
        ]
        asked = "\n".join(["Answer with one of these labels:", *lines])
    else:
        asked = f"Answer with one of: {', '.join(words)}."
    return f"Text: {one_line(text)}\n\n{one_line(question.text)} {asked}"


def _block(task: str, text: str, label: str) -> str:
    return f"Task: {task}\nText: {one_line(text)}\nLabel: {label}"


def label_words(question: Question) -> tuple[str, ...]:
    """Make the names of the options readable: `change_pin` is read as `change pin`."""
    words = tuple(one_line(option.name.replace("_", " ")) for option in question.options)
    if len(set(words)) < len(words):
        return tuple(one_line(option.name) for option in question.options)
    return words


def one_line(text: str) -> str:
    """Put a text on one line, so that it can't write a line of the prompt it stands in."""
    return " ".join(text.split())


class LabelBackend:
    """Decides by the log-probabilities of the words of the labels, one question after another.

    Args:
        reader: A server whose log-probabilities can be read.
        endpoint: Name of the endpoint that answers.
        model: Name of its model.
    """

    title = "label log-probabilities"

    def __init__(self, reader: LabelReader, *, endpoint: str, model: str) -> None:
        self._reader = reader
        self._endpoint = endpoint
        self._model = model

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example],
    ) -> Decision:
        """Answer typed questions about `state`; see `Backend.decide`.

        Raises:
            EndpointError: a request failed; `EndpointRejected` where the prompt is too long.
            BudgetExceeded: a limit would be passed.
            DeadlineExceeded: the run's time is up.
        """
        answers: list[Answer] = []
        amount = NOTHING
        for question in questions:
            layout = question.layout or known(self._model).layout_of(question.kind)
            prompt = label_prompt(question, state, examples, layout=layout)
            reading = await self._reader.read_labels(prompt, context)
            amount += reading.amount
            answers.append(
                Answer(
                    question=question,
                    probabilities=reading.probabilities,
                    label_mass=reading.label_mass,
                    source="logprob",
                )
            )
        context.note("answered", self._model, endpoint=self._endpoint)
        return Decision(
            answers=tuple(answers), endpoint=self._endpoint, model=self._model, amount=amount
        )
