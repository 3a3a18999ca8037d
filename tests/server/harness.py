"""A server of `moa` under test: in this process, or on a socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import uvicorn
from live import add_key as add_key
from starlette.applications import Starlette

from moa import Agent, Endpoints, Node, Result, RunContext
from moa.core.context import Reference
from moa.core.errors import RequestRefused
from moa.core.usage import FREE, Amount, Usage
from moa.endpoints import Endpoint
from moa.serving.app import app_of
from moa.serving.keys import Caller, Keys
from moa.serving.listening import address_of, uvicorn_for
from moa.serving.listening import listen_on as bound
from moa.serving.served import ServedNode
from moa.serving.server import Server, Settings
from moa.testing import ScriptedEndpoint

SPENT = Amount(calls=1, input_tokens=10, output_tokens=5)


class Ledger(Caller):
    """Somebody whose runs are counted."""

    def __init__(self, name: str = "ann", *, may: Iterable[str] | None = None) -> None:
        self.name = name
        self.settled: list[Usage] = []
        self.inside = 0
        """Runs that it has at the moment."""
        self.may = may

    def may_run(self, name: str) -> bool:
        return self.may is None or name in self.may

    @asynccontextmanager
    async def admit(
        self,
        name: str,
        *,
        timeout_s: float | None = None,
        reference: Reference | None = None,
        is_request: bool = True,
    ) -> AsyncGenerator[RunContext]:
        async with super().admit(name, timeout_s=timeout_s, reference=reference) as context:
            self.inside += 1
            try:
                yield context
            finally:
                self.inside -= 1
                self.settled.append(context.usage)


class SomeKeys(Keys):
    """Callers by their names, which are their keys."""

    def __init__(self, *callers: Caller) -> None:
        self._callers = {one.name: one for one in callers}

    async def caller(self, authorization: str | None) -> Caller:
        found = self._callers.get((authorization or "").removeprefix("Bearer "))
        if found is None:
            raise RequestRefused("give a key", status=401, code="invalid_api_key")
        return found

    async def caller_by_name(self, name: str) -> Caller | None:
        return self._callers.get(name)


class Slow:
    """A node that has one call made, and then waits for ever, or as long as it is told to."""

    name = "slow"

    def __init__(self, wait_s: float = 3600.0, *, heeds: bool = True) -> None:
        self.wait_s = wait_s
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self._heeds = heeds

    async def run(self, request: str, context: RunContext | None = None, /) -> Result[str]:
        context = context or RunContext()
        with await context.reserve("large", "llm", SPENT, price=FREE) as call:
            call.settle(FREE.charge(SPENT))
        self.begun.set()
        try:
            await asyncio.sleep(self.wait_s)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Result(output=request, usage=context.usage)


def greeter(*answers: Any, name: str = "greeter", **further: Any) -> Agent[Any, Any]:
    """An agent with answers of its own."""
    return Agent(ScriptedEndpoint(list(answers) or ["Hello!"] * 9, **further), "Greet.", name=name)


def server_with(
    *nodes: Node[Any, Any],
    keys: Keys | None = None,
    small: Endpoint | None = None,
    **settings: Any,
) -> tuple[Server, Starlette]:
    """Serve nodes, on endpoints of their own."""
    served = [ServedNode(node) for node in nodes]
    endpoints = Endpoints.of(small=small or ScriptedEndpoint())
    server = Server(served, endpoints, Settings(**settings), keys or Keys())
    return server, app_of(server)


@asynccontextmanager
async def client_of(app: Starlette, **options: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    """Ask an application in this loop, without a socket."""
    async with app.router.lifespan_context(app):
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        url = "http://localhost"
        async with httpx2.AsyncClient(transport=transport, base_url=url, **options) as client:
            yield client


@asynccontextmanager
async def listening(app: Starlette, *, drain_s: float = 4) -> AsyncGenerator[str]:
    """Run it as `moa serve` does, and give its address."""
    async with running(app, drain_s=drain_s) as (address, _):
        yield address


@asynccontextmanager
async def running(
    app: Starlette, *, drain_s: float = 4, buffer: int | None = None
) -> AsyncGenerator[tuple[str, uvicorn.Server]]:
    """The same, with the server, whose sockets have a small buffer if one is named."""
    listener = bound("127.0.0.1", 0)
    if buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    address = address_of(listener)
    serving = uvicorn_for(app, drain_s=drain_s, end=app.state.server.runs.stop_all)
    working = asyncio.ensure_future(serving.serve(sockets=[listener]))
    await until(lambda: serving.started)
    try:
        yield address, serving
    finally:
        serving.should_exit = True
        await working


async def until(condition: Any, seconds: float = 5.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.01)
