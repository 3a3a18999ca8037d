"""Summing up: what stands for the turns that no longer fit, written by a model or extracted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Unpack

from pydantic import Field

from moa.agents import Agent, Settings
from moa.agents.boundary import TypedNode
from moa.agents.prompts import block
from moa.chat.conversation import LEFT_OUT, Turn
from moa.chat.speaker import shown_reply
from moa.context import RunContext
from moa.documents.sentences import sentences
from moa.endpoints import Endpoint
from moa.endpoints.tokens import approximate_tokens
from moa.errors import ConfigError
from moa.handoffs import Frozen, Reply

_INSTRUCTIONS = (
    "Summarize the conversation in at most {words} words, in its language, for someone who "
    "continues "
    "it. Keep names, numbers, dates, wishes, decisions and open questions, and whose they are. "
    "Include "
    "what the earlier summary says. Add nothing. Write only the summary."
)
_ASKING = ("?", "\uff1f", "\u061f")
"""Ends of questions, in Chinese and Japanese, and in Arabic, too."""
_OF_A_REPLY = 1
"""Sentences of a reply that are extracted: it opens with what it answers."""


class Passage(Frozen):
    """Turns that are to be summed up, and the summary of what came before them."""

    turns: tuple[Turn, ...] = Field(min_length=1)
    before: str | None = None


class Summariser(Agent[Passage, Reply]):
    """Writes the summary.

    Args:
        endpoint: Who writes.
        settings: See `Agent`; `max_tokens` bounds the summary.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    def __init__(self, endpoint: Endpoint, **settings: Unpack[Settings]) -> None:
        super().__init__(endpoint, **settings)
        self.instructions = _INSTRUCTIONS.format(words=max(10, self.max_tokens // 2))

    def prompt(self, request: Passage) -> str:
        """Show the earlier summary and the turns, as data."""
        said = "\n".join(
            f"user: {turn.text}\nassistant: {shown_reply(turn) or LEFT_OUT}"
            for turn in request.turns
        )
        earlier = [block(request.before, "The earlier summary")] if request.before else []
        return "\n\n".join([*earlier, block(said, "What was said since")])


class Extract(TypedNode[Passage, Reply]):
    """Keeps sentences word for word: what the user stated, then asked, then the replies' openings.

    Of each kind the last ones are kept, and what is left out is marked. No model is asked. A
    summary that a small model writes anew every few turns loses names and numbers, and may add
    some; these are in the user's own words.

    Args:
        max_tokens: Maximum number of tokens, by `approximate_tokens`, without the marks.

    Raises:
        ConfigError: `max_tokens` is less than 1.
    """

    def __init__(self, *, max_tokens: int = 256) -> None:
        super().__init__(name="extract")
        if max_tokens < 1:
            raise ConfigError(f"max_tokens={max_tokens}, but an extract has at least 1 token")
        self.max_tokens = max_tokens

    async def answer(self, request: Passage, context: RunContext) -> Reply:
        """Pick the newest sentences that fit, and give them in the order they were said."""
        del context
        lines = [*_kept_before(request.before), *_lines(request.turns)]
        newest = sorted(range(len(lines)), key=lambda i: (_worth(lines[i]), i))
        kept: set[int] = set()
        left = self.max_tokens
        for place in reversed(newest):
            tokens = approximate_tokens(lines[place])
            if tokens <= left:
                kept.add(place)
                left -= tokens
        if not lines:
            return Reply(text=LEFT_OUT)
        if not kept:
            return Reply(text=f"{LEFT_OUT} {_tail(lines[newest[-1]], self.max_tokens)}")
        return Reply(text="\n".join(_marked(lines, kept)))


def _worth(line: str) -> int:
    """Rank a line: what the user states of the matter is what later turns rest on."""
    if not line.startswith("user:"):
        return 0
    return 1 if line.endswith(_ASKING) else 2


def _kept_before(before: str | None) -> list[str]:
    return [line for line in (before or "").splitlines() if line not in ("", LEFT_OUT)]


def _lines(turns: tuple[Turn, ...]) -> Iterator[str]:
    for turn in turns:
        for _, sentence in sentences(turn.text):
            yield f"user: {_on_a_line(sentence)}"
        for _, sentence in sentences(turn.reply)[:_OF_A_REPLY]:
            yield f"assistant: {_on_a_line(sentence)}"


def _on_a_line(sentence: str) -> str:
    return " ".join(sentence.split())


def _marked(lines: list[str], kept: set[int]) -> Iterator[str]:
    gap = False
    for place, line in enumerate(lines):
        if place not in kept:
            gap = True
            continue
        if gap:
            yield LEFT_OUT
        gap = False
        yield line
    if gap:
        yield LEFT_OUT


def _tail(line: str, tokens: int) -> str:
    """Keep the end of a sentence that is too long as a whole."""
    while approximate_tokens(line) > tokens:
        line = line[max(1, len(line) // 8) :]
    return line
