"""Models that stand in for real ones in docs/migrating.md, each as its library knows models."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import httpx2
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from openai import AsyncOpenAI
from pydantic_ai import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from moa.core.messages import ToolCall
from moa.testing import SimulatedEndpoint, SimulatedRequest, Step

Said = str | dict[str, Any]
"""A text, or what a tool or a structure is filled with."""
Answer = Callable[[list[str], bool], Said]
"""Gives the answer to all that was said before, and whether a tool has been used."""

ORDER = {"item": "pens", "quantity": 3}


def _tool(said: list[str], used: bool) -> Said:
    return "There are 137 pens." if used else {"item": "pens"}


def _refund(said: list[str], used: bool) -> Said:
    return "It is paid." if used else {"euros": 900}


def _name(said: list[str], used: bool) -> Said:
    return "You are Ada." if any("I am Ada" in text for text in said) else "Who knows?"


ANSWERS: dict[str, Answer] = {
    "extract": lambda said, used: ORDER,
    "tool": _tool,
    "cascade": lambda said, used: {"label": "app", "confidence": 0.9},
    "approve": _refund,
    "map": lambda said, used: "good",
    "stream": lambda said, used: "Good morning, Ada",
    "chat": _name,
    "test": lambda said, used: "unused",
}
TEXTS = [f"text {number}" for number in range(20)]
UNSURE = {"label": "card", "confidence": 0.6}


def given(library: str, job: str) -> dict[str, Any]:
    """Give the names that a block of the page finds."""
    make = {"moa": _moa, "pydantic-ai": _pydantic_ai, "OpenAI SDK": _openai, "DSPy": _dspy}
    answer = ANSWERS[job]
    names = {"texts": TEXTS, **make.get(library, _langchain)(job, answer)}
    return {"__name__": "page", **names}


def _moa(job: str, answer: Answer) -> dict[str, Any]:
    def rule(text: str, asked: SimulatedRequest) -> Step:
        messages = asked.prompt.messages if asked.prompt else ()
        said = answer([one.content for one in messages], any(m.role == "tool" for m in messages))
        if isinstance(said, str):
            return said
        if asked.prompt and asked.prompt.tools:
            return ToolCall(asked.prompt.tools[0].name, json.dumps(said))
        return json.dumps(said)

    return {
        "model": SimulatedEndpoint(rule=rule, tier="llm"),
        "small": SimulatedEndpoint(rule=lambda _: {"classifier": {"card": 0.6}}),
        "large": SimulatedEndpoint(rule=lambda _: {"classifier": {"app": 0.9}}, tier="llm"),
    }


def _pydantic_ai(job: str, answer: Answer) -> dict[str, Any]:
    def model(answer: Answer) -> FunctionModel:
        async def say(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            parts = [part for message in messages for part in message.parts]
            texts = [str(part.content) for part in parts if isinstance(part, UserPromptPart)]
            said = answer(texts, any(part.part_kind == "tool-return" for part in parts))
            if isinstance(said, str):
                return ModelResponse(parts=[TextPart(said)])
            (tool,) = (*info.output_tools, *info.function_tools)
            return ModelResponse(parts=[ToolCallPart(tool.name, said)])

        return FunctionModel(say)

    return {
        "model": model(answer),
        "small": model(lambda said, used: UNSURE),
        "large": model(answer),
    }


class ChatModel(BaseChatModel):
    """A chat model that takes tools."""

    answer: Answer

    @property
    def _llm_type(self) -> str:
        return "stand-in"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        used = any(message.type == "tool" for message in messages)
        said = self.answer([str(message.text) for message in messages], used)
        message = AIMessage(said) if isinstance(said, str) else AIMessage("")
        if not isinstance(said, str):
            name = kwargs["tools"][0]["function"]["name"]
            message.tool_calls = [{"name": name, "args": said, "id": "1", "type": "tool_call"}]
        return ChatResult(generations=[ChatGeneration(message=message)])


def _langchain(job: str, answer: Answer) -> dict[str, Any]:
    return {"model": ChatModel(answer=answer)}


def _openai(job: str, answer: Answer) -> dict[str, Any]:
    def serve(request: httpx2.Request) -> httpx2.Response:
        assert json.loads(request.content)["stream"]
        lines = [_line(piece) for piece in _pieces(str(answer([], False)))]
        return httpx2.Response(
            200,
            text="".join(lines) + "data: [DONE]\n\n",
            headers={"content-type": "text/event-stream"},
        )

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(serve))
    return {
        "client": AsyncOpenAI(api_key="none", base_url="http://model.test/v1", http_client=http)
    }


_HEAD = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "stand-in"}


def _line(piece: str) -> str:
    choice: Any = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
    event: Any = {**_HEAD, "choices": [choice]}
    return f"data: {json.dumps(event)}\n\n"


def _dspy(job: str, answer: Answer) -> dict[str, Any]:
    dummy: Any = import_module("dspy.utils").DummyLM
    return {"lm": dummy([{"order": json.dumps(ORDER)}])}


def _pieces(text: str) -> list[str]:
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]
