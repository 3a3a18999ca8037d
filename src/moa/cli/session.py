"""Session: from a configuration to an exit code, with everything opened on the way closed again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from moa.budget import Budget
from moa.cli import screen
from moa.config import Config, load, misspelt_variables
from moa.config.endpoints import Endpoints
from moa.context import RunContext

ANSWERED, FAILED, STOPPED = 0, 1, 130
"""Exit codes: all answered or dropped; some failed; Ctrl-C."""

Body = Callable[[Endpoints, RunContext], Awaitable[int]]
"""What a command does with the configured endpoints; it gives the exit code."""


def configured(path: Path | None) -> Config:
    """Read the configuration, and warn on standard error of variables that nothing reads."""
    for wrong, right in misspelt_variables().items():
        warning = f"moa: nothing reads the variable {wrong}. Did you mean {right}?"
        print(warning, file=sys.stderr)  # noqa: T201
    return load(path)


def run(
    body: Body,
    config: Path | None,
    budget_usd: float | None,
    *,
    stopped: str = "stopped; nothing was written",
) -> int:
    """Run the body of a command with the endpoints of the configuration, and give its exit code.

    After Ctrl-C it says `stopped`, or nothing where that is empty.
    """

    async def work() -> int:
        async with Endpoints(configured(config)) as endpoints:
            budget = Budget(cost=budget_usd)
            context = RunContext(budget=budget, reference=endpoints.reference, keep_notes=False)
            return await body(endpoints, context)

    try:
        return asyncio.run(work())
    except KeyboardInterrupt:
        if stopped:
            screen.err().print(stopped)
        return STOPPED
