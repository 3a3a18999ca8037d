"""A server of graphs in this process, on a port of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvicorn

from moa.node import Node
from moa.serving.app import serve
from moa.serving.keys import Key, digest, key_store, new_secret
from moa.serving.server import Settings


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        pass


@asynccontextmanager
async def served(
    *nodes: Node[Any, Any], keys: str | None = None, settings: Settings | None = None
) -> AsyncGenerator[aiohttp.ClientSession]:
    """Serve nodes, and give a client that asks for paths of it."""
    app = serve(*nodes, keys=keys, settings=settings)
    server = _Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=2))
    running = asyncio.ensure_future(server.serve())
    while not server.started:
        assert not running.done(), "it did not start"
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        await running


def add_key(address: str, name: str = "alice", **settings: Any) -> dict[str, str]:
    """Add a key, and give the header of who has it."""
    secret = new_secret()
    with key_store(address) as store:
        store.add(Key(name=name, sha256=digest(secret), **settings))
    return {"authorization": f"Bearer {secret}"}
