"""Nodes that are written as a function of a request and a context."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from moa import Agent, Budget, Graph, Reply, RunContext, as_langgraph
from moa.config import Config
from moa.config.endpoints import Endpoints
from moa.config.loading import endpoint_names, load_graph
from moa.core.errors import BudgetExceeded, EndpointUnavailable, NodeError, WiringError
from moa.graphs import BuiltGraph
from moa.testing import ScriptedEndpoint, Step

LONG, SHORT = "We posted it on Monday, as we said.", "Posted on Monday."
ASKED = "We have handed it to the post on Monday."


def shortens(*steps: Step) -> tuple[BuiltGraph[str, Reply], ScriptedEndpoint]:
    """Build a graph of one function, which asks again until a reply is short."""
    endpoint = ScriptedEndpoint(list(steps))
    agent = Agent(endpoint, "Shorten it.", name="shorten")

    async def short(text: str, context: RunContext) -> Reply:
        reply = (await agent.run(text, context)).output
        while len(reply.text) > 20:
            reply = (await agent.run(reply.text, context)).output
        return reply

    g = Graph("flow", str)
    return g.build(g.add(short, g.input)), endpoint


async def test_its_agents_are_asked_under_its_name_and_from_the_run_s_budget() -> None:
    result = await shortens(LONG, SHORT)[0].run(ASKED)
    assert result.output.text == SHORT
    assert {part.node for part in result.usage.parts} == {"flow/short/shorten"}
    with pytest.raises(BudgetExceeded):
        await shortens(LONG, SHORT)[0].run(ASKED, RunContext(budget=Budget(calls=1)))


async def test_a_resumed_run_sends_no_call_of_it_twice() -> None:
    graph, endpoint = shortens(LONG, EndpointUnavailable("down", endpoint="scripted"), SHORT)
    compiled = graph.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "one"}}
    with pytest.raises(EndpointUnavailable):
        await compiled.ainvoke(ASKED, config)
    assert (await compiled.ainvoke(None, config)).text == SHORT
    endpoint.assert_used_up()


async def test_what_it_raises_itself_names_it() -> None:
    async def breaks(text: str, context: RunContext) -> str:
        raise ValueError(text)

    g = Graph("flow", str)
    with pytest.raises(NodeError, match="breaks"):
        await g.build(g.add(breaks, g.input)).run("x")


async def test_it_is_not_started_in_vain() -> None:
    started: list[str] = []

    async def asks(text: str, context: RunContext) -> str:
        started.append(text)
        return text

    async def is_long(text: str) -> bool:
        await asyncio.sleep(0)
        return len(text) > 10

    g = Graph("flow", str)
    long = g.add(is_long, g.input)
    output = g.add(asks, g.input, when=long, otherwise=g.input)
    await g.build(output).run("short")
    assert started == []


def test_one_that_is_not_asynchronous_does_not_build() -> None:
    def short(text: str, context: RunContext) -> str:
        return text

    given: Any = short
    with pytest.raises(WiringError, match="async def"):
        Graph("flow", str).add(given, Graph("flow", str).input)


def test_its_input_is_checked_against_what_it_is_given() -> None:
    async def doubled(number: int, context: RunContext) -> int:
        return 2 * number

    g: Any = Graph("flow", str)
    with pytest.raises(WiringError, match="'doubled'"):
        g.build(g.add(doubled, g.input))


async def test_one_in_a_file_is_run_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "flow.py"
    file.write_text(
        "from moa import RunContext\n"
        "async def shout(text: str, context: RunContext) -> str:\n"
        "    return text.upper()\n"
    )
    node = load_graph(f"{file}:shout", Endpoints(Config()))
    assert (await node.run("hello")).output == "HELLO"
    assert endpoint_names(node) is None, "nobody sees whom it asks"


async def test_it_stands_in_a_state_graph_of_one_s_own() -> None:
    async def shout(text: str, context: RunContext) -> str:
        return text.upper()

    def read(state: dict[str, str]) -> str:
        return state["text"]

    def write(text: str) -> dict[str, str]:
        return {"text": text}

    assert as_langgraph(shout, read=read, write=write).__name__ == "shout"  # type: ignore[attr-defined]
