"""Session: from a configuration to a report, with everything opened on the way closed again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from moa.cli.batch import Rows, run_one, through
from moa.cli.configuration import configured
from moa.cli.inputs import Reader
from moa.cli.report import Report
from moa.config.endpoints import NO_LLM, Endpoints
from moa.context import RunContext
from moa.node import Node
from moa.rows import Item, Row, with_text
from moa.usage import Budget

ANSWERED, FAILED, STOPPED = 0, 1, 130
"""Exit codes: all answered or dropped; some failed; Ctrl-C."""


class Prepared(NamedTuple):
    """What is run on each row."""

    node: Node[Any, object]
    read: Reader
    warm: bool = False
    """Whether all that it asks was asked already, so that no item waits for it."""
    asked: frozenset[str] | None = None
    """Names of the endpoints that it asks; `None`: it may be all."""
    needs_text: bool = False
    """Whether all rows are of no use where the first has no text."""


Prepare = Callable[[Endpoints, RunContext], Awaitable[Prepared]]
"""Builds what is run, and may ask endpoints something first."""


@dataclass(frozen=True, kw_only=True)
class Session:
    """How a batch is run."""

    config: Path | None
    concurrency: int
    budget_usd: float | None = None
    """Most US dollars for all items together."""
    live: bool = False
    """Whether rows come from standard input."""

    def run(self, prepare: Prepare, rows: Rows, report: Report) -> int:
        """Run the batch, and give the exit code.

        Raises:
            ConfigError: the configuration, or what is to be run, is wrong; nothing was run.
        """
        try:
            asyncio.run(self._run(prepare, rows, report))
        except KeyboardInterrupt:
            report.close(stopped=True)
            return STOPPED
        report.close()
        return FAILED if report.tally.failed else ANSWERED

    async def _run(self, prepare: Prepare, rows: Rows, report: Report) -> None:
        rows = report.left(rows)
        if not self.live:
            if (first := next(rows, None)) is None:  # what is to be resumed is complete
                return
            rows = chain((first,), rows)
        async with Endpoints(configured(self.config)) as endpoints:
            budget = Budget(cost=self.budget_usd)
            context = RunContext(budget=budget, reference=endpoints.reference, keep_notes=False)
            prepared = await prepare(endpoints, context)
            if prepared.needs_text:
                rows = with_text(rows, "text")
                if not self.live:
                    rows = chain((next(rows),), rows)
            if endpoints.stood_in:
                report.say(NO_LLM)
            if not prepared.warm:
                await endpoints.warm(prepared.asked)

            async def work(row: Row) -> Item:
                return await run_one(prepared.node, row, prepared.read, context)

            report.begin(context.reference, before=context.usage)
            await through(rows, work, report.add, concurrency=self.concurrency, live=self.live)
