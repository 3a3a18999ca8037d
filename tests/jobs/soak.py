"""A process that makes many calls, of which some fail: `python soak.py FILE ROWS [URL]`.

FILE takes the lines. One call in twenty fails: of a simulated model, or of the server at URL. It
prints, as JSON, what a process has at each tenth of the way: memory, open files, tasks, and the
median and 95th percentile of a row's time; and in the end how many rows came to what.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing

import psutil
from tenacity import wait_none

from moa import Agent, RunContext
from moa.core.batch import Row
from moa.core.errors import EndpointTimeout, EndpointUnavailable, InvalidResponse
from moa.endpoints import Endpoint
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.retries import Retried
from moa.rows import RowFile, work_through
from moa.testing import SimulatedEndpoint, SimulatedRequest, Step

EVERY = 20
ERRORS = (
    EndpointUnavailable("connection lost", endpoint="small"),
    EndpointUnavailable("busy", endpoint="small", status=503),
    EndpointTimeout("no answer", endpoint="small"),
    InvalidResponse("no JSON", endpoint="small"),
)
HOPELESS = 1_000
"""One row of so many fails at each try."""


class Soaked(SimulatedEndpoint):
    """Fails one call in twenty, and forgets what it was asked."""

    calls = 0

    def next_step(self, request: SimulatedRequest) -> Step:
        self.calls += 1
        self.prompts.clear()
        if self.calls % EVERY == 0 or " hopeless" in request.text:
            kind = ERRORS[self.calls // EVERY % len(ERRORS)]
            raise type(kind)(kind.message, endpoint=kind.endpoint, status=kind.status)
        return "Fine."


def given(rows: int) -> Iterator[Row]:
    for number in range(1, rows + 1):
        end = " hopeless" if number % HOPELESS == 0 else ""
        yield Row(number=number, id=number, value=f"Row {number} of a long night{end}")


def endpoint(url: str | None) -> Endpoint:
    if url is None:
        return Retried(Soaked(), wait=wait_none())
    server = OpenAIEndpoint("small", model="m", base_url=url, tier="slm", timeout_s=2.0)
    return Retried(server, wait=wait_none())


async def main(path: str, rows: int, url: str | None = None) -> None:
    asked = endpoint(url)
    agent, context = Agent(asked, "Answer."), RunContext(keep_notes=False)
    came, seconds = Counter[str](), list[float]()
    marks = list[dict[str, float]]()
    process = psutil.Process()
    with RowFile(path, existing="resume") as file:
        left = file.due_rows(given(rows))
        async with aclosing(work_through(file, agent, left, context, max_concurrency=16)) as items:
            async for item in items:
                came[item.status] += 1
                seconds.append(item.seconds)
                if came.total() % (rows // 10) == 0:
                    marks.append(
                        {
                            "megabytes": process.memory_info().rss / 2**20,
                            "files": len(os.listdir("/proc/self/fd")),
                            "tasks": len(asyncio.all_tasks()),
                            "median_s": statistics.median(seconds),
                            "p95_s": statistics.quantiles(seconds, n=20)[-1],
                        }
                    )
                    seconds.clear()
    await asked.close()
    used = context.usage
    print(json.dumps({"marks": marks, "came": came, "calls": used.calls}))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
