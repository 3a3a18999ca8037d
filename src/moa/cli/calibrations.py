"""Calibrations: what the commands share that make, test and measure one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

    from moa._terminal import Console
    from moa.calibration.features import Progress
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext

Job = Callable[["Endpoints", "RunContext", "Progress"], Awaitable[int]]
"""Does something with the configured endpoints, and gives the exit code."""
STOPPED = 130


def run(
    job: Job,
    config: Path | None,
    budget_usd: float | None,
    *,
    stopped: str = "stopped; nothing was written",
) -> int:
    """Run a job with the endpoints of the configuration, and show how far it is.

    Args:
        job: What is done.
        config: The file; `None` finds it.
        budget_usd: Maximum US dollars; `None` is no limit.
        stopped: What is said after Ctrl-C.

    Raises:
        MoaError: the job failed.
    """
    from moa.cli import screen

    try:
        return asyncio.run(_run(job, config, budget_usd))
    except KeyboardInterrupt:
        screen.err().print(stopped)
        return STOPPED


async def _run(job: Job, config: Path | None, budget_usd: float | None) -> int:
    from moa.cli import screen
    from moa.cli.configuration import configured
    from moa.config.endpoints import Endpoints
    from moa.context import RunContext
    from moa.usage import Budget

    context = RunContext(budget=Budget(cost=budget_usd), keep_notes=False)
    async with Endpoints(configured(config)) as endpoints:
        with screen.err().bars() as bars:
            shown: dict[str, TaskID] = {}

            def progress(name: str, done: int, total: int) -> None:
                if name not in shown:
                    shown[name] = bars.add_task(f"reading {name}", total=total)
                bars.update(shown[name], completed=done, total=total)

            return await job(endpoints, context, progress)


def warn(console: Console, warnings: list[str]) -> None:
    """Show warnings, one a line."""
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow")
