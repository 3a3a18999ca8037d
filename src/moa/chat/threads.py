"""Threads: conversations by name, each in the newest of its checkpoints in a store."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from decimal import Decimal
from uuid import UUID
from weakref import WeakValueDictionary

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    CheckpointMetadata,
    CheckpointTuple,
    empty_checkpoint,
)
from pydantic import BaseModel, ValidationError, field_validator

from moa.agents.base import fault_in
from moa.chat.messages import Conversation, Summary, Turn
from moa.chat.stores import Store, describe_delay
from moa.core._async import Lock, closing_stream, time_limit
from moa.core.context import RunContext
from moa.core.errors import StoreError
from moa.core.node import Frozen
from moa.core.usage import Tier, Usage

_CHANNEL = "conversation"
_OPENING = 60


class _Metadata(CheckpointMetadata, total=False):
    """Metadata to find checkpoints by."""

    moa_first: bool
    moa_said: str


class Thread(Frozen):
    """Overview of a thread, as in `Threads.list`."""

    name: str
    turns: int
    opening: str
    """The beginning of its first message."""
    last_at: datetime
    unfinished: bool
    """True if the answer to the last message is still to be written."""
    usage: Usage


class NodeUsage(Frozen):
    """Usage of one endpoint by one node, over all turns of a thread."""

    tier: Tier
    node: str
    endpoint: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal | None
    """US dollars; `None` if the price of a call is not known."""


class Transcript(Frozen):
    """All turns of a thread; write it with `model_dump_json()`."""

    thread: str
    turns: tuple[Turn, ...]
    summary: Summary | None
    """The summary that a model reads instead of the first turns."""
    spent: tuple[NodeUsage, ...]
    cut_off: int
    """Number of answers lost because their process ended. Their usage is unknown."""


class ThreadWriter:
    """A thread that is locked for writing; `tip` is the id of its newest checkpoint."""

    def __init__(
        self, name: str, conversation: Conversation, tip: str | None, store: Store
    ) -> None:
        self.name = name
        self.conversation = conversation
        self._tip = tip
        self._store = store

    async def save(self, conversation: Conversation) -> None:
        """Write a checkpoint, which any LangGraph graph with this channel can read."""
        turn = conversation.last
        assert turn is not None, "there is nothing to save before something is said"
        checkpoint = empty_checkpoint()
        # `aupdate_state` of a graph takes ids from the clock. If the clock is behind, the previous
        # checkpoint stays the newest, and the turn is lost.
        checkpoint["id"] = _next_id(self._tip, checkpoint["id"])
        checkpoint["channel_values"] = {_CHANNEL: conversation.model_dump(mode="json")}
        versions: ChannelVersions = {_CHANNEL: checkpoint["id"]}
        checkpoint["channel_versions"] = versions
        metadata = _Metadata(source="update", step=turn.number, parents={}, moa_said=turn.id)
        if self._tip is None:
            metadata["moa_first"] = True
        config = _config(self.name, self._tip)
        async with self._store.open() as saver:
            await saver.aput(config, checkpoint, metadata, versions)
        self._tip = checkpoint["id"]
        self.conversation = conversation


class Threads:
    """The conversations in a store.

    Each method raises `StoreError` if the store can't be read or written. Those that wait for a
    thread raise `DeadlineExceeded` if the time is up.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._locks = WeakValueDictionary[str, Lock]()
        """Locks of the threads that a caller writes into or waits for."""

    @asynccontextmanager
    async def writer(self, name: str, context: RunContext) -> AsyncGenerator[ThreadWriter]:
        """Wait for a thread, first come first served, and lock it."""
        lock = self._locks.setdefault(name, Lock())
        message = describe_delay(name, "another turn, which this process answers,", context)
        async with AsyncExitStack() as stack:
            async with time_limit(context.remaining_s(), message):
                await stack.enter_async_context(lock.hold(None))
            await stack.enter_async_context(self.store.lock(name, context))
            async with self.store.open() as saver:
                tip = await saver.aget_tuple(_config(name))
            conversation = _conversation(tip, self.store)
            newest = None if tip is None else tip.checkpoint["id"]
            yield ThreadWriter(name, conversation, newest, self.store)

    async def list(self) -> tuple[Thread, ...]:
        """List the threads, the most recently used first."""
        threads = list[Thread]()
        async with self.store.open() as saver:
            firsts = [first async for first in saver.alist(None, filter={"moa_first": True})]
            for first in firsts:
                opening = _conversation(first, self.store).recent[0].text
                tip = await saver.aget_tuple(_config(_name(first)))
                if tip is not None:  # not deleted meanwhile
                    threads.append(_thread(_name(tip), _conversation(tip, self.store), opening))
        return tuple(sorted(threads, key=lambda thread: thread.last_at, reverse=True))

    async def load(self, name: str) -> Conversation:
        """Load the conversation of a thread; an unknown thread is empty."""
        async with self.store.open() as saver:
            return _conversation(await saver.aget_tuple(_config(name)), self.store)

    async def transcript(self, name: str) -> Transcript:
        """Read all turns of a thread from its checkpoints."""
        turns = dict[int, Turn]()
        last: Conversation | None = None
        async with (
            self.store.open() as saver,
            closing_stream(saver.alist(_config(name))) as checkpoints,
        ):
            async for checkpoint in checkpoints:  # the newest first
                conversation = _conversation(checkpoint, self.store)
                last = last or conversation
                for turn in conversation.recent:
                    turns.setdefault(turn.number, turn)
        last = last or Conversation()
        return Transcript(
            thread=name,
            turns=tuple(turns[number] for number in sorted(turns)),
            summary=last.summary,
            spent=tuple(
                NodeUsage(
                    **part._asdict(),
                    calls=amount.calls,
                    input_tokens=amount.input_tokens,
                    output_tokens=amount.output_tokens,
                    cost=amount.cost,
                )
                for part, amount in last.spent
            ),
            cut_off=last.cut_off,
        )

    async def find(self, name: str, message: str) -> Turn | None:
        """Find the newest turn by the id of its message; `None` if there is none."""
        async with self.store.open() as saver:
            checkpoints = saver.alist(_config(name), filter={"moa_said": message}, limit=1)
            newest = [checkpoint async for checkpoint in checkpoints]
        return _conversation(newest[0], self.store).last if newest else None

    async def delete(self, name: str, context: RunContext | None = None) -> bool:
        """Delete a thread once it isn't being written; return False if it doesn't exist."""
        async with self.writer(name, context or RunContext()) as thread:
            if thread.conversation.last is None:
                return False
            async with self.store.open() as saver:
                await saver.adelete_thread(name)
        return True


class _Channels(BaseModel):
    conversation: Conversation

    @field_validator("conversation")
    @classmethod
    def _has_turn(cls, conversation: Conversation) -> Conversation:
        if conversation.last is None:
            raise ValueError("it has no turn")
        return conversation


class _Checkpoint(BaseModel):
    """The parts of a checkpoint that are read."""

    id: UUID
    channel_values: _Channels


def _conversation(tip: CheckpointTuple | None, store: Store) -> Conversation:
    """Validate the conversation of a checkpoint; without a checkpoint it is empty."""
    if tip is None:
        return Conversation()
    try:
        return _Checkpoint.model_validate(tip.checkpoint).channel_values.conversation
    except ValidationError as error:
        raise StoreError(
            f"thread {_name(tip)!r} in {store.shown} holds no conversation of moa chat: "
            f"{fault_in(error)}. Take another name or another store"
        ) from error


def _config(name: str, checkpoint: str | None = None) -> RunnableConfig:
    keys = {"thread_id": name, "checkpoint_ns": ""}
    return {"configurable": keys if checkpoint is None else keys | {"checkpoint_id": checkpoint}}


def _name(tip: CheckpointTuple) -> str:
    return str(tip.config.get("configurable", {})["thread_id"])


def _thread(name: str, conversation: Conversation, opening: str) -> Thread:
    last = conversation.last
    assert last is not None, "what is saved has a turn"
    opening = " ".join(opening.split())
    return Thread(
        name=name,
        turns=last.number,
        opening=opening if len(opening) <= _OPENING else f"{opening[: _OPENING - 1]}…",
        last_at=last.at,
        unfinished=last.unfinished,
        usage=conversation.usage,
    )


def _next_id(parent: str | None, new: str) -> str:
    """Return an id that sorts after its parent's."""
    if parent is None or new > parent:
        return new
    return str(UUID(int=UUID(parent).int + 1))
