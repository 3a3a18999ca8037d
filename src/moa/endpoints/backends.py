"""Backends of decide: the ways in which an endpoint can come to a decision."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

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


class NativeBackend(Backend, Protocol):
    """A server's own way to decide, which may turn out not to be there."""

    def can_join(self, state: str) -> bool:
        """Whether questions about `state` would go out with a request that is being gathered."""
        ...


class Automatic:
    """Decides natively where the server can, else by the other backend, and remembers which.

    The first decision is the trial. Those that come while it runs wait for its end, so a server
    that cannot decide is asked once.

    Args:
        endpoint: Name of the endpoint, for the trace.
        find: Looks for the server's own backend; run once. `EndpointUnsupported` is none.
        other: What decides where the server cannot.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        find: Callable[[RunContext], Awaitable[NativeBackend]],
        other: Backend,
    ) -> None:
        self._endpoint = endpoint
        self._find = find
        self._other = other
        self._native: NativeBackend | None = None
        self._proven = False
        self._reason = ""
        self._search = _Gate()
        self._trial = _Gate()

    @property
    def title(self) -> str:
        """What it decides by, as far as is known."""
        return self._other.title if self._reason or self._native is None else self._native.title

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
        native = await self._found(context)
        while native is not None and not self._reason:
            if not self._proven and self._trial.shut and not native.can_join(state):
                await self._trial.passed()
                continue
            try:
                decision = await self._natively(native, state, questions, context, examples)
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

    async def _found(self, context: RunContext) -> NativeBackend | None:
        while self._native is None and not self._reason:
            if self._search.shut:
                await self._search.passed()
                continue
            with self._search:
                try:
                    self._native = await self._find(context)
                except EndpointUnsupported as error:
                    self._reason = str(error)
        return self._native

    async def _natively(
        self,
        native: NativeBackend,
        state: str,
        questions: Sequence[Question],
        context: RunContext,
        examples: Sequence[Example],
    ) -> Decision:
        if self._proven or self._trial.shut:
            return await native.decide(state, questions, context, examples=examples)
        with self._trial:
            return await native.decide(state, questions, context, examples=examples)


class _Gate:
    """Shut while one caller finds something out, so that the others of its loop can wait."""

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def shut(self) -> bool:
        """Whether a caller of this event loop is inside."""
        return self._event is not None and self._loop is asyncio.get_running_loop()

    async def passed(self) -> None:
        """Wait until it is open. All who wait go on in the same tick."""
        if self._event is not None:
            await self._event.wait()

    def __enter__(self) -> None:
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def __exit__(self, *_: object) -> None:
        assert self._event is not None
        self._event.set()
        self._event = None
