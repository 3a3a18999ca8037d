"""Two servers in processes of their own, one key, and more requests than it may make calls."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest
from counting import serving
from live import standing_of

from .harness import add_key

BUDGET, REQUESTS, AT_ONCE = 300, 500, 64
CONFIG = """
[endpoints.large]
tier = "llm"
model = "m"
base_url = "{url}"
input_price = 1
output_price = 1
"""


class Models(NamedTuple):
    """Models that take 20 ms."""

    url: str
    asked: Counter[str]
    busy: threading.Event
    """Set once they have answered a third of what the key may ask."""


@pytest.fixture
def models() -> Iterator[Models]:
    busy, answered = threading.Event(), list[str]()

    def answer(text: str) -> str:
        time.sleep(0.02)
        answered.append(text)
        if len(answered) >= BUDGET // 3:
            busy.set()
        return "Fine."

    with serving(told_apart=lambda _: "all", answer=answer) as (url, asked):
        yield Models(url, asked, busy)


@pytest.fixture(params=["file", pytest.param("postgres", marks=pytest.mark.long)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres')}#shop"
    return str(tmp_path / "keys.toml")


class Servers:
    """Servers of one agent, which share one key."""

    def __init__(self, folder: Path, url: str, address: str) -> None:
        self.headers = add_key(address, calls_per_day=BUDGET)
        (folder / "moa.toml").write_text(CONFIG.format(url=url))
        command = [sys.executable, "-m", "moa", "serve", "llm", "--keys", address]
        command += ["--config", str(folder / "moa.toml")]
        self.ports = [_free_port() for _ in range(2)]
        self.processes = [
            subprocess.Popen([*command, "--port", str(port)], cwd=folder) for port in self.ports
        ]
        self.turn = asyncio.Semaphore(AT_ONCE)

    async def up(self, session: aiohttp.ClientSession) -> None:
        """Wait until they take requests."""
        for port in self.ports:
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{port}/health") as answer:
                        assert answer.status == 200
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.1)

    async def ask(self, session: aiohttp.ClientSession, number: int) -> int:
        """Ask one of them; give the status, or 0 where it died."""
        url = f"http://127.0.0.1:{self.ports[number % 2]}/run/llm"
        async with self.turn:
            try:
                async with session.post(url, json="Hi", headers=self.headers) as answer:
                    return answer.status
            except aiohttp.ClientError:
                return 0


@asynccontextmanager
async def started(
    folder: Path, url: str, address: str
) -> AsyncGenerator[tuple[Servers, aiohttp.ClientSession]]:
    servers = Servers(folder, url, address)
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await servers.up(session)
            yield servers, session
    finally:
        for process in servers.processes:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def charged(address: str) -> int:
    """Count the calls that alice is charged once all processes have been dead for long."""
    standing = standing_of(address, "alice")
    assert (standing.held.calls, standing.runs) == (0, 0)
    return standing.day.calls


async def test_two_servers_send_exactly_as_many_calls_as_the_key_has(
    tmp_path: Path, models: Models, address: str
) -> None:
    asked = models.asked
    async with started(tmp_path, models.url, address) as (servers, session):
        came = Counter(
            await asyncio.gather(*(servers.ask(session, number) for number in range(REQUESTS)))
        )
    assert came == {200: BUDGET, 402: REQUESTS - BUDGET}
    assert (asked["all"], charged(address)) == (BUDGET, BUDGET)


async def test_a_killed_server_is_charged_what_it_had_in_hand_and_the_other_goes_on(
    tmp_path: Path, models: Models, address: str
) -> None:
    asked = models.asked
    async with started(tmp_path, models.url, address) as (servers, session):
        asking = [asyncio.ensure_future(servers.ask(session, n)) for n in range(REQUESTS)]
        await asyncio.to_thread(models.busy.wait)
        servers.processes[0].kill()
        came = Counter(await asyncio.gather(*asking))
        rest = [servers.ask(session, 2 * number + 1) for number in range(REQUESTS)]
        came += Counter(await asyncio.gather(*rest))
    assert came[0] > 0, "some were in its hands"
    assert BUDGET - AT_ONCE <= asked["all"] <= BUDGET
    assert came[200] <= asked["all"]
    assert charged(address) == BUDGET
