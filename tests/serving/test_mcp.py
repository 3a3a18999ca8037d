"""Graphs as tools of MCP: by clients of the SDK and of moa, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import uvicorn
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult, TextContent
from starlette.testclient import TestClient

from moa import Agent, Classifier, Tool
from moa.adapters.mcp import Server as Described
from moa.adapters.mcp import mcp_tools
from moa.config.endpoints import Endpoints
from moa.core.messages import ToolCall
from moa.inbox.support import Support
from moa.serving.app import app_of, serve
from moa.serving.keys import Caller, Keys
from moa.serving.mcp_tools import Shape
from moa.serving.served import ServedNode
from moa.serving.server import Server, Settings
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from . import mcp_shop as shop

FILE = Path(__file__).with_name("mcp_shop.py")
NODES = ("price", "loud", "noisy", "broken", "wait", "dear", "slow")
Connected = Callable[..., AbstractAsyncContextManager[Client]]


def command(*names: str, more: tuple[str, ...] = ()) -> list[str]:
    """Give the command that serves some nodes of the shop over stdio."""
    served = (f"{FILE}:{name}" for name in names or NODES)
    return [sys.executable, "-m", "moa", "mcp", *served, "--quiet", *more]


@asynccontextmanager
async def over_stdio(*more: str) -> AsyncGenerator[Client]:
    program, *words = command(more=more)
    async with Client(StdioServerParameters(command=program, args=words)) as client:
        yield client


@asynccontextmanager
async def listening(app: Any) -> AsyncGenerator[str]:
    """Serve an application at a port that is free, and give its address."""
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on"))
        serving = asyncio.ensure_future(server.serve(sockets=[at]))
        while not server.started:
            assert not serving.done()
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{at.getsockname()[1]}/mcp"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def over_http() -> AsyncGenerator[Client]:
    app = serve(*(getattr(shop, name) for name in NODES), endpoints=Endpoints.of())
    async with listening(app) as url, Client(url) as client:
        yield client


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds; the time limit of the test is the only one."""
    while not holds():  # noqa: ASYNC110  nothing tells of it
        await asyncio.sleep(0.01)


both = pytest.mark.parametrize("connected", [over_stdio, over_http], ids=["stdio", "http"])


def said(result: CallToolResult) -> str:
    """Give the text of a result."""
    (part,) = result.content
    assert isinstance(part, TextContent)
    return part.text


@both
async def test_a_graph_is_a_tool_that_gives_typed_results_and_tells_how_far_it_is(
    connected: Connected,
) -> None:
    steps: list[tuple[float, str | None]] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        steps.append((progress, message))

    async with connected() as client:
        assert client.protocol_version == "2026-07-28"
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        order = {"item": "pens", "pieces": 4}
        result = await client.call_tool("price", order, progress_callback=hear)
        loud = await client.call_tool("loud", {"text": "good day"})
    assert tools.keys() == set(NODES)
    assert tools["price"].input_schema["properties"]["item"] == {"title": "Item", "type": "string"}
    assert tools["price"].output_schema
    assert tools["price"].output_schema["required"] == ["item", "total"]
    assert tools["loud"].input_schema["required"] == ["text"]
    assert result.structured_content == {"item": "pens", "total": 10.0}
    assert json.loads(said(result)) == result.structured_content
    assert (loud.structured_content, said(loud)) == ({"output": "GOOD DAY"}, "GOOD DAY")
    assert loud.meta
    assert loud.meta["moa/trace"]
    assert steps == [(1, "done: price/priced")]


@both
async def test_what_goes_wrong_is_the_result_of_the_tool_and_says_what_to_do(
    connected: Connected,
) -> None:
    calls: list[tuple[str, dict[str, Any], str]] = [
        ("price", {"item": "gold"}, "order pens"),
        ("price", {"pieces": 0}, "item"),
        ("loud", {"texts": "a"}, "'text'"),
        ("broken", {"text": "sesame"}, "log"),
        ("loud", {f"{number:0500}": "a" for number in range(100)}, "and 95 more"),
    ]
    async with connected() as client:
        for tool, arguments, words in calls:
            result = await client.call_tool(tool, arguments)
            assert result.is_error
            assert words in said(result)
            assert "Traceback" not in said(result)
            assert "sesame" not in said(result)
            assert len(said(result)) < 1000
        unset = said(await client.call_tool("price", {"item": "ink"}))
        with pytest.raises(MCPError, match="'price'"):
            await client.call_tool("prices", {})
        with pytest.raises(MCPError) as refused:
            await client.call_tool("x" * 100_000, {})
        assert len(str(refused.value)) < 1000
    assert ("INK_KEY" in unset) == (connected is over_stdio), "the owner alone is told of settings"


@both
async def test_a_call_that_is_given_up_cancels_its_run(
    connected: Connected, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    async with connected() as client:
        with anyio.move_on_after(0.3):
            await client.call_tool("wait", {"text": str(mark)})
        await until(lambda: mark.exists() and mark.read_text() == "cancelled")
        assert said(await client.call_tool("loud", {"text": "on"})) == "ON"


async def test_calls_over_stdio_have_a_deadline_each_and_share_one_budget() -> None:
    async with over_stdio("--budget-usd", "1.2", "--deadline-s", "1") as client:
        late = await client.call_tool("slow", {"text": "Hi"})
        results = [await client.call_tool("dear", {"text": "Hi"}) for _ in range(2)]
    assert late.is_error
    assert "time" in said(late)
    assert [one.is_error for one in results] == [False, True]
    assert "cost" in said(results[1])


async def test_standard_output_carries_the_protocol_alone(tmp_path: Path) -> None:
    program, *words = command("noisy", "loud")
    process = await asyncio.create_subprocess_exec(
        program,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    call = {"name": "noisy", "arguments": {"text": "a b"}}
    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    for id, (method, params) in enumerate([("initialize", hello), ("tools/call", call)]):
        line = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
        process.stdin.write(json.dumps(line).encode() + b"\n")
    process.stdin.write(b"no JSON\n")
    answers = [json.loads(await process.stdout.readline()) for _ in range(2)]
    assert answers[1]["result"]["structuredContent"] == {"output": ["a", "b"]}
    process.stdin.close()
    rest, beside = await asyncio.gather(process.stdout.read(), process.stderr.read())
    assert await process.wait() == 0
    assert rest == b""
    for words_of in ("loaded", "printed", "written past Python", "said by a child"):
        assert words_of in beside.decode()


def test_what_can_not_be_served_is_said_and_no_traceback() -> None:
    program = [sys.executable, "-m", "moa", "mcp", "prices"]
    done = subprocess.run(program, input="", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("moa: there is no ready graph or agent 'prices'")


LEGACY = {"mcp-protocol-version": "2025-06-18"}
MODERN = {
    "mcp-protocol-version": "2026-07-28",
    "mcp-method": "tools/call",
    "mcp-name": "wait",
}
ENVELOPE: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


def tasks() -> int:
    """Count the tasks, but for one of SSE's that waits in each loop for the end of uvicorn."""
    named = (str(task.get_coro()) for task in asyncio.all_tasks())
    return sum("_shutdown_watcher" not in name for name in named)


@pytest.mark.parametrize("headers", [MODERN, LEGACY], ids=["2026", "2025"])
async def test_clients_that_go_away_leave_no_run_and_no_task(headers: dict[str, str]) -> None:
    waits = shop.Waits()
    app = serve(waits, endpoints=Endpoints.of())
    params: dict[str, Any] = {"name": "wait", "arguments": {"text": ""}}
    if headers is MODERN:
        params["_meta"] = ENVELOPE
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    head = {
        **headers,
        "host": "localhost",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "content-length": str(len(body)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    async with listening(app) as url:
        port = int(url.split(":")[2].split("/")[0])
        before = tasks()
        for _ in range(10):
            writers = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(10)]
            for writer in writers:
                writer.write(f"POST /mcp HTTP/1.1\r\n{lines}\r\n{body}".encode())
            aim = waits.begun + 10
            await until(lambda aim=aim: waits.begun >= aim)
            for writer in writers:
                writer.transport.abort()
        await until(lambda: waits.cancelled >= 100 and tasks() <= before)
    assert waits.begun == waits.cancelled == 100


def test_a_server_without_the_sdk_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moa.serving.mcp.find_spec", dict[str, object]().get)
    app = serve(shop.loud, endpoints=Endpoints.of())
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.post("/mcp", json={})
    assert answer.status_code == 501
    assert "mixture-of-agents[mcp]" in answer.json()["error"]["message"]


class Half(Caller):
    """May run what is called loud."""

    name = "half"

    def may_run(self, name: str) -> bool:
        return name == "loud"


class HalfKeys(Keys):
    async def caller(self, authorization: str | None) -> Caller:
        return Half()


async def test_a_key_sees_the_tools_that_it_may_run() -> None:
    served = [ServedNode(shop.price), ServedNode(shop.loud)]
    app = app_of(Server(served, Endpoints.of(), Settings(), HalfKeys()))
    async with listening(app) as url, Client(url) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["loud"]
        with pytest.raises(MCPError, match="'price'"):
            await client.call_tool("price", {"item": "pens"})


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_model_of_moa_uses_graphs_that_moa_serves(transport: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    order, wait = ToolCall.of("price", item="pens", pieces=2), ToolCall.of("wait", text=str(mark))
    model = ScriptedEndpoint([order, wait, "5 dollars."])
    async with AsyncExitStack() as stack:
        server: Described = command("price", "wait")
        if transport == "http":
            app = serve(shop.price, shop.Waits(), endpoints=Endpoints.of())
            server = await stack.enter_async_context(listening(app))
        priced, waits = await stack.enter_async_context(
            mcp_tools(connect_timeout_s=50, shop=server)
        )
        tools = [priced, Tool(waits, timeout_s=0.3)]
        result = await Agent(model, "Sell.", tools=tools).run("Two pens?")
        await until(mark.exists)  # what takes too long here ends there too
    assert '"total": 5.0' in model.prompts[1].messages[-1].content
    assert result.output.text == "5 dollars."


async def test_decisions_and_choices_of_outputs_are_what_their_schemas_say() -> None:
    calm = {"spam": {"no": 0.9}, "injection": {"no": 0.9}, "danger": {"no": 0.9}}
    found = {"intent": {"payment": 0.9}, "urgency": {"today": 0.9}, "sentiment": {"neutral": 0.9}}
    small = SimulatedEndpoint(rule=lambda _: {**calm, **found, "topic": {"card": 0.9}})
    topic = Classifier(small, ["card", "app"], name="topic")
    app = serve(topic, Support(slm=small, llm=small), endpoints=Endpoints.of())
    message = {"text": "You charged my card twice, please correct that.", "subject": "Card"}
    async with listening(app) as url, Client(url) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        card = await client.call_tool("topic", {"text": "My card!"})  # checked by its schema
        routed = await client.call_tool("support", message)
    assert tools["support"].input_schema["properties"].keys() >= {"text", "subject"}
    assert card.structured_content["label"] == "card"
    assert routed.structured_content["queue"] == "billing"


OBJECT: dict[str, Any] = {"type": "object", "properties": {}}
NEST: dict[str, Any] = {"$ref": "#/$defs/Nest", "$defs": {"Nest": OBJECT}}


@pytest.mark.parametrize(
    ("schema", "wraps"),
    [
        (OBJECT, False),
        (NEST, False),
        ({"anyOf": [OBJECT, OBJECT]}, False),
        ({"anyOf": [OBJECT, {"type": "null"}]}, True),
        ({"type": "array", "items": {}}, True),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, True),
        ({}, True),
    ],
    ids=str,
)
def test_what_is_no_object_is_put_into_one(schema: dict[str, Any], wraps: bool) -> None:
    shape = Shape.of(schema, "output", "What came out.")
    assert shape.schema["type"] == "object"
    assert (shape.key == "output") == wraps
    assert shape.wrap([1]) == ({"output": [1]} if wraps else [1])
