"""A server of which one answer in twenty is a fault: `python soak_server.py` prints its port."""

from __future__ import annotations

import asyncio
import json
import re
import sys

CHOICE = {"index": 0, "message": {"role": "assistant", "content": "Fine."}, "finish_reason": "stop"}
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [CHOICE],
    "usage": {"prompt_tokens": 30, "completion_tokens": 2, "total_tokens": 32},
}


def http(status: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = (
        f"HTTP/1.1 {status} S\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    )
    return head.encode() + body


GOOD = http(200, json.dumps(ANSWER).encode())
FAULTS = (
    b"",
    http(500, b"{}"),
    GOOD[:200],
    http(503, b"{}"),
    http(200, b"<html>"),
    http(429, b"{}"),
)
"""The first closes the connection; half of a good answer does, too."""
EVERY = 20
asked = 0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    global asked
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(length[1]) if length else 0)
            asked += 1
            answer = GOOD
            if b" hopeless" in body:
                answer = FAULTS[1]
            elif asked % EVERY == 0:
                answer = FAULTS[asked // EVERY % len(FAULTS)]
            writer.write(answer)
            await writer.drain()
            if answer in (FAULTS[0], FAULTS[2]):
                return
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
