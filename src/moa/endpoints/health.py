"""Health: whether one of several servers is there, and when to look again where it isn't."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.wrappers import unwrapped
from moa.errors import (
    DeadlineExceeded,
    EndpointError,
    EndpointRejected,
    EndpointUnavailable,
    MoaError,
)

_GONE = (None, 502, 503)
"""What a server that is gone answers with: nothing, or the status of what stands before it."""
_MOST_DOUBLINGS = 16

Probe = Callable[[Endpoint, RunContext], Awaitable[object]]
"""Asks a server for something that costs nothing. It raises an `EndpointError` where that fails."""


async def list_models(endpoint: Endpoint, context: RunContext) -> None:
    """Ask for `GET /v1/models`. An endpoint of another kind counts as there: it is tried.

    Raises:
        EndpointError: there was no answer.
        DeadlineExceeded: there was none in time.
    """
    endpoint = unwrapped(endpoint)
    if isinstance(endpoint, OpenAIEndpoint):
        await endpoint.client.get("/models", context)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a server that is out stays out."""

    first_wait_s: float
    longest_wait_s: float
    probe_timeout_s: float
    probe: Probe
    clock: Callable[[], float]


@dataclass(slots=True, eq=False)
class Replica:
    """One server, how busy it is, and what is known of its health."""

    endpoint: Endpoint
    patience: Patience
    outstanding: int = 0
    """Requests that it has not answered yet."""
    back_at: float | None = None
    """When it is probed next; `None`: it is in."""
    reason: str = ""
    """Why it went out the last time."""
    _deaths: int = 0
    """Since it last answered."""
    _probing: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Name of the server."""
        return self.endpoint.name

    @property
    def is_in(self) -> bool:
        """Whether requests go to it."""
        return self.back_at is None

    @property
    def is_due(self) -> bool:
        """Whether it is out, has been for long enough, and nobody is probing it."""
        over = self.back_at is not None and self.back_at <= self.patience.clock()
        return over and not self._probing

    @contextmanager
    def counted(self) -> Generator[None, None, None]:
        """Count a request as outstanding; one that ends well lets it forget its deaths."""
        with self._lock:
            self.outstanding += 1
        try:
            yield
            if self.is_in:
                self._deaths = 0
        finally:
            with self._lock:
                self.outstanding -= 1

    def lost(self, error: EndpointUnavailable) -> None:
        """Go out where `error` says that the server is gone; else raise it."""
        if error.status not in _GONE:
            raise error
        if self.is_in:  # else it is one of many requests that failed together
            self._go_out(error)

    async def probe(self, context: RunContext) -> None:
        """Look whether the server is there again, in no more than half of the run's time.

        Raises:
            DeadlineExceeded: the run's time is up.
        """
        left_s = context.remaining_s()
        timeout_s = self.patience.probe_timeout_s
        timeout_s = timeout_s if left_s is None else min(timeout_s, left_s / 2)
        self._probing = True
        try:
            await self.patience.probe(self.endpoint, RunContext(timeout_s=timeout_s))
        except EndpointRejected:
            self.back_at = None  # it said no, so it is there
        except (EndpointError, DeadlineExceeded) as error:
            self._go_out(error)
        else:
            self.back_at = None
        finally:
            self._probing = False

    def _go_out(self, error: MoaError) -> None:
        wait_s = self.patience.first_wait_s * 2.0 ** min(self._deaths, _MOST_DOUBLINGS)
        asked_s = (error.retry_after_s or 0.0) if isinstance(error, EndpointError) else 0.0
        wait_s = min(self.patience.longest_wait_s, max(wait_s, asked_s))
        self._deaths += 1
        self.back_at = self.patience.clock() + wait_s
        self.reason = str(error)
