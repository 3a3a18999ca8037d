"""Backends of decide: the ways in which an endpoint can come to a decision."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from weakref import WeakKeyDictionary

from moa.context import RunContext
from moa.endpoints import Decision, Example
from moa.errors import EndpointUnsupported
from moa.questions import Question


class Backend(Protocol):
    """One way to decide: a server's own, label log-probabilities, or written labels."""

    @property
    def title(self) -> str:
        """What it is called in traces, such as `label log-probabilities`."""
        ...

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example],
    ) -> Decision:
        """Answer typed questions about `state`, from which control tokens are gone.

        Raises:
            EndpointUnsupported: the server cannot decide in this way.
            EndpointError: the request failed.
            BudgetExceeded: a limit would be passed; nothing was sent.
            DeadlineExceeded: the run's time is up.
            ConfigError: a question is over a limit of this server; nothing was sent.
        """
        ...


class Found:
    """A way to decide that is looked for at the first decision, and kept.

    Decisions that come while it is looked for wait for its end.

    Args:
        title: What it is called until it is found.
        find: Looks for it; run again after an error.
    """

    def __init__(self, title: str, *, find: Callable[[RunContext], Awaitable[Backend]]) -> None:
        self._title = title
        self._find = find
        self._backend: Backend | None = None
        self._search = _Gate()

    @property
    def title(self) -> str:
        """What it decides by, as far as is known."""
        return self._title if self._backend is None else self._backend.title

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example],
    ) -> Decision:
        """Answer typed questions about `state`; see `Backend.decide`."""
        backend = await self._found(context)
        return await backend.decide(state, questions, context, examples=examples)

    async def _found(self, context: RunContext) -> Backend:
        while self._backend is None:
            if self._search.shut:
                await self._search.passed()
                continue
            with self._search:
                self._backend = await self._find(context)
        return self._backend


class Automatic:
    """Decides in the first way where the server can, else in the other, and remembers which.

    The first decision is the trial. Those that come while it runs wait for its end, so a server
    that cannot decide is asked once.

    Args:
        endpoint: Name of the endpoint, for the trace.
        first: The way that is tried.
        other: What decides where the server cannot do the first.
        can_join: Whether questions about a state would go out with a request that `first` is
            gathering, so that they need not wait; `None` is never.
        reason: Why the first is known not to work, in words; empty where it has to be tried.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        first: Backend,
        other: Backend,
        can_join: Callable[[str], bool] | None = None,
        reason: str = "",
    ) -> None:
        self._endpoint = endpoint
        self._first = first
        self._other = other
        self._can_join = can_join
        self._proven = False
        self._reason = reason
        self._trial = _Gate()

    @property
    def title(self) -> str:
        """What it decides by, as far as is known."""
        return self._other.title if self._reason else self._first.title

    async def decide(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        /,
        *,
        examples: Sequence[Example],
    ) -> Decision:
        """Answer typed questions about `state`; see `Backend.decide`."""
        while not self._reason:
            if not self._proven and self._trial.shut and not self._joins(state):
                await self._trial.passed()
                continue
            try:
                decision = await self._try(state, questions, context, examples)
            except EndpointUnsupported as error:
                if self._proven:
                    raise
                self._reason = str(error)
            else:
                self._proven = True
                return decision
        context.note(
            "fell back", f"to {self._other.title}: {self._reason}", endpoint=self._endpoint
        )
        return await self._other.decide(state, questions, context, examples=examples)

    def _joins(self, state: str) -> bool:
        return self._can_join is not None and self._can_join(state)

    async def _try(
        self,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        examples: Sequence[Example],
    ) -> Decision:
        if self._proven or self._trial.shut:
            return await self._first.decide(state, questions, context, examples=examples)
        with self._trial:
            return await self._first.decide(state, questions, context, examples=examples)


class _Gate:
    """Shut while one caller finds something out, so that the others of its loop can wait."""

    def __init__(self) -> None:
        self._inside: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Event] = (
            WeakKeyDictionary()
        )

    @property
    def shut(self) -> bool:
        """Whether a caller of this event loop is inside."""
        return asyncio.get_running_loop() in self._inside

    async def passed(self) -> None:
        """Wait until it is open. All who wait go on in the same tick."""
        inside = self._inside.get(asyncio.get_running_loop())
        if inside is not None:
            await inside.wait()

    def __enter__(self) -> None:
        self._inside[asyncio.get_running_loop()] = asyncio.Event()

    def __exit__(self, *_: object) -> None:
        self._inside.pop(asyncio.get_running_loop()).set()
