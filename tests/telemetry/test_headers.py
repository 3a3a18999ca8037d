"""Headers: a trace comes in with a request of HTTP, and goes on to the servers that are asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from openai import AsyncOpenAI

from moa import Agent, RunContext
from moa.adapters.langchain_endpoint import LangChainEndpoint
from moa.core.telemetry import tracer_of
from moa.endpoints.openai import OpenAIEndpoint
from moa.testing import ScriptedEndpoint

from .conftest import OfSdk, Recorder

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Server:
    def __init__(self) -> None:
        self.headers: list[Any] = []
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        self.headers.append(request.headers)
        said = {"index": 0, "message": {"role": "assistant", "content": "Hello!"}}
        return web.Response(
            text=json.dumps(
                {
                    "model": "served-1",
                    "choices": [{**said, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 40, "completion_tokens": 8},
                }
            ),
            content_type="application/json",
        )


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield found
    await runner.cleanup()


@pytest.mark.parametrize("given", [False, True])
async def test_a_server_is_told_of_the_span_of_its_call(
    heard: Recorder, server: Server, given: bool
) -> None:
    client = AsyncOpenAI(base_url=server.url, api_key="none") if given else None
    about: Any = {"client": client} if given else {"base_url": server.url, "api_key": "none"}
    async with OpenAIEndpoint("large", model="served", **about) as large:
        await Agent(large, "Greet.").run("Hi", heard.context())
    call, _ = heard.spans
    (headers,) = server.headers
    assert headers["traceparent"].startswith(f"00-{call.trace}-{call.span}-0")
    assert call.attributes["server.address"] == "127.0.0.1"
    assert call.attributes["gen_ai.response.model"] == "served-1"
    if client is not None:
        await client.close()


async def test_a_chat_model_of_langchain_tells_its_server_too(
    heard: Recorder, server: Server
) -> None:
    langchain: Any = pytest.importorskip("langchain_openai")
    model = langchain.ChatOpenAI(
        model="served",
        base_url=server.url,
        api_key="none",
        model_kwargs={"extra_headers": {"x-own": "kept"}},
    )
    large = LangChainEndpoint(model, name="large")
    await Agent(large, "Greet.").run("Hi", heard.context())
    call, _ = heard.spans
    (headers,) = server.headers
    assert headers["traceparent"].startswith(f"00-{call.trace}-{call.span}-0")
    assert headers["x-own"] == "kept"


async def test_a_server_is_told_of_nothing_where_nobody_hears_of_spans(server: Server) -> None:
    async with OpenAIEndpoint("large", model="served", base_url=server.url) as large:
        await Agent(large, "Greet.").run("Hi")
    assert "traceparent" not in server.headers[0]


async def test_a_run_goes_on_with_the_trace_of_the_request_that_asked_for_it(sdk: OfSdk) -> None:
    context = RunContext(tracer=tracer_of({"traceparent": CALLER}))
    await Agent(ScriptedEndpoint(["Hello!"]), "Greet.").run("Hi", context)
    _, agent = sdk.spans
    assert (agent.trace, agent.parent) == (CALLER.split("-")[1], CALLER.split("-")[2])


async def test_a_servers_own_span_for_the_request_comes_before_its_header(sdk: OfSdk) -> None:
    from opentelemetry import trace

    with trace.get_tracer("server").start_as_current_span("POST /run") as request:
        tracer = tracer_of({"traceparent": CALLER})
    await Agent(ScriptedEndpoint(["Hello!"]), "Greet.").run("Hi", RunContext(tracer=tracer))
    agent = sdk.spans[-1]
    assert agent.parent == f"{request.get_span_context().span_id:016x}"


@pytest.mark.parametrize("header", ["", "nonsense", f"{CALLER}-", "00-0-0-00", "é" * 10_000])
async def test_a_header_that_is_none_begins_a_trace_of_its_own(sdk: OfSdk, header: str) -> None:
    context = RunContext(tracer=tracer_of({"traceparent": header}))
    await Agent(ScriptedEndpoint(["Hello!"]), "Greet.").run("Hi", context)
    assert sdk.spans[-1].parent is None


def test_there_is_no_tracer_where_no_provider_is_set() -> None:
    assert tracer_of({"traceparent": CALLER}) is None
