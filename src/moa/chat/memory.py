"""Memory: what a model reads of a conversation: a summary, and the last turns.

The summary of the first turns is written by a model, or extracted from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Unpack

from pydantic import Field

from moa.agents.agent import Agent, Settings
from moa.agents.base import TypedNode
from moa.agents.prompts import block
from moa.agents.splitting import excerpt
from moa.chat.messages import LEFT_OUT, Conversation, Summary, Turn
from moa.chat.routing import ChatContext, is_refusal, shown_reply
from moa.core.context import RunContext, quiet
from moa.core.errors import ConfigError, EndpointRejected, MoaError
from moa.core.node import Frozen, Node, Reply
from moa.documents.sentences import sentences
from moa.endpoints import Endpoint
from moa.endpoints.tokens import approximate_tokens

_INSTRUCTIONS = (
    "Summarize the conversation in at most {words} words, in its language, for someone who "
    "continues it. Keep names, numbers, dates, wishes, decisions and open questions, and whose "
    "they are. Include what the earlier summary says. Add nothing. Write only the summary."
)
_ASKING = ("?", "\uff1f", "\u061f")
"""Question marks, including those of Chinese and Japanese, and of Arabic."""
_OF_A_REPLY = 1
"""Number of sentences extracted from a reply, since it usually begins with the answer."""


class Passage(Frozen):
    """Turns to summarise, and the summary of the turns before them."""

    turns: tuple[Turn, ...] = Field(min_length=1)
    before: str | None = None


class Summariser(Agent[Passage, Reply]):
    """Writes the summary.

    Args:
        endpoint: The endpoint that writes.
        settings: See `Agent`; `max_tokens` bounds the summary.

    Raises:
        CapabilityError: the endpoint can't complete.
    """

    def __init__(self, endpoint: Endpoint, **settings: Unpack[Settings]) -> None:
        super().__init__(endpoint, **settings)
        self.instructions = _INSTRUCTIONS.format(words=max(10, self.max_tokens // 2))

    def user_prompt(self, request: Passage) -> str:
        """Show the earlier summary and the turns, as data."""
        dialogue = "\n".join(
            f"user: {turn.text}\nassistant: {shown_reply(turn) or LEFT_OUT}"
            for turn in request.turns
        )
        earlier = [block(request.before, "The earlier summary")] if request.before else []
        return "\n\n".join([*earlier, block(dialogue, "What was said since")])


class Extract(TypedNode[Passage, Reply]):
    """Quotes sentences: the user's statements, then the user's questions, then replies' openings.

    The latest of each kind are kept, and gaps are marked. No model is asked. A summary that a small
    model rewrites every few turns loses names and numbers, and may add some; quotes don't.

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
        """Pick the newest sentences that fit, and return them in their original order."""
        del context
        before = (request.before or "").splitlines()
        lines = [line for line in before if line not in ("", LEFT_OUT)]
        lines += _lines(request.turns)
        newest = sorted(range(len(lines)), key=lambda i: (_rank(lines[i]), i))
        indices: set[int] = set()
        left = self.max_tokens
        for index in reversed(newest):
            tokens = approximate_tokens(lines[index])
            if tokens <= left:
                indices.add(index)
                left -= tokens
        if not lines:
            return Reply(text=LEFT_OUT)
        if not indices:
            return Reply(text=f"{LEFT_OUT} {_tail(lines[newest[-1]], self.max_tokens)}")
        return Reply(text="\n".join(_mark_gaps(lines, indices)))


def _rank(line: str) -> int:
    """Rank a line: the user's statements highest, since later turns rest on them."""
    if not line.startswith("user:"):
        return 0
    return 1 if line.endswith(_ASKING) else 2


def _lines(turns: tuple[Turn, ...]) -> Iterator[str]:
    for turn in turns:
        for _, sentence in sentences(turn.text):
            yield f"user: {' '.join(sentence.split())}"
        for _, sentence in sentences(turn.reply)[:_OF_A_REPLY]:
            yield f"assistant: {' '.join(sentence.split())}"


def _mark_gaps(lines: list[str], indices: set[int]) -> Iterator[str]:
    for is_kept, group in groupby(range(len(lines)), indices.__contains__):
        yield from [lines[index] for index in group] if is_kept else [LEFT_OUT]


def _tail(line: str, tokens: int) -> str:
    """Return the end of a sentence that is too long."""
    while approximate_tokens(line) > tokens:
        line = line[max(1, len(line) // 8) :]
    return line


@dataclass(slots=True)
class Memory:
    """Limits what a model reads of a conversation."""

    summariser: Node[Passage, Reply]
    """Writes the summary. It reads the summary so far, and about `history_tokens` at a time; more
    comes in batches. Of a message or reply longer than half of that it reads the start and the
    end."""
    history_tokens: int
    """Number of tokens above which the oldest turns are summarised."""
    keep_turns: int
    """Number of last turns before the message that are never summarised."""
    fallback: Node[Passage, Reply] = field(default_factory=lambda: Extract())
    """Writes the summary of turns that `summariser` refuses."""

    async def shorten(self, conversation: Conversation, context: RunContext) -> Conversation | None:
        """Summarise the oldest turns if the conversation is over its limit; else return `None`.

        A failed summary is noted, and the turns stay unchanged.
        """
        old = self._select_old_turns(conversation)
        if not old:
            return None
        shorter = None
        for batch in self._batches(turn for turn in old if turn.status != "rejected"):
            result = await self._sum_up(batch, shorter or conversation, context)
            if result is None:
                break
            shorter = result
        if shorter is not None and shorter.summary is not None:
            context.note(
                "truncated",
                f"turns 1 to {shorter.summary.turns} are read as a summary by "
                f"{shorter.summary.by!r}; those since, word for word",
            )
        return shorter

    async def _sum_up(
        self, turns: Sequence[Turn], conversation: Conversation, context: RunContext
    ) -> Conversation | None:
        """Replace turns and the summary so far by a new summary; `None` if it failed."""
        before = conversation.summary
        passage = Passage(
            turns=tuple(self._cut(turn) for turn in turns), before=before and before.text
        )
        node = self.summariser
        try:
            try:
                text = (await node.run(passage, quiet(context))).output.text
            except EndpointRejected as error:
                if not is_refusal(error):
                    raise
                node = self.fallback
                context.note("degraded", f"{node.name!r} makes the summary: {error}")
                text = (await node.run(passage, quiet(context))).output.text
        except MoaError as error:
            context.note("failed", f"no summary, so the turns stay as they are: {error}")
            return None
        return conversation.with_summary(Summary(text=text, turns=turns[-1].number, by=node.name))

    def _batches(self, turns: Iterable[Turn]) -> Iterator[list[Turn]]:
        """Group turns so that each group is within the limit, or is one turn."""
        batch: list[Turn] = []
        left = self.history_tokens
        for turn in turns:
            tokens = self._cut(turn).tokens
            if batch and tokens > left:
                yield batch
                batch, left = [], self.history_tokens
            batch.append(turn)
            left -= tokens
        if batch:
            yield batch

    def _cut(self, turn: Turn) -> Turn:
        max_tokens = max(1, self.history_tokens // 2)
        text, reply = (
            excerpt(words, max_tokens=max_tokens, left_out=LEFT_OUT)
            for words in (turn.text, turn.reply)
        )
        return turn.model_copy(update={"text": text, "reply": reply})

    def _select_old_turns(self, conversation: Conversation) -> tuple[Turn, ...]:
        """Select the turns to summarise: down to half of the limit, so that it seldom happens."""
        left = conversation.tokens
        old: list[Turn] = []
        if left > self.history_tokens:
            for turn in conversation.recent[: -1 - self.keep_turns]:
                if left <= self.history_tokens // 2:
                    break
                left -= turn.tokens
                old.append(turn)
        return tuple(old)

    def select_context(self, conversation: Conversation, context: RunContext) -> ChatContext:
        """Return what the model reads, and note left-out turns in the trace.

        If no summary could be made, the oldest turns beyond twice the limit are left out. So are
        messages that a server rejected: it would reject every later request with them.
        """
        *before, last = conversation.recent
        turns = [turn for turn in before if turn.status != "rejected"]
        tokens = last.tokens + sum(turn.tokens for turn in turns)
        while tokens > 2 * self.history_tokens and len(turns) > self.keep_turns:
            tokens -= turns.pop(0).tokens
        left_out = [str(turn.number) for turn in before if turn not in turns]
        if left_out:
            context.note("truncated", f"turns that are not read: {', '.join(left_out)}")
        return ChatContext(turns=(*turns, last), summary=conversation.summary)
