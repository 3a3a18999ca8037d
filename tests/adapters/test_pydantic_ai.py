"""Agents of pydantic-ai as nodes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import BaseModel
from pydantic_ai import Agent, ModelHTTPError, ModelMessage, ModelResponse, RequestUsage, TextPart
from pydantic_ai import RunContext as TheirContext
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from adapters.conformance import Conformance
from moa import Agent as Agents
from moa import Budget, Graph, Mixture, Reply, RunContext
from moa.adapters.pydantic_ai import PydanticAINode
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    EndpointUnavailable,
    MissingDependency,
    OutputError,
)
from moa.core.trace import TextDelta
from moa.testing import SimulatedEndpoint


class Order(BaseModel):
    item: str


def with_tool(**settings: Any) -> Agent[Any, str]:
    """An agent that calls its tool, and then answers: two requests."""
    agent = Agent(TestModel(custom_output_text="There are two."), name="stock", **settings)

    def in_stock(item: str) -> int:
        """Count an item."""
        return len(item)

    agent.tool_plain(in_stock)
    return agent


def saying(reply: ModelResponse | Exception, *, seconds: float = 0.0) -> FunctionModel:
    async def say(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        del messages, info
        await asyncio.sleep(seconds)
        if isinstance(reply, Exception):
            raise reply
        return reply

    return FunctionModel(say, model_name="fn")


class TestPydanticAI(Conformance):
    def node(self, *, asks: int = 1, error: Any = None, seconds: float = 0, **more: Any) -> Any:
        said = error or ModelResponse(parts=[TextPart("hi")])
        agent = with_tool() if asks == 2 else Agent(saying(said, seconds=seconds))
        return PydanticAINode(agent, **more)


async def test_each_request_is_in_the_ledger_and_a_text_is_a_reply() -> None:
    result = await PydanticAINode(with_tool()).run("Pens left?")
    assert result.output == Reply(text="There are two.")
    ((part, amount),) = result.usage.parts.items()
    assert (part.tier, part.node, part.endpoint) == ("llm", "stock", "test")
    assert amount.calls == 2
    assert amount.input_tokens > 100
    assert [note.kind for note in result.trace] == ["answered", "answered"]


async def test_a_model_comes_out_as_it_is_and_fits_into_a_graph() -> None:
    model = TestModel(custom_output_args={"item": "pens"})
    node = PydanticAINode(Agent(model, output_type=Order, name="order"))

    def item(order: Order) -> str:
        return order.item

    g = Graph("desk", str)
    found = g.add(node, g.input)
    result = await g.build(found.map(item)).run("I want pens")
    assert result.output == "pens"
    assert result.usage.by_node()["desk/order"].calls == 1


async def test_it_proposes_beside_agents_in_a_mixture() -> None:
    merger = Agents(SimulatedEndpoint(rule=lambda _: "merged", tier="llm"), "Merge.")
    writer = Agents(SimulatedEndpoint(rule=lambda _: "a draft"), "Write.", name="writer")
    mixture = Mixture(proposers=[PydanticAINode(with_tool()), writer], aggregator=merger)
    result = await mixture.run("Pens left?")
    assert result.output.text == "merged"
    assert result.usage.by_node()["mixture/stock"].calls == 2


async def test_with_a_checkpointer_it_is_not_run_again() -> None:
    asked: list[str] = []

    def say(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("asked")
        return ModelResponse(parts=[TextPart("a draft")])

    def send(reply: Reply, approved: bool) -> str:
        return f"{reply} {approved}"

    g = Graph("desk", str)
    reply = g.add(PydanticAINode(Agent(FunctionModel(say), name="write")), g.input)
    approved = g.ask_human("Send it?", reply, answer=bool)
    graph = g.build(g.join(send, reply, approved)).compile(checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke("x", thread)
    assert await graph.ainvoke(Command(resume=True), thread) == "a draft True"
    assert asked == ["asked"]


async def test_the_dollars_that_it_knows_are_charged() -> None:
    usage = RequestUsage(input_tokens=10, output_tokens=2, cost=Decimal("0.5"))
    reply = ModelResponse(parts=[TextPart("hi")], usage=usage)
    context = RunContext(budget=Budget(cost=0.4))
    node = PydanticAINode(Agent(saying(reply)))
    assert (await node.run("hi", context)).usage.cost == Decimal("0.5")
    with pytest.raises(BudgetExceeded, match="cost="):
        await node.run("hi", context)


async def test_its_text_is_streamed_and_a_budget_holds_in_a_stream() -> None:
    node = PydanticAINode(with_tool())
    seen = [event async for event in node.stream("Pens left?")]
    texts = [event.text for event in seen if isinstance(event, TextDelta)]
    assert "".join(texts) == "There are two."
    assert len(texts) > 1
    with pytest.raises(BudgetExceeded, match="calls=2 of 1"):
        async for _ in node.stream("Pens left?", RunContext(budget=Budget(calls=1))):
            pass


async def test_agents_that_its_tools_run_are_counted_too() -> None:
    inner = Agent(TestModel(), name="inner")
    outer = Agent(TestModel(), name="outer")

    @outer.tool
    async def delegate(ctx: TheirContext[object], text: str) -> str:
        return (await inner.run(text, usage=ctx.usage)).output

    result = await PydanticAINode(outer).run("Do it.")
    calls = {name: part.calls for name, part in result.usage.by_endpoint().items()}
    assert calls == {"test": 2, "outer's agents": 1}
    assert result.usage.total.unpriced_calls == 3
    assert "no budget could stop" in result.trace[-1].text


async def test_its_tools_are_given_their_dependencies() -> None:
    agent = Agent(TestModel(), deps_type=str, name="greeter")

    @agent.tool
    def who(ctx: TheirContext[str]) -> str:
        return ctx.deps

    result = await PydanticAINode(agent, deps="Ada").run("Greet.")
    assert "Ada" in result.output.text


async def test_an_output_of_another_kind_needs_to_be_written() -> None:
    agent = Agent(TestModel(custom_output_args=[1, 2]), output_type=list[int])
    bad: Any = agent
    with pytest.raises(ConfigError):
        PydanticAINode(bad)

    def order(numbers: list[int]) -> Order:
        return Order(item=f"{len(numbers)} numbers")

    node = PydanticAINode(agent, output=Order, write=order)
    assert (await node.run("?")).output.item == "2 numbers"


async def test_an_agent_that_gives_no_valid_output_is_an_output_error() -> None:
    model = saying(ModelResponse(parts=[TextPart("no order")]))
    node = PydanticAINode(Agent(model, output_type=Order, name="order"))
    with pytest.raises(OutputError, match="order:"):
        await node.run("hi")
    down = ModelHTTPError(status_code=503, model_name="fn")
    with pytest.raises(EndpointUnavailable):
        await PydanticAINode(Agent(saying(down))).run("hi")


async def test_a_stream_that_breaks_off_is_charged() -> None:
    async def broken(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        del messages, info
        yield "so "
        raise ConnectionError("lost")

    context = RunContext()
    node = PydanticAINode(Agent(FunctionModel(stream_function=broken)))
    with pytest.raises(EndpointUnavailable):
        async for _ in node.stream("hi", context):
            pass
    assert context.usage.calls == 1


def test_without_the_package_the_error_says_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = Agent(TestModel())
    monkeypatch.setitem(sys.modules, "pydantic_ai.capabilities", None)
    with pytest.raises(MissingDependency, match="pip install"):
        PydanticAINode(agent)
