"""Label by LLM: the large model labels texts, within a budget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moa.cli import screen
from moa.cli.label_file import LabelFile, Unlabelled
from moa.errors import BudgetExceeded, ConfigError, MoaError
from moa.questions import NONE_OF_THESE

if TYPE_CHECKING:
    from moa.agents.classifier import Classifier
    from moa.calibration.active_learning import Pick
    from moa.calibration.features import Progress
    from moa.calibration.file import Calibration
    from moa.context import RunContext
    from moa.tiers import Endpoints

_AT_ONCE = 8
DONE, NOTHING = 0, 1


async def by_llm(
    made: Calibration,
    endpoints: Endpoints,
    rows: Sequence[Unlabelled],
    picks: Sequence[Pick],
    file: LabelFile,
    context: RunContext,
    progress: Progress,
) -> int:
    """Ask the large model for the label of each text, and write it as it comes; the exit code.

    Raises:
        ConfigError: no large model is configured, or the file can't be written.
    """
    from moa.graphs.single_model import labeller

    if not endpoints.has_llm:
        raise ConfigError(
            "--by-llm needs a large model, and none is configured: a small one would only repeat "
            'what it believes already. Add one to moa.toml, with tier = "llm"'
        )
    llm = endpoints.llm
    agent = labeller(llm, calibration=made, calibrated=False)
    work = _Labelling(agent, f"{llm.name}: {llm.model}", made, rows, file, context)
    left = iter(picks)

    async def worker() -> None:
        for pick in left:
            if not await work.label(pick):
                return
            progress(f"labels by {llm.name}", file.added, len(picks))

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(picks))):
                group.create_task(worker())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    console = screen.err()
    for line in work.said():
        console.print(line)
    console.print(f"{file.added} of {len(picks)} labelled into {file.path}")
    return DONE if file.added or not picks else NOTHING


class _Labelling:
    """Asks for labels, and counts what was none."""

    def __init__(
        self,
        agent: Classifier[str],
        by: str,
        made: Calibration,
        rows: Sequence[Unlabelled],
        file: LabelFile,
        context: RunContext,
    ) -> None:
        self._agent, self._by, self._made = agent, by, made
        self._rows, self._file, self._context = rows, file, context
        self._spent: BudgetExceeded | None = None
        self._failed: list[MoaError] = []
        self._unlabelled = 0

    async def label(self, pick: Pick) -> bool:
        """Label one text; whether there is budget for more."""
        row = self._rows[pick.place]
        try:
            answer = (await self._agent.run(row.text, self._context)).output
        except BudgetExceeded as error:
            self._spent = error
            return False
        except MoaError as error:
            self._failed.append(error)
            return True
        label = NONE_OF_THESE if answer.label is None else answer.label
        if answer.status != "answered" or label not in self._made.labels:
            self._unlabelled += 1
        else:
            self._file.label(row, label, by=self._by, chosen=pick.chosen)
        return True

    def said(self) -> list[str]:
        """Say what went wrong, in sentences."""
        lines: list[str] = []
        if self._spent is not None:
            lines.append(f"the budget is spent: {self._spent}")
        if self._failed:
            lines.append(f"{len(self._failed)} failed, the first so: {self._failed[0]}")
        if self._unlabelled:
            lines.append(f"{self._unlabelled} had no answer that is one of the labels")
        return lines
