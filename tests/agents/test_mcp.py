"""Tools of real MCP servers, over stdin and stdout and over HTTP, and of hostile ones."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from moa import Agent, Tool
from moa.adapters.mcp import Server, mcp_tools
from moa.agents.tools import RemoteTool
from moa.core._json import at
from moa.core.errors import (
    BudgetExceeded,
    ConfigError,
    EndpointRejected,
    EndpointTimeout,
    EndpointUnauthorized,
    EndpointUnavailable,
    InvalidResponse,
    MissingDependency,
    MoaError,
)
from moa.core.messages import ToolCall
from moa.core.usage import Usage
from moa.testing import ScriptedEndpoint
from moa.vllm.endpoint import free_port

HERE = Path(__file__).parent
SPENT = BudgetExceeded("no call is left", spent=Usage())
needed = pytest.mark.skipif(find_spec("mcp") is None, reason="mcp is not installed")


@asynccontextmanager
async def over_http() -> AsyncGenerator[Server]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(HERE / "mcp_sums.py"), "streamable-http", str(port)),
        stderr=asyncio.subprocess.DEVNULL,
    )
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert process.returncode is None
            await asyncio.sleep(0.05)
        else:
            writer.close()
            break
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def over_stdio() -> AsyncGenerator[Server]:
    yield [sys.executable, str(HERE / "mcp_sums.py"), "stdio"]


def raw(manner: str) -> list[str]:
    return [sys.executable, "-S", str(HERE / "mcp_raw.py"), manner]


@pytest.fixture(autouse=True)
def little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    if find_spec("mcp") is not None:
        monkeypatch.setattr("moa.adapters.mcp.stdio._GRACE_S", 0.2)


def children() -> list[str]:
    """The processes below this one, but for the database that other tests keep running."""
    alive = psutil.Process().children(recursive=True)
    told = [" ".join(one.cmdline()) for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in told if not one.startswith("postgres")]


@needed
@pytest.mark.timeout(120)
@pytest.mark.parametrize("serving", [over_stdio, over_http], ids=["stdio", "http"])
async def test_a_model_uses_the_tools_of_a_server(
    serving: Callable[[], AbstractAsyncContextManager[Server]],
) -> None:
    calls = [ToolCall("add", '{"a": 1, "b": 2}'), ToolCall("fail", '{"reason": "no ink"}')]
    endpoint = ScriptedEndpoint([calls, "3, and it failed."])
    async with serving() as server, mcp_tools(sums=server) as tools:
        result = await Agent(endpoint, "Do sums.", tools=tools).run("1 + 2?")
    add, *_ = endpoint.prompts[0].tools
    assert (add.name, add.description) == ("add", "Add two numbers.")
    assert at(add.parameters, "properties", "a", "type") == "integer"
    added, failed = endpoint.prompts[1].messages[-2:]
    assert added.content == "<data>\n3\n</data>"
    assert "Error, ToolFailed: " in failed.content
    assert "no ink" in failed.content
    assert result.usage.tool_calls == 2


@needed
async def test_a_server_gets_no_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-secret")
    command = {"command": sys.executable, "args": [str(HERE / "mcp_sums.py"), "stdio"]}
    async with mcp_tools(sums={**command, "env": {"GIVEN": "1"}}) as (*_, environment):
        names = str(await environment.call({}))
    assert "GIVEN" in names
    assert "PATH" in names
    assert "SOME_API_KEY" not in names


@needed
@pytest.mark.parametrize("manner", ["plain", "greets"])
async def test_a_server_of_an_older_protocol_is_understood(manner: str) -> None:
    async with mcp_tools(sums=raw(manner)) as (add,):
        assert await add.call({"a": 1}) == "3"


@needed
async def test_structured_content_is_given_where_there_is_no_text() -> None:
    async with mcp_tools(sums=raw("structured")) as (add,):
        endpoint = ScriptedEndpoint([ToolCall("add"), "3."])
        await Agent(endpoint, "Do sums.", tools=[add]).run("1 + 2?")
    assert endpoint.prompts[1].messages[-1].content == '<data>\n{"sum":3}\n</data>'


@needed
async def test_a_tool_that_models_could_not_name_and_that_says_nothing_of_itself_is_used() -> None:
    endpoint = ScriptedEndpoint([ToolCall("sums_add"), "3."])
    async with mcp_tools(maths=raw("dotted")) as tools:
        await Agent(endpoint, "Do sums.", tools=tools).run("1 + 2?")
    (shown,) = endpoint.prompts[0].tools
    assert "sums.add" in shown.description
    assert endpoint.prompts[1].messages[-1].content == "<data>\n3\n</data>"


@needed
@pytest.mark.parametrize(
    ("manner", "kind"),
    [
        ("silent", EndpointTimeout),
        ("garbage", InvalidResponse),
        ("endless", InvalidResponse),
        ("huge list", InvalidResponse),
        ("closes", EndpointUnavailable),
    ],
)
async def test_a_hostile_server_ends_in_an_error_in_time_and_leaves_nothing(
    manner: str, kind: type[MoaError]
) -> None:
    began = time.monotonic()
    limit_s = 1 if manner == "silent" else 20
    with pytest.raises(kind, match="sums") as caught:
        async with mcp_tools(connect_timeout_s=limit_s, sums=raw(manner)):
            pass
    assert time.monotonic() - began < 20
    assert "\x1b" not in str(caught.value)
    assert not children()


@needed
async def test_tools_that_no_prompt_has_room_for_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("moa.adapters.mcp.connection._LARGEST_LIST", 500)
    with pytest.raises(InvalidResponse):
        async with mcp_tools(sums=raw("long list")):
            pass


@needed
async def test_a_command_that_is_not_there_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(ConfigError, match="'sums'"):
        async with mcp_tools(sums=["/nowhere/server"]):
            pass


@needed
@pytest.mark.parametrize(
    "server",
    ["localhost:8000/mcp", [], {"url": "http://x", "headers": {"a": 1}}, {"transport": "sse"}],
    ids=str,
)
async def test_a_server_is_described_rightly(server: Server) -> None:
    with pytest.raises(ConfigError, match="'sums'"):
        async with mcp_tools(sums=server):
            pass


@needed
async def test_a_server_that_dies_in_a_call_is_told_to_the_model_and_the_run_goes_on() -> None:
    endpoint = ScriptedEndpoint([ToolCall("add"), ToolCall("add"), "It is gone."])
    async with mcp_tools(sums=raw("dies")) as tools:
        await Agent(endpoint, "Do sums.", tools=tools).run("1 + 2?")
        with pytest.raises(EndpointUnavailable, match="code 4"):
            await tools[0].call({})
    for prompt in endpoint.prompts[1:]:
        assert "Error, EndpointUnavailable: sums: its process ended" in prompt.messages[-1].content


@needed
@pytest.mark.parametrize("manner", ["huge answer", "huge answer, its number last"])
async def test_an_answer_longer_than_a_message_may_be_fails_alone(manner: str) -> None:
    async with mcp_tools(sums=raw(manner)) as (add,):
        for _ in range(2):
            with pytest.raises(InvalidResponse, match="longer than"):
                await add.call({})


@needed
@pytest.mark.parametrize("error", [asyncio.CancelledError(), SPENT], ids=repr)
async def test_an_error_of_the_block_comes_out_as_it_is(error: BaseException) -> None:
    async def fail() -> None:
        async with mcp_tools(sums=raw("plain")):
            raise error

    with pytest.raises(type(error)) as caught:
        await fail()
    assert caught.value is error
    assert not children()


@needed
async def test_a_server_and_what_it_started_end_with_a_cancelled_block() -> None:
    started = asyncio.Event()

    async def working() -> None:
        async with mcp_tools(sums=raw("leaves a child")) as (add,):
            await add.call({})
            started.set()
            await asyncio.sleep(600)

    task = asyncio.ensure_future(working())
    await started.wait()
    assert len(children()) == 2
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()  # while it is closing
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(100):
        if not children():
            break
        await asyncio.sleep(0.01)
    assert not children()


@needed
async def test_a_call_that_takes_too_long_is_given_up() -> None:
    endpoint = ScriptedEndpoint([ToolCall("add"), ToolCall("add"), "Late."])
    async with answering(HANGING, after_listing=True) as url, mcp_tools(sums=url) as (add,):
        agent = Agent(endpoint, "Do sums.", tools=[Tool(add, timeout_s=0.2)])
        await agent.run("1 + 2?")
    assert "no result in time" in endpoint.prompts[2].messages[-1].content


@needed
async def test_what_a_server_writes_for_people_steers_no_terminal(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        caplog.at_level(logging.DEBUG, logger="moa"),
        pytest.raises(EndpointUnavailable, match=r"u001b\]52;"),
    ):
        async with mcp_tools(sums=raw("closes")):
            pass
    assert any(r"\u001b]52;c;b3duZWQ=\u0007no database" in line for line in caplog.messages)
    assert "\x1b" not in "".join([*capfd.readouterr(), *caplog.messages])


HEAD = "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n"
HANGING = "HTTP/1.1 200 OK\r\n" + HEAD.format(100)
LISTED = b"""{"jsonrpc":"2.0","id":%d,"result":
{"resultType":"complete","ttlMs":0,"cacheScope":"private",
"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},
"tools":[{"name":"add","description":"Add.","inputSchema":{"type":"object"}}]}}"""


@asynccontextmanager
async def answering(answer: str, *, after_listing: bool = False) -> AsyncGenerator[str]:
    """Answer each request the same; with `after_listing`, calls alone."""

    writers: list[asyncio.StreamWriter] = []

    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                if after_listing and b"tools/call" not in body:
                    said = LISTED % int(body.partition(b'"id":')[2].split(b",")[0])
                    writer.write(f"HTTP/1.1 200 OK\r\n{HEAD.format(len(said))}".encode() + said)
                else:
                    writer.write(answer.encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass

    async with await asyncio.start_server(answered, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp"
        for writer in writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


EMPTY = "Content-Length: 0\r\n\r\n"
BIG = f'"{"x" * 10_000_000}"'
ZIPPED = "Content-Encoding: gzip\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"


@needed
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (HANGING, EndpointTimeout),
        (f"HTTP/1.1 500 Oops\r\n{EMPTY}", EndpointUnavailable),
        (f"HTTP/1.1 401 No\r\n{EMPTY}", EndpointUnauthorized),
        (f"HTTP/1.1 307 Away\r\nLocation: http://other.test/\r\n{EMPTY}", EndpointRejected),
        (f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{EMPTY}", InvalidResponse),
        (f"HTTP/1.1 200 OK\r\n{HEAD.format(3)}<p>", InvalidResponse),
        (f"HTTP/1.1 200 OK\r\n{HEAD.format(len(BIG))}{BIG}", InvalidResponse),
        (f"HTTP/1.1 200 OK\r\n{ZIPPED}", InvalidResponse),
        ("\x1b]52;c;b3duZWQ=\x07\r\n\r\n", EndpointUnavailable),
    ],
    ids=["hangs", "500", "401", "redirect", "html", "half", "huge", "zipped", "garbage"],
)
async def test_an_address_that_is_no_server_ends_in_an_error_in_time(
    answer: str, kind: type[MoaError], caplog: pytest.LogCaptureFixture
) -> None:
    limit_s = 0.5 if answer == HANGING else 20
    async with answering(answer) as url:
        url = url.replace("//", "//ann:sk-secret@")
        server = {"url": url, "headers": {"X-Key": "sk-secret"}}
        with (
            caplog.at_level(logging.DEBUG),
            pytest.raises(kind, match="sums") as caught,
        ):
            async with mcp_tools(connect_timeout_s=limit_s, sums=server):
                pass
    assert "sk-secret" not in str(caught.value) + caplog.text
    assert "\x1b" not in str(caught.value) + caplog.text


@needed
async def test_an_address_where_nobody_is_ends_in_an_error() -> None:
    with pytest.raises(EndpointUnavailable):
        async with mcp_tools(sums=f"http://127.0.0.1:{free_port()}/mcp"):
            pass


@needed
async def test_a_call_that_fails_over_http_fails_alone() -> None:
    async with (
        answering("no HTTP\r\n\r\n", after_listing=True) as url,
        mcp_tools(sums=url) as (add,),
    ):
        for _ in range(2):
            with pytest.raises(EndpointUnavailable, match="reached"):
                await add.call({})


@needed
async def test_a_tool_is_asked_in_the_loop_of_its_block() -> None:
    async with mcp_tools(sums=raw("plain")) as (add,):
        with pytest.raises(ConfigError):
            await asyncio.to_thread(lambda: asyncio.run(_call(add)))


async def _call(tool: RemoteTool) -> object:
    return await tool.call({})


@pytest.mark.skipif(find_spec("mcp") is not None, reason="mcp is installed")
async def test_what_is_missing_is_named() -> None:
    with pytest.raises(MissingDependency, match=r'pip install "mixture-of-agents\[mcp\]"'):
        async with mcp_tools(sums="http://127.0.0.1:9/mcp"):
            pass
