"""A model server that fails in a hundred ways: `python benchmarks/faults_server.py`.

It prints its port, and stops when its input is closed. The model's name says the fault and whom it
hits (see `FAULTS`); every other request is answered right: with `answer-7` where the last message
asks for `row-7`. `POST /count` tells how many requests a model has had since the last count, and
how many other servers were sent the key.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

Hits = Literal["one", "first", "all"]
"""Whom a fault hits: one row of ten, each time it is tried; every row's first try; or every try."""
POISONED = "row-3"
"""The row that a fault of `one` hits."""
HANG_S = 60.0


@dataclass(frozen=True)
class Asked:
    """What one request asks for."""

    row: str
    typed: bool
    tool: str
    """The tool by whose arguments a typed answer is wanted; empty where there is none."""
    streams: bool
    key: str

    @property
    def text(self) -> str:
        """The right answer."""
        word = self.row.replace("row", "answer")
        return json.dumps({"word": word, "count": 3}) if self.typed else word


@dataclass(frozen=True)
class Connection:
    """Where an answer is written."""

    writer: asyncio.StreamWriter

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
        await self.writer.drain()

    def reset(self) -> None:
        """Close so that the client's system reports a reset."""
        self.writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.writer.close()


Answer = Callable[[Connection, Asked], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One way to fail."""

    name: str
    what: str
    """As the table says it."""
    hits: Hits
    answer: Answer
    work: Literal["text", "typed", "stream"] = "text"
    harmless: bool = False
    """Whether a client could give the right answer all the same."""


def usual(asked: Asked, text: str | None = None, **changes: Any) -> dict[str, Any]:
    """Write a chat completion as OpenAI does."""
    said = asked.text if text is None else text
    message: dict[str, Any] = {"role": "assistant", "content": said}
    if asked.tool:
        call = {"name": asked.tool, "arguments": said}
        calls = [{"id": "call_1", "type": "function", "function": call}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "mock",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 8, "total_tokens": 48},
    } | changes


def http(
    body: bytes | str | object, status: int = 200, length: int | None = None, **headers: str
) -> bytes:
    """Write an answer of HTTP; what is neither bytes nor text becomes JSON."""
    if not isinstance(body, bytes):
        body = (body if isinstance(body, str) else json.dumps(body)).encode()
    lines = [f"HTTP/1.1 {status} Status"]
    fields = {"content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    fields["content-length"] = str(len(body) if length is None else length)
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def fixed(body: object, status: int = 200, **headers: str) -> Answer:
    """Give the same answer each time."""

    async def answer(to: Connection, asked: Asked) -> None:
        await to.send(http(body, status, **headers))

    return answer


def changed(**changes: Any) -> Answer:
    """Give the right answer with other fields."""

    async def answer(to: Connection, asked: Asked) -> None:
        await to.send(http(usual(asked, **changes)))

    return answer


def chosen(message: dict[str, Any], finish: str = "stop") -> Answer:
    """Give one choice with this message."""
    choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": finish}
    return changed(choices=[choice])


def written(text: Callable[[Asked], str], finish: str = "stop") -> Answer:
    """Have the model write this."""

    async def answer(to: Connection, asked: Asked) -> None:
        body = usual(asked, text(asked))
        body["choices"][0]["finish_reason"] = finish
        await to.send(http(body))

    return answer


def wire(steps: Callable[[Connection, Asked], Awaitable[None]], *, close: bool = True) -> Answer:
    """Write by hand, and close."""

    async def answer(to: Connection, asked: Asked) -> None:
        await steps(to, asked)
        if close:
            to.writer.close()

    return answer


async def hang(to: Connection, asked: Asked) -> None:
    await asyncio.sleep(HANG_S)


async def hang_after_headers(to: Connection, asked: Asked) -> None:
    await to.send(http(b"", length=100))
    await asyncio.sleep(HANG_S)


async def hang_in_body(to: Connection, asked: Asked) -> None:
    whole = http(usual(asked))
    await to.send(whole[: len(whole) - 20])
    await asyncio.sleep(HANG_S)


async def trickle(to: Connection, asked: Asked) -> None:
    whole = http(usual(asked))
    for place in range(len(whole)):
        await to.send(whole[place : place + 1])
        await asyncio.sleep(0.3)


async def close_silently(to: Connection, asked: Asked) -> None:
    pass


async def reset(to: Connection, asked: Asked) -> None:
    to.reset()


async def half_headers(to: Connection, asked: Asked) -> None:
    await to.send(b"HTTP/1.1 200 OK\r\ncontent-ty")


async def headers_alone(to: Connection, asked: Asked) -> None:
    await to.send(http(b"", length=300))


async def half_body(to: Connection, asked: Asked) -> None:
    whole = http(usual(asked))
    await to.send(whole[: len(whole) - 60])


async def half_chunk(to: Connection, asked: Asked) -> None:
    head = (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    await to.send(head, b"ff\r\n", json.dumps(usual(asked)).encode()[:100])


async def no_http(to: Connection, asked: Asked) -> None:
    await to.send(b"\x16\x03\x01 SSH-2.0-OpenSSH_9.6 \xff\xfe\r\n\r\n")


async def endless_headers(to: Connection, asked: Asked) -> None:
    await to.send(b"HTTP/1.1 200 OK\r\n")
    for number in range(4000):
        await to.send(b"x-filler-%d: %s\r\n" % (number, b"x" * 1000))


async def short_length(to: Connection, asked: Asked) -> None:
    await to.send(http(usual(asked), length=80))


async def not_gzip(to: Connection, asked: Asked) -> None:
    await to.send(http(usual(asked), content_encoding="gzip"))


@cache
def bomb() -> bytes:
    return http(gzip.compress(b" " * 400_000_000, 6), content_encoding="gzip")


async def gzip_bomb(to: Connection, asked: Asked) -> None:
    await to.send(bomb())


async def huge_body(to: Connection, asked: Asked) -> None:
    await to.send(http(b"", length=400_000_000))
    for _ in range(400):
        await to.send(b" " * 1_000_000)


async def stale(to: Connection, asked: Asked) -> None:
    await to.send(http(usual(asked)))  # and closed after it, without a word


async def version_one(to: Connection, asked: Asked) -> None:
    body = json.dumps(usual(asked)).encode()
    await to.send(b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + body)


async def said_twice(to: Connection, asked: Asked) -> None:
    await to.send(http(usual(asked)), http(usual(asked)))


async def as_html(to: Connection, asked: Asked) -> None:
    await to.send(http(usual(asked), content_type="text/html"))


async def with_mark(to: Connection, asked: Asked) -> None:
    await to.send(http(b"\xef\xbb\xbf" + json.dumps(usual(asked)).encode()))


async def elsewhere(to: Connection, asked: Asked) -> None:
    port = to.writer.get_extra_info("sockname")[1]
    await to.send(http("", 307, location=f"http://localhost:{port}/elsewhere"))


async def loop(to: Connection, asked: Asked) -> None:
    await to.send(http("", 307, location="/v1/chat/completions"))


async def echo_key(to: Connection, asked: Asked) -> None:
    await to.send(http({"error": {"message": f"cannot read {asked.key}"}}, 500))


def pieces(asked: Asked) -> Iterator[bytes]:
    for place, part in enumerate(re.split(r"(?<=-)", asked.text)):
        delta: dict[str, Any] = {"content": part} | ({"role": "assistant"} if not place else {})
        yield event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


def event(fields: dict[str, Any] | str) -> bytes:
    base = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "mock"}
    said = fields if isinstance(fields, str) else json.dumps(base | fields)
    return f"data: {said}\n\n".encode()


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
STOP = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = event(
    {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 8, "total_tokens": 48}}
)
DONE = event("[DONE]")


def stream(*after: bytes, first: int = 9, hangs: bool = False, floods: bool = False) -> Answer:
    """Send the first pieces of the answer, and then these."""

    async def answer(to: Connection, asked: Asked) -> None:
        await to.send(STREAM, *list(pieces(asked))[:first], *after)
        if hangs:
            await asyncio.sleep(HANG_S)
        while floods:
            await to.send(event({"choices": [{"index": 0, "delta": {"content": "x" * 2000}}]}) * 50)
            await asyncio.sleep(0)

    return answer


async def right(to: Connection, asked: Asked) -> None:
    """Answer as a healthy server does."""
    if asked.streams:
        await stream(STOP, USAGE, DONE)(to, asked)
        to.writer.close()
    else:
        await to.send(http(usual(asked)))


def error(message: str, **fields: object) -> dict[str, object]:
    return {"error": {"message": message, "type": "error"} | fields}


LONG = "This model's maximum context length is 8192 tokens. However, your messages have 9000."
QUOTA = error("You exceeded your current quota.", code="insufficient_quota")
OSC = "\x1b]52;c;ZXZpbA==\x07\x1b[2J out of memory"
CALL = {"id": "x", "type": "function", "function": {"name": "rm", "arguments": "{}"}}


def _status(status: int, what: str, hits: Hits, said: object = "busy", **headers: str) -> Fault:
    body = said if isinstance(said, dict) else error(str(said))
    name = f"{status}-{hits}" + "".join(f"-{key}{value}" for key, value in headers.items())
    return Fault(name, what, hits, fixed(body, status, **headers))


FAULTS: tuple[Fault, ...] = (
    # the connection
    Fault("closed-first", "closed without an answer, once", "first", wire(close_silently)),
    Fault("closed", "closed without an answer", "one", wire(close_silently)),
    Fault("reset-first", "connection reset, once", "first", reset),
    Fault("reset", "connection reset", "one", reset),
    Fault("half-headers", "closed in the headers", "one", wire(half_headers)),
    Fault("headers-alone", "closed after the headers", "one", wire(headers_alone)),
    Fault("half-body-first", "closed in the body, once", "first", wire(half_body)),
    Fault("half-body", "closed in the body", "one", wire(half_body)),
    Fault("half-chunk", "closed in a chunk", "one", wire(half_chunk)),
    Fault("hang-first", "never answers, once", "first", hang),
    Fault("hang", "never answers", "one", hang),
    Fault("hang-all", "never answers anybody", "all", hang),
    Fault("hang-headers", "hangs after the headers", "one", hang_after_headers),
    Fault("hang-body", "hangs in the body", "one", hang_in_body),
    Fault("trickle", "a byte every .3 s", "one", trickle),
    Fault("no-http", "speaks no HTTP", "one", wire(no_http)),
    Fault("endless-headers", "4 MB of headers", "one", wire(endless_headers)),
    Fault("short-length", "`content-length` too small", "one", wire(short_length)),
    Fault("not-gzip", "says gzip, and isn't", "one", not_gzip),
    Fault("gzip-bomb", "400 MB in .4 MB of gzip", "one", wire(gzip_bomb)),
    Fault("huge", "a body of 400 MB", "one", wire(huge_body)),
    Fault("stale", "drops every kept connection", "all", wire(stale), harmless=True),
    Fault("http-1.0", "HTTP/1.0, without a length", "all", wire(version_one), harmless=True),
    Fault("twice", "each answer sent twice", "all", wire(said_twice), harmless=True),
    Fault("html-type", "JSON, called HTML", "all", as_html, harmless=True),
    Fault("mark", "a byte order mark", "all", with_mark, harmless=True),
    Fault("redirect", "redirects to another host", "one", elsewhere),
    Fault("redirect-loop", "redirects to itself", "one", loop),
    # the status
    _status(400, "bad request", "one", "unknown field"),
    Fault("too-long", "400, the context is too short", "one", fixed(error(LONG), 400)),
    _status(401, "401, a wrong key", "all", "invalid key"),
    _status(402, "402, no credit left", "all", "insufficient credit"),
    _status(403, "403 for one row", "one", "content policy"),
    _status(403, "403 for all", "all", "no access"),
    _status(404, "404, no such route", "all", "Not Found"),
    Fault("no-model", "404, no such model", "all", fixed(error("no such model"), 404)),
    _status(408, "408 once", "first"),
    _status(409, "409 once", "first"),
    _status(413, "413, too large", "one", "too large"),
    _status(415, "415", "one", "unsupported media type"),
    _status(418, "418", "one", "teapot"),
    _status(422, "422", "one", "unprocessable"),
    _status(425, "425 once", "first"),
    _status(429, "429 once", "first"),
    _status(429, "429 once, wait .5 s", "first", "slow", retry_after="0.5"),
    _status(429, "429 once, a wait nobody can read", "first", "slow", retry_after="soon"),
    _status(429, "429, wait an hour", "all", "slow", retry_after="3600"),
    Fault("quota", "429, the quota is spent", "all", fixed(QUOTA, 429)),
    _status(500, "500 once", "first"),
    _status(500, "500 for one row", "one"),
    _status(500, "500 for all", "all"),
    _status(501, "501", "all", "not implemented"),
    _status(502, "502 once", "first"),
    _status(503, "503 once", "first"),
    _status(503, "503 for all", "all"),
    _status(504, "504 once", "first"),
    _status(504, "504 for one row", "one"),
    _status(520, "520 once", "first"),
    _status(524, "524 for one row", "one"),
    _status(529, "529 once", "first", "overloaded"),
    Fault("error-200", "an error with status 200", "one", fixed(error("out of memory"))),
    Fault("echo", "500 that quotes the key", "one", echo_key),
    Fault("escape", "500 that steers the terminal", "one", fixed(error(OSC), 500)),
    # what the answer says
    Fault("empty-first", "an empty body, once", "first", fixed("")),
    Fault("html", "an HTML page, once", "first", fixed("<html>It works!</html>")),
    Fault("half-json", "half a JSON", "one", fixed('{"choices": [{"mess')),
    Fault("list", "a JSON list", "one", fixed("[1]")),
    Fault("null", "`null`", "one", fixed("null")),
    Fault("no-choice", "no choice, once", "first", changed(choices=[])),
    Fault("no-content", "content is null", "one", chosen({"content": None})),
    Fault("blank", "content is empty", "one", chosen({"content": ""})),
    Fault("number", "content is a number", "one", chosen({"content": 7})),
    Fault("tool", "a tool that nobody offered", "one", chosen({"tool_calls": [CALL]})),
    Fault("cut", "cut at `max_tokens`", "one", written(lambda asked: asked.text[:4], "length")),
    Fault("filtered", "stopped by a filter", "one", written(lambda asked: "", "content_filter")),
    Fault("no-usage", "no usage", "all", changed(usage=None), harmless=True),
    Fault(
        "negative",
        "negative usage",
        "all",
        changed(usage={"prompt_tokens": -5, "completion_tokens": -1, "total_tokens": -6}),
        harmless=True,
    ),
    Fault(
        "low-usage",
        "usage of 1 and 0 tokens",
        "all",
        changed(usage={"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}),
        harmless=True,
    ),
    Fault(
        "high-usage",
        "usage of 10¹² tokens",
        "all",
        changed(usage={"prompt_tokens": 40, "completion_tokens": 10**12, "total_tokens": 10**12}),
        harmless=True,
    ),
    Fault("word-usage", "usage in words", "all", changed(usage="plenty"), harmless=True),
    Fault("nan", "NaN among the numbers", "all", changed(created=float("nan")), harmless=True),
    Fault("utf-8", "no UTF-8", "one", fixed(b'{"choices": [{"message": {"content": "\xff\xfe"')),
    Fault("deep", "nested 100,000 deep", "one", fixed("[" * 100_000)),
    # what the model writes, where a type is asked for
    Fault("prose-first", "prose for JSON, once", "first", written(lambda _: "Sure!"), "typed"),
    Fault("prose", "prose for JSON", "one", written(lambda _: "Sure!"), "typed"),
    Fault(
        "fence",
        "JSON in a code fence",
        "all",
        written(lambda asked: f"```json\n{asked.text}\n```"),
        "typed",
        harmless=True,
    ),
    Fault("field", "a field missing, once", "first", written(lambda _: '{"word": "w"}'), "typed"),
    Fault(
        "type",
        "a word for a number, once",
        "first",
        written(lambda _: '{"word": "w", "count": "many"}'),
        "typed",
    ),
    Fault(
        "cut-json",
        "JSON cut at `max_tokens`",
        "one",
        written(lambda asked: asked.text[:12], "length"),
        "typed",
    ),
    # streams
    Fault("s-closed-first", "closed before a piece, once", "first", wire(close_silently), "stream"),
    Fault("s-cut", "closed in the middle", "one", wire(stream(first=1)), "stream"),
    Fault(
        "s-error",
        "an error event in the middle",
        "one",
        wire(stream(event({"error": {"message": "out of memory"}}), first=1)),
        "stream",
    ),
    Fault("s-no-done", "no `[DONE]`", "all", wire(stream(STOP, USAGE)), "stream", harmless=True),
    Fault(
        "s-garbage", "an event that is no JSON", "one", wire(stream(event("{x"), first=1)), "stream"
    ),
    Fault("s-hang", "hangs in the middle", "one", stream(first=1, hangs=True), "stream"),
    Fault("s-flood", "never ends", "one", stream(floods=True), "stream"),
    Fault("s-no-usage", "no usage", "all", wire(stream(STOP, DONE)), "stream", harmless=True),
    Fault(
        "s-line",
        "a line of 20 MB",
        "one",
        wire(stream(b"data: " + b"x" * 20_000_000)),
        "stream",
    ),
    Fault("s-json", "JSON for a stream, once", "first", changed(), "stream"),
)
BY_NAME = {fault.name: fault for fault in FAULTS}
assert len(BY_NAME) == len(FAULTS)


class Server:
    """Counts and answers."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.tries: Counter[tuple[str, str]] = Counter()
        self.leaked = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1]) if length else 0)
                await self.answer(Connection(writer), head.decode("latin-1"), body)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def answer(self, to: Connection, head: str, body: bytes) -> None:
        path = head.split(" ", 2)[1]
        if path.startswith("/count"):
            model = path.partition("?")[2]
            await to.send(http([self.requests.pop(model, 0), self.leaked]))
            self.leaked = 0
            return
        key = re.search(r"authorization: *Bearer +(\S+)", head, re.IGNORECASE)
        if path.startswith("/elsewhere"):
            self.leaked += key is not None or b"row-" in body
            await to.send(http(error("gone"), 410))
            return
        given = json.loads(body)
        asked = _read(given, key[1] if key else "")
        model = str(given["model"])
        fault = BY_NAME.get(model.removeprefix("mock-"))
        self.requests[model] += 1
        self.tries[model, asked.row] += 1
        if fault is None or not _is_hit(fault, asked.row, self.tries[model, asked.row]):
            await right(to, asked)
        else:
            await fault.answer(to, asked)


def _is_hit(fault: Fault, row: str, tries: int) -> bool:
    return {"one": row == POISONED, "first": tries == 1, "all": True}[fault.hits]


def _read(given: dict[str, Any], key: str) -> Asked:
    rows = re.findall(r"row-\d+", json.dumps(given["messages"]))
    tools = given.get("tools") or []
    form = given.get("response_format") or {}
    typed = bool(tools) or form.get("type") in ("json_schema", "json_object")
    tool = tools[0]["function"]["name"] if tools else ""
    return Asked(rows[-1] if rows else "row-0", typed, tool, bool(given.get("stream")), key)


async def main() -> None:
    bomb()
    serving = await asyncio.start_server(Server().serve, "127.0.0.1", 0, backlog=512)
    print(serving.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
