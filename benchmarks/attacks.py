"""What attacks on a live `moa serve` do to others: `python benchmarks/attacks.py --repeats 5`.

Each attack meets a new server, which has several keys and a gateway that answers at once. Meanwhile
a process beside asks for `/health` every 10 ms and, with a key of its own, a graph ten times a
second. All of it stays on this machine, and is limited in count and time. `--only NAME` runs some
and writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

import aiohttp
import regex

from report import machine, table, write

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tests"))
from live import STUDIO_KEY, Gateway, Live, Watch, add_key  # noqa: E402  of the tests' folder

PAGE = ROOT / "docs" / "reliability.md"
AIM_S = 0.25
LONGEST_S = 60.0
"""Seconds of an attack, at most."""
RECOVERY_S = 150.0
"""Seconds that the server has afterwards until it answers again."""
IDLE_S = 2.0
SLOW_S = 20.0
"""Seconds for which slow clients are slow."""
UNREAD_S = 45.0
"""Seconds for which answers are left unread."""
LOCKED_S = 8.0
MB = 1_000_000


class Target:
    """A server under attack.

    Args:
        live: The server.
        ledger: Its ledger.
        attacker: Header of a key without limits.
        spent: Header of a key that has nothing left.
        held: Its connections are closed once the server was measured with them.
    """

    def __init__(
        self, live: Live, ledger: Path, attacker: str, spent: str, held: AsyncExitStack
    ) -> None:
        self.live, self.ledger, self.held = live, ledger, held
        self.attacker, self.spent = attacker, spent

    async def connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection, which stays until the server was measured."""
        opened = asyncio.open_connection("127.0.0.1", self.live.port, limit=1 << 16)
        reader, writer = await opened
        self.held.callback(lambda: writer.transport.abort())  # it closes with its last reference
        return reader, writer

    @asynccontextmanager
    async def session(self) -> AsyncGenerator[aiohttp.ClientSession]:
        """Ask with the key of the attacker."""
        headers = {"authorization": self.attacker, "content-type": "application/json"}
        async with aiohttp.ClientSession(
            self.live.url,
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(LONGEST_S),
        ) as session:
            yield session

    async def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        """Send a body as the attacker, and give the status and the answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            self.session() as session,
            session.post(path, data=body, headers=named) as answer,
        ):
            return answer.status, await answer.read()

    def head(self, path: str, length: int | None, authorization: str, *more: str) -> bytes:
        """Write the head of a POST; `None` as its length: it comes in chunks."""
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", size]
        lines += [f"Authorization: {authorization}"] if authorization else []
        return "\r\n".join([*lines, *more, "", ""]).encode()


class Attack(NamedTuple):
    name: str
    sent: str
    work: Callable[[Target], Awaitable[str]]
    """Attacks, and says what was held."""


def chat(**more: Any) -> bytes:
    messages = [{"role": "user", "content": "from-mallory Hi"}]
    asked = {"model": "llm", "messages": messages} | more
    return json.dumps(asked, separators=(",", ":")).encode()


def shaped(schema: object, text: str = "from-mallory Hi") -> bytes:
    """Ask for an answer of a shape."""
    named = {"type": "json_schema", "json_schema": {"name": "shape", "schema": schema}}
    messages = [{"role": "user", "content": text}]
    return chat(response_format=named, messages=messages)


def said(status: int, body: bytes) -> str:
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = ""
    size = f", {len(body) / MB:.1f} MB of answer" if len(body) > MB / 10 else ""
    return f"{status} {code}".strip() + size


def counted(came: Counter[Any]) -> str:
    return ", ".join(f"{count} of {what}" for what, count in sorted(came.items(), key=str))


async def endless(target: Target, path: str = "/health", authorization: str = "") -> str:
    reader, writer = await target.connected()
    writer.write(target.head(path, None, authorization, "Idempotency-Key: one"))
    chunk, sent = b"10000\r\n" + b"x" * 65536 + b"\r\n", 0
    answer = asyncio.ensure_future(reader.read(1000))
    until = time.monotonic() + SLOW_S
    with suppress(ConnectionError):
        while time.monotonic() < until and sent < 1000 * MB and not answer.done():
            writer.write(chunk)
            await writer.drain()
            sent += 65536
        if not answer.done():
            writer.write(b"0\r\n\r\n")
    done, _ = await asyncio.wait([answer], timeout=10)
    status = "no answer"
    if done:
        with suppress(ConnectionError):
            status = (await answer)[9:12].decode() or "closed"
    answer.cancel()
    return f"{status} after {sent / MB:.1f} MB"


async def types(target: Target) -> str:
    names: list[object] = ["string", *range(73_000 // 5)]
    return said(*await target.post("/v1/chat/completions", shaped({"type": names})))


async def valid(target: Target) -> str:
    parts = {f"p{number:06}": {"type": "string"} for number in range(2 * MB // 27)}
    body = shaped({"type": "object", "properties": parts}, "from-mallory say<<{}>>")
    return said(*await target.post("/v1/chat/completions", body))


async def patterns(target: Target) -> str:
    length, took_s = 20, 0.0
    while took_s < 0.05 and length < 40:  # of this machine: each is to stay below its own limit
        length += 1
        start = time.perf_counter()
        regex.search("(a|aa)+$|b", "a" * length + "!b")
        took_s = time.perf_counter() - start
    slow = [{"pattern": f"(a|aa)+$|b{'|c' * (number % 8)}"} for number in range(300)]
    value = json.dumps({"a": "a" * (length - 1) + "!b"})
    body = shaped({"properties": {"a": {"allOf": slow}}}, f"from-mallory say<<{value}>>")
    return said(*await target.post("/v1/chat/completions", body))


async def fields(target: Target) -> str:
    body = chat(**{f"f{number:06}": 0 for number in range(300_000)})
    return said(*await target.post("/v1/chat/completions", body))


async def poisoned(target: Target) -> str:
    came = Counter[str]()
    until = time.monotonic() + 2 * SLOW_S

    async def ask() -> None:
        while (left_s := until - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    status, _ = await target.post("/run/llm", b'"from-mallory poison"')
                    came[str(status)] += 1
                    await asyncio.sleep(0.05)
            except TimeoutError:
                came["waiting"] += 1

    await asyncio.gather(*(ask() for _ in range(8)))
    return counted(came)


async def many_large(target: Target, count: int = 150, end: str = "") -> str:
    text = "from-mallory " + "words " * 650_000 + end
    body = json.dumps(text, ensure_ascii=False).encode()
    turn, came = asyncio.Semaphore(4), Counter[int]()

    async def ask() -> None:
        async with turn:
            status, _ = await target.post("/run/llm", body)
            came[status] += 1

    await asyncio.gather(*(ask() for _ in range(count)))
    return counted(came)


async def at_once(target: Target, path: str, body: Callable[[], bytes], count: int) -> str:
    """Send one body so often, all at once."""
    came, sent = Counter[int](), body()

    async def ask() -> None:
        status, _ = await target.post(path, sent)
        came[status] += 1

    await asyncio.gather(*(ask() for _ in range(count)))
    return counted(came)


def text_of(part: str) -> bytes:
    """Repeat a text to 3.8 MB."""
    text = "from-mallory " + part * (3_800_000 // len(part.encode()))
    return json.dumps(text, ensure_ascii=False).encode()


def circles() -> bytes:
    """Ask for a shape whose parts double forty times."""
    parts = {
        f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]}
        for n in range(40)
    }
    schema = {"$defs": {**parts, "d40": {"type": "object"}}, "$ref": "#/$defs/d0"}
    return shaped(schema, "from-mallory say<<{}>>")


def many_values() -> bytes:
    """Ask a model that isn't there with 32,000 parts of a message."""
    parts = [{"type": "text", "text": "a"}] * 32_000
    return json.dumps({"model": "nope", "messages": [{"role": "user", "content": parts}]}).encode()


async def slow_bodies(target: Target) -> str:
    came = Counter[str]()

    async def ask() -> None:
        reader, writer = await target.connected()
        writer.write(target.head("/run/llm", 1000, target.spent) + b'"')
        answer = asyncio.ensure_future(reader.read(1000))
        until = time.monotonic() + SLOW_S
        with suppress(ConnectionError):
            while time.monotonic() < until and not answer.done():
                writer.write(b"x")
                await writer.drain()
                await asyncio.wait([answer], timeout=1)
            came[(await answer)[9:12].decode() or "closed" if answer.done() else "waiting"] += 1
        answer.cancel()

    await asyncio.gather(*(ask() for _ in range(256)))
    return counted(came)


async def unread(target: Target) -> str:
    writers: list[asyncio.StreamWriter] = []
    body = b'"from-mallory large"'
    for _ in range(100):
        _, writer = await target.connected()
        cast("asyncio.Transport", writer.transport).pause_reading()
        writer.write(target.head("/run/llm", len(body), target.attacker) + body)
        writers.append(writer)
        await asyncio.sleep(0.02)
    await asyncio.sleep(UNREAD_S)
    return f"{target.live.descriptors} descriptors, {target.live.megabytes:.0f} MiB"


async def idempotent(target: Target) -> str:
    """Store many answers, and then ask for small ones."""
    came = Counter[int]()
    for number in range(60):
        key = {"Idempotency_Key": f"large-{number}"}
        status, _ = await target.post("/run/llm", b'"from-mallory large"', **key)
        came[status] += 1
    for number in range(100):
        key = {"Idempotency_Key": f"small-{number}"}
        status, _ = await target.post("/run/llm", b'"from-mallory Hi"', **key)
        came[status] += 1
    return counted(came)


async def locked(target: Target) -> str:
    def lock() -> None:
        holder = sqlite3.connect(target.ledger, isolation_level=None)
        holder.execute("begin exclusive")
        time.sleep(LOCKED_S)
        holder.execute("rollback")
        holder.close()

    came = Counter[int]()
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(lock))
        await asyncio.sleep(0.2)
        for _ in range(5):
            status, _ = await target.post("/run/llm", b'"from-mallory Hi"')
            came[status] += 1
    return counted(came)


async def leave_lines(target: Target) -> str:
    rows = [f"from-mallory row {number} {'x' * 500}" for number in range(1000)]
    body = json.dumps({"model": "llm", "rows": rows}).encode()
    _, answer = await target.post("/jobs", body)
    place = f"/jobs/{json.loads(answer)['id']}"
    async with target.session() as session:
        for _ in range(300):
            async with session.get(place) as at:
                if (await at.json())["phase"] != "running":
                    break
            await asyncio.sleep(0.1)
        async with session.get(f"{place}/lines") as read:
            lines = (await read.read()).count(b"\n")
    for _ in range(300):
        reader, writer = await asyncio.open_connection("127.0.0.1", target.live.port, limit=1024)
        head = f"GET {place}/lines HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(f"{head}Authorization: {target.attacker}\r\n\r\n".encode())
        with suppress(ConnectionError, asyncio.TimeoutError):
            async with asyncio.timeout(5):
                await reader.read(100)
        writer.transport.abort()
    return f"{lines:,} of 1,000 lines to who reads on"


async def idle(target: Target) -> str:
    opened = 0
    for _ in range(1200):
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                await target.connected()
                opened += 1
    await asyncio.sleep(SLOW_S / 2)
    return f"{opened:,} connected, {target.live.descriptors:,} descriptors"


async def digits(target: Target) -> str:
    async with target.session() as session:
        headers = {"authorization": f"Bearer {STUDIO_KEY}"}
        async with session.get(f"/studio/api/rows/{'9' * 5000}", headers=headers) as answer:
            return said(answer.status, await answer.read())


async def forged(target: Target) -> str:
    status, body = await target.post("/run/llm", b'"from-mallory forge"')
    lines = target.live.log.read_text().splitlines()
    fake = sum(line.startswith("ERROR forged") for line in lines)
    return f"{said(status, body)}, {fake} forged lines in the log"


ATTACKS = (
    Attack("endless body", "`POST /health` without a key, chunks without an end", endless),
    Attack(
        "endless body, the page",
        "`POST /studio/api/labels`, the same",
        partial(endless, path="/studio/api/labels", authorization=f"Bearer {STUDIO_KEY}"),
    ),
    Attack("types of a schema", '73 KB of `{"type": ["string", 0, 1, …]}`', types),
    Attack("large schema", "a valid schema of 2 MB", valid),
    Attack("patterns", "300 patterns in a schema, each almost too slow", patterns),
    Attack("unknown fields", "300,000 of them in 3.6 MB", fields),
    Attack("poisoned inputs", "8 at once, for which the gateway says 504, for 40 s", poisoned),
    Attack("large inputs", "150 requests of 3.9 MB", many_large),
    Attack(
        "large inputs, an emoji",
        "40 requests of 3.9 MB, an emoji in each",
        partial(many_large, count=40, end="\N{SLIGHTLY SMILING FACE}"),
    ),
    Attack(
        "large inputs at once",
        "60 of 3.9 MB, at the same moment",
        partial(at_once, path="/run/llm", body=partial(text_of, "words "), count=60),
    ),
    Attack(
        "texts like files",
        "3.8 MB of `data:a;base64,A `",
        partial(at_once, path="/run/llm", body=partial(text_of, "data:a;base64,A "), count=1),
    ),
    Attack(
        "control tokens",
        "10 at once of 3.8 MB of `<s>`, each with an unseen character",
        partial(at_once, path="/run/llm", body=partial(text_of, "<s\u200b>"), count=10),
    ),
    Attack(
        "doubling schemas",
        "60 at once, 1 KB each, whose parts double 40 times",
        partial(at_once, path="/v1/chat/completions", body=circles, count=60),
    ),
    Attack(
        "many values",
        "100 at once of 32,000 values, for a model that isn't there",
        partial(at_once, path="/v1/chat/completions", body=many_values, count=100),
    ),
    Attack(
        "refused inputs",
        "4 for which the model's server says 429, wait 30 s",
        partial(at_once, path="/run/llm", body=lambda: b'"from-mallory refuse"', count=4),
    ),
    Attack("slow bodies", "256 of a spent key, a byte a second", slow_bodies),
    Attack("unread answers", "100 of 4 MB, which nobody reads for 45 s", unread),
    Attack("stored answers", "60 of 4 MB and 100 small ones, each with its key", idempotent),
    Attack("locked ledger", "an exclusive lock for 8 s", locked),
    Attack("readers who leave", "300 who ask for a job's 1,000 lines, and leave", leave_lines),
    Attack("idle connections", "1,200, with 1,024 descriptors", idle),
    Attack("long number", "a row's number of 5,000 digits", digits),
    Attack("forged log line", "a line end in a model's error", forged),
)


class Measured(NamedTuple):
    held: str
    worst_s: float
    refused: int
    asked: int
    answered: int
    peak_mib: float
    kept_mib: float
    peak_open: int
    kept_open: int
    tracebacks: int


class Peak:
    """Looks 20 times a second how much a server has."""

    def __init__(self, live: Live) -> None:
        self._live, self._over = live, threading.Event()
        self.megabytes, self.descriptors = live.megabytes, live.descriptors
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.megabytes = max(self.megabytes, self._live.megabytes)
            self.descriptors = max(self.descriptors, self._live.descriptors)

    def end(self) -> None:
        self._over.set()
        self._thread.join()


async def measure(attack: Attack) -> Measured:
    """Attack a new server."""
    with tempfile.TemporaryDirectory() as name, Gateway() as gateway:
        keys = Path(name) / "keys.toml"
        good = add_key(str(keys), "good", calls_per_day=10**6)["authorization"]
        attacker = add_key(str(keys), "mallory", calls_per_day=10**6)["authorization"]
        spent = add_key(str(keys), "spent", calls_per_day=0)["authorization"]
        with (
            Live(Path(name) / "served", gateway, str(keys)) as live,
            Watch(live.port, good) as watch,
        ):
            await asyncio.sleep(IDLE_S)
            watch.seen()
            peak, before, opened = Peak(live), live.megabytes, live.descriptors
            async with AsyncExitStack() as held:
                target = Target(live, keys.with_name("keys.ledger.sqlite"), attacker, spent, held)
                try:
                    async with asyncio.timeout(2 * LONGEST_S):
                        found = await attack.work(target)
                except (TimeoutError, aiohttp.ClientError) as error:
                    found = f"{type(error).__name__} after up to {LONGEST_S:.0f} s"
            live.is_up(RECOVERY_S)
            await asyncio.sleep(IDLE_S)
            peak.end()
            seen = watch.seen()
            return Measured(
                held=found,
                worst_s=seen["worst_s"],
                refused=seen["refused"],
                asked=seen["asked"],
                answered=seen["answered"],
                peak_mib=peak.megabytes - before,
                kept_mib=live.megabytes - before,
                peak_open=peak.descriptors - opened,
                kept_open=live.descriptors - opened,
                tracebacks=live.tracebacks(),
            )


def line(attack: Attack, found: list[Measured]) -> tuple[str, ...]:
    """One attack; figures are medians."""

    def mid(name: str) -> float:
        return median(getattr(one, name) for one in found)

    worst = mid("worst_s")
    refused = f", {mid('refused'):.0f} refused" if mid("refused") else ""
    asked, answered = sum(one.asked for one in found), sum(one.answered for one in found)
    return (
        attack.name,
        attack.sent,
        found[-1].held + (f", {found[-1].tracebacks:,} tracebacks" * (found[-1].tracebacks > 0)),
        (f"{worst:.2f}" if worst <= AIM_S else f"**{worst:.2f}**") + refused,
        f"{answered} of {asked}",
        f"{mid('peak_mib'):+.0f} / {mid('kept_mib'):+.0f}",
        f"{mid('peak_open'):+.0f} / {mid('kept_open'):+.0f}",
    )


HEAD = (
    "attack",
    "sent",
    "held",
    "worst stall, s",
    "legitimate, answered",
    "memory, MiB, peak / kept",
    "descriptors, peak / kept",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="attacks whose names begin so; writes no page")
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 4096), most))
    chosen = [one for one in ATTACKS if not given.only or one.name.startswith(tuple(given.only))]
    rows: list[tuple[str, ...]] = []
    for attack in chosen:
        found = list[Measured]()
        for _ in range(given.repeats):
            found.append(asyncio.run(measure(attack)))
            print(f"{attack.name}: {found[-1]}", flush=True)
        rows.append(line(attack, found))
    body = (
        f"Medians of {given.repeats}. The worst stall is the longest that an answer of `/health` "
        f"took (aim: at most {AIM_S:g} s); the legitimate client has a key of its own, and waits "
        f"for ten seconds.\n\n{table(HEAD, rows)}"
    )
    print(f"{machine()}\n\n{body}")
    if not given.only:
        write("attacks", f"python benchmarks/attacks.py --repeats {given.repeats}", body, page=PAGE)


if __name__ == "__main__":
    main()
