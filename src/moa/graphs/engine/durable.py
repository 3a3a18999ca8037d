"""Durable: a node as LangGraph's own kind of graph, for checkpoints, interrupts and its streams.

The same code runs in it as without it. With a checkpointer, what `moa.journal` keeps is written
beside what LangGraph writes of a run that isn't finished: under the thread, and the checkpoint that
the run began with. So a run that goes on finds it, and a new run of the thread doesn't.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass, replace
from itertools import count
from operator import itemgetter
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

from langchain_core.callbacks import CallbackManager
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langchain_core.runnables.graph import Edge, Graph
from langchain_core.runnables.graph import Node as GraphNode
from langchain_core.tracers._streaming import _StreamingCallbackHandler
from langgraph.channels.ephemeral_value import EphemeralValue
from langgraph.channels.last_value import LastValue
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.config import get_config
from langgraph.constants import END, START
from langgraph.errors import EmptyInputError
from langgraph.func import entrypoint
from langgraph.pregel import Pregel
from langgraph.runtime import Runtime
from langgraph.types import (
    Command,
    RetryPolicy,
    StateSnapshot,
    _interrupt_id,  # pyright: ignore[reportPrivateUsage]
)

from moa.context import RunContext
from moa.errors import NotResumable
from moa.graphs.engine.drawing import Drawable, diagram_of
from moa.graphs.engine.plan import Plan
from moa.graphs.engine.steps import FunctionStep, MatchStep, NodeStep
from moa.graphs.engine.types import JsonForm, channel_form, is_known, name_of
from moa.journal import Journal, Place, interrupts_of, not_resumable
from moa.node import Node, run_alone
from moa.trace import Event, NodeFinished, TextDelta

In = TypeVar("In")
Out = TypeVar("Out")

_SAVER, _PAD, _SEND, _MAP = (
    "__pregel_checkpointer",
    "__pregel_scratchpad",
    "__pregel_send",
    "__pregel_resume_map",
)
"""What LangGraph's own `interrupt` reads in a configuration, and where its saver is."""
_STREAM = "__pregel_stream"
"""Where the stream of a graph around this one is, if it takes what is written inside."""
_CHANNEL, _NO_TASK = "__moa__", str(UUID(int=0))
_ANSWER, _CLAIM, _FAILED = "answer/", "claim/", "/failed"
"""Keys: of an answer, of who gives it, and behind that of an answer by which a run has failed."""
_under_way: dict[str, object] = {}
"""Tasks that are run in this process, and the scratchpad of LangGraph's for each: what runs moa
twice in one task has one."""


class Compiled(Pregel[Any, Any, Any, Any]):
    """LangGraph's own kind of graph, made of a node. Its `context=` is a `RunContext`."""

    def __init__(self, *, node: Any, **made: Any) -> None:
        cast("Any", super()).__init__(**made)
        self.node = node

    def invoke(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Any:
        """Run it; nobody reads along, so no endpoint is asked to write piece by piece."""
        with _unread(self.node, options):
            return cast("Any", super()).invoke(input, config, **options)

    async def ainvoke(
        self, input: Any, config: RunnableConfig | None = None, **options: Any
    ) -> Any:
        """Run it; nobody reads along, so no endpoint is asked to write piece by piece."""
        with _unread(self.node, options):
            return await cast("Any", super()).ainvoke(input, config, **options)

    def stream(self, input: Any, config: RunnableConfig | None = None, **options: Any) -> Any:
        """Run it, and say it where there is no run to go on with, or it is finished."""
        if _is_answer(input):
            _check_asked(self.get_state(config or {}))
        with _going_on(input, config):
            yield from cast("Any", super()).stream(input, config, **options)

    async def astream(
        self, input: Any, config: RunnableConfig | None = None, **options: Any
    ) -> AsyncIterator[Any]:
        """Run it, and say it where there is no run to go on with, or it is finished."""
        if _is_answer(input):
            _check_asked(await self.aget_state(config or {}))
        with _going_on(input, config):
            async for piece in cast("Any", super()).astream(input, config, **options):
                yield piece

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        """Draw what is in the node as LangChain does, which is what LangGraph's Studio shows."""
        return _drawn(self.node)

    async def aget_graph(
        self, config: RunnableConfig | None = None, *, xray: int | bool = False
    ) -> Graph:
        """Draw it, see `get_graph`."""
        return _drawn(self.node)

    def get_context_jsonschema(self) -> None:
        """Tell of none: a `RunContext` comes from Python alone."""


@contextmanager
def _going_on(given: object, config: RunnableConfig | None) -> Generator[None]:
    """Say it where a thread holds no run: LangGraph takes what is given for a request then."""
    try:
        yield
    except EmptyInputError as error:
        if isinstance(given, Command) and not _is_answer(cast("Command[Any]", given)):
            raise
        thread = ((config or {}).get("configurable") or {}).get("thread_id")
        raise NotResumable(
            f"there is no run to go on with in thread {thread!r}: its checkpointer keeps none of "
            "that thread_id. Give both as the run was begun with, or begin with a request"
        ) from error


def _is_answer(given: object) -> bool:
    return isinstance(given, Command) and cast("Command[Any]", given).resume is not None


def _check_asked(state: StateSnapshot) -> None:
    """See that the run that somebody answers is not finished: its output would look like theirs."""
    if state.created_at is None or state.next:
        return
    thread = state.config.get("configurable", {}).get("thread_id")
    raise NotResumable(
        f"nothing is asked in thread {thread!r}: its run is finished, by an answer that was given "
        "before. ainvoke(None, config) gives its output"
    )


_unread_node: ContextVar[object] = ContextVar("unread_node", default=None)
"""The node that is invoked for its output alone."""


@contextmanager
def _unread(node: object, options: Mapping[str, Any]) -> Generator[None]:
    is_read = any("custom" in options.get(mode, ()) for mode in ("stream_mode", "print_mode"))
    token = _unread_node.set(None if is_read else node)
    try:
        yield
    finally:
        _unread_node.reset(token)


def _writer(node: object, runtime: Runtime[Any]) -> Callable[[object], None] | None:
    """Give what writes to LangGraph's custom stream; `None` where nobody reads it.

    LangGraph gives a writer in any case. Inside another graph that one's stream may be read.
    """
    unread = _unread_node.get() is node and _STREAM not in get_config().get("configurable", {})
    _unread_node.set(None)  # what is invoked inside says it of itself
    return None if unread else runtime.stream_writer


def compiled(
    node: Any,
    checkpointer: BaseCheckpointSaver[Any] | None,
    retry: RetryPolicy | Sequence[RetryPolicy],
) -> Compiled:
    """Make LangGraph's own kind of graph of a node of nodes; see `Compilable.compile`."""
    kept = checkpointer is not None
    if kept:
        _check(node)
    given = channel_form(node.input_type, "input", kept=kept)
    answer = channel_form(node.output_type, _giver(node), kept=kept)

    async def entry(request: Any, runtime: Runtime[Any], *, now: bool = False) -> Any:
        write = _writer(node, runtime)
        return answer.dump(await run_in(runtime, node, request, write=write, now=now))

    def entry_now(request: Any, runtime: Runtime[Any]) -> Any:
        return asyncio.run(entry(request, runtime, now=True))  # LangGraph calls it in a thread

    entry.__name__ = node.name
    schema: Any = RunContext
    made_by: Any = entrypoint(checkpointer, context_schema=schema, retry_policy=retry)
    pregel: Any = made_by(entry)
    attributes = cast("dict[str, Any]", vars(pregel))
    attributes.pop("__orig_class__", None)
    made = Compiled(node=node, **attributes)
    runs: Any = made.nodes[node.name].bound
    runs.func = entry_now
    channels = cast("dict[str, Any]", made.channels)  # pyright: ignore[reportUnknownMemberType]
    channels[START] = JsonInput(given)
    channels[END] = JsonOutput(answer, END)
    return made


async def run_in(
    runtime: Runtime[Any],
    node: Node[In, Out],
    request: In,
    *,
    write: Callable[[Event], None] | None = None,
    now: bool = False,
) -> Out:
    """Run a node inside LangGraph, and give its output; `write` is told each event."""
    context = context_in(runtime.context) or RunContext()
    own = context.nested()
    told = Told(get_config(), context.listener, write)
    own.listener = told if told.is_heard else None
    try:
        async with Keeping(runtime, context, now=now) as keeping:
            own.journal = keeping.place
            kept_in = keeping.place and keeping.place.journal
            return (await run_alone(node, request, own, kept_in)).output
    finally:
        told.end()


def _giver(node: Node[Any, Any]) -> str:
    """Name who gives the output of a node: of a graph a step in it, where its type is not known."""
    plan = getattr(node, "plan", None)
    if not isinstance(plan, Plan) or is_known(plan.steps[plan.output].type):
        return node.name
    step = plan.steps[plan.output]
    while isinstance(step, MatchStep):
        step = next(case for case in step.cases.values() if not is_known(case.type))
    unnamed = isinstance(step, FunctionStep) and name_of(step.function) == "<lambda>"
    return f"{node.name}/{f'lambda({step.name})' if unnamed else step.name}"


def _drawn(node: Drawable) -> Graph:
    drawn, diagrams = Graph(), [*diagram_of(node).walk()]
    for key, box in (each for diagram in diagrams for each in diagram.boxes.items()):
        drawn.nodes[key] = GraphNode(key, box.label, data=None, metadata=None)
    for arrow in (arrow for diagram in diagrams for arrow in diagram.arrows.values()):
        label = ", ".join(arrow.labels) or None
        drawn.edges.append(Edge(arrow.start, arrow.end, label, arrow.decides_only))
    return drawn


def _check(node: object) -> None:
    """See that a checkpoint can keep what the nodes of a graph give."""
    plan = getattr(node, "plan", None)
    for step in plan.steps if isinstance(plan, Plan) else ():
        if isinstance(step, NodeStep):
            channel_form(step.signature.output, step.name, kept=True)
            _check(step.node)


def context_in(given: object) -> RunContext | None:
    """Find the context of the run in what a state graph was run with."""
    held: list[object] = [given]
    if isinstance(given, Mapping):
        held += cast("Mapping[str, object]", given).values()
    elif is_dataclass(given):
        held += [getattr(given, field.name) for field in fields(given)]
    else:
        held += getattr(given, "__dict__", {}).values()
    return next((value for value in held if isinstance(value, RunContext)), None)


class Told:
    """Tells LangChain's callbacks what nodes write: LangGraph's `stream_mode="messages"` listens.

    Others are told each event as it is.
    """

    def __init__(self, config: RunnableConfig, *others: Callable[[Event], None] | None) -> None:
        found: Any = CallbackManager.configure(
            inheritable_callbacks=config.get("callbacks"),
            inheritable_tags=config.get("tags"),
            inheritable_metadata=config.get("metadata"),
        )
        kind: Any = _StreamingCallbackHandler
        listens = [one for one in found.handlers if isinstance(one, kind)]
        found.handlers = found.inheritable_handlers = listens
        self._callbacks = found
        self._others = [other for other in others if other is not None]
        self._texts: dict[str, tuple[Any, str]] = {}
        """By node that writes: the run of a chat model, as LangChain has it, and the text."""

    @property
    def is_heard(self) -> bool:
        """Whether anybody listens."""
        return bool(self._others or self._callbacks.handlers)

    def __call__(self, event: Event) -> None:
        """Tell one event."""
        for other in self._others:
            other(event)
        if not self._callbacks.handlers:
            return
        if isinstance(event, TextDelta):
            self._write(event.node, event.text)
        elif isinstance(event, NodeFinished):
            self._end(event.node)

    def end(self) -> None:
        """End the texts of those that wrote last."""
        for node in [*self._texts]:
            self._end(node)

    def _write(self, node: str, text: str) -> None:
        run, before = self._texts.get(node, (None, ""))
        if run is None:
            named = {"name": node.rpartition("/")[2]}
            callbacks = self._callbacks.copy()
            callbacks.add_metadata({"moa_node": node})
            (run,) = callbacks.on_chat_model_start(named, [[]])
        self._texts[node] = run, before + text
        message = AIMessageChunk(content=text, id=f"run-{run.run_id}")
        run.on_llm_new_token(text, chunk=ChatGenerationChunk(message=message))

    def _end(self, node: str) -> None:
        run, text = self._texts.pop(node, (None, ""))
        if run is not None:
            message = AIMessage(content=text, id=f"run-{run.run_id}")
            run.on_llm_end(LLMResult(generations=[[ChatGeneration(message=message)]]))


class Keeping:
    """What is kept of one run, in the saver of the graph that runs it.

    The context of the run may have been charged before, with what is found now. `now`: the graph
    was invoked without an event loop, so its saver is synchronous.
    """

    def __init__(self, runtime: Runtime[Any], context: RunContext, *, now: bool = False) -> None:
        self._config = get_config()
        self._set = cast("Mapping[str, Any]", self._config.get("configurable", {}))
        self._context = context
        self._now = now
        self._answers: dict[str, Any] = {}
        """What people answered, by the id of the question."""
        self._given: Counter[str] = Counter()
        """How often, where a run has failed by the last answer."""
        self._standing: set[str] = set()
        """Questions whose last answer no run has failed by: it may be acted on at this moment."""
        self._taken: list[str] = []
        """Keys of the answers that are given now."""
        saver, info = self._set.get(_SAVER), runtime.execution_info
        self._saver: BaseCheckpointSaver[Any] | None = None
        self._at: RunnableConfig = {}
        if isinstance(saver, BaseCheckpointSaver) and info and info.thread_id:
            self._saver = cast("BaseCheckpointSaver[Any]", saver)
            around = info.checkpoint_ns.rpartition("|")[0]
            at = {"checkpoint_ns": around, "checkpoint_id": info.checkpoint_id}
            self._at = {"configurable": {"thread_id": info.thread_id, **at}}
        self._task = info.task_id if info else ""

    async def __aenter__(self) -> Keeping:
        self._place = f"{id(self._saver)}/{self._at}/{self._task}"
        pad = self._set.get(_PAD)
        if self._saver and _under_way.get(self._place, pad) is not pad:
            await self._write(_NO_TASK, None, channel="__resume__")  # or it would be found later
            raise NotResumable(
                f"thread {self._thread!r} is gone on with by another call in this process, by the "
                "answer that was given there: wait for its output"
            )
        _under_way[self._place] = pad
        try:
            return await self._begun()
        except BaseException:
            _under_way.pop(self._place, None)
            raise

    @property
    def _thread(self) -> object:
        return self._at.get("configurable", {}).get("thread_id")

    async def _begun(self) -> Keeping:
        kept: dict[str, str] = {}
        asked: set[str] = set()
        for key, channel, value in await self._read():
            if channel == _CHANNEL and key.startswith(_ANSWER):
                self._take_over(key, value)
            elif channel == _CHANNEL and key.startswith(f"{self._task}/"):
                kept[key.partition("/")[2]] = value
            elif channel == "__interrupt__" and key == self._task:
                asked |= {question.id for question in value}
        await self._take_answers(asked)
        where = "/".join(str(value) for value in self._at.get("configurable", {}).values())
        self.journal = Journal(
            f"{where}/{self._task}",
            kept,
            write=self._keep if self._saver else None,
            inside=self._inside,
            context=self._context,
        )
        self._before = {
            key: usage
            for key, usage in self._context.charged.items()
            if key.startswith(f"{self.journal.name}/")
        }
        for usage in self._before.values():
            self._context.charge(usage, back=True)
        return self

    def _take_over(self, key: str, value: Any) -> None:
        """Read what an earlier run kept of an answer."""
        question = key.split("/")[1]
        if key.endswith(_FAILED):
            self._standing.discard(question)
        else:
            self._answers[question] = value
            self._given[question] += 1
            self._standing.add(question)

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        _under_way.pop(self._place, None)
        journal, context = self.journal, self._context
        paid = {f"{journal.name}/{key}": usage for key, usage in journal.paid.items()}
        for key, usage in self._before.items():
            if key not in paid:
                context.charge(usage)
        if error is not None or self._before:  # a run that has ended is not charged again
            others = {
                key: usage for key, usage in context.charged.items() if key not in self._before
            }
            context.charged = {**others, **({} if error is None else {**self._before, **paid})}
        if journal.found:
            context.note("resumed", f"{journal.found} calls were found, and not paid again")
        if not isinstance(error, Exception):
            return
        asked = interrupts_of(error)
        if asked and self._saver is None:
            raise not_resumable(repr(asked[0].value)) from error
        if not asked:
            for key in self._taken:
                await self._write(f"{key}{_FAILED}", None)
            await journal.fail(error)

    @property
    def place(self) -> Place | None:
        """What the run's context is given; `None` where nothing outlasts the run."""
        return self.journal.root if self._saver else None

    async def _read(self) -> Sequence[tuple[str, str, Any]]:
        if self._saver is None:
            return ()
        if self._now:
            found = await asyncio.to_thread(self._saver.get_tuple, self._at)
        else:
            found = await self._saver.aget_tuple(self._at)
        return sorted(found.pending_writes or (), key=itemgetter(0)) if found else ()

    async def _keep(self, key: str, record: str) -> None:
        await self._write(f"{self._task}/{key}", record)

    async def _write(self, key: str, value: Any, channel: str = _CHANNEL) -> None:
        assert self._saver is not None, "nothing is written without a saver"
        if self._now:
            await asyncio.to_thread(self._saver.put_writes, self._at, [(channel, value)], key)
        else:
            await self._saver.aput_writes(self._at, [(channel, value)], key)

    async def _take_answers(self, asked: Set[str]) -> None:
        """Keep what people answer before anything runs, or it is lost where the run stops sooner.

        `asked` has the ids of the questions that it stopped at.

        Raises:
            NotResumable: somebody else has answered one of them.
        """
        answers: dict[str, Any] = {**(self._set.get(_MAP) or {})}
        if self._saver is None:
            return
        if len(asked) == 1 and not answers:
            answer = self._set[_PAD].get_null_resume(True)
            if answer is not None:
                (question,) = asked
                answers[question] = answer
                await self._write(_NO_TASK, None, channel="__resume__")  # it was given once
        for question, answer in answers.items():
            if question in self._standing:
                if self._answers[question] != answer:
                    raise self._answered(repr(self._answers[question]))
                continue  # it is given again, as after a crash
            number = f"{question}/{self._given[question]:04}"
            if not await self._claims(f"{_CLAIM}{number}"):
                raise self._answered("somebody else, at this moment")
            self._answers[question] = answer
            self._taken.append(f"{_ANSWER}{number}")
            await self._write(self._taken[-1], answer)

    async def _claims(self, key: str) -> bool:
        """Say whether this run is the first to write there: a saver keeps what is first."""
        mine = uuid4().hex
        await self._write(key, mine)
        claimed = [
            value for at, channel, value in await self._read() if (at, channel) == (key, _CHANNEL)
        ]
        return claimed == [mine]

    def _answered(self, by: str) -> NotResumable:
        return NotResumable(
            f"what is asked in thread {self._thread!r} is answered already: {by}. Where that run "
            "was stopped, ainvoke(None, config) goes on with it"
        )

    @contextmanager
    def _inside(self, place: str) -> Generator[None]:
        """Have LangGraph's `interrupt` number questions in each place on its own.

        It counts those of a task, and the nodes of a run are no tasks: they ask in any order.
        """
        outer = self._set.get(_PAD)
        if outer is None:
            yield
            return
        where = f"{self._set['checkpoint_ns']}|{place}"
        given: list[Any] = []

        def answer(consume: bool = False) -> Any:
            return self._answers.get(_interrupt_id(where, len(given)))

        def ignore(writes: object) -> None:
            """Take an answer that LangGraph would keep for the whole task."""

        pad = replace(
            outer,
            interrupt_counter=count().__next__,
            resume=given,
            get_null_resume=answer,
        )
        inner = {**self._set, "checkpoint_ns": where, _PAD: pad, _SEND: ignore}
        token = var_child_runnable_config.set({**self._config, "configurable": inner})
        try:
            yield
        finally:
            var_child_runnable_config.reset(token)


class _JsonTyped:
    """A channel of LangGraph's: JSON inside, a value for who reads it."""

    typ: JsonForm

    @property
    def ValueType(self) -> type[Any]:
        """Type of the value, for LangGraph's own schemas."""
        return self.typ.kind

    UpdateType = ValueType

    def get(self) -> Any:
        """Read the value."""
        return self.typ.load(cast("Any", super()).get())


class JsonInput(_JsonTyped, EphemeralValue[Any]):
    """The channel of the request."""

    typ: JsonForm

    def update(self, values: Sequence[Any]) -> bool:
        """Keep the JSON of a request.

        Raises:
            EmptyInputError: it is a command to go on, in a thread that holds no run.
        """
        if any(isinstance(value, Command) for value in values):
            raise EmptyInputError("a command is no request")
        return super().update([self.typ.admit(value) for value in values])


class JsonOutput(_JsonTyped, LastValue[Any]):
    """The channel of the output."""

    typ: JsonForm
