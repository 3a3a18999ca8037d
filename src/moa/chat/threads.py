"""Threads: conversations by name, each the newest of its checkpoints in a store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, CheckpointTuple, empty_checkpoint
from pydantic import BaseModel, ValidationError, field_validator

from moa._async import Lock, closed_after
from moa.agents.base import fault_in
from moa.chat.messages import Conversation, Summary, Turn
from moa.chat.stores import Store, wait_for
from moa.context import RunContext
from moa.errors import StoreError
from moa.node import Frozen
from moa.usage import Tier, Usage

_CHANNEL = "conversation"
_FIRST = "moa_first"
_SAID = "moa_said"
_OPENING = 60


class Thread(Frozen):
    """A thread, as a list of them shows it."""

    name: str
    turns: int
    opening: str
    """How its first message begins, or what is left of it."""
    last_at: datetime
    unfinished: bool
    """Whether the answer to the last message is still to be written."""
    usage: Usage


class Spent(Frozen):
    """What one node asked of one endpoint, over all turns of a thread."""

    tier: Tier
    node: str
    endpoint: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal | None
    """US dollars; `None` where the price of a call is not known."""


class Transcript(Frozen):
    """All that was said in a thread; write it with `model_dump_json()`."""

    thread: str
    turns: tuple[Turn, ...]
    summary: Summary | None
    """What stands for the first turns when a model reads the thread."""
    spent: tuple[Spent, ...]
    cut_off: int
    """Answers that were lost with their process, and what those took."""


class Held:
    """A thread that nobody else writes into meanwhile; `tip` is the id of its newest checkpoint."""

    def __init__(
        self, name: str, conversation: Conversation, *, store: Store, tip: str | None
    ) -> None:
        self.name = name
        self.conversation = conversation
        self._store = store
        self._tip = tip

    async def save(self, conversation: Conversation) -> None:
        """Write a checkpoint."""
        turn = conversation.last
        assert turn is not None, "there is nothing to save before something is said"
        checkpoint = empty_checkpoint()
        checkpoint["id"] = _after(self._tip, checkpoint["id"])
        checkpoint["channel_values"] = {_CHANNEL: conversation.model_dump(mode="json")}
        versions: ChannelVersions = {_CHANNEL: checkpoint["id"]}
        checkpoint["channel_versions"] = versions
        metadata: Any = {"source": "update", "step": turn.number, "parents": {}, _SAID: turn.id}
        if self._tip is None:
            metadata[_FIRST] = True
        async with self._store.opened() as saver:
            await saver.aput(_config(self.name, self._tip), checkpoint, metadata, versions)
        self._tip = checkpoint["id"]
        self.conversation = conversation


class Threads:
    """The conversations in a store.

    Each method raises `StoreError` where the store can't be read or written, and those that wait
    for a thread `DeadlineExceeded` where the time is up.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._locks = WeakValueDictionary[str, Lock]()
        """Of the threads that somebody here writes into or waits for."""

    @asynccontextmanager
    async def held(self, name: str, context: RunContext) -> AsyncGenerator[Held]:
        """Wait for a thread, first come first served, and keep all others out of it."""
        lock = self._locks.setdefault(name, Lock())
        by = "another turn, which this process answers,"
        async with AsyncExitStack() as held:
            mine = held.enter_async_context(lock.held(None))
            await wait_for(mine, name, context, by=by)
            await held.enter_async_context(self.store.held(name, context))
            conversation, tip = await self._newest(name)
            yield Held(name, conversation, store=self.store, tip=tip)

    async def list(self) -> tuple[Thread, ...]:
        """List the threads, the one that was used last first."""
        async with self.store.opened() as saver:
            firsts = [found async for found in saver.alist(None, filter={_FIRST: True})]
            names = dict.fromkeys(_name(first) for first in firsts)
            openings = {_name(first): self._read(first).recent[0].text for first in firsts}
            tips = [await saver.aget_tuple(_config(name)) for name in names]
        found = [_thread(tip, self._read(tip), openings) for tip in tips if tip is not None]
        return tuple(sorted(found, key=lambda thread: thread.last_at, reverse=True))

    async def load(self, name: str) -> Conversation:
        """Read what the next turn of a thread would need; an unknown thread is empty."""
        return (await self._newest(name))[0]

    async def _newest(self, name: str) -> tuple[Conversation, str | None]:
        """Read the newest checkpoint, and its id; `None` where there is none."""
        async with self.store.opened() as saver:
            tip = await saver.aget_tuple(_config(name))
        return (Conversation(), None) if tip is None else (self._read(tip), tip.checkpoint["id"])

    async def transcript(self, name: str) -> Transcript:
        """Read all that was said in a thread, from its checkpoints."""
        turns: dict[int, Turn] = {}
        newest: Conversation | None = None
        async with (
            self.store.opened() as saver,
            closed_after(saver.alist(_config(name))) as checkpoints,
        ):
            async for found in checkpoints:
                conversation = self._read(found)
                newest = newest or conversation
                for turn in conversation.recent:
                    turns.setdefault(turn.number, turn)
        newest = newest or Conversation()
        return Transcript(
            thread=name,
            turns=tuple(turns[number] for number in sorted(turns)),
            summary=newest.summary,
            spent=tuple(
                Spent(
                    **part._asdict(),
                    calls=amount.calls,
                    input_tokens=amount.input_tokens,
                    output_tokens=amount.output_tokens,
                    cost=amount.cost,
                )
                for part, amount in newest.spent
            ),
            cut_off=newest.cut_off,
        )

    async def find(self, name: str, said_id: str) -> Turn | None:
        """Look for the newest turn whose message had an id; `None` where there is none."""
        async with self.store.opened() as saver:
            newest = [f async for f in saver.alist(_config(name), filter={_SAID: said_id}, limit=1)]
        return self._read(newest[0]).last if newest else None

    async def delete(self, name: str, context: RunContext | None = None) -> bool:
        """Delete a thread, once nobody writes into it; say whether there was one."""
        async with self.held(name, context or RunContext()) as thread:
            if thread.conversation.last is None:
                return False
            async with self.store.opened() as saver:
                await saver.adelete_thread(name)
        return True

    def _read(self, found: CheckpointTuple) -> Conversation:
        """Validate what a checkpoint holds: a conversation, or else a `StoreError` is raised."""
        try:
            return _Checkpoint.model_validate(found.checkpoint).channel_values.conversation
        except ValidationError as error:
            raise StoreError(
                f"thread {_name(found)!r} in {self.store.shown} holds no conversation of moa chat: "
                f"{fault_in(error)}. Take another name or another store"
            ) from error


class _Channels(BaseModel):
    conversation: Conversation

    @field_validator("conversation")
    @classmethod
    def _begun(cls, conversation: Conversation) -> Conversation:
        if conversation.last is None:
            raise ValueError("it has no turn")
        return conversation


class _Checkpoint(BaseModel):
    """What is read of a checkpoint."""

    id: UUID
    channel_values: _Channels


def _config(name: str, checkpoint: str | None = None) -> RunnableConfig:
    place = {"thread_id": name, "checkpoint_ns": ""}
    return {"configurable": place if checkpoint is None else place | {"checkpoint_id": checkpoint}}


def _name(found: CheckpointTuple) -> str:
    return str(found.config.get("configurable", {})["thread_id"])


def _thread(tip: CheckpointTuple, conversation: Conversation, openings: dict[str, str]) -> Thread:
    last = conversation.last
    assert last is not None, "what is saved has a turn"
    opening = " ".join(openings[_name(tip)].split())
    return Thread(
        name=_name(tip),
        turns=last.number,
        opening=opening if len(opening) <= _OPENING else f"{opening[: _OPENING - 1]}…",
        last_at=last.at,
        unfinished=last.unfinished,
        usage=conversation.usage,
    )


def _after(parent: str | None, new: str) -> str:
    """Give an id that sorts after its parent's, also where this machine's clock is behind."""
    if parent is None or new > parent:
        return new
    return str(UUID(int=UUID(parent).int + 1))
