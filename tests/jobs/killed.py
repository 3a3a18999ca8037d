"""A process that works on a job, to be killed: `python killed.py STORE URL ROWS CONCURRENCY`.

Each row is three calls, the last two side by side; each call is a request to URL.
"""

from __future__ import annotations

import asyncio
import sys

from moa import Agent, Graph, OpenAIEndpoint, Reply
from moa.batch import Row
from moa.jobs import Job


async def main(store: str, url: str, rows: int, concurrency: int) -> None:
    async with OpenAIEndpoint("model", model="m", base_url=url, api_key="none") as model:
        g = Graph("three", str)
        first = g.add(Agent(model, "First.", name="first"), g.input)
        left, right = (
            g.add(Agent(model, f"{side}.", name=side), first) for side in ("Left", "Right")
        )

        def both(a: Reply, b: Reply) -> str:
            return f"{a} {b}"

        graph = g.build(g.join(both, left, right))
        with Job(store, graph="three", lease_s=5.0) as job:
            job.add(Row(number=n, id=n, value=f"row {n} of {rows}") for n in range(1, rows + 1))
            await job.run(graph, max_concurrency=concurrency)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
