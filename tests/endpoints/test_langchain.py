"""Chat models of LangChain as endpoints: texts, JSON, usage and errors."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any, cast

import pytest
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda
from pydantic import BaseModel, ConfigDict

from moa.agents import Agent
from moa.agents.sentiment import Sentiment
from moa.context import RunContext
from moa.endpoints import Completion, Prompt
from moa.endpoints.langchain import LangChainEndpoint
from moa.errors import (
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
from moa.usage import Price

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
    def double(n: int) -> int:
        """Double a number."""
        return 2 * n

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
    with pytest.raises(OutputError, match="raise it"):
        await endpoint(cut).complete(Prompt.of("Hi"), RunContext())
    with pytest.raises(InvalidResponse, match="wrote nothing"):
        await endpoint(AIMessage("")).complete(Prompt.of("Hi"), RunContext())


def test_it_decides_nothing() -> None:
    with pytest.raises(CapabilityError, match="needs an endpoint that can decide"):
        Sentiment(endpoint())
