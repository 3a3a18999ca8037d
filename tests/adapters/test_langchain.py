"""Runnables of LangChain and graphs of LangGraph as nodes."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from adapters.conformance import Conformance
from moa import Budget, Graph, RunContext, Text
from moa.adapters.langchain import LangChainNode
from moa.core.errors import BudgetExceeded, ConfigError, DeadlineExceeded, OutputError
from moa.core.trace import TextDelta

USED: Any = {
    "input_tokens": 100,
    "output_tokens": 10,
    "total_tokens": 110,
    "input_token_details": {"cache_read": 40},
}
Runs = Runnable[Any, Any]


class Order(BaseModel):
    item: str


class Named(GenericFakeChatModel):
    """A chat model that has a name, and may fail, or take its time."""

    model_name: str = "chat-1"
    error: Exception | None = None
    seconds: float = 0.0

    async def _agenerate(self, *given: Any, **more: Any) -> ChatResult:
        await asyncio.sleep(self.seconds)
        return await super()._agenerate(*given, **more)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if self.error is not None:
            raise self.error
        return super()._generate(messages, stop, run_manager, **kwargs)


def model(*answers: str, **settings: Any) -> Named:
    messages = iter([AIMessage(text, usage_metadata=USED) for text in answers])
    return Named(messages=messages, **settings)


def giving(**fields: object) -> Runs:
    """Something that asks no model."""

    def give(_: object) -> dict[str, object]:
        return fields

    return RunnableLambda(give)


class TestLangChain(Conformance):
    def node(self, *, asks: int = 1, error: Any = None, seconds: float = 0, **more: Any) -> Any:
        inner = model(*"abcdefghijklmnop", error=error, seconds=seconds)

        async def several(text: str) -> str:
            for _ in range(asks):
                await inner.ainvoke(text)
            return text

        return LangChainNode(RunnableLambda(several), **more)


async def test_a_chain_takes_the_fields_of_a_model_and_gives_a_reply() -> None:
    chain: Runs = ChatPromptTemplate.from_template("Any {item} left?") | model("Two.")
    result = await LangChainNode(chain, input=Order, name="stock").run(Order(item="pens"))
    assert result.output.text == "Two."
    ((part, amount),) = result.usage.parts.items()
    assert (part.node, part.endpoint) == ("stock", "chat-1")
    assert (amount.calls, amount.input_tokens, amount.cached_input_tokens) == (1, 100, 40)


async def test_what_a_runnable_gives_is_validated_as_the_output() -> None:
    assert (await LangChainNode(giving(item="pens"), output=Order).run("?")).output.item == "pens"
    with pytest.raises(OutputError):
        await LangChainNode(giving(), output=Order).run("?")


async def test_each_model_that_is_asked_in_a_thread_is_counted_and_stopped() -> None:
    inner = model("one", "two", "three", "four")

    def twice(text: str) -> AIMessage:
        return inner.invoke(inner.invoke(text).text)

    node = LangChainNode(RunnableLambda(twice), name="twice")
    assert (await node.run("x")).usage.calls == 2
    context = RunContext(budget=Budget(calls=1))
    with pytest.raises(BudgetExceeded, match="calls=2 of 1"):
        await node.run("x", context)
    assert context.usage.calls == 1
    assert inner.invoke("next").text == "four"


def read(text: str) -> dict[str, Any]:
    return {"messages": [("user", text)]}


async def test_a_graph_of_langgraph_gives_the_text_of_its_last_message() -> None:
    inner = model("a draft", "a better one")

    def write(state: MessagesState) -> dict[str, Any]:
        return {"messages": [inner.invoke(state["messages"])]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("draft", write)
    builder.add_node("improve", write)
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "improve")
    builder.add_edge("improve", END)
    node = LangChainNode(builder.compile(), read=read, name="writer")
    result = await node.run("Write.")
    assert result.output.text == "a better one"
    assert result.usage.by_node()["writer"].calls == 2


async def test_a_graph_that_asks_a_person_is_refused_when_it_does() -> None:
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [("ai", interrupt("Really?"))]}

    builder: Any = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    node = LangChainNode(builder.compile(), input=str, read=read, name="asker")
    with pytest.raises(ConfigError, match=r"g\.ask_human"):
        await node.run("x")
    g = Graph("desk", str)
    graph = g.build(g.add(node, g.input)).compile(checkpointer=InMemorySaver())
    with pytest.raises(ConfigError, match=r"g\.ask_human"):
        await graph.ainvoke("x", {"configurable": {"thread_id": "1"}})


async def test_a_model_that_reads_as_a_text_is_given_as_one() -> None:
    def repeat(given: object) -> str:
        return repr(given)

    echo = RunnableLambda(repeat)
    assert (await LangChainNode(echo).run(Text(text="hi"))).output.text == "'hi'"
    assert (await LangChainNode(echo).run(Order(item="pens"))).output.text == "{'item': 'pens'}"


async def test_the_answer_of_an_agent_with_a_structure_is_that() -> None:
    agent = giving(messages=[], structured_response=Order(item="x"))
    assert (await LangChainNode(agent, output=Order).run("?")).output == Order(item="x")


async def test_a_reply_is_streamed_and_a_structure_is_not() -> None:
    seen = [event async for event in LangChainNode(model("so it is")).stream("x")]
    texts = [event.text for event in seen if isinstance(event, TextDelta)]
    assert "".join(texts) == "so it is"
    assert len(texts) > 1
    parsed: Runs = model("pens") | giving(item="pens")
    seen = [event async for event in LangChainNode(parsed, output=Order).stream("x")]
    assert not any(isinstance(event, TextDelta) for event in seen)


async def test_an_answer_that_cannot_be_parsed_is_no_usable_one() -> None:
    with pytest.raises(OutputError):
        await LangChainNode(model("x", error=OutputParserException("no JSON"))).run("pens")


async def test_a_stand_in_of_langchain_answers_and_both_calls_are_counted() -> None:
    chain: Runs = model("x", error=TimeoutError("slow")).with_fallbacks([model("instead")])
    result = await LangChainNode(chain).run("pens")
    assert result.output.text == "instead"
    assert result.usage.calls == 2


async def test_a_thread_that_outlives_its_run_asks_no_more() -> None:
    inner, late, ended = model("one", "two"), threading.Event(), threading.Event()

    def slow(text: str) -> str:
        inner.invoke(text)
        late.wait()
        with suppress(DeadlineExceeded):
            inner.invoke(text)
        ended.set()
        return text

    context = RunContext()
    with pytest.raises(DeadlineExceeded):
        await LangChainNode(RunnableLambda(slow), timeout_s=0.2).run("x", context)
    late.set()
    await asyncio.to_thread(ended.wait)
    assert context.usage.calls == 1
    assert inner.invoke("x").text == "two"


async def test_a_model_that_a_function_gives_is_counted_in_its_own_run() -> None:
    def answering(text: str) -> Named:
        return model(text)  # which LangChain then runs

    node = LangChainNode(RunnableLambda(answering))
    results = await asyncio.gather(*(node.run(text) for text in "abcdefgh"))
    assert [(one.output.text, one.usage.calls) for one in results] == [(t, 1) for t in "abcdefgh"]
