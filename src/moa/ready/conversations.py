"""The ready chat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr

from moa.conversations.messages import FILE, ChatSettings, is_file
from moa.ready.entry import AnyNode, Ready, beside
from moa.tiers import Endpoints
from moa.usage import Budget


class ReadyChatSettings(ChatSettings):
    """`[graphs.chat]`."""

    store: SecretStr = SecretStr(FILE)
    """Where the threads are kept: a SQLite file beside `moa.toml`, `:memory:`, or the URL of a
    Postgres database."""
    slm: str | None = None
    """Endpoint that sums up and answers small talk; `None`: the default small one."""
    llm: str | None = None
    """Endpoint that answers the rest; `None`: the default large one."""
    thread_cost: float | None = Field(default=None, ge=0)
    """Most US dollars for a thread, over all its turns."""
    thread_tokens: int | None = Field(default=None, gt=0)
    """Most tokens for a thread, over all its turns."""
    turn_tokens: int | None = Field(default=None, gt=0)
    """Most tokens for a turn."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds for a turn."""


def _chat(endpoints: Endpoints, settings: ReadyChatSettings) -> AnyNode:
    from moa.graphs.chat import chat

    store = settings.store.get_secret_value()
    return chat(
        endpoints.slm if settings.slm is None else endpoints.named(settings.slm),
        endpoints.llm if settings.llm is None else endpoints.named(settings.llm),
        store=beside(endpoints, Path(store)) if is_file(store) else settings.store,
        settings=settings,
        thread_budget=Budget(cost=settings.thread_cost, tokens=settings.thread_tokens),
        budget=Budget(tokens=settings.turn_tokens),
        timeout_s=settings.timeout_s,
    )


READY: dict[str, Ready[Any]] = {
    "chat": Ready("a conversation over many turns", ReadyChatSettings, _chat),
}
