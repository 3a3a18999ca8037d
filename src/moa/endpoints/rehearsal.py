"""Rehearsal: a run that stops at its first model calls, and records them instead.

Everything before a call really happens: texts are cleaned, passages are found, and encoders in this
process decide. A call to a model is recorded and never returns, so that nothing is paid for, and
nothing is known of later steps.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Never

from moa.core.context import RunContext
from moa.core.errors import MoaError

if TYPE_CHECKING:
    from moa.endpoints.sent import SentPrompt

REHEARSAL: ContextVar[Rehearsal | None] = ContextVar("REHEARSAL", default=None)
"""The rehearsal of the current run; `None`: calls are made."""
_QUIET_S = 0.05
"""Seconds without a new call and without work, after which the recorded calls are complete."""
_LONGEST_S = 10.0
"""Seconds without a new call, after which work counts as waiting for what is held."""


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A node that answers, or an endpoint that is asked; it may come to a call."""

    by: object


WORKS: ContextVar[tuple[Work, ...]] = ContextVar("WORKS", default=())
"""The current work, and before it all that it is a part of."""


class Rehearsal:
    """The recorded calls of one run, in one event loop."""

    def __init__(self, root: str) -> None:
        self.root = root
        """Name of the agent that is rehearsed; empty for a graph."""
        self.at_work: set[Work] = set()
        """What may still come to a call."""
        self._prompts: list[SentPrompt] = []
        self._held = 0

    @property
    def prompts(self) -> tuple[SentPrompt, ...]:
        """Recorded prompts by node, each before the decisions that the node makes without one."""
        nodes = list(dict.fromkeys(prompt.node for prompt in self._prompts))
        return tuple(sorted(self._prompts, key=lambda p: (nodes.index(p.node), not p.messages)))

    def record(self, prompts: Iterable[SentPrompt], node: str) -> None:
        """Record a node's prompts, or what it decides by without one."""
        self._prompts += [replace(prompt, node=node) for prompt in prompts]

    async def hold(self, prompts: Iterable[SentPrompt] = (), node: str = "") -> Never:
        """Record a node's prompts, and stop the current work."""
        self.record(prompts, node)
        self.at_work.difference_update(WORKS.get())
        self._held += 1
        await asyncio.Event().wait()
        raise AssertionError("nobody sets the event")

    async def wait_until_held(self, run: asyncio.Task[None]) -> None:
        """Wait until a run has ended, or all of its remaining parts are stopped."""
        last_held, changed = 0, time.monotonic()
        while not run.done():
            await asyncio.wait([run], timeout=_QUIET_S)
            if self._held != last_held:
                last_held, changed = self._held, time.monotonic()
            elif last_held and (not self.at_work or time.monotonic() - changed > _LONGEST_S):
                return


@contextmanager
def at_work(by: object) -> Generator[None]:
    """In a rehearsal, mark a node or an endpoint as working, until it is held."""
    if (rehearsal := REHEARSAL.get()) is None:
        yield
        return
    work = Work(by)
    rehearsal.at_work.add(work)
    token = WORKS.set((*WORKS.get(), work))
    try:
        yield
    finally:
        WORKS.reset(token)
        rehearsal.at_work.discard(work)


async def rehearse(
    run: Callable[[RunContext], Coroutine[object, object, object]], *, root: str = ""
) -> tuple[SentPrompt, ...]:
    """Rehearse a run, and return its first model calls, each with its node.

    Args:
        run: Runs it in a context.
        root: Name of the agent, if it is one: it then stops before it decides without a prompt.

    Raises:
        MoaError: the run failed before it came to a call.
    """
    rehearsal, failures = Rehearsal(root), list[MoaError]()

    async def run_once() -> None:
        context = RunContext()
        context.tracer = None  # no call is made
        try:
            await run(context)
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
    return rehearsal.prompts
