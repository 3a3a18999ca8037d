"""Bytes that are hardly HTTP, to every route of a live server: none is answered with a fault of it.

Seeded; `MOA_FUZZ_S` sets how many seconds each of the two takes, `MOA_FUZZ_SEED` the seed.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from live import STUDIO_KEY, Gateway, Live, Watch, add_key
from starlette.routing import BaseRoute, Mount, Route

from moa.cli.studio import add_page

from .harness import client_of, greeter, server_with

sys.path.append(str(Path(__file__).parent.parent.parent / ".ci"))
whole_document: Any = import_module("whole_document")

SECONDS = 300.0
AT_ONCE = 16
ANSWER_S = 0.5
"""Seconds that an answer is read for. Much of what is sent has none: it isn't whole."""
MOST_S = 1.0
"""Seconds that `/health` may take meanwhile."""
ID = "0" * 32
TEXT = b'"from-good Where is it?"'
CHAT = b'{"model": "llm", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
ASKED = b'{"model": "llm", "state": "Hi", "questions": {"a": {"type": "predicate"}}}'
CALL = b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}'
ROUTES: tuple[tuple[bytes, str, bytes], ...] = (
    *((b"GET", path, b"") for path in ("/health", "/ready", "/openapi.json", "/metrics")),
    *((b"GET", path, b"") for path in ("/schema/llm", "/drawing/llm", f"/traces/{ID}", "/jobs")),
    *((b"GET", path, b"") for path in (f"/jobs/{ID}", f"/jobs/{ID}/lines?state=done")),
    *((b"GET", path, b"") for path in ("/v1/models", "/v1/models/llm")),
    (b"POST", "/health", b"{}"),
    (b"POST", "/run/llm", TEXT),
    (b"POST", "/jobs", b'{"model": "llm", "rows": ["one", "two"]}'),
    (b"POST", f"/jobs/{ID}/cancel", b"{}"),
    (b"POST", f"/jobs/{ID}/resume", b"{}"),
    (b"POST", "/v1/chat/completions", CHAT),
    (b"POST", "/v1/embeddings", b'{"model": "encoder", "input": "Hi"}'),
    (b"POST", "/v1/systemone", ASKED),
    (b"POST", "/mcp", CALL),
    *((b"GET", path, b"") for path in ("/studio", "/studio/", "/studio/page.js")),
    *((b"GET", f"/studio/{path}", b"") for path in ("api/state", "api/overview", "api/rows")),
    *((b"GET", f"/studio/api/{path}", b"") for path in ("rows/0", "learn", "questions")),
    (b"POST", "/studio/api/labels", b'{"place": 0, "question": "a", "label": "b"}'),
    (b"POST", "/studio/api/undo", b"{}"),
    (b"POST", "/studio/api/reload", b"{}"),
    (b"POST", "/studio/api/run/llm", TEXT),
    (b"POST", "/studio/api/questions/one", b'{"answer": "yes"}'),
)
"""Each as a client asks it."""
WITHOUT = 501
"""The server was started without this: no fault of it."""
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
Change = Callable[[random.Random, list[bytes], bytes], tuple[list[bytes], bytes]]
"""Changes the lines of a head, and a body."""


def lengths(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    """State a length that isn't its own."""
    near = str(max(0, len(body) + dice.choice((-1, 1, 3, 100)))).encode()
    odd = (b"-1", b"0", b"1e3", b"0x10", b"9" * 30, b"9" * 5000, b"", b" ", b"1, 2", "५".encode())
    return [
        *_without(head, b"content-length"),
        b"Content-Length: " + dice.choice((near, *odd)),
    ], body


def two_lengths(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    kinds = (b"Content-Length: 3", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip")
    return [*head, *dice.choices(kinds, k=dice.randrange(1, 3))], body


def chunks(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    """Send in chunks, one of which is broken."""
    parts = [body[place : place + 7] for place in range(0, len(body), 7)]
    made = [f"{len(part):x}".encode() + b"\r\n" + part + b"\r\n" for part in parts] + [b"0\r\n\r\n"]
    broken = (
        b"zz\r\n",
        b"-1\r\nx\r\n",
        b"ffffffffffffffff\r\n",
        b"5\r\nab\r\n",
        b"5;" + b"a" * 9000,
    )
    made.insert(dice.randrange(len(made) + 1), dice.choice((*broken, b"3\nabc\n", b"\0\r\n", b"")))
    return [*_without(head, b"content-length"), b"Transfer-Encoding: chunked"], b"".join(made)


def headers(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    """Add headers of odd names, values or sizes."""
    odd = (
        b"X: " + b"a" * dice.choice((1000, 60_000, 70_000, 200_000)),
        b"Idempotency-Key: " + dice.choice((b"one", b"\xff\xfe", b"", b"k" * 300)),
        b"Authorization: " + dice.choice((b"Bearer", b"Bearer \xff", b"Basic x", b"Bearer " * 99)),
        b"Accept: " + dice.choice((b"text/event-stream", b"\xff", b"image/svg+xml", b"*/*;q=x")),
        b"traceparent: 00-" + b"f" * dice.choice((32, 33, 0)) + b"-" + b"0" * 16 + b"-01",
        b"Expect: 100-continue",
        b"Connection: " + dice.choice((b"close", b"upgrade\r\nUpgrade: websocket", b"keep-alive")),
        b"Content-Type: "
        + dice.choice((b"text/plain", b"application/json; charset=utf-16", b"\xff")),
        b"Host: " + dice.choice((b"", b"example.org", b"[", b"localhost\xff", b"a" * 5000)),
        b"No colon",
        b" folded",
        b"Bad name: x",
        b"\0: \0",
        b": empty",
    )
    at = dice.randrange(1, len(head) + 1)
    many = [b"X-%d: y" % number for number in range(dice.choice((0, 0, 0, 1000)))]
    return [*head[:at], *dice.choices(odd, k=dice.randrange(1, 3)), *many, *head[at:]], body


def line(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    """Change the request line."""
    method, path, version = head[0].split(b" ")
    method = dice.choice(
        (method, method, b"PUT", b"HEAD", b"OPTIONS", b"get", b"\xff", b"", b"CONNECT")
    )
    ends = (b"", b"/%00", b"/../..", b"%ff", b"?a=%zz", b"?limit=" + b"9" * 5000, b"/" * 3000)
    path = dice.choice(
        (path, path + dice.choice(ends), b"http://x" + path, b"*", b"", b"/" + b"9" * 5000)
    )
    version = dice.choice((version, version, b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"", b"\xff"))
    return [b" ".join((method, path, version)), *head[1:]], body


def number(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    """Put a long number, or one that is none, where a number stands in a path or a body."""
    odd = dice.choice((b"9" * 5000, b"-1", b"1e999", b"NaN", b"1" + b"0" * 400, b"0.5"))
    head = [re.sub(rb"\b0+\b", lambda _: odd, head[0], count=1), *head[1:]]
    body = re.sub(rb"\b\d\b", lambda _: odd, body, count=1)
    return _with_length(head, body) if body else head, body


def text(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    """Put bytes that are no UTF-8, or no JSON, into a body of the right length."""
    odd = (
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\0",
        b"[" * 5000,
        b'{"a":' * 100,
        b'"',
        b"\\u0000",
    )
    at = dice.randrange(len(body) + 1)
    body = body[:at] + dice.choice(odd) + body[at + dice.randrange(2) :]
    return _with_length(head, body), body


def cut(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    """Leave out the end of the body, or of the head."""
    if body and dice.random() < 0.7:
        return head, body[: dice.randrange(len(body))]
    return head[: dice.randrange(1, len(head) + 1)], b""


def noise(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    """Change some bytes, wherever they are."""
    whole = bytearray(b"\r\n".join(head))
    for _ in range(dice.randrange(1, 6)):
        whole[dice.randrange(len(whole))] = dice.randrange(256)
    return bytes(whole).split(b"\r\n"), body


def whole(dice: random.Random, head: list[bytes], body: bytes) -> tuple[list[bytes], bytes]:
    """Change nothing."""
    del dice
    return head, body


CHANGES: tuple[Change, ...] = (
    *(line, number, text, lengths, two_lengths, chunks, headers, cut, noise, whole),
)
"""In this order: later ones take whatever an earlier one has made."""


def _without(head: list[bytes], name: bytes) -> list[bytes]:
    return [one for one in head if not one.lower().startswith(name)]


def _with_length(head: list[bytes], body: bytes) -> list[bytes]:
    return [*_without(head, b"content-length"), b"Content-Length: %d" % len(body)]


def request(dice: random.Random, authorization: bytes) -> bytes:
    """Make a request that is wrong in one way, or in two."""
    method, path, body = dice.choice(ROUTES)
    key = b"Bearer " + STUDIO_KEY.encode() if path.startswith("/studio") else authorization
    head = [method + b" " + path.encode() + b" HTTP/1.1", b"Host: localhost"]
    head += [b"Content-Type: application/json"] if method == b"POST" else []
    head += [b"Authorization: " + key] if key and dice.random() < 0.9 else []
    head = _with_length(head, body) if body else head
    for change in sorted(dice.sample(CHANGES, k=dice.choice((1, 1, 2))), key=CHANGES.index):
        head, body = change(dice, head, body)
    end = b"\n" if dice.random() < 0.03 else b"\r\n"
    return end.join([*head, b"", b""]) + body


class Fuzzer:
    """Sends such requests to a port of this machine."""

    def __init__(self, port: int, authorization: bytes, dice: random.Random) -> None:
        self.came = Counter[int]()
        """How often each status was answered; 0: nothing was."""
        self.faults = list[str]()
        self._port, self._authorization, self._dice = port, authorization, dice

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work(until))

    async def _work(self, until: float) -> None:
        while time.monotonic() < until:
            dice = self._dice
            asked = [
                request(dice, self._authorization) for _ in range(dice.choice((1, 1, 1, 2, 5)))
            ]
            answer = await self._exchange(b"".join(asked))
            found = [int(one) for one in STATUS.findall(answer)] or [0]
            self.came.update(found)
            if bad := [status for status in found if status >= 500 and status != WITHOUT]:
                shown = [one[:300] for one in asked]
                self.faults.append(f"{bad}: {shown} -> {answer[:600]!r}")

    async def _exchange(self, sent: bytes) -> bytes:
        """Send bytes, at once or in pieces, and give what comes back."""
        dice, answer = self._dice, b""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    at = dice.randrange(len(sent)) if dice.random() < 0.3 else len(sent)
                    writer.write(sent[:at])
                    await writer.drain()
                    if at < len(sent):
                        await asyncio.sleep(dice.random() / 20)
                        writer.write(sent[at:])
                    if dice.random() < 0.7:
                        writer.write_eof()
                    while part := await reader.read(1 << 16):
                        answer += part
        finally:
            writer.transport.abort()
        return answer


def paths_of(routes: Sequence[BaseRoute], before: str = "") -> set[str]:
    """The paths of routes, and of those that are mounted among them."""
    found = set[str]()
    for route in routes:
        if isinstance(route, Mount):
            found |= paths_of(route.routes, before + route.path)
        elif isinstance(route, Route):
            found.add(before + re.sub(r":\w+}", "}", route.path))
    return found


async def test_every_route_is_asked_by_schemas_and_by_bytes(tmp_path: Path) -> None:
    server, app = server_with(greeter(name="llm"), jobs=tmp_path)
    routes = paths_of(add_page(server, app, "key").routes)
    async with client_of(app) as client:
        document = (await client.get("/openapi.json")).json()
    described = {*document["paths"], *whole_document.REST}
    assert routes - described <= {"/run/{name}", "/v1/embeddings", "/studio"}
    for route in routes:
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(route))
        assert any(re.fullmatch(pattern, path.partition("?")[0]) for _, path, _ in ROUTES), route


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("keyed", [False, True], ids=["without keys", "with keys"])
async def test_no_bytes_are_answered_with_a_fault_of_the_server(
    tmp_path: Path, keyed: bool
) -> None:
    seconds = float(os.environ.get("MOA_FUZZ_S", SECONDS))
    dice = random.Random(int(os.environ.get("MOA_FUZZ_SEED", "1")))
    keys = str(tmp_path / "keys.toml") if keyed else None
    authorization = add_key(keys, "good")["authorization"] if keys else ""
    with (
        Gateway() as gateway,
        Live(tmp_path / "served", gateway, keys) as live,
        Watch(live.port) as watch,
    ):
        fuzzer = Fuzzer(live.port, authorization.encode(), dice)
        await fuzzer.run(seconds)
        seen = watch.seen()
        alive, log = live.is_up(5.0), live.log.read_text(errors="replace")
    print(json.dumps([fuzzer.came, seen]))  # noqa: T201
    assert fuzzer.faults[:5] == []
    assert alive
    assert "Traceback" not in log, log[-3000:]
    assert (seen["refused"], seen["worst_s"] < MOST_S) == (0, True), seen
