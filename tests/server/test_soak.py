"""Two servers on one ledger, for half an hour of faults, clients who leave, and kills.

One answer in twenty of their gateway is a fault. `MOA_SOAK_S` sets how many seconds it takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from live import Gateway, Live, Watch, add_key, standing_of

from moa.serving.limits import Sums

SECONDS = {"file": 1800.0, "postgres": 600.0}
AT_ONCE = 24
IN_HAND = AT_ONCE + 8
"""Runs of a server that is killed, at most; those of a job's rows are eight at once."""
CALLS, DOLLARS = 500, Decimal("0.05")
"""What bob may call, and carol may pay, in a day: both are to be used up."""
ROWS = 300
"""Of a job that both kills of its server interrupt."""
KILLED, ENDED = (0.15, 0.3, 0.6, 0.8), 0.45
"""When servers are killed, in turns, and when one is told to end: shares of the time."""
DOWN_S = 1.0
EXPECTED = {200, 402, 502, 503, 504}
"""What may be answered: a key is spent, and all tries of a call may meet faults."""
MEGABYTES, DESCRIPTORS = 80.0, 10
"""What a server may have more in the end than early in its life."""


@pytest.fixture(params=["file", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres')}#shop"
    return str(tmp_path / "keys.toml")


class Mark(NamedTuple):
    """What a server has at a moment."""

    life: int
    """How often it has been started before."""
    megabytes: float
    descriptors: int


class Soak:
    """Clients of two servers.

    Args:
        servers: The servers.
        keys: The header of each key.
        session: Its requests are closed after each.
        watches: Who is beside each server.
        seconds: How long they ask.
    """

    def __init__(
        self,
        servers: list[Live],
        keys: dict[str, dict[str, str]],
        session: aiohttp.ClientSession,
        watches: list[Watch],
        seconds: float,
    ) -> None:
        self.servers, self.watches, self.seconds = servers, watches, seconds
        self.came = Counter[str]()
        """How many requests came to what."""
        self.sent = 0
        self.wrong = list[str]()
        self.left = Counter[str]()
        """Of each key, how many were left before they were answered."""
        self.stalls = list[float]()
        """The longest that `/health` took between two starts of a server."""
        self.marks: tuple[list[Mark], list[Mark]] = ([], [])
        self._keys, self._session = keys, session
        self._lives = [0, 0]
        self._down = set[int]()
        """Servers that are down, or were a moment ago."""
        self._dice = random.Random(0)
        self._until = time.monotonic() + seconds
        self._unread = asyncio.Semaphore(4)

    async def run(self) -> None:
        """Ask for all of the time, while servers end and start again."""
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._client())
            group.create_task(self._look())
            group.create_task(self._fell())

    async def _client(self) -> None:
        kinds: dict[Callable[[int, str], Awaitable[str]], float] = {
            self._ask: 60,
            self._ask_twice: 10,
            self._leave: 15,
            self._leave_stream: 8,
            self._leave_unread: 1,
            self._send_slowly: 1,
        }
        names = [*self._keys]
        while time.monotonic() < self._until:
            kind = self._dice.choices([*kinds], [*kinds.values()])[0]
            place, name = self._dice.randrange(2), self._dice.choice(names)
            self.sent += 1
            found = await self._outcome(kind, place, name)
            self.left[name] += found == "left"
            self.came[f"{kind.__name__.strip('_')}: {found}"] += 1
            # Who finds a server down waits, or hardly anybody would ask the other.
            await asyncio.sleep(DOWN_S if found == "down" else self._dice.random() / 10)

    async def _outcome(
        self, kind: Callable[[int, str], Awaitable[str]], place: int, name: str
    ) -> str:
        try:
            return await kind(place, name)
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            if place in self._down:
                return "down"
            self.wrong.append(f"{kind.__name__} of a server that was up: {error!r}")
            return "lost"

    async def _ask(self, place: int, name: str, **headers: str) -> str:
        word = f"answer-{self._dice.randrange(10**9)}"
        return await self._posted(place, name, f"from-{name} slow say<<{word}>>", word, headers)

    async def _posted(
        self, place: int, name: str, text: str, word: str, headers: dict[str, str]
    ) -> str:
        url = f"{self.servers[place].url}/run/llm"
        headers = self._keys[name] | headers
        async with self._session.post(url, json=text, headers=headers) as answer:
            body = await answer.text()
            if answer.status not in EXPECTED:
                self.wrong.append(f"{answer.status}: {body[:300]}")
            elif answer.status == 200 and word not in body:
                self.wrong.append(f"not {word}: {body[:300]}")
            return str(answer.status)

    async def _ask_twice(self, place: int, name: str) -> str:
        """Ask with a key for the request, and again: who is answered is answered the same."""
        key, word = f"key-{self._dice.randrange(10**12)}", f"answer-{self._dice.randrange(10**9)}"
        text, headers = f"from-{name} slow say<<{word}>>", {"idempotency-key": key}
        first = await self._posted(place, name, text, word, headers)
        again = await self._posted(place, name, text, word, headers)
        if first == "200" and again != "200" and not self._down:
            self.wrong.append(f"answered with {first} and then {again}")
        return f"{first}, {again}"

    @asynccontextmanager
    async def _sending(
        self, place: int, name: str, body: bytes, *more: str, length: int | None = None
    ) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Send a request, and leave at the end of the block."""
        port = self.servers[place].port
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 16)
        size = len(body) if length is None else length
        lines = ["POST /run/llm HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        lines += [f"Authorization: {self._keys[name]['authorization']}", *more]
        writer.write("\r\n".join([*lines, f"Content-Length: {size}", "", ""]).encode() + body)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _leave(self, place: int, name: str) -> str:
        async with self._sending(place, name, f'"from-{name} slow"'.encode()):
            await asyncio.sleep(self._dice.random() * 0.2)
        return "left"

    async def _leave_stream(self, place: int, name: str) -> str:
        body, accept = f'"from-{name} slow"'.encode(), "Accept: text/event-stream"
        async with self._sending(place, name, body, accept) as (reader, _):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._dice.random() * 0.3):
                    await reader.read(4000)
        return "left"

    async def _leave_unread(self, place: int, name: str) -> str:
        async with (
            self._unread,
            self._sending(place, name, f'"from-{name} large"'.encode()),
        ):
            await asyncio.sleep(min(10.0, self.seconds / 10))
        return "left"

    async def _send_slowly(self, place: int, name: str) -> str:
        async with self._sending(place, name, b'"', length=1000) as (reader, writer):
            for _ in range(10):
                if reader.at_eof():
                    return "refused"
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.5)
        return "left"

    async def _look(self) -> None:
        while time.monotonic() < self._until:
            await asyncio.sleep(min(5.0, self.seconds / 60))
            for place, server in enumerate(self.servers):
                if place not in self._down:
                    self.marks[place].append(
                        Mark(self._lives[place], server.megabytes, server.descriptors)
                    )

    async def _fell(self) -> None:
        """End the servers when it is time, and start them again."""
        begun = self._until - self.seconds
        kills = [(share, number % 2, "kill") for number, share in enumerate(KILLED)]
        for share, place, way in sorted([*kills, (ENDED, 0, "end")]):
            await asyncio.sleep(max(0.0, begun + share * self.seconds - time.monotonic()))
            self._down.add(place)
            self.stalls.append(self.watches[place].seen()["worst_s"])
            server = self.servers[place]
            if way == "kill":
                await asyncio.to_thread(server.kill)
            else:
                code = await asyncio.to_thread(server.end)
                if code not in (-signal.SIGTERM, 128 + signal.SIGTERM):
                    self.wrong.append(f"SIGTERM ended it with {code}")
            await asyncio.sleep(DOWN_S)
            await asyncio.to_thread(server.again)
            self._lives[place] += 1
            await asyncio.sleep(DOWN_S)  # a broken connection may be known late
            self.watches[place].seen()  # a server that starts takes no requests yet
            self._down.discard(place)

    async def spend(self, name: str) -> int:
        """Ask until the key is spent; give how often it was asked."""
        for number in range(2000):
            if await self._ask(number % 2, name) == "402":
                return number
        raise AssertionError(f"{name} is never spent")


async def begin_job(server: Live, session: aiohttp.ClientSession, key: dict[str, str]) -> str:
    rows = [f"from-alice slow say<<row-{number}>>" for number in range(ROWS)]
    body = {"model": "llm", "rows": rows}
    async with session.post(f"{server.url}/jobs", json=body, headers=key) as answer:
        return (await answer.json())["id"]


async def job_lines(
    server: Live, session: aiohttp.ClientSession, key: dict[str, str], id: str
) -> list[Any]:
    """Wait until a job has ended, and give its lines."""
    async with asyncio.timeout(120):
        while True:
            async with session.get(f"{server.url}/jobs/{id}", headers=key) as answer:
                if (await answer.json())["phase"] != "running":
                    break
            await asyncio.sleep(0.5)
    async with session.get(f"{server.url}/jobs/{id}/lines", headers=key) as answer:
        return [json.loads(line) for line in (await answer.text()).splitlines()]


def check_flat(marks: list[Mark]) -> None:
    """Of the last life of a server, its end is like its beginning."""
    last = [mark for mark in marks if mark.life == marks[-1].life]
    early, late = last[len(last) // 4], last[-1]
    assert late.megabytes < early.megabytes + MEGABYTES, last
    assert late.descriptors < early.descriptors + AT_ONCE + DESCRIPTORS, last


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_two_servers_that_are_killed_under_load_lose_and_overcharge_nothing(
    tmp_path: Path, address: str
) -> None:
    kind = "postgres" if "://" in address else "file"
    seconds = float(os.environ.get("MOA_SOAK_S", SECONDS[kind]))
    keys = {
        "alice": add_key(address, "alice"),
        "bob": add_key(address, "bob", calls_per_day=CALLS),
        "carol": add_key(address, "carol", usd_per_day=DOLLARS),
    }
    with (
        Gateway(every=20) as gateway,
        Live(tmp_path / "one", gateway, address) as one,
        Live(tmp_path / "two", gateway, address) as two,
        Watch(one.port) as beside_one,
        Watch(two.port) as beside_two,
    ):
        opened = one.descriptors, two.descriptors
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            soak = Soak([one, two], keys, session, [beside_one, beside_two], seconds)
            job = await begin_job(one, session, keys["alice"])
            await soak.run()
            lines = await job_lines(one, session, keys["alice"], job)
            for name in ("bob", "carol"):
                await soak.spend(name)
        await asyncio.sleep(5)
        left = one.descriptors - opened[0], two.descriptors - opened[1]
        soak.stalls += [watch.seen()["worst_s"] for watch in soak.watches]
        ends = one.end(), two.end()
        calls, billed = gateway.count()
        logs = one.tracebacks(), two.tracebacks()
    spent = {name: standing_of(address, name) for name in keys}
    paid = {name: usage.day.calls for name, usage in spent.items()}
    found = {"sent": soak.sent, "came": soak.came, "calls": calls, "billed": billed, "paid": paid}
    found |= {"stalls": soak.stalls, "marks": [marks[-1] for marks in soak.marks], "left": left}
    print(json.dumps(found, indent=1))  # noqa: T201

    assert soak.wrong == []
    assert soak.came.total() == soak.sent
    assert sorted(line["id"] for line in lines) == [*range(1, ROWS + 1)]
    assert logs == (0, 0)
    assert {*ends} <= {-signal.SIGTERM, 128 + signal.SIGTERM}
    for name, usage in spent.items():
        assert (usage.runs, usage.held) == (0, Sums())
        # What was answered is paid. What is paid and wasn't answered was in hand at a kill, was
        # left, or met one of the faults that are no answer.
        assert billed[name] <= calls[name] <= paid[name]
        rest = paid[name] - calls[name]
        assert rest <= IN_HAND * len(KILLED) + (soak.left[name] + calls[name]) // 100
    assert paid["bob"] == CALLS
    assert spent["carol"].day.usd <= DOLLARS
    assert max(left) <= DESCRIPTORS
    for marks in soak.marks:
        check_flat(marks)
