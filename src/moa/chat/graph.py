"""Chat graph: conversations over many turns, shared by a small and a large model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

from pydantic import BeforeValidator, Field, SecretStr, ValidationInfo

from moa.agents.base import TypedNode
from moa.agents.filter import Verdict
from moa.chat.memory import Extract, Memory, Passage
from moa.chat.messages import FILE, THREAD, ChatReply, Conversation, Turn, UserMessage, is_file
from moa.chat.routing import PERSONA, ChatRouter, Speaker, is_refusal, small_talk
from moa.core.budget import UNLIMITED, Budget
from moa.core.context import RunContext
from moa.core.errors import InputError, MoaError
from moa.core.node import AnyNode, Reply
from moa.core.trace import Event, TextDelta
from moa.decisions.acceptance import Policy
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.endpoints.rehearsal import REHEARSAL
from moa.graphs.fields import Large, NamedEndpoints, PythonNode, Small, resolve_path
from moa.graphs.recipe import Recipe, Sketch

if TYPE_CHECKING:
    from moa.chat.stores import Saver
    from moa.chat.threads import ThreadWriter
else:
    Saver = object  # LangGraph is imported where a chat is made


def resolve_store(store: object, info: ValidationInfo) -> object:
    """Resolve a file relative to moa.toml, and hide a URL, which may contain a password."""
    if not isinstance(store, str | SecretStr):
        return store
    text = store.get_secret_value() if isinstance(store, SecretStr) else store
    return resolve_path(text, info) if is_file(text) else SecretStr(text)


class Chat(Recipe[UserMessage, ChatReply], recipe="chat"):
    """A conversation over many turns.

    It takes a message and returns the reply, in any number of named threads, stored in `threads`.
    Each message is stored before a model is called, and each reply once it is complete. In one
    thread, turns are answered one at a time, across processes too.

    Raises:
        CapabilityError: an endpoint can't do its part.
        ConfigError: the store is invalid; see `store_of`.
        MissingDependency: the package for the store is not installed.

    Examples:
        >>> from moa.chat.messages import UserMessage
        >>> small = ScriptedEndpoint([{"small_talk": {"yes": 0.1}}])
        >>> large = ScriptedEndpoint(["Sunlight scatters in the air."])
        >>> talk = Chat(slm=small, llm=large, store=":memory:")
        >>> message = UserMessage(text="Why is the sky blue?", thread="ann")
        >>> print(talk.run_sync(message).output.text)
        Sunlight scatters in the air.
    """

    slm: Small
    """Detects small talk, and answers it. A model that writes too badly, like the built-in one,
    answers only if there is no large one."""
    llm: Large
    """Answers the rest, given the summary and the last turns."""
    store: Annotated[str | Path | SecretStr | Saver, BeforeValidator(resolve_store)] = FILE
    """Storage of the threads: a SQLite file, `:memory:`, the URL of a Postgres database, or a
    LangGraph saver. In a table, a file's path is relative to moa.toml."""
    persona: str = Field(default=PERSONA, min_length=1)
    """Instructions for the model: who answers, and how."""
    language: str | None = None
    """The language of the answers, such as "French"; `None`: that of each message."""
    history_tokens: int = Field(default=2000, gt=0)
    """Maximum tokens of the conversation that are read verbatim; older ones are summarised."""
    keep_turns: int = Field(default=2, ge=0)
    """Number of last turns before the message that are never summarised."""
    summary_tokens: int = Field(default=256, gt=0)
    """Maximum tokens of a summary."""
    reply_tokens: int = Field(default=512, gt=0)
    """Maximum tokens of a reply."""
    threshold: float = Field(default=0.8, gt=0, lt=1)
    """Minimum probability of small talk for the small model to answer. It guarantees nothing."""
    keeps: PythonNode[str, Verdict] | None = None
    """Replaces the filter for small talk: selects the messages for the small model."""
    accept: Policy | None = None
    """Judges the small model's replies. It then tries every message, unless `keeps` says
    otherwise, and its reply is shown once accepted."""
    sums_up: PythonNode[Passage, Reply] | None = None
    """Writes the summaries, such as `Summariser(endpoint)`; `None`: they consist of the user's own
    sentences, without a call."""
    thread_budget: Budget = UNLIMITED
    """Limits on each thread, over all its turns and restarts; `budget` limits each turn."""

    @classmethod
    def complete(
        cls, table: Mapping[str, object], endpoints: NamedEndpoints
    ) -> Mapping[str, object]:
        """Store the threads beside moa.toml."""
        del endpoints
        return {"store": FILE, **table}

    def prepare(self) -> None:
        """Build the router, the memory and the store of the threads."""
        from moa.chat.stores import store_of
        from moa.chat.threads import Threads

        alone_reason = "" if can_write(self.slm.model) else "the small model writes too badly"
        if self.slm is self.llm or self.slm.name == self.llm.name:
            alone_reason = "there is no other model"
        keeps = self.keeps
        if keeps is None and not alone_reason and self.accept is None:
            keeps = small_talk(self.slm, threshold=self.threshold)
        self.router = ChatRouter(
            large=self._speaker(self.llm, "reply"),
            small=None if alone_reason else self._speaker(self.slm, "small_reply"),
            why_alone=alone_reason,
            keeps=keeps,
            accept=self.accept,
        )
        self.threads = Threads(store_of(self.store))
        self.memory = Memory(
            self.sums_up or Extract(max_tokens=self.summary_tokens),
            history_tokens=self.history_tokens,
            keep_turns=self.keep_turns,
            fallback=Extract(max_tokens=self.summary_tokens),
        )

    def members(self) -> Iterator[AnyNode]:
        """Yield the nodes of the chat."""
        router = self.router
        nodes = (self.memory.summariser, router.keeps, router.small, router.large)
        yield from (node for node in nodes if node is not None)

    def sketch(self, sketch: Sketch) -> None:
        """Draw the steps, from recalling the conversation to the models that answer."""
        router = self.router
        recall, summary = sketch.box(label="recall"), sketch.box(self.memory.summariser)
        read = sketch.box(label="read")
        sketch.arrow(sketch.input, recall, read)
        sketch.arrow(recall, summary, label="if too_long")
        sketch.arrow(summary, read)
        large = sketch.box(router.large)
        sketch.arrow(read, large, sketch.output)
        if router.small is None:
            return
        small = sketch.box(router.small)
        sketch.arrow(read, small, sketch.output)
        if router.accept is not None:
            sketch.arrow(small, large, label="if not_accepted", decides=True)
        if router.keeps is not None:
            keeps = sketch.box(router.keeps)
            sketch.arrow(read, keeps)
            sketch.arrow(keeps, small, label="if kept", decides=True)
            sketch.arrow(keeps, large, label="if not_kept", decides=True)

    def _speaker(self, endpoint: Endpoint, name: str) -> Speaker:
        return Speaker(
            endpoint,
            persona=self.persona,
            language=self.language,
            name=name,
            max_tokens=self.reply_tokens,
        )

    async def unfinished(self, thread: str = THREAD) -> UserMessage | None:
        """Return the last message of a thread if its answer was cut off or failed.

        Run it to write the answer again. That doesn't repeat the message in the thread.

        Raises:
            StoreError: the store can't be read.
        """
        last = (await self.threads.load(thread)).last
        if last is None or not last.unfinished:
            return None
        return UserMessage(text=last.text, thread=thread, id=last.id)

    async def _rehearse(self, request: UserMessage, context: RunContext) -> None:
        """Answer a message in a rehearsal, without storing anything."""
        file = self.threads.store.file
        is_new = file is not None and not await asyncio.to_thread(file.exists)  # don't create it
        before = Conversation() if is_new else await self.threads.load(request.thread)
        conversation = _with_message(request, before, context)
        await Continuation(self).run(conversation, context.parent)

    async def answer(self, request: UserMessage, context: RunContext) -> ChatReply:
        """Store the message, summarise turns that no longer fit, answer, and store the reply."""
        if not request.text.strip():
            raise InputError(f"{self.name}: the message is empty")
        if (rehearsal := REHEARSAL.get()) is not None:
            await self._rehearse(request, context)
            await rehearsal.hold()
        async with self.threads.writer(request.thread, context) as thread:
            turn = await self._find_answered(request)
            if turn is not None:
                return _reply(thread, turn, is_kept=True)
            last = thread.conversation.last
            was_unfinished = last is not None and last.unfinished and _is_same(last, request)
            await thread.save(_with_message(request, thread.conversation, context))
            return _reply(
                thread, await self._answer(thread, context), unfinished_before=was_unfinished
            )

    async def _find_answered(self, request: UserMessage) -> Turn | None:
        """Find the answered turn of an earlier message with the same id."""
        if request.id is None:
            return None
        turn = await self.threads.find(request.thread, request.id)
        if turn is not None and turn.text != request.text:
            raise InputError(
                f"{self.name}: id {request.id!r} belongs to another message of thread "
                f"{request.thread!r}. Give this one another id, or another thread"
            )
        return turn if turn is not None and turn.status == "answered" else None

    async def _answer(self, thread: ThreadWriter, context: RunContext) -> Turn:
        """Answer the last turn, and save the result, even if it failed."""
        turn_context = context.nested(budget=self.thread_budget.subtract(thread.conversation.usage))
        text = _record_text(turn_context)
        try:
            shorter = await self.memory.shorten(thread.conversation, turn_context)
            if shorter is not None:
                await thread.save(shorter)
            reply = await self.router.reply(
                self.memory.select_context(thread.conversation, turn_context), turn_context
            )
        except asyncio.CancelledError:
            await _save_turn(thread, turn_context, status="stopped", reply=text())
            raise
        except MoaError as error:
            status = "rejected" if is_refusal(error) else "failed"
            await _save_turn(thread, turn_context, status=status, reply=text(), reason=str(error))
            raise
        return await _save_turn(
            thread,
            turn_context,
            status="answered",
            reply=reply.text,
            by=reply.speaker.endpoint.tier,
            endpoint=reply.speaker.endpoint.name,
            reason=reply.reason,
        )


class Continuation(TypedNode[Conversation, Reply]):
    """Answers the last message of a conversation that the caller keeps. Nothing is stored.

    Args:
        chat: The chat whose models and memory are used.
        rules: The caller's instructions for the whole conversation, in addition to the persona.
    """

    def __init__(self, chat: Chat, *, rules: str = "") -> None:
        super().__init__(name=chat.name, budget=chat.budget, timeout_s=chat.timeout_s)
        self.chat, self.rules = chat, rules

    async def answer(self, request: Conversation, context: RunContext) -> Reply:
        """Summarise turns that no longer fit, and answer the last message."""
        last = request.last
        if last is None or not last.text.strip():
            raise InputError(f"{self.name}: the message is empty")
        memory = self.chat.memory
        shorter = await memory.shorten(request, context)
        read = memory.select_context(shorter or request, context)
        read = read.model_copy(update={"rules": self.rules})
        return Reply(text=(await self.chat.router.reply(read, context)).text)


def _is_same(turn: Turn, request: UserMessage) -> bool:
    return turn.id == request.id if request.id is not None else turn.text == request.text


def _with_message(
    request: UserMessage, conversation: Conversation, context: RunContext
) -> Conversation:
    """Append the message to a conversation, unless it is its unanswered last message already."""
    last = conversation.last
    is_lost = last is not None and last.status == "open"  # its process ended
    longer = conversation.model_copy(update={"cut_off": conversation.cut_off + is_lost})
    if last is not None and last.status != "answered" and _is_same(last, request):
        if last.unfinished:
            context.note("retried", f"the answer to turn {last.number} was cut off: written anew")
        return longer.with_last(last.model_copy(update={"status": "open", "reply": ""}))
    if last is not None and last.unfinished:
        context.note("degraded", f"turn {last.number} got no answer; this one answers both")
    turn = Turn(
        number=1 if last is None else last.number + 1,
        id=request.id or uuid4().hex,
        text=request.text,
        at=datetime.now(UTC),
    )
    return longer.with_last(turn)


def _record_text(context: RunContext) -> Callable[[], str]:
    """Record the streamed text, if there is a listener; return a function that gives the text."""
    pieces: list[str] = []
    listener = context.listener
    if listener is not None:

        def listen(event: Event) -> None:
            if isinstance(event, TextDelta):
                pieces.append(event.text)
            listener(event)

        context.listener = listen
    return lambda: "".join(pieces)


async def _save_turn(thread: ThreadWriter, context: RunContext, **facts: str) -> Turn:
    """Save the outcome of the last turn, and its usage."""
    last = thread.conversation.last
    assert last is not None, "a turn was opened"
    turn = last.model_copy(update=facts)
    await thread.save(thread.conversation.with_last(turn).with_usage(context.usage))
    return turn


def _reply(
    thread: ThreadWriter, turn: Turn, *, unfinished_before: bool = False, is_kept: bool = False
) -> ChatReply:
    summary = thread.conversation.summary
    assert turn.by is not None, "an answered turn"
    assert turn.endpoint is not None, "an answered turn"
    return ChatReply(
        text=turn.reply,
        thread=thread.name,
        turn=turn.number,
        by=turn.by,
        endpoint=turn.endpoint,
        reason=turn.reason,
        summarised=0 if summary is None else summary.turns,
        unfinished_before=unfinished_before,
        kept=is_kept,
    )
