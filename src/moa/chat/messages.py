"""Messages: what goes into a chat and comes out, and what was said in a thread, turn by turn."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from typing import Literal

from pydantic import ConfigDict, Field

from moa.endpoints.tokens import approximate_tokens
from moa.errors import ConfigError, InputError
from moa.messages import Message
from moa.node import Frozen, Reply
from moa.usage import Amount, Part, Tier, Usage

THREAD = "default"
FILE = "chat.sqlite"
"""The default file of the threads."""
MEMORY = ":memory:"
"""Instead of a file: the threads are gone with the chat."""
_POSTGRES = ("postgres", "postgresql")
"""Schemes of the address of a database."""
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
"""Scheme of a URL; a single letter is a drive of Windows."""


def is_file(store: str) -> bool:
    """Return True if a store is a file, and not `:memory:` or the URL of a Postgres database.

    Raises:
        ConfigError: it is a URL of something else. The message doesn't quote it: it may hold a
            password.
    """
    match = _SCHEME.match(store)
    if match is None:
        return store != MEMORY
    scheme = match[1]
    if scheme.lower() not in _POSTGRES or not store[len(scheme) :].startswith("://"):
        raise ConfigError(
            f"conversations can't be kept at a URL that begins with '{scheme}:'. Take a file, "
            ":memory:, or a URL that begins with postgres:// or postgresql://"
        )
    return False


class UserMessage(Frozen):
    """A message of the user."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    text: str
    thread: str = Field(default=THREAD, min_length=1)
    """The conversation that it belongs to."""
    id: str | None = Field(default=None, min_length=1)
    """A message with an id is answered once: said again, it gives the reply that is kept."""


class ChatReply(Reply):
    """What was answered, and by whom."""

    thread: str
    turn: int
    """Its place in the thread; the first is 1."""
    by: Tier
    endpoint: str
    """Name of the endpoint that was asked."""
    reason: str
    """Why it was asked, and not the other one."""
    summarised: int = 0
    """Turns at the beginning of the thread that were read as a summary, not word for word."""
    unfinished_before: bool = False
    """Whether an earlier answer to the message had been cut off, so that it was rewritten."""
    kept: bool = False
    """Whether it is an earlier reply, to a message with the same id; nobody was asked."""


Status = Literal["open", "answered", "stopped", "failed", "rejected"]
"""`open`: being answered, or cut off when its process ended. `stopped`: by whoever asked, on
purpose. `failed`: no model answered. `rejected`: a server would not take the message, as too
long or by its rules, so that it is not read again."""

LEFT_OUT = "[…]"
"""Stands for words that are missing."""


class Turn(Frozen):
    """A message, and the reply to it."""

    number: int
    """Its place in the thread; the first is 1."""
    id: str
    """Id of the message; a message with the same id isn't answered twice."""
    text: str
    at: datetime
    status: Status = "open"
    reply: str = ""
    """What was written; if it was stopped or failed, what had been written until then."""
    by: Tier | None = None
    """Who wrote it."""
    endpoint: str | None = None
    """Name of the endpoint that was asked to."""
    reason: str = ""
    """Why it, and not the other one."""

    @property
    def unfinished(self) -> bool:
        """Whether its answer is still to be written."""
        return self.status in ("open", "failed")

    @property
    def tokens(self) -> int:
        """What it takes of a prompt, counted from above."""
        if self.status == "rejected":
            return 0
        return approximate_tokens(self.text) + approximate_tokens(self.reply)


class Summary(Frozen):
    """What stands for the turns that are no longer read word for word."""

    text: str
    turns: int
    """It stands for turns 1 to this one."""
    by: str
    """Name of the node that made it."""


class Conversation(Frozen):
    """A thread as its checkpoint holds it: everything that the next turn needs."""

    form: Literal["moa.chat/1"] = "moa.chat/1"
    """Tells what holds a conversation from what other graphs keep in the same store."""
    recent: tuple[Turn, ...] = ()
    """The turns after the summary, word for word, the last one last."""
    summary: Summary | None = None
    spent: tuple[tuple[Part, Amount], ...] = ()
    """Usage of all turns, over all restarts."""
    cut_off: int = Field(default=0, ge=0)
    """Answers that were lost with their process: what those took nobody knows."""

    @property
    def last(self) -> Turn | None:
        """The newest turn; `None` if nothing has been said."""
        return self.recent[-1] if self.recent else None

    @property
    def usage(self) -> Usage:
        """What all turns took."""
        return Usage(dict(self.spent))

    @property
    def tokens(self) -> int:
        """What the turns after the summary take of a prompt, counted from above."""
        return sum(turn.tokens for turn in self.recent)

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Conversation:
        """Make one of messages, of which the last is to be answered; those of the system are none.

        Raises:
            InputError: one is of a tool, or the last isn't the user's.
        """
        entries: list[tuple[str, str]] = []
        for role, group in groupby(messages, lambda message: message.role):
            if role == "tool":
                raise InputError("a chat calls no tools: leave tool calls and their results out")
            if role != "system":
                entries.append((role, "\n\n".join(message.content for message in group)))
        if entries and entries[0][0] == "assistant":
            entries.insert(0, ("user", LEFT_OUT))
        if not entries or entries[-1][0] != "user":
            raise InputError("the last message is to be the user's: nothing is to be answered")
        time = datetime.now(UTC)
        replies = [*(text for _, text in entries[1::2]), None]
        return cls(
            recent=tuple(
                Turn(
                    number=number,
                    id=str(number),
                    text=text,
                    at=time,
                    status="open" if reply is None else "answered",
                    reply=reply or "",
                )
                for number, ((_, text), reply) in enumerate(
                    zip(entries[::2], replies, strict=True), start=1
                )
            )
        )

    def with_usage(self, usage: Usage) -> Conversation:
        """Add what a turn took."""
        return self.model_copy(update={"spent": tuple((self.usage + usage).parts.items())})

    def with_last(self, turn: Turn) -> Conversation:
        """Put a turn at the end, in place of the one with its number if there is one."""
        before = tuple(other for other in self.recent if other.number != turn.number)
        return self.model_copy(update={"recent": (*before, turn)})

    def with_summary(self, summary: Summary) -> Conversation:
        """Let a summary stand for the turns that it covers."""
        recent = tuple(turn for turn in self.recent if turn.number > summary.turns)
        return self.model_copy(update={"summary": summary, "recent": recent})
