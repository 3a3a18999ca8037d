"""Chat models of LangChain as endpoints: texts, JSON, usage and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, cast

import pytest
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel, ConfigDict, Field

from moa.adapters.langchain_endpoint import LangChainEndpoint
from moa.agents.agent import Agent
from moa.agents.sentiment import Sentiment
from moa.core.context import RunContext
from moa.core.errors import (
    CapabilityError,
    DeadlineExceeded,
    EndpointError,
    EndpointRejected,
    EndpointTimeout,
    EndpointUnauthorized,
    EndpointUnavailable,
    InvalidResponse,
    OutputError,
)
from moa.core.node import Reply, Result
from moa.core.usage import Price
from moa.endpoints import Completion, Prompt

PRICE = Price(input=Decimal(1), output=Decimal(2))
USED: Any = {
    "input_tokens": 100,
    "output_tokens": 10,
    "total_tokens": 110,
    "input_token_details": {"cache_read": 40},
}


class City(BaseModel):
    name: str


def endpoint(*answers: AIMessage | str, **settings: Any) -> LangChainEndpoint:
    model = GenericFakeChatModel(messages=iter(answers))
    return LangChainEndpoint(model, name="large", price=PRICE, **settings)


class Chat(BaseChatModel):
    """A model with settings, that says what it is asked, or fails."""

    model_name: str = "chat-1"
    max_tokens: int | None = None
    temperature: float | None = None
    error: Exception | None = None
    holds: bool = False
    slow: float = 0.0

    model_config = ConfigDict(arbitrary_types_allowed=True)

    @property
    def _llm_type(self) -> str:
        return "chat"

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        await asyncio.sleep(self.slow)
        if self.error is not None:
            raise self.error
        said = f"{self.max_tokens} {self.temperature} {messages[0].text}"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(said))])

    def with_structured_output(
        self, schema: Any, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, Any]:
        if not self.holds:
            return super().with_structured_output(schema, include_raw=include_raw, **kwargs)

        async def held(_: object) -> dict[str, object]:
            raw = AIMessage("", usage_metadata=USED)
            return {"raw": raw, "parsed": {"name": schema["title"]}, "parsing_error": None}

        return RunnableLambda(cast("Any", held))


class Calling(GenericFakeChatModel):
    """A model that takes tools, and keeps what it is told and asked."""

    told: list[Any] = Field(default_factory=list[Any])
    asked: list[list[BaseMessage]] = Field(default_factory=list[list[BaseMessage]])
    refuses: bool = False

    def bind_tools(self, tools: Any, **_: Any) -> Runnable[LanguageModelInput, AIMessage]:
        if self.refuses:
            raise NotImplementedError
        self.told.extend(tools)
        return self

    def _generate(self, messages: list[BaseMessage], *given: Any, **more: Any) -> ChatResult:
        self.asked.append(messages)
        return super()._generate(messages, *given, **more)

    def _stream(
        self, messages: list[BaseMessage], *_: Any, **__: Any
    ) -> Iterator[ChatGenerationChunk]:
        whole = self._generate(messages).generations[0].message
        assert isinstance(whole, AIMessage)
        yield ChatGenerationChunk(message=AIMessageChunk(content=str(whole.text)))
        for number, one in enumerate(whole.tool_calls):
            name: str | None = one["name"]
            id, written = one["id"], json.dumps(one["args"])
            for piece in (written[:3], written[3:]):  # a call comes in pieces
                chunk = tool_call_chunk(name=name, args=piece, id=id, index=number)
                yield ChatGenerationChunk(
                    message=AIMessageChunk(content="", tool_call_chunks=[chunk])
                )
                name = id = None


def calling(*answers: AIMessage | str, **settings: Any) -> Calling:
    return Calling(messages=iter(answers), **settings)


def double(n: int) -> int:
    """Double a number."""
    return 2 * n


def call(name: str = "double", id: str | None = "a", **args: Any) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": id}], usage_metadata=USED)


class HTTPError(Exception):
    def __init__(self, status_code: int) -> None:
        super().__init__("sorry")
        self.status_code = status_code


async def test_usage_is_read_from_the_answer_and_priced() -> None:
    large = endpoint(AIMessage("Hello", usage_metadata=USED))
    result = await Agent(large, "Greet.").run("Hi")
    total = result.usage.total
    assert result.output.text == "Hello"
    assert (total.input_tokens, total.cached_input_tokens, total.output_tokens) == (100, 40, 10)
    assert total.cost == Decimal("0.00012")


async def test_without_usage_the_estimate_is_charged_and_noted() -> None:
    result = await Agent(endpoint("Hello"), "Greet.", max_tokens=7).run("Hi")
    assert result.usage.output_tokens == 7
    assert "degraded" in {note.kind for note in result.trace}


async def test_a_text_streams_piece_by_piece_and_whole_at_the_end() -> None:
    asked = endpoint("Good morning").stream(Prompt.of("Hi"), RunContext())
    pieces = [piece async for piece in asked]
    *words, whole = pieces
    assert words == ["Good", " ", "morning"]
    assert isinstance(whole, Completion)
    assert whole.text == "Good morning"


async def test_a_model_with_tools_is_held_to_the_schema() -> None:
    large = LangChainEndpoint(Chat(holds=True))
    result = await Agent(large, "Name it.", output=City).run("Hi")
    assert result.output == City(name="City")
    assert result.usage.input_tokens == 100


async def test_a_model_without_tools_is_shown_the_schema() -> None:
    completion = await LangChainEndpoint(Chat()).complete(
        Prompt.of("Hi", json_schema=City.model_json_schema()), RunContext()
    )
    assert 'by this schema: {"properties":{"name"' in completion.text


async def test_a_choice_of_tools_is_shown_since_langchain_would_leave_it_out() -> None:
    large = LangChainEndpoint(Chat(holds=True))
    result = await Agent(large, "Do sums.", tools=[double]).run("2?")
    assert '"const":"double"' in result.output.text  # the double gives back what it was told


async def test_an_answer_that_ollama_cut_is_told_as_cut() -> None:
    cut = AIMessage("Hel", response_metadata={"done_reason": "length"})
    assert (await endpoint(cut).complete(Prompt.of("Hi"), RunContext())).finish_reason == "length"


@pytest.mark.parametrize(("own", "sent"), [(None, "None"), (0.7, "0.5"), (0.0, "0.5")])
async def test_the_limit_of_an_answer_is_set_and_the_temperature_where_there_is_one(
    own: float | None, sent: str
) -> None:
    chat = Chat(temperature=own)
    prompt = Prompt.of("Hi", max_tokens=9, temperature=0.5)
    completion = await LangChainEndpoint(chat).complete(prompt, RunContext())
    assert completion.text == f"9 {sent} Hi"
    assert (chat.max_tokens, chat.temperature) == (None, own)


@pytest.mark.parametrize(
    ("raised", "meant"),
    [
        (HTTPError(401), EndpointUnauthorized),
        (HTTPError(429), EndpointUnavailable),
        (HTTPError(400), EndpointRejected),
        (TimeoutError(), EndpointTimeout),
        (ConnectionResetError("lost"), EndpointUnavailable),
        (KeyError("choices"), EndpointRejected),
    ],
)
async def test_what_a_model_raises_is_an_error_of_moa(
    raised: Exception, meant: type[EndpointError]
) -> None:
    context = RunContext(timeout_s=60)  # a model's own time is not the run's
    with pytest.raises(meant) as caught:
        await LangChainEndpoint(Chat(error=raised)).complete(Prompt.of("Hi"), context)
    assert type(caught.value) is meant
    assert caught.value.__cause__ is raised


async def test_the_deadline_of_the_run_holds() -> None:
    with pytest.raises(DeadlineExceeded):
        await LangChainEndpoint(Chat(slow=5)).complete(Prompt.of("Hi"), RunContext(timeout_s=0.05))


async def test_an_empty_answer_says_whether_it_was_cut() -> None:
    cut = AIMessage("", response_metadata={"finish_reason": "length"})
    with pytest.raises(OutputError):
        await endpoint(cut).complete(Prompt.of("Hi"), RunContext())
    with pytest.raises(InvalidResponse):
        await endpoint(AIMessage("")).complete(Prompt.of("Hi"), RunContext())


def test_it_decides_nothing() -> None:
    with pytest.raises(CapabilityError):
        Sentiment(endpoint())


@pytest.mark.parametrize("streams", [False, True])
async def test_tools_are_bound_called_and_answered_in_messages_of_langchain(streams: bool) -> None:
    model = calling(call(n=2), "It is 4.")
    agent = Agent(LangChainEndpoint(model), "Do sums.", tools=[double])
    if streams:
        *_, result = [event async for event in agent.stream("2?")]
    else:
        result = await agent.run("2?")
    assert isinstance(result, Result)
    assert result.output == Reply(text="It is 4.")
    assert result.usage.tool_calls == 1
    assert model.told[0]["function"]["name"] == "double"
    asked, answer = model.asked[-1][-2:]
    assert isinstance(asked, AIMessage)
    (made,) = asked.tool_calls
    assert (made["name"], made["args"], made["id"]) == ("double", {"n": 2}, "a")
    assert isinstance(answer, ToolMessage)
    assert (answer.tool_call_id, answer.text.splitlines()[1]) == ("a", "4")


async def test_arguments_that_are_no_json_are_told_to_the_model() -> None:
    wrong: Any = {"name": "double", "args": "{n: 2", "id": None, "error": None}
    model = calling(AIMessage("", invalid_tool_calls=[wrong]), "Sorry.")
    await Agent(LangChainEndpoint(model), "Do sums.", tools=[double]).run("2?")
    asked, answer = model.asked[-1][-2:]
    assert isinstance(asked, AIMessage)
    assert isinstance(answer, ToolMessage)
    assert "wrong arguments" in answer.text
    assert answer.tool_call_id == asked.tool_calls[0]["id"] != ""


async def test_json_after_tools_is_by_a_schema_that_is_shown() -> None:
    model = calling(call(n=2), '{"name": "Rome"}')
    result = await Agent(LangChainEndpoint(model), "Name it.", output=City, tools=[double]).run("?")
    assert result.output == City(name="Rome")
    assert "by this schema" in model.asked[-1][0].text


async def test_a_model_that_takes_no_tools_after_all_chooses_by_a_schema() -> None:
    model = calling('{"answer": "4"}', refuses=True)
    result = await Agent(LangChainEndpoint(model), "Do sums.", tools=[double]).run("2?")
    assert result.output == Reply(text="4")
    assert "fell back" in {note.kind for note in result.trace}
