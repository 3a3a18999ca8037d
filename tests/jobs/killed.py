"""A process that works on rows, to be killed: `python killed.py STORE URL ROWS CONCURRENCY`.

Each row is three calls, the last two side by side; each call is a request to URL. STORE is a job,
or a file of lines.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

from moa import Agent, Graph, OpenAIEndpoint, Reply, RunContext
from moa.core.batch import Row
from moa.rows import RowFile, work_through
from moa.rows.jobs import Job


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
        given = (Row(number=n, id=n, value=f"row {n} of {rows}") for n in range(1, rows + 1))
        if store.endswith(".jsonl"):
            context = RunContext(keep_notes=False)
            with RowFile(store, existing="resume") as file:
                work = work_through(
                    file, graph, file.due_rows(given), context, max_concurrency=concurrency
                )
                async with aclosing(work) as items:
                    async for _ in items:
                        pass
            return
        with Job(store, graph="three") as job:
            job.lease_s = 5.0
            job.add(given)
            await job.run(graph, max_concurrency=concurrency)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
