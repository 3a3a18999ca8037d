"""Connections end with the event loop that opened them."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
import weakref
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from moa.core.context import RunContext
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint

from .conftest import chat


class _Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = chat("hello").text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()
        thread.join()


async def ask(endpoint: OpenAIEndpoint) -> str:
    return (await endpoint.complete(Prompt.of("hi"), RunContext())).text


def test_an_endpoint_that_is_never_closed_leaves_no_open_connection(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        endpoint = OpenAIEndpoint("e", model="m", base_url=url)
        assert asyncio.run(ask(endpoint)) == "hello"
        assert asyncio.run(ask(endpoint)) == "hello"
        del endpoint
    assert caplog.records == []


async def test_an_endpoint_that_is_dropped_closes_its_connections(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await ask(OpenAIEndpoint("e", model="m", base_url=url))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gc.collect()
        await asyncio.sleep(0)
    assert caplog.records == []


def test_an_endpoint_that_lives_on_keeps_no_loop_that_has_ended(url: str) -> None:
    endpoint = OpenAIEndpoint("e", model="m", base_url=url)
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def once() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await ask(endpoint)

    for _ in range(4):
        asyncio.run(once())
    gc.collect()
    assert sum(one() is not None for one in loops) <= 1  # the last one's connections are kept


async def test_a_closed_endpoint_can_be_asked_again(url: str) -> None:
    endpoint = OpenAIEndpoint("e", model="m", base_url=url)
    await ask(endpoint)
    await endpoint.close()
    assert await ask(endpoint) == "hello"
    await endpoint.close()
    await endpoint.close()
