"""Inbox: a large model proposes the intents of an unknown inbox, as a draft to edit."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from pydantic import BaseModel, Field

from moa.agents.agent import Agent
from moa.agents.splitting import excerpt
from moa.core.context import RunContext
from moa.core.node import Frozen
from moa.documents.language import can_detect, language_of
from moa.endpoints import Endpoint
from moa.endpoints.tokens import approximate_tokens

T = TypeVar("T")
FEWEST, MOST = 4, 12
"""Minimum and maximum number of intents."""
EXAMPLES = 4
"""Number of example messages for each intent."""
WRITTEN = 20
"""Number of messages that a large model writes for an intent."""
MOST_READ, MOST_SHOWN = 400, 120
"""Maximum number of messages to read, and to show to a large model, evenly spread."""
_TOKENS, _LONGEST = 80, 240
"""Maximum tokens of a message shown to a large model, and maximum characters of an example."""
_ANSWER = 3000
"""Maximum tokens that a large model may write."""
_OFTEN = 5
"""Minimum number of messages of a language for it to be treated on its own."""
_NAME = re.compile(r"[^a-z0-9]+")


class Proposal(Frozen):
    """A proposed intent."""

    name: str
    means: str
    examples: tuple[str, ...]
    """Messages of the inbox."""


class Sample(BaseModel):
    """Messages of an inbox."""

    messages: list[str]


class Intended(BaseModel):
    """An intent that a model sees in an inbox."""

    name: str = Field(description="one to three English words joined by _, such as change_booking")
    means: str = Field(description='one English sentence that begins with "The writer wants"')
    examples: list[int] = Field(description="numbers of four messages that want it")


class Intents(BaseModel):
    """The intents of an inbox."""

    intents: list[Intended] = Field(min_length=2, max_length=MOST)


class Proposer(Agent[Sample, Intents]):
    """Proposes the intents of an inbox from some of its messages."""

    instructions = (
        "You see messages to the support of a business. Propose what their writers want, as "
        f"{FEWEST} to {MOST} intents that a support team would answer in different ways, or send "
        "to different people. They don't overlap, each message that wants something usual has "
        "one, and none is a bin for the rest: advertising, scams and orders to a machine have "
        "none. Name for each four messages that want it, in different languages and words."
    )

    def user_prompt(self, request: Sample) -> str:
        """Number the messages in the prompt."""
        numbered = (f"{n}. {text}" for n, text in enumerate(request.messages, start=1))
        return super().user_prompt(Sample(messages=list(numbered)))

    def check(self, request: Sample, output: Intents) -> None:
        """Check that names are distinct, and that examples are numbers of messages."""
        names = [_slug(intent.name) for intent in output.intents]
        if len(set(names)) < len(names) or not all(names):
            raise ValueError(f"the names of the intents must be different words, not {names}")
        for intent in output.intents:
            wrong = [n for n in intent.examples if not 1 <= n <= len(request.messages)]
            if wrong or not intent.examples:
                raise ValueError(f"{intent.name}: examples are numbers of messages, not {wrong}")


def shown_to_model(texts: Sequence[str]) -> Sample:
    """Return the messages to show to a model."""
    return Sample(
        messages=[excerpt(text, max_tokens=_TOKENS) for text in spread(texts, MOST_SHOWN)]
    )


def tokens_of_proposing(sample: Sample) -> tuple[int, int]:
    """Estimate the tokens read and written."""
    return 600 + sum(approximate_tokens(text) + 8 for text in sample.messages), _ANSWER // 2


async def propose(
    llm: Endpoint, sample: Sample, context: RunContext, *, usable: Callable[[str], bool] = bool
) -> list[Proposal]:
    """Let a large model propose intents.

    Args:
        llm: The endpoint that proposes.
        sample: Messages to show, as data.
        context: Budget, deadline and ledger.
        usable: Returns True if a message may be an example.

    Raises:
        OutputError: the proposal is unusable.
        EndpointError: a request failed.
    """
    agent = Proposer(llm, max_tokens=_ANSWER)
    output = (await agent.run(sample, context)).output
    return [
        Proposal(
            name=_slug(intent.name),
            means=" ".join(intent.means.split()),
            examples=_examples((sample.messages[n - 1] for n in intent.examples), usable),
        )
        for intent in output.intents
    ]


class Wish(BaseModel):
    """Messages that are wanted for an intent."""

    intent: str
    means: str
    messages_like_these: list[str]
    other_intents: list[str]
    languages: list[str]


class Written(BaseModel):
    """Messages that a model wrote."""

    messages: list[str] = Field(min_length=1)


class Writer(Agent[Wish, Written]):
    """Writes messages that want one intent."""

    instructions = (
        f"Write {WRITTEN} messages that customers could have sent to this support, all of which "
        "want the intent, and none of the other intents. Make them as unlike each other as real "
        "ones: a few words or ten lines, polite or cross, with and without a greeting, with slips "
        "of the pen, by all kinds of people, about all that the intent can be about. Write them in "
        "the languages, about as many in each."
    )


def tokens_of_writing(wishes: Sequence[Wish]) -> tuple[int, int]:
    """Estimate the input and output tokens of writing the messages for all wishes."""
    read = sum(300 + approximate_tokens(wish.model_dump_json()) for wish in wishes)
    return read, len(wishes) * WRITTEN * _TOKENS


async def write_messages(llm: Endpoint, wish: Wish, context: RunContext) -> list[str]:
    """Let a large model write messages with an intent.

    Raises:
        OutputError: its output is unusable.
        EndpointError: a request failed.
    """
    output = (await Writer(llm, max_tokens=2 * WRITTEN * _TOKENS).run(wish, context)).output
    texts = (text.strip() for text in output.messages)
    return [text for text in dict.fromkeys(texts) if text][:WRITTEN]


def spread(items: Sequence[T], most: int) -> list[T]:
    """Take at most `most` items, evenly spread."""
    step = max(1.0, len(items) / most)
    return [items[int(n * step)] for n in range(min(len(items), most))]


def languages_of(texts: Sequence[str]) -> list[str]:
    """Detect the language of each text. Rare languages get an empty name."""
    languages = [language_of(text) or "" for text in texts] if can_detect() else [""] * len(texts)
    counts = Counter(languages)
    return [name if counts[name] >= _OFTEN else "" for name in languages]


def _examples(texts: Iterable[str], usable: Callable[[str], bool]) -> tuple[str, ...]:
    short = (" ".join(text.split()) for text in texts)
    cut = (t if len(t) <= _LONGEST else t[:_LONGEST].rsplit(" ", 1)[0] + " …" for t in short)
    return tuple(text for text in dict.fromkeys(cut) if text and usable(text))[:EXAMPLES]


def _slug(name: str) -> str:
    """Write a name as a bare TOML key."""
    ascii_name = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    return _NAME.sub("_", ascii_name).strip("_")
