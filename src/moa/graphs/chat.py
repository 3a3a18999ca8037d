"""Chat: conversations over many turns, kept in checkpoints, shared by a small and a large model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from pydantic import SecretStr

from moa.agents.filter import Verdict
from moa.calibration.acceptance import Policy
from moa.context import RunContext
from moa.conversations import Conversation, Turn
from moa.conversations.handing_over import HandingOver, Spoken, is_refusal, small_talk
from moa.conversations.messages import FILE, THREAD, ChatReply, ChatSettings, Said
from moa.conversations.remembering import Memory
from moa.conversations.speaking import Speaker
from moa.conversations.summing_up import Extract, Passage, Summariser
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.errors import InputError, MoaError
from moa.graphs.building.plan import Plan
from moa.graphs.chat_plan import chat_plan
from moa.graphs.pattern import Pattern
from moa.graphs.stores import Saver, store_of
from moa.graphs.threads import Held, Threads
from moa.handoffs import Reply
from moa.node import Node
from moa.trace import Event, Piece
from moa.usage import UNLIMITED, Budget


class Chat(Pattern[Said, ChatReply]):
    """What `chat` makes: a message in, the reply out; what was said is in `threads`."""

    def __init__(
        self,
        replies: HandingOver,
        threads: Threads,
        *,
        memory: Memory,
        thread_budget: Budget,
        budget: Budget,
        timeout_s: float | None,
    ) -> None:
        super().__init__(name="chat", budget=budget, timeout_s=timeout_s)
        self.threads = threads
        self.thread_budget = thread_budget
        self._replies = replies
        self._memory = memory

    async def unfinished(self, thread: str = THREAD) -> Said | None:
        """Give the last message of a thread if its answer was cut off or failed.

        Run it to have the answer written anew; the message is not said twice by that.

        Raises:
            StoreError: the store can't be read.
        """
        last = (await self.threads.load(thread)).last
        if last is None or not last.unfinished:
            return None
        return Said(text=last.text, thread=thread, id=last.id)

    @property
    def plan(self) -> Plan:
        """Who is asked, as a graph, to be drawn; it runs otherwise."""
        return chat_plan(self._replies, self._memory.sums_up)

    async def answer(self, request: Said, context: RunContext) -> ChatReply:
        """Keep the message, sum up what no longer fits, have it answered, and keep the reply.

        Raises:
            InputError: the message is empty, or its id belongs to another text.
            StoreError: the store can't be read or written.
        """
        if not request.text.strip():
            raise InputError(f"{self.name}: the message is empty")
        async with self.threads.held(request.thread, context) as thread:
            kept = await self._kept(request, thread)
            if kept is not None:
                return _reply(thread, kept, kept=True)
            before = thread.conversation.last
            again = before is not None and before.unfinished and _same(before, request)
            await thread.save(_opened(request, thread.conversation, context))
            answered = await self._answered(thread, context)
            return _reply(thread, answered, unfinished_before=again)

    async def _kept(self, request: Said, thread: Held) -> Turn | None:
        """Find the reply to a message that was said before, with the same id."""
        if request.id is None:
            return None
        found = await self.threads.find(request.thread, request.id)
        if found is not None and found.text != request.text:
            raise InputError(
                f"{self.name}: id {request.id!r} belongs to another message of thread "
                f"{request.thread!r}. Give this one another id, or another thread"
            )
        return found if found is not None and found.status == "answered" else None

    async def _answered(self, thread: Held, context: RunContext) -> Turn:
        """Have the last turn answered, and save whatever becomes of it."""
        left = self.thread_budget.after(thread.conversation.usage)
        own = context.nested(budget=left)
        written = _written(own)
        try:
            shorter = await self._memory.shortened(thread.conversation, own)
            if shorter is not None:
                await thread.save(shorter)
            exchange = self._memory.exchange(thread.conversation, own)
            spoken = await self._replies.reply(exchange, own)
        except asyncio.CancelledError:
            await _close(thread, own, {"status": "stopped", "reply": written()})
            raise
        except MoaError as error:
            status = "rejected" if is_refusal(error) else "failed"
            failed = {"status": status, "reply": written(), "reason": str(error)}
            await _close(thread, own, failed)
            raise
        return await _close(thread, own, _facts(spoken))


def chat(
    slm: Endpoint,
    llm: Endpoint,
    *,
    store: str | Path | SecretStr | Saver = FILE,
    settings: ChatSettings | None = None,
    keeps: Node[str, Verdict] | None = None,
    accept: Policy | None = None,
    sums_up: Node[Passage, Reply] | None = None,
    thread_budget: Budget = UNLIMITED,
    budget: Budget = UNLIMITED,
    timeout_s: float | None = None,
) -> Chat:
    """Build a chat: a message in, the reply out, in as many threads as there are names.

    Each message is kept before anybody is asked, and each reply once it is whole. Of turns in one
    thread one is answered at a time, in other processes too.

    Args:
        slm: Sums up, says what is small talk, and answers that. One that writes too badly, as the
            built-in model does, answers only where there is no large one.
        llm: Answers the rest, with what was said: the summary and the last turns.
        store: Where the threads are kept: a SQLite file, `:memory:`, the URL of a Postgres
            database, or a saver of LangGraph's.
        settings: `None` are the usual ones.
        keeps: Says which messages the small model answers, in place of the filter for small talk.
        accept: Judges what the small model wrote. It tries every message then, unless `keeps`
            says otherwise, and what it writes is shown once it is accepted.
        sums_up: Makes the summaries; `None`: the small model, or where that writes too badly, the
            user's last sentences.
        thread_budget: Limits on each thread, over all its turns and restarts.
        budget: Limits on each turn.
        timeout_s: Seconds for each turn; `None`: as long as the run it is part of has.

    Raises:
        CapabilityError: an endpoint can't do its part.
        ConfigError: the store is none; see `store_of`.
        MissingDependency: the package for the store is not installed.
    """
    s = settings or ChatSettings()
    alone = _why_alone(slm, llm)
    replies = HandingOver(
        large=_speaker(llm, "reply", s),
        small=None if alone else _speaker(slm, "small_reply", s),
        alone=alone,
        keeps=keeps if alone or accept or keeps else small_talk(slm, threshold=s.threshold),
        accept=accept,
    )
    return Chat(
        replies,
        Threads(store_of(store)),
        memory=Memory(
            sums_up or _sums_up(slm, s.summary_tokens),
            history_tokens=s.history_tokens,
            keep_turns=s.keep_turns,
            instead=Extract(max_tokens=s.summary_tokens),
        ),
        thread_budget=thread_budget,
        budget=budget,
        timeout_s=timeout_s,
    )


def _why_alone(slm: Endpoint, llm: Endpoint) -> str:
    if slm is llm or slm.name == llm.name:
        return "there is no other model"
    if not can_write(slm.model):
        return "the small model writes too badly"
    return ""


def _speaker(endpoint: Endpoint, name: str, s: ChatSettings) -> Speaker:
    return Speaker(
        endpoint, persona=s.persona, language=s.language, name=name, max_tokens=s.reply_tokens
    )


def _sums_up(slm: Endpoint, tokens: int) -> Node[Passage, Reply]:
    if not can_write(slm.model):
        return Extract(max_tokens=tokens)
    return Summariser(slm, name="summary", max_tokens=tokens)


def _same(turn: Turn, request: Said) -> bool:
    return turn.id == request.id if request.id is not None else turn.text == request.text


def _opened(request: Said, conversation: Conversation, context: RunContext) -> Conversation:
    """Put the message at the end of a conversation; one that is still unanswered is not doubled."""
    last = conversation.last
    if last is not None and last.status != "answered" and _same(last, request):
        if last.unfinished:
            context.note("retried", f"the answer to turn {last.number} was cut off: written anew")
        return _told(conversation).with_last(
            last.model_copy(update={"status": "open", "reply": ""})
        )
    if last is not None and last.unfinished:
        context.note("degraded", f"turn {last.number} got no answer; this one answers both")
    turn = Turn(
        number=1 if last is None else last.number + 1,
        id=request.id or uuid4().hex,
        text=request.text,
        at=datetime.now(UTC),
    )
    return _told(conversation).with_last(turn)


def _told(conversation: Conversation) -> Conversation:
    """Count an answer that was lost with its process."""
    last = conversation.last
    lost = last is not None and last.status == "open"
    return conversation.model_copy(update={"cut_off": conversation.cut_off + lost})


def _written(context: RunContext) -> Callable[[], str]:
    """Remember what is shown from a context, where somebody listens."""
    pieces: list[str] = []
    heard = context.listener
    if heard is not None:

        def listen(event: Event) -> None:
            if isinstance(event, Piece):
                pieces.append(event.text)
            heard(event)

        context.listener = listen
    return lambda: "".join(pieces)


async def _close(thread: Held, context: RunContext, facts: Mapping[str, object]) -> Turn:
    """Save what became of the last turn, and what it took."""
    last = thread.conversation.last
    assert last is not None, "a turn was opened"
    turn = last.model_copy(update=facts)
    await thread.save(thread.conversation.with_last(turn).charged(context.usage))
    return turn


def _facts(spoken: Spoken) -> Mapping[str, object]:
    endpoint = spoken.speaker.endpoint
    return {
        "status": "answered",
        "reply": spoken.text,
        "by": endpoint.tier,
        "endpoint": endpoint.name,
        "reason": spoken.reason,
    }


def _reply(
    thread: Held, turn: Turn, *, unfinished_before: bool = False, kept: bool = False
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
        kept=kept,
    )
