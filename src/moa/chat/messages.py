"""Messages: what goes into a chat and what comes out."""

from __future__ import annotations

import re

from pydantic import ConfigDict, Field

from moa.errors import ConfigError
from moa.handoffs import Frozen, Reply
from moa.usage import Tier

THREAD = "default"
FILE = "chat.sqlite"
"""Where threads are kept unless it is said otherwise."""
MEMORY = ":memory:"
"""In place of a file: what is kept is gone with the chat."""
_POSTGRES = ("postgres", "postgresql")
"""How the address of a database begins."""
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)
"""Of a URL; one letter alone is a drive of Windows."""


def is_file(store: str) -> bool:
    """Whether a store is a file, and not `:memory:` or the URL of a Postgres database.

    Raises:
        ConfigError: it is a URL of something else. The message doesn't quote it: it may hold a
            password.
    """
    found = _SCHEME.match(store)
    if found is None:
        return store != MEMORY
    scheme = found[1]
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
    """Whether an earlier answer to the message had been cut off, so that it was written anew."""
    kept: bool = False
    """Whether it is an earlier reply, to a message with the same id; nobody was asked."""
