"""Events: server-sent events, of which no more is made than a client reads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from starlette.datastructures import Headers
from starlette.types import Send

from moa.serving.listening import PIECE

PING_S = 15.0
"""Seconds without an event after which a comment is sent, so that proxies keep the connection."""
PING = b": ping\r\n\r\n"
_SEND_S = 40.0
"""Maximum seconds to send a piece. A server of `listening` cuts the connection before."""
_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}


def event_of(data: str, name: str = "") -> bytes:
    """Write an event.

    Args:
        data: One line, such as JSON.
        name: Its name; empty for none.
    """
    head = f"event: {name}\r\n" if name else ""
    return b"".join((head.encode(), b"data: ", data.encode(), b"\r\n\r\n"))


async def send_events(
    events: AsyncGenerator[bytes], send: Send, headers: Mapping[str, str]
) -> None:
    """Send events as a response. The next one is asked for when the last one has left.

    Args:
        events: The events. They are closed in any case.
        send: Sends a message of ASGI.
        headers: Further headers.

    Raises:
        TimeoutError: a piece of an event was not read in time.
    """
    raw = Headers({**_HEADERS, **headers}).raw
    async with aclosing(events):
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        async for event in events:
            for start in range(0, len(event), PIECE):
                body = event[start : start + PIECE]
                async with asyncio.timeout(_SEND_S):
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            del event  # it may be long, and the next one may take minutes
            # Nothing that is sent to a client that has left waits: let whoever sees that end this.
            await asyncio.sleep(0)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
