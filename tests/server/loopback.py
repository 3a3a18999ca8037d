"""A server of moa on this machine, for the time of a test."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

_STARTS_S = 20.0


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Serve an application on a free port; yields its address once it takes connections."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + _STARTS_S
    while not server.started:
        assert thread.is_alive(), "the server didn't start"
        assert time.monotonic() < until, "the server takes no connections"
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
