"""Rehearsal: a run that stops at its first model calls, and records them instead.

Everything before a call really happens: texts are cleaned, passages are found, and encoders in this
process decide. A call to a model is recorded and never returns, so that nothing is paid for, and
nothing is known of later steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

from moa.core.context import RunContext
from moa.core.errors import MoaError

if TYPE_CHECKING:
    from moa.endpoints.sent import SentPrompt

REHEARSAL: ContextVar[Rehearsal | None] = ContextVar("REHEARSAL", default=None)
"""The rehearsal of the current run; `None`: calls are made."""
_QUIET_S = 0.2
"""Seconds without a new call and without work, after which the recorded calls are complete."""


class Rehearsal:
    """The recorded calls of one run, in one event loop."""

    def __init__(self) -> None:
        self.prompts: list[SentPrompt] = []
        """Recorded prompts, and decisions made without a model, in the order of the run."""
        self._at_work = 0
        self._held = 0

    @contextmanager
    def count_work(self) -> Generator[None]:
        """Mark a node as working, since it may come to a call or to an answer of its own."""
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    async def record(self, prompts: Sequence[SentPrompt], node: str, *, hold: bool = False) -> None:
        """Record a node's prompts; it continues only if they ask no model.

        Args:
            prompts: Its prompts, and decisions made without a model.
            node: Its path.
            hold: True to stop it in any case.
        """
        self.prompts += [
            prompt if prompt.node else replace(prompt, node=node) for prompt in prompts
        ]
        if hold or any(prompt.messages for prompt in prompts):
            self._held += 1
            await asyncio.Event().wait()

    async def wait_until_held(self, run: asyncio.Task[None]) -> None:
        """Wait until a run has ended, or all of its remaining parts are stopped."""
        last_held = -1
        while not run.done():
            await asyncio.wait([run], timeout=_QUIET_S)
            if self._held and self._held == last_held and not self._at_work:
                return
            last_held = self._held


async def rehearse(
    run: Callable[[RunContext], Coroutine[object, object, object]],
) -> tuple[SentPrompt, ...]:
    """Rehearse a run, and return its first model calls, each with its node.

    Raises:
        MoaError: the run failed before it came to a call.
    """
    rehearsal, failures = Rehearsal(), list[MoaError]()

    async def run_once() -> None:
        try:
            await run(RunContext())
        except MoaError as error:
            failures.append(error)

    token = REHEARSAL.set(rehearsal)
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run_once())
            await rehearsal.wait_until_held(task)
            task.cancel()
    except BaseExceptionGroup as errors:  # what a function of the user's raised
        raise errors.exceptions[0] from None
    finally:
        REHEARSAL.reset(token)
    if failures and not any(prompt.messages for prompt in rehearsal.prompts):
        raise failures[0]
    return tuple(rehearsal.prompts)
