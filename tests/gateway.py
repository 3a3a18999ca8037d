"""A gateway to models, of which one answer in so many is a fault: `python gateway.py [EVERY]`.

It prints its port, and ends with its input. Texts say what becomes of them: `hopeless` fails,
`poison` has it answer 504, `refuse` 429, `forge` gets an error of two lines, `hang` gets nothing
for a minute, `slow` waits a tenth of a second, `large` gets 4 MB, and `say<<TEXT>>` gets the text.
`GET /count` tells, for each NAME of `from-NAME` in a text, how many calls have been answered in
some way, and how many of them with a text, and so are billed.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import Counter

EVERY = 20
HANG_S, SLOW_S = 60.0, 0.1
LARGE = "x" * 4_000_000
_NAME = re.compile(rb"from-(\w+)")
_SAY = re.compile(r"say<<(.*?)>>", re.DOTALL)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


def http(status: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = (
        f"HTTP/1.1 {status} S\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    )
    return head.encode() + body


def saying(text: str) -> bytes:
    message = {"role": "assistant", "content": text}
    answer = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 2, "total_tokens": 32},
    }
    return http(200, json.dumps(answer).encode())


GOOD = saying("Fine.")
FAULTS = (
    b"",
    http(500, b"{}"),
    GOOD[:200],
    http(503, b"{}"),
    http(200, b"<html>"),
    http(429, b"{}"),
)
"""The first closes the connection; half of a good answer does, too."""
REFUSED = http(429, b"{}").replace(b"\r\n", b"\r\nRetry-After: 30\r\n", 1)
FORGED = http(400, json.dumps({"error": {"message": "no\nERROR forged: all keys"}}).encode())


class Gateway:
    """What it has been asked.

    Args:
        every: One answer in so many is a fault; 0: none is.
    """

    def __init__(self, every: int) -> None:
        self._every = every
        self._asked = 0
        self._calls, self._billed = Counter[str](), Counter[str]()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(head)
                body = await reader.readexactly(int(length[1]) if length else 0)
                answer = await self._answer(head, body)
                writer.write(answer)
                await writer.drain()
                if answer in (FAULTS[0], FAULTS[2]):
                    return
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"GET /count"):
            return http(200, json.dumps([self._calls, self._billed]).encode())
        if not body:
            return http(200, json.dumps({"data": [{"id": "m", "owned_by": "vllm"}]}).encode())
        self._asked += 1
        answer = await self._scripted(body)
        # Who closes at once without an answer may have been idle: no client knows better.
        if answer and (name := _NAME.search(body)):
            self._calls[name[1].decode()] += 1
            # Half an answer, or a page in its place, was made all the same.
            self._billed[name[1].decode()] += answer.startswith(b"HTTP/1.1 200")
        return answer

    async def _scripted(self, body: bytes) -> bytes:
        if b" hopeless" in body:
            return FAULTS[1]
        if b" poison" in body:
            return http(504, b"{}")
        if b" refuse" in body:
            return REFUSED
        if b" forge" in body:
            return FORGED
        if b" hang" in body:
            await asyncio.sleep(HANG_S)
        if b" slow" in body:
            await asyncio.sleep(SLOW_S)
        if self._every and self._asked % self._every == 0:
            return FAULTS[self._asked // self._every % len(FAULTS)]
        if b" large" in body:
            return saying(LARGE)
        if b"say<<" in body and (said := _SAY.search(json.loads(body)["messages"][-1]["content"])):
            return saying(said[1])
        return GOOD


async def main(every: int) -> None:
    server = await asyncio.start_server(
        Gateway(every).serve, "127.0.0.1", 0, limit=1 << 24, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else EVERY))
