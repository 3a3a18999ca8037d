"""Graphs inside LangGraph, and LangGraph's checkpoints and interrupts around graphs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, cast

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Interrupt, RetryPolicy, interrupt
from pydantic import BaseModel

from moa.adapters.langgraph import as_langgraph, as_runnable, retry_on
from moa.agents.agent import Agent
from moa.core.budget import Budget
from moa.core.context import RunContext
from moa.core.errors import (
    BudgetExceeded,
    EndpointUnavailable,
    NodeError,
    StoreError,
    WiringError,
)
from moa.core.questions import Choice
from moa.core.trace import Event, NodeFinished
from moa.endpoints import Completion, Prompt
from moa.graphs import Graph, Skipped
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .killed import THREAD
from .nodes import Asker, alone, kept


class Ticket(BaseModel):
    text: str


class Draft(BaseModel):
    text: str


class Reply(BaseModel):
    text: str


JSON = (str, int, float, bool, type(None), list, tuple, dict)


class PlainOnly(JsonPlusSerializer):
    """Lets nothing but JSON into a checkpoint."""

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        _only_json(obj)
        return super().dumps_typed(obj)


def _only_json(value: Any) -> None:
    if isinstance(value, Interrupt | BaseException):  # LangGraph's own; an error is kept as text
        return
    assert type(value) in JSON, f"{value!r} went into a checkpoint"
    if isinstance(value, dict):
        value = [*cast("dict[str, Any]", value).items()]
    if isinstance(value, list | tuple):
        for part in cast("list[Any]", value):
            _only_json(part)


class Ran(list[str]):
    """Which nodes ran, in order."""

    def node(self, name: str, *, ask: bool = False) -> Any:
        async def work(ticket: Ticket) -> Draft:
            self.append(name)
            text = interrupt(name) if ask else ticket.text
            return Draft(text=f"{name}:{text}")

        return work


def second(draft: Draft) -> Ticket:
    return Ticket(text=draft.text)


async def test_a_compiled_graph_gives_the_output() -> None:
    ran = Ran()
    g = Graph("g", Ticket)
    compiled: Any = g.build(g.add(ran.node("a"), g.input, name="a")).compiled
    assert await compiled.ainvoke(Ticket(text="x")) == Draft(text="a:x")
    assert await compiled.ainvoke({"text": "x"}) == Draft(text="a:x")


async def test_the_budget_comes_with_the_context() -> None:
    g = Graph("g", str)
    a = g.add(Asker("a", SimulatedEndpoint()), g.input)
    compiled: Any = g.build(g.add(Asker("b", SimulatedEndpoint()), a)).compiled
    context = RunContext(budget=Budget(calls=1))
    with pytest.raises(BudgetExceeded):
        await compiled.ainvoke("x", context=context)
    assert context.usage.calls == 1


async def test_events_go_to_the_custom_stream() -> None:
    compiled: Any = alone(Asker("a", SimulatedEndpoint())).compiled
    events: list[Event] = [e async for e in compiled.astream("x", stream_mode="custom")]
    assert isinstance(events[-1], NodeFinished)
    assert events[-1].output == "x"


class Streaming(SimulatedEndpoint):
    """Remembers how often it was asked to write piece by piece."""

    streamed = 0

    def stream(self, prompt: Prompt, context: RunContext, /) -> AsyncIterator[str | Completion]:
        self.streamed += 1
        return super().stream(prompt, context)


def writing(endpoint: SimulatedEndpoint) -> Any:
    return alone(Agent(endpoint, "Answer.")).compiled


async def test_an_endpoint_streams_where_somebody_reads_along_and_not_where_nobody_does() -> None:
    endpoint = Streaming(tier="llm")
    compiled = writing(endpoint)
    await compiled.ainvoke("x")
    await compiled.with_config(tags=["t"]).ainvoke("x")
    await asyncio.to_thread(compiled.invoke, "x")
    assert endpoint.streamed == 0
    await compiled.ainvoke("x", stream_mode="custom")
    assert [part async for part in compiled.astream("x", stream_mode="custom")]
    assert [part async for part in compiled.astream("x", stream_mode="messages")]
    assert endpoint.streamed == 3


@pytest.mark.parametrize("subgraphs", [False, True])
async def test_a_graph_around_one_reads_along_where_it_takes_what_is_written_inside(
    subgraphs: bool,
) -> None:
    endpoint = Streaming(tier="llm")
    inner = writing(endpoint)

    async def ask(state: State) -> State:
        return {"text": (await inner.ainvoke(state.get("text"))).text}

    builder: Any = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    outer = builder.compile()
    options = {"stream_mode": "custom", "subgraphs": subgraphs}
    parts = [part async for part in outer.astream({"text": "x"}, **options)]
    assert (bool(parts), endpoint.streamed) == (subgraphs, subgraphs)


def interruptible(ran: Ran) -> Any:
    """Two chains beside each other, one of which asks a person."""
    g = Graph("g", Ticket)
    ends: list[Any] = []
    for side, ask in (("left", False), ("right", True)):
        first = g.add(ran.node(f"{side} first"), g.input, name=f"{side} first")
        ends.append(
            g.add(ran.node(f"{side} last", ask=ask), first.map(second), name=f"{side} last")
        )

    def both(left: Draft, right: Draft) -> Reply:
        return Reply(text=f"{left.text} {right.text}")

    return g.build(g.join(both, *ends))


def nested(ran: Ran) -> Any:
    outer = Graph("outer", Ticket)
    return outer.build(outer.add(interruptible(ran), outer.input))


@pytest.mark.parametrize("made", [interruptible, nested])
async def test_finished_nodes_do_not_run_again_after_an_interrupt(made: Any) -> None:
    ran = Ran()
    compiled: Any = made(ran).compile(checkpointer=InMemorySaver(serde=PlainOnly()))
    paused = await compiled.ainvoke(Ticket(text="x"), THREAD)
    assert [asked.value for asked in paused["__interrupt__"]] == ["right last"]
    before = list(ran)
    done = await compiled.ainvoke(Command(resume="yes"), THREAD)
    assert done == Reply(text="left last:left first:x right last:yes")
    assert ran[len(before) :] == ["right last"]


async def test_results_are_found_again_when_nodes_finish_in_another_order() -> None:
    gates = {name: asyncio.Event() for name in ("a", "b")}
    ran: list[str] = []

    def first(name: str) -> Any:
        async def work(text: str) -> str:
            await gates[name].wait()
            ran.append(name)
            return text

        return work

    def last(name: str) -> Any:
        async def work(text: str) -> str:
            ran.append(f"{name}2")
            for gate in gates.values():
                gate.set()
            return text

        return work

    async def ask(both: list[str]) -> str:
        return interrupt("well?")

    g = Graph("g", str)
    ends = [g.add(last(n), g.add(first(n), g.input, name=n), name=f"{n}2") for n in gates]
    a, b = ends
    compiled = kept(g.build(g.add(ask, g.join(lambda a, b: [a, b], a, b))))
    gates["b"].set()
    await compiled.ainvoke("x", THREAD)
    assert sorted(ran) == ["a", "a2", "b", "b2"]
    assert await compiled.ainvoke(Command(resume="done"), THREAD) == "done"
    assert sorted(ran) == ["a", "a2", "b", "b2"]


async def test_a_node_that_was_skipped_stays_so_after_an_interrupt() -> None:
    ran = Ran()
    g = Graph("g", Ticket)
    never = g.add(ran.node("never"), g.input, name="never", when=g.input.map(lambda t: not t.text))
    reply = g.add(ran.node("asks", ask=True), g.input, name="asks")

    def only(never: Draft | Skipped, reply: Draft) -> Draft:
        assert isinstance(never, Skipped)
        return reply

    compiled = kept(g.build(g.join(only, never, reply)))
    await compiled.ainvoke(Ticket(text="x"), THREAD)
    assert await compiled.ainvoke(Command(resume="y"), THREAD) == Draft(text="asks:y")
    assert ran == ["asks", "asks"]


async def test_an_eager_node_may_be_stopped_in_a_compiled_graph() -> None:
    async def never(ticket: Ticket) -> Draft:
        await asyncio.Event().wait()
        return Draft(text="never")

    ran = Ran()
    g = Graph("g", Ticket)
    first = g.add(ran.node("first"), g.input, name="first")
    waits = g.add(never, g.input, eager=True)
    no = first.map(lambda _: False)
    reply = g.add(ran.node("last"), waits.map(second), when=no, otherwise=first, name="last")
    compiled: Any = g.build(reply).compile(checkpointer=InMemorySaver(serde=PlainOnly()))
    assert await compiled.ainvoke(Ticket(text="x"), THREAD) == Draft(text="first:x")


async def test_a_failed_run_goes_on_from_what_was_finished() -> None:
    ran = Ran()
    broken = True

    async def fails(draft: Draft) -> Reply:
        if broken:
            raise ValueError("not yet")
        return Reply(text=draft.text)

    g = Graph("g", Ticket)
    graph = g.build(g.add(fails, g.add(ran.node("a"), g.input, name="a")))
    compiled: Any = graph.compile(checkpointer=InMemorySaver(serde=PlainOnly()))
    with pytest.raises(NodeError, match="not yet"):
        await compiled.ainvoke(Ticket(text="x"), THREAD)
    broken = False
    assert await compiled.ainvoke(None, THREAD) == Reply(text="a:x")
    assert ran == ["a"]


@pytest.mark.parametrize("written", [[0, {"text": 7}], [9, {"text": "x"}], [0], 5, "no"])
async def test_a_checkpoint_that_holds_another_type_is_told(written: object) -> None:
    ran = Ran()
    g = Graph("g", Ticket)
    asks = g.add(ran.node("asks", ask=True), g.add(second, g.add(ran.node("a"), g.input, name="a")))
    saver = InMemorySaver(serde=PlainOnly())
    compiled: Any = g.build(asks).compile(checkpointer=saver)
    await compiled.ainvoke(Ticket(text="x"), THREAD)
    for writes in saver.writes.values():
        for key, (task, channel, _, path) in writes.items():
            if channel == "__moa__":
                record = json.loads(saver.serde.loads_typed(writes[key][2]))
                changed = saver.serde.dumps_typed(json.dumps({**record, "value": written}))
                writes[key] = (task, channel, changed, path)
    with pytest.raises(StoreError, match="'a'"):
        await compiled.ainvoke(Command(resume="yes"), THREAD)


async def test_an_output_of_unknown_type_cannot_be_kept() -> None:
    g = Graph("g", str)
    graph = g.build(g.add(lambda text: text, g.input, name="unclear"))
    plain: Any = graph.compiled
    assert await plain.ainvoke("x") == "x"
    with pytest.raises(WiringError, match="'unclear'"):
        graph.compile(checkpointer=InMemorySaver())


def test_an_output_of_unknown_type_names_the_function_that_gives_it() -> None:
    async def choose(text: str) -> Choice[Literal["a", "b"]]:
        return Choice[Literal["a", "b"]](label="a")

    g = Graph("g", str)
    shout = g.input.map(lambda text: text.upper())
    graph = g.build(g.match(g.add(choose, g.input), {"a": g.input, "b": shout}.__getitem__))
    with pytest.raises(WiringError, match=r"'g/lambda\(input\)'"):
        graph.compile(checkpointer=InMemorySaver())


async def test_retryable_errors_are_retried() -> None:
    lost = EndpointUnavailable("lost", endpoint="e")
    endpoint = ScriptedEndpoint([lost, "fine"])
    graph = alone(Asker("a", endpoint))
    policy = RetryPolicy(retry_on=retry_on, initial_interval=0.0, jitter=False)
    compiled: Any = graph.compile(retry=policy)
    assert await compiled.ainvoke("x") == "fine"
    assert not retry_on(WiringError("never"))
    assert retry_on(ConnectionError("lost"))


class State(TypedDict, total=False):
    text: str
    mood: str


@dataclass
class Context:
    run: RunContext


@dataclass(slots=True)
class Slotted:
    run: RunContext


class Keyed(TypedDict):
    run: RunContext


RUN = RunContext()


@pytest.mark.parametrize(
    "given",
    [RUN, Context(RUN), Slotted(RUN), Keyed(run=RUN)],
    ids=["itself", "field", "slot", "key"],
)
async def test_a_node_stands_in_a_state_graph_of_the_users(given: object) -> None:
    builder: Any = StateGraph(State, context_schema=cast("Any", type(given)))

    def read(state: State) -> str:
        return state.get("text", "")

    def write(mood: str) -> dict[str, str]:
        return {"mood": mood}

    node = Asker("mood", SimulatedEndpoint(rule=str.upper))
    builder.add_node(as_langgraph(node, read=read, write=write))
    builder.add_edge(START, "mood")
    builder.add_edge("mood", END)
    before = RUN.usage.calls
    graph: Any = builder.compile()
    done = await graph.ainvoke({"text": "good"}, context=given)
    assert done == {"text": "good", "mood": "GOOD"}
    assert RUN.usage.calls == before + 1


async def test_a_runnable_gives_the_output() -> None:
    runnable = as_runnable(Asker("a", SimulatedEndpoint(rule=str.upper)))
    assert await runnable.ainvoke("x") == "X"
    assert await runnable.abatch(["a", "b"]) == ["A", "B"]


def test_a_runnable_can_be_invoked_without_a_loop() -> None:
    assert as_runnable(Asker("a", SimulatedEndpoint())).invoke("x") == "x"


async def test_a_runnable_can_be_invoked_where_a_loop_runs() -> None:
    assert as_runnable(Asker("a", SimulatedEndpoint())).invoke("x") == "x"


def test_a_plain_run_does_not_import_langgraph() -> None:
    code = (
        "import asyncio, sys\n"
        "from moa.graphs import Graph\n"
        "g = Graph('g', str)\n"
        "graph = g.build(g.add(str.upper, g.input, name='up'))\n"
        "assert asyncio.run(graph.run('x')).output == 'X'\n"
        "print([m for m in ('langgraph', 'langchain_core', 'openai') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
