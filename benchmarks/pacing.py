"""What pacing makes of a server with limits: `python benchmarks/pacing.py`.

The server runs in a process of its own. Every way sends calls for some seconds from 64 workers, as
the rows of a run are; with a fixed number, no more than that are in flight.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
import urllib.request
from typing import NamedTuple

from aiohttp import web

from moa.core.context import RunContext
from moa.core.errors import EndpointError
from moa.endpoints import Prompt
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.pacing import Pacing
from moa.endpoints.retries import Retried
from report import table, verdict, write

FIXED = (1, 2, 4, 8, 16, 32, 64)
WORKERS = 64
SERVICE_S = 0.05
PLACES, RATE = 8, 100
SERVERS = {
    "places": f"{PLACES} at once, more are refused (429)",
    "queue": f"{PLACES} at once, more wait",
    "window": f"{RATE} in each second, more are refused",
    "stated": "the same, stated in `x-ratelimit-…` and `Retry-After`",
    "batch": "no limit: each more in flight makes all 3 % slower, as in a batch",
}
ANSWER = {
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
}


class Server:
    """Answers after some 50 ms, within the limits that the model's name says."""

    def __init__(self) -> None:
        self.refused = self.in_flight = 0
        self.window, self.used = 0, 0
        self.queue = asyncio.Semaphore(PLACES)

    async def complete(self, request: web.Request) -> web.Response:
        kind = (await request.json())["model"]
        self.in_flight += 1
        try:
            return await self.answer(kind, SERVICE_S * random.uniform(0.7, 1.3))
        finally:
            self.in_flight -= 1

    async def answer(self, kind: str, seconds: float) -> web.Response:
        headers = dict[str, str]()
        if kind == "batch":
            seconds *= 1 + 0.03 * self.in_flight
        elif kind == "queue":
            async with self.queue:
                await asyncio.sleep(seconds)
                return web.json_response(ANSWER)
        elif kind == "places":
            if self.in_flight > PLACES:
                return self.refuse(headers)
        else:
            window, since = divmod(time.monotonic(), 1.0)
            self.used = self.used + 1 if window == self.window else 1
            self.window = window
            if kind == "stated":
                headers["x-ratelimit-remaining-requests"] = str(max(0, RATE - self.used))
                headers["x-ratelimit-reset-requests"] = f"{1000 * (1 - since):.0f}ms"
            if self.used > RATE:
                if kind == "stated":
                    headers["retry-after-ms"] = f"{1000 * (1 - since):.0f}"
                return self.refuse(headers)
        await asyncio.sleep(seconds)
        return web.json_response(ANSWER, headers=headers)

    def refuse(self, headers: dict[str, str]) -> web.Response:
        self.refused += 1
        return web.json_response({"error": {"message": "slow down"}}, status=429, headers=headers)

    async def report(self, request: web.Request) -> web.Response:
        refused, self.refused = self.refused, 0
        return web.json_response(refused)


async def serve() -> None:
    """Serve until the input is closed."""
    server, app = Server(), web.Application()
    app.router.add_post("/v1/chat/completions", server.complete)
    app.router.add_get("/refused", server.report)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


class Unpaced(Pacing):
    """A fixed number in flight."""

    def learn_answer(self, *_: object) -> None:
        pass

    learn_headers = learn_refusal = learn_answer


class Figures(NamedTuple):
    """What came out in a run."""

    per_s: float
    refused: int
    failed: int


async def run(url: str, kind: str, fixed: int | None, seconds: float) -> Figures:
    """Send calls for some seconds."""
    endpoint = OpenAIEndpoint("server", model=kind, base_url=f"{url}/v1", concurrency=WORKERS)
    if fixed is not None:
        endpoint.client._pacing = Unpaced(fixed)
    retried, answered, failed, until = Retried(endpoint), 0, 0, 0.0

    async def work() -> None:
        nonlocal answered, failed
        while time.monotonic() < until:
            try:
                await retried.complete(Prompt.of("Is it?"), RunContext())
                answered += time.monotonic() < until
            except EndpointError:
                failed += 1

    async with endpoint:
        await retried.complete(Prompt.of("Are you there?"), RunContext())
        until = time.monotonic() + seconds
        await asyncio.gather(*(work() for _ in range(WORKERS)))
    return Figures(answered / seconds, refused_by(url), failed)


def refused_by(url: str) -> int:
    """Ask the server how many calls it has refused since it was last asked."""
    with urllib.request.urlopen(f"{url}/refused") as response:
        return json.load(response)


def measure(seconds: float) -> dict[str, dict[int | None, Figures]]:
    """Run all ways on all servers."""
    command = [sys.executable, __file__, "--serve"]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    url = f"http://127.0.0.1:{child.stdout.readline().strip()}"
    found: dict[str, dict[int | None, Figures]] = {}
    for kind in SERVERS:
        for fixed in (None, *FIXED):
            figures = asyncio.run(run(url, kind, fixed, seconds))
            found.setdefault(kind, {})[fixed] = figures
            print(kind, fixed or "paced", figures, flush=True)
            time.sleep(1)
    child.stdin.close()
    child.wait()
    return found


def report(found: dict[str, dict[int | None, Figures]], seconds: float) -> str:
    """Say it in tables."""
    rows: list[list[object]] = []
    for kind, ways in found.items():
        best = max(FIXED, key=lambda fixed: ways[fixed].per_s)
        paced, most = ways[None], ways[FIXED[-1]]
        ratio = paced.per_s / ways[best].per_s
        rows.append(
            [
                SERVERS[kind],
                f"{ways[best].per_s:.0f} ({best} in flight, {ways[best].refused} refused)",
                f"{paced.per_s:.0f} ({paced.refused} refused, {paced.failed} failed)",
                f"{most.per_s:.0f} ({most.refused} refused, {most.failed} failed)",
                f"{ratio:.2f}, {verdict(ratio, 'at least', 0.9, 0.97)}",
            ]
        )
    head = ("server", "best fixed", "paced", f"{FIXED[-1]} fixed", "paced to best")
    every = ", ".join(map(str, FIXED))
    return (
        "## Pacing\n\nAnswers a second of a mock server that takes 35 to 65 ms, asked for "
        f"{seconds:g} s by {WORKERS} workers through `Retried`: paced from `concurrency=64` on, "
        f"and with a fixed number in flight, the best of {every}. Target: at least 0.9 of the best "
        f"fixed one, which nobody knows beforehand.\n\n{table(head, rows)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="Be the server.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Of each run.")
    parser.add_argument("--print", action="store_true", help="Write no page.")
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
        return
    body = report(measure(given.seconds), given.seconds)
    if given.print:
        print(body)
    else:
        write("pacing", f"python benchmarks/pacing.py --seconds {given.seconds:g}", body)


if __name__ == "__main__":
    main()
