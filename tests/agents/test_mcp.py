"""Tools of real MCP servers, over stdin and stdout and over HTTP."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from moa import Agent
from moa.agents.tools import Server, mcp_tools
from moa.endpoints.vllm import free_port
from moa.errors import ConfigError, MissingDependency
from moa.messages import ToolCall
from moa.testing import ScriptedEndpoint

SERVER = str(Path(__file__).parent / "sums_over_mcp.py")
needed = pytest.mark.skipif(
    find_spec("langchain_mcp_adapters") is None, reason="langchain-mcp-adapters is not installed"
)
slow = pytest.mark.timeout(120)


@asynccontextmanager
async def over_http() -> AsyncGenerator[Server]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, SERVER, "streamable-http", str(port), stderr=asyncio.subprocess.DEVNULL
    )
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            assert process.returncode is None
            await asyncio.sleep(0.1)
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
    yield [sys.executable, SERVER, "stdio"]


@needed
@slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("serving", [over_stdio, over_http], ids=["stdio", "http"])
async def test_a_model_uses_the_tools_of_a_server(
    serving: Callable[[], AbstractAsyncContextManager[Server]],
) -> None:
    calls = [ToolCall("add", '{"a": 1, "b": 2}'), ToolCall("fail", '{"reason": "no ink"}')]
    endpoint = ScriptedEndpoint([calls, "3, and it failed."])
    async with serving() as server, mcp_tools(sums=server) as tools:
        result = await Agent(endpoint, "Do sums.", tools=tools).run("1 + 2?")
    assert [tool.description for tool in endpoint.prompts[0].tools] == [
        *("Add two numbers.", "Fail for a reason.")
    ]
    added, failed = endpoint.prompts[1].messages[-2:]
    assert added.content == "<data>\n3\n</data>"
    assert "Error, ToolFailed: Error executing tool fail: no ink" in failed.content
    assert result.usage.tool_calls == 2


@needed
@slow
@pytest.mark.filterwarnings("default")
async def test_a_server_that_does_not_start_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"the MCP server 'sums' .* can't be used: .*No such file"
    ):
        async with mcp_tools(sums=["/nowhere/server"]):
            pass


@pytest.mark.skipif(
    find_spec("langchain_mcp_adapters") is not None, reason="langchain-mcp-adapters is installed"
)
async def test_what_is_missing_is_named() -> None:
    with pytest.raises(MissingDependency, match=r'pip install "mixture-of-agents\[mcp\]"'):
        async with mcp_tools(sums="http://127.0.0.1:9/mcp"):
            pass
