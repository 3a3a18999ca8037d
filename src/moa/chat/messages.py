"""Messages: the input and output of a chat, and the turns of a conversation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import groupby
from typing import Literal

from pydantic import ConfigDict, Field

from moa.core.errors import ConfigError, InputError
from moa.core.messages import Message
from moa.core.node import Frozen, Reply
from moa.core.usage import Amount, Part, Tier, Usage
from moa.endpoints.tokens import approximate_tokens

THREAD = "default"
FILE = "chat.sqlite"
"""Default file of the threads."""
MEMORY = ":memory:"
"""Given instead of a file: the threads are lost when the chat ends."""
_POSTGRES = ("postgres", "postgresql")
"""URL schemes of a Postgres database."""
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
"""Scheme of a URL; a single letter would be a Windows drive."""


def is_file(store: str) -> bool:
    """Return True if a store is a file, not `:memory:` or the URL of a Postgres database.

    Raises:
        ConfigError: it is another URL. The message doesn't quote it, since it may contain a
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
    """Name of its conversation."""
    id: str | None = Field(default=None, min_length=1)
    """Id of the message. Sent again with the same id, it gets the stored reply."""


class ChatReply(Reply):
    """A reply of the chat, and who wrote it."""

    thread: str
    turn: int
    """Number of the turn in the thread, from 1."""
    by: Tier
    endpoint: str
    """Name of the endpoint that wrote it."""
    reason: str
    """Why this endpoint wrote it, and not the other."""
    summarised: int = 0
    """Number of first turns of the thread that were read as a summary, not word for word."""
    unfinished_before: bool = False
    """True if an earlier answer to the message was cut off, and has been written again."""
    kept: bool = False
    """True if it is the stored reply to a message with the same id. No model was asked."""


Status = Literal["open", "answered", "stopped", "failed", "rejected"]
"""`open`: being answered, or cut off when its process ended. `stopped`: cancelled by the caller.
`failed`: no model answered. `rejected`: a server refused the message, as too long or against its
rules, so it isn't read again."""

LEFT_OUT = "[…]"
"""Mark for left-out words."""


class Turn(Frozen):
    """A message, and the reply to it."""

    number: int
    """Its number in the thread, from 1."""
    id: str
    """Id of the message; a message with the same id isn't answered twice."""
    text: str
    at: datetime
    status: Status = "open"
    reply: str = ""
    """The reply; if it was stopped or failed, the part written until then."""
    by: Tier | None = None
    """Tier of the model that wrote it."""
    endpoint: str | None = None
    """Name of the endpoint that wrote it."""
    reason: str = ""
    """Why this endpoint wrote it, and not the other; or the error."""

    @property
    def unfinished(self) -> bool:
        """True if the answer is still to be written."""
        return self.status in ("open", "failed")

    @property
    def tokens(self) -> int:
        """Upper bound of its tokens in a prompt."""
        if self.status == "rejected":
            return 0
        return approximate_tokens(self.text) + approximate_tokens(self.reply)


class Summary(Frozen):
    """A summary, which a model reads instead of the first turns."""

    text: str
    turns: int
    """Number of the last summarised turn; the first is 1."""
    by: str
    """Name of the node that wrote it."""


class Conversation(Frozen):
    """A thread as stored in its checkpoint: everything that the next turn needs."""

    form: Literal["moa.chat/1"] = "moa.chat/1"
    """Format, which distinguishes it from what other graphs store in the same place."""
    recent: tuple[Turn, ...] = ()
    """Turns after the summary, word for word, in order."""
    summary: Summary | None = None
    spent: tuple[tuple[Part, Amount], ...] = ()
    """Usage of all turns, over all restarts."""
    cut_off: int = Field(default=0, ge=0)
    """Number of answers lost because their process ended. Their usage is unknown."""

    @property
    def last(self) -> Turn | None:
        """The newest turn; `None` if nothing has been said."""
        return self.recent[-1] if self.recent else None

    @property
    def usage(self) -> Usage:
        """Usage of all turns."""
        return Usage(dict(self.spent))

    @property
    def tokens(self) -> int:
        """Upper bound of the tokens of the turns after the summary, in a prompt."""
        return sum(turn.tokens for turn in self.recent)

    @classmethod
    def of(cls, messages: Iterable[Message]) -> Conversation:
        """Make a conversation of messages, the last to be answered, without system messages.

        Raises:
            InputError: a message is a tool's, or the last isn't the user's.
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
        """Return a copy with the usage of a turn added."""
        return self.model_copy(update={"spent": tuple((self.usage + usage).parts.items())})

    def with_last(self, turn: Turn) -> Conversation:
        """Return a copy with a turn at the end, in place of the turn with its number, if any."""
        before = tuple(other for other in self.recent if other.number != turn.number)
        return self.model_copy(update={"recent": (*before, turn)})

    def with_summary(self, summary: Summary) -> Conversation:
        """Return a copy with a summary in place of the turns that it covers."""
        recent = tuple(turn for turn in self.recent if turn.number > summary.turns)
        return self.model_copy(update={"summary": summary, "recent": recent})
