"""A process that works on many simulated rows: `python crowd.py STORE ROWS`.

STORE is a job, or a file of lines. It prints, as JSON, rows a second of processor time, and the
most memory that it had, in MB.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

from moa import Agent, RunContext
from moa.core.batch import Row
from moa.rows import RowFile, work_through
from moa.rows.jobs import Job
from moa.testing import SimulatedEndpoint


def given(rows: int) -> Iterator[Row]:
    return (Row(number=n, id=n, value=f"Row {n} of a long night.") for n in range(1, rows + 1))


async def main(store: str, rows: int) -> None:
    model = SimulatedEndpoint(rule=lambda text: "Fine.")
    agent = Agent(model, "Answer.")
    context = RunContext(keep_notes=False)

    def progress(done: int, total: int | None) -> None:
        del done, total
        model.prompts.clear()  # which would be as many as the rows

    if store.endswith(".jsonl"):
        with RowFile(store, existing="resume") as file:
            left = file.due_rows(given(rows))
            began = time.process_time()
            async with aclosing(
                work_through(file, agent, left, context, progress=progress)
            ) as items:
                async for _ in items:
                    pass
            spent = time.process_time() - began
    else:
        with Job(store, graph=agent.name) as job:
            job.add(given(rows))
            began = time.process_time()
            await job.run(agent, context, progress=progress)
            spent = time.process_time() - began
    megabytes = peak_memory()
    print(json.dumps({"rows_per_s": rows / max(spent, 1e-9), "megabytes": megabytes}))  # noqa: T201


def peak_memory() -> float:
    """Return the most memory that this process had, in MB.

    On Linux `ru_maxrss` is at least that of the process which started this one.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
