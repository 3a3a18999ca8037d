"""Rehearsal: a run that stops at its first model calls, which are written down instead of made.

All that comes before a call is done in earnest: texts are cleaned, passages are found, and encoders
in this process decide. Whoever would ask a model is held there, so that a run asks nobody that is
paid for, and nothing is known of what depends on the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

from moa.context import RunContext
from moa.errors import MoaError

if TYPE_CHECKING:
    from moa.endpoints.sent import SentPrompt

REHEARSAL: ContextVar[Rehearsal | None] = ContextVar("REHEARSAL", default=None)
"""Of the run that goes on; `None`: calls are made."""
_QUIET_S = 0.2
"""Seconds in which nobody else came to a call, and nobody is at work, after which those that are
held are all that the run makes first."""


class Rehearsal:
    """What is written down in one run. It belongs to one event loop."""

    def __init__(self) -> None:
        self.found: list[SentPrompt] = []
        """What would be sent, and what decides without being asked, in the order of the run."""
        self._at_work = 0
        self._held = 0

    @contextmanager
    def at_work(self) -> Generator[None]:
        """Say that a node works meanwhile, and may come to a call or to an answer of its own."""
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    async def hear(self, prompts: Sequence[SentPrompt], node: str, *, hold: bool = False) -> None:
        """Write down what a node would send; it goes on only where that asks no model.

        Args:
            prompts: What it would send, and what decides instead.
            node: Its path.
            hold: Whether it is held whatever it would send.
        """
        self.found += [one if one.node else replace(one, node=node) for one in prompts]
        if hold or any(one.messages for one in prompts):
            self._held += 1
            await asyncio.Event().wait()

    async def still(self, run: asyncio.Task[None]) -> None:
        """Wait until a run has ended, or until all that is left of it is held."""
        before = -1
        while not run.done():
            await asyncio.wait([run], timeout=_QUIET_S)
            if self._held and self._held == before and not self._at_work:
                return
            before = self._held


async def rehearse(
    run: Callable[[RunContext], Coroutine[object, object, object]],
) -> tuple[SentPrompt, ...]:
    """Do what a run does before its first model calls, and give these, each with its node.

    Raises:
        MoaError: the run failed before it came to a call.
    """
    rehearsal, failed = Rehearsal(), list[MoaError]()

    async def begun() -> None:
        try:
            await run(RunContext())
        except MoaError as error:
            failed.append(error)

    token = REHEARSAL.set(rehearsal)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(begun())
            await rehearsal.still(task)
            task.cancel()
    except BaseExceptionGroup as errors:  # what a function of the user's raised
        raise errors.exceptions[0] from None
    finally:
        REHEARSAL.reset(token)
    if failed and not any(one.messages for one in rehearsal.found):
        raise failed[0]
    return tuple(rehearsal.found)
