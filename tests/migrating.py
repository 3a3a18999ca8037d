"""Models that stand in for real ones in docs/migrating.md, each as its library knows models."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import import_module
from typing import Any

import httpx2
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from openai import AsyncOpenAI
from pydantic_ai import ModelMessage, ModelResponse, TextPart, ToolCallPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from moa.messages import ToolCall
from moa.testing import Asked, SimulatedEndpoint, Step

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
    def rule(text: str, asked: Asked) -> Step:
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

        async def stream(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
            for piece in _pieces(str((await say(messages, info)).text)):
                yield piece

        return FunctionModel(say, stream_function=stream)

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


class StreamingChatModel(ChatModel):
    """One that streams."""

    async def _astream(self, *given: Any, **kwargs: Any) -> AsyncIterator[Any]:
        for piece in _pieces(str(self.answer([], False))):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))


def _langchain(job: str, answer: Answer) -> dict[str, Any]:
    return {"model": (StreamingChatModel if job == "stream" else ChatModel)(answer=answer)}


def _openai(job: str, answer: Answer) -> dict[str, Any]:
    def serve(request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        used = any(message["role"] == "tool" for message in body["messages"])
        said = answer([str(message.get("content")) for message in body["messages"]], used)
        if body.get("stream"):
            lines = [_line(piece) for piece in _pieces(str(said))]
            return httpx2.Response(
                200,
                text="".join(lines) + "data: [DONE]\n\n",
                headers={"content-type": "text/event-stream"},
            )
        message: dict[str, Any] = {"role": "assistant", "content": said}
        logprobs: Any = None
        if body.get("logprobs"):
            label, confidence = ("card", 0.6) if body["model"] == "small" else ("app", 0.9)
            message["content"] = label
            token: Any = {"token": label, "logprob": math.log(confidence), "top_logprobs": []}
            logprobs = {"content": [token]}
        elif body.get("tools") and isinstance(said, dict):
            call = {"name": body["tools"][0]["function"]["name"], "arguments": json.dumps(said)}
            message["tool_calls"] = [{"id": "1", "type": "function", "function": call}]
            message["content"] = None
        elif isinstance(said, dict):
            message["content"] = json.dumps(said)
        choice: Any = {
            "index": 0,
            "message": message,
            "finish_reason": "stop",
            "logprobs": logprobs,
        }
        return httpx2.Response(200, json={**_HEAD, "choices": [choice]})

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(serve))
    return {
        "client": AsyncOpenAI(api_key="none", base_url="http://model.test/v1", http_client=http)
    }


_HEAD = {"id": "1", "object": "chat.completion", "created": 1, "model": "stand-in"}


def _line(piece: str) -> str:
    choice: Any = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
    event: Any = {**_HEAD, "object": "chat.completion.chunk", "choices": [choice]}
    return f"data: {json.dumps(event)}\n\n"


def _dspy(job: str, answer: Answer) -> dict[str, Any]:
    dummy: Any = import_module("dspy.utils").DummyLM
    said = {"extract": [{"order": json.dumps(ORDER)}], "tool": _STEPS, "chat": [_ADA]}
    return {"lm": dummy(said.get(job, [{"answer": "Tomorrow."}]))}


_STEPS = [
    {
        "next_thought": "Look it up.",
        "next_tool_name": "in_stock",
        "next_tool_args": '{"item": "pens"}',
    },
    {"next_thought": "Done.", "next_tool_name": "finish", "next_tool_args": "{}"},
    {"reasoning": "It was looked up.", "answer": "There are 137 pens."},
]
_ADA = {"answer": "You are Ada."}


def _pieces(text: str) -> list[str]:
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]
