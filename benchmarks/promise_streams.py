"""Streams for `promise.py`: what is asked in each, who answers, and one run of a cascade on it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from kept import Kept
from messages import encoded, read
from moa import Cascade, Classifier, RunContext
from moa.core.errors import ConfigError
from moa.core.questions import Answer, Question
from moa.decisions.arrays import log_softmax
from moa.decisions.features import VectorFeature
from moa.decisions.words import label_meanings
from moa.endpoints import Decision, DecisionRequest, Endpoint, Example
from moa.endpoints.dialects import OPENAI, published_price
from moa.endpoints.json_answers import prompt_of
from moa.endpoints.tokens import approximate_tokens
from moa.learning.cascade import Learner
from moa.learning.figures import figures_of
from moa.learning.looks import Learning
from moa.learning.student import Learn, Student, TextReading
from moa.local.encoders import JointEncoder
from moa.local.pairs import pair_head
from moa.testing import SimulatedEndpoint
from promise_inbox import NAMES, inbox, meanings

ROWS = 1000
"""Rows of a stream; what a set has more is left out of each shuffle."""
PRICED, WRITTEN = "gpt-5-mini", 5
"""The hosted model whose price is counted, and tokens of a label that it writes."""
INBOX = "inbox"
Found = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A set, what is asked, and calls of the large model that are aimed at, in two hundreds."""

    name: str
    folder: str
    question: str
    aims: tuple[int | None, int | None]
    """In rows 501 to 600 and 901 to 1,000."""
    by_words: bool = True
    """Whether the small model begins with what the words of the labels say. Not where the scorer
    of pairs, which ships, learnt from the set."""


TASKS = (
    Task("ten intents", "intent_banking10", "What does the customer want?", (15, 8), False),
    Task("77 intents", "intent_banking77", "What does the customer want?", (None, 75), False),
    Task("spam", "sms_spam", "Is this message spam?", (12, 6)),
    Task("tweets", "sentiment2_tweets", "What is the sentiment of the text?", (35, 20)),
    Task("film reviews", "sentiment2_movie", "What is the sentiment of the text?", (None, None)),
    Task("inbox", INBOX, "What does the customer want?", (None, None), False),
)


@dataclass(frozen=True, eq=False)
class Stream:
    """The rows of a task, read once."""

    task: Task
    question: Question
    labels: list[str]
    texts: list[str]
    gold: list[str]
    vectors: Any
    """What the encoder reads of each text."""
    own: Any
    """Log-probabilities that the small model begins with: texts, labels."""
    names: tuple[Any, Any]
    """What the encoder reads of the labels' names, and which they are."""

    def order(self, seed: int) -> list[int]:
        """Shuffle the rows."""
        rows = list(range(len(self.texts)))
        random.Random(seed).shuffle(rows)
        return rows[:ROWS]


def load(task: Task, data: Path, kept: Path) -> Stream:
    """Read a task's rows, and encode the texts whose vectors a folder hasn't."""
    texts, gold, labels = _rows(task, data, kept)
    vectors = kept / "messages.npz"
    if len(texts) < ROWS:
        raise ConfigError(f"{task.folder} has {len(texts)} rows, and a stream takes {ROWS}")
    (question,) = Classifier("embedded", labels, task=task.question).questions
    # The vectors of a store have 16 bits, and so have those that are judged.
    found = encoded(vectors, texts).astype("<f2").astype(float)
    known = (
        meanings()
        if task.folder == INBOX
        else dict(zip(labels, label_meanings(question), strict=True))
    )
    named = encoded(vectors, list(known.values())).astype(float)
    own = np.full((len(texts), len(labels)), -np.log(len(labels)))
    if task.by_words:
        head = asyncio.run(pair_head(question, (), JointEncoder(), RunContext()))
        own = log_softmax(np.array([head.logs_of(tuple(one)) for one in found.tolist()]))
    names = named, np.array([labels.index(label) for label in known])
    return Stream(task, question, labels, texts, gold, found, own, names)


def _rows(task: Task, data: Path, kept: Path) -> tuple[list[str], list[str], list[str]]:
    """Give texts, their labels, and which labels there are."""
    if task.folder == INBOX:
        cache = kept / "heads"  # these also have the sentences of all businesses
        cache.mkdir(exist_ok=True)
        return *inbox(cache), list(NAMES)
    rows = read(data / task.folder / "dev.jsonl")
    gold = [str(row["label"]) for row in rows]
    return [str(row["text"]) for row in rows], gold, sorted(set(gold))


class Replayed(Student):
    """Learns as ever, from texts that were read before."""

    def __init__(self, cascade: Cascade[Any, Any], stream: Stream, learn: Learn) -> None:
        super().__init__(cascade.name, cascade.small, learn)
        self.stream = stream
        self.places = {text: place for place, text in enumerate(stream.texts)}

    async def _read(self, text: str, own: RunContext) -> TextReading:
        stream, place = self.stream, self.places[text]
        logs = stream.own[place]
        answer = Answer(question=stream.question, probabilities=tuple(np.exp(logs).tolist()))
        return TextReading(answer, (*logs.tolist(), *stream.vectors[place].tolist()))

    async def _names(self, context: RunContext) -> Any:
        return self.stream.names


@dataclass(repr=False)
class Recorded(SimulatedEndpoint):
    """Gives answers of a large model from a file, by the hash of what it is asked.

    Args:
        kept: Holds the answers.
        llm: Who is asked for those that are missing; `None`: nobody.
    """

    kept: Kept | None = None
    llm: Endpoint | None = None

    async def decide(
        self,
        text: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example] = (),
    ) -> Decision:
        assert self.kept is not None, "it has a file"
        (question,) = questions
        key = prompt_hash(question, text)
        if key not in self.kept.found:
            if self.llm is None:
                raise ConfigError(
                    f"no answer to {text[:60]!r} is recorded: name who is asked, with --large"
                )
            own, start = RunContext(), time.perf_counter()
            (answer,) = (await self.llm.decide(text, questions, own)).answers
            total = own.usage.total
            said = {
                "label": _label(answer),
                "tokens": total.tokens,
                "seconds": round(time.perf_counter() - start, 3),
            }
            self.kept.keep(key, said)
        return await super().decide(text, questions, context, examples=examples)


def prompt_hash(question: Question, text: str) -> str:
    """Hash what makes a prompt: the question, its options and the text."""
    options = [[option.name, option.description] for option in question.options]
    written = json.dumps([question.text, options, text])
    return hashlib.sha256(written.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _label(answer: Answer) -> str:
    names = [option.name for option in answer.question.options]
    if answer.written is not None:
        return names[answer.written]
    p = answer.probabilities
    assert p is not None, "the large model has refused to answer"
    return names[p.index(max(p))]


def large_of(stream: Stream, kept: Kept | None, llm: Endpoint | None) -> SimulatedEndpoint:
    """Make the large model of a stream: gold, or what a file holds.

    Each call is charged for the tokens of a prompt, as `PRICED` charges for them.
    """
    prompts = [prompt_of(DecisionRequest(text, [stream.question])) for text in stream.texts]
    sizes = [approximate_tokens(m.content) for prompt in prompts for m in prompt.messages]
    tokens = round(sum(sizes) / len(prompts)), WRITTEN
    price = published_price(PRICED, OPENAI)
    if kept is None:
        gold = dict(zip(stream.texts, stream.gold, strict=True))
        return SimulatedEndpoint(
            name="gold",
            tier="llm",
            price=price,
            tokens=tokens,
            rule=lambda text: {"classifier": {gold[text]: 1.0}},
        )

    def rule(text: str) -> Mapping[str, Mapping[str, float]]:
        return {"classifier": {kept.found[prompt_hash(stream.question, text)]["label"]: 1.0}}

    return Recorded(
        name="recorded", tier="llm", price=price, tokens=tokens, rule=rule, kept=kept, llm=llm
    )


def answers_of(stream: Stream, large: SimulatedEndpoint) -> list[str]:
    """Ask the large model about all texts, one after another."""
    asked = Classifier(large, stream.labels, task=stream.task.question)

    async def ask() -> list[str]:
        return [(await asked.run(text, RunContext())).output.label for text in stream.texts]

    return asyncio.run(ask())


async def run(stream: Stream, seed: int, large: SimulatedEndpoint, folder: Path) -> Found:
    """Let a cascade learn on one shuffle, and say what became of it."""
    file = folder / f"{stream.task.folder} {seed}.db"
    small = Classifier("embedded", stream.labels, task=stream.task.question)
    answers = Classifier(large, stream.labels, task=stream.task.question)
    learn = Learn(where=file)
    cascade: Cascade[Any, Any] = Cascade(small=small, large=answers, learn=learn)
    assert isinstance(cascade.learner, Learner), "it was told where to learn"
    cascade.learner.student = student = Replayed(cascade, stream, learn)
    coin = random.Random(f"{stream.task.folder} {seed}").randbytes(32).hex()
    with patch("moa.learning.answers.secrets.token_hex", return_value=coin):
        learning = await student.ready()
    assert isinstance(learning.features[-1], VectorFeature), "heads are fitted to vectors"
    given, by_small = list[str](), list[bool]()
    for row in stream.order(seed):
        settled = await cascade.run(stream.texts[row], RunContext(keep_notes=False))
        given.append(settled.output.label)
        by_small.append(settled.tier == 0)
        learning.join()  # so that what is learned doesn't depend on how fast the machine is
    found = _found(learning, given, by_small)
    learning.store.close()
    return found


def _found(learning: Learning, given: list[str], by_small: list[bool]) -> Found:
    figures = figures_of(learning.store)
    looks = [[one.row, one.passed, one.accepted, one.held_out] for one in figures.looks]
    return {
        "calls": [one.calls for one in figures.hundreds],
        "given": given,
        "by_small": [int(one) for one in by_small],
        "promised": any(one.passed for one in figures.looks),
        "looks": looks,
        "epochs": [[one.first, one.why] for one in figures.epochs],
        "spent": figures.spent,
        "saved": figures.saved,
    }
