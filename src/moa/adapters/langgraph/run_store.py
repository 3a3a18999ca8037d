"""Run store: the journal of a run, and people's answers to it, in a LangGraph checkpointer.

Both are pending writes of the checkpoint that the run began with. So a resumed run finds them, and
a new run in the thread doesn't. An inner graph's are stored with the outermost graph's.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from operator import itemgetter
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.runtime import ExecutionInfo

from moa.adapters.langgraph.internals import FORGOTTEN, Task, pending_questions
from moa.core._json import list_of
from moa.core.context import RunContext
from moa.core.errors import NotResumable
from moa.core.journal import Journal, interrupts_of, not_resumable_error

_CHANNEL = "__moa__"
_ANSWER, _FAILED = "answer/", "/failed"
"""Prefix of an answer's key, and suffix of the key that records that the run failed with it."""
_running: dict[str, object] = {}
"""Tasks running in this process, each with LangGraph's scratchpad, which different runs don't
share.

Code that runs moa twice in one task has one scratchpad."""


class _Writes:
    """Pending writes of the checkpoint that a run began with.

    A checkpointer keeps the first value written under a key. `blocking`: the graph was invoked
    without an event loop, so its checkpointer is synchronous.
    """

    def __init__(
        self, saver: BaseCheckpointSaver[str], info: ExecutionInfo, *, blocking: bool
    ) -> None:
        self.thread = info.thread_id
        self.task = info.task_id
        namespace = info.checkpoint_ns.rpartition("|")[0]  # without the task
        self.run = f"{info.thread_id}/{namespace}/{info.checkpoint_id}/{info.task_id}"
        self._saver = saver
        self._blocking = blocking
        self._at: RunnableConfig = {
            "configurable": {
                "thread_id": info.thread_id,
                "checkpoint_ns": namespace,
                "checkpoint_id": info.checkpoint_id,
            }
        }

    async def read(self) -> Sequence[tuple[str, str, object]]:
        """Read all writes, ordered by key: key, channel and value of each."""
        if self._blocking:
            checkpoint = await asyncio.to_thread(self._saver.get_tuple, self._at)
        else:
            checkpoint = await self._saver.aget_tuple(self._at)
        return sorted(checkpoint.pending_writes or (), key=itemgetter(0)) if checkpoint else ()

    async def keep(self, key: str, record: str) -> None:
        """Write a record of the journal."""
        await self.write(f"{self.task}/{key}", record)

    async def forget_answer(self) -> None:
        """Revoke an answer that was given for no specific task."""
        task, channel, value = FORGOTTEN
        await self.write(task, value, channel)

    async def write(self, key: str, value: object, channel: str = _CHANNEL) -> None:
        """Write a JSON value."""
        if self._blocking:
            await asyncio.to_thread(self._saver.put_writes, self._at, [(channel, value)], key)
        else:
            await self._saver.aput_writes(self._at, [(channel, value)], key)


class _Answers:
    """People's answers to the questions of a run.

    An answer is stored before it is used, or it would be lost if the run stops.
    """

    def __init__(self, writes: _Writes) -> None:
        self.values: dict[str, object] = {}
        """Answers by id of the question."""
        self._writes = writes
        self._counts: Counter[str] = Counter()
        """Number of answers to each question: several if the run failed with an earlier one."""
        self._standing: set[str] = set()
        """Questions whose last answer no run failed with: a run may be using it now."""
        self._new: list[str] = []
        """Keys of the answers given in this call."""

    def load(self, key: str, value: object) -> None:
        """Load a write of an earlier run. Writes come in the order of keys."""
        question = key.split("/")[1]
        if key.endswith(_FAILED):
            self._standing.discard(question)
            return
        _, self.values[question] = list_of(value)
        self._counts[question] += 1
        self._standing.add(question)

    async def add(self, question: str, answer: object) -> None:
        """Store a new answer. The same answer again, as after a crash, is accepted.

        Raises:
            NotResumable: another answer was given.
        """
        if question in self._standing:
            if self.values[question] != answer:
                raise self._conflict(repr(self.values[question]))
            return
        key, mine = f"{_ANSWER}{question}/{self._counts[question]:04}", [uuid4().hex, answer]
        await self._writes.write(key, mine)
        first = [value for write_key, _, value in await self._writes.read() if write_key == key]
        if first != [mine]:
            raise self._conflict("somebody else, at this moment")
        self.values[question] = answer
        self._new.append(key)

    async def fail(self) -> None:
        """Record that the run failed with the new answers, so that others may be given."""
        for key in self._new:
            await self._writes.write(f"{key}{_FAILED}", None)

    def _conflict(self, detail: str) -> NotResumable:
        return NotResumable(
            f"what is asked in thread {self._writes.thread!r} is answered already: {detail}. Where "
            "that run was stopped, ainvoke(None, config) goes on with it"
        )


@asynccontextmanager
async def open_journal(
    info: ExecutionInfo | None, context: RunContext, *, blocking: bool = False
) -> AsyncGenerator[Journal | None]:
    """Open the journal of the run in this LangGraph task; `None` without a checkpointer.

    Args:
        info: LangGraph's information about the task.
        context: Context of the run. It may already be charged for an earlier part of the run.
        blocking: True if the checkpointer is synchronous.

    Raises:
        NotResumable: another call is resuming the run; another answer was given; or the run asks
            people and has no checkpointer.
    """
    task = Task()
    if task.saver is None or info is None or info.thread_id is None:
        try:
            yield None
        except Exception as error:
            if interrupts := interrupts_of(error):
                raise not_resumable_error(repr(interrupts[0].value)) from error
            raise
        return
    writes = _Writes(task.saver, info, blocking=blocking)
    run_key, scratchpad = f"{id(task.saver)}/{writes.run}", task.scratchpad
    if _running.get(run_key, scratchpad) is not scratchpad:
        await writes.forget_answer()
        raise NotResumable(
            f"thread {info.thread_id!r} is gone on with by another call in this process, by the "
            "answer that was given there: wait for its output"
        )
    _running[run_key] = scratchpad
    try:
        answers, journal = await _load(writes, task, context)
        async with _record(answers, journal, context):
            yield journal
    finally:
        _running.pop(run_key, None)


async def _load(writes: _Writes, task: Task, context: RunContext) -> tuple[_Answers, Journal]:
    answers, records = _Answers(writes), dict[str, str]()
    pending = await writes.read()
    for key, channel, value in pending:
        if channel == _CHANNEL and key.startswith(_ANSWER):
            answers.load(key, value)
        elif channel == _CHANNEL and key.startswith(f"{writes.task}/"):
            records[key.partition("/")[2]] = str(value)
    new_answers = {**task.answers}
    questions = pending_questions(pending, writes.task)
    if len(questions) == 1 and not new_answers and (answer := task.take_answer()) is not None:
        new_answers = dict.fromkeys(questions, answer)
        await writes.forget_answer()
    for question, answer in new_answers.items():
        await answers.add(question, answer)
    journal = Journal(
        writes.run,
        records,
        write=writes.keep,
        inside=lambda place_key: task.ask_in(place_key, answers.values),
        context=context,
    )
    return answers, journal


@asynccontextmanager
async def _record(answers: _Answers, journal: Journal, context: RunContext) -> AsyncGenerator[None]:
    """Record what the run failed with, and what its context has paid for."""
    other_runs = {run: keys for run, keys in context.counted.items() if run != journal.name}
    try:
        yield
    except BaseException as error:
        context.counted = {**other_runs, journal.name: journal.counted}
        if isinstance(error, Exception) and not interrupts_of(error):
            await answers.fail()
            await journal.fail(error)
        raise
    else:
        context.counted = other_runs  # the run has ended, and can't be resumed
    finally:
        if journal.found:
            context.note("resumed", f"{journal.found} calls were found, and not paid again")
