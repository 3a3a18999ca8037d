"""Replicas: distribute requests over several servers of one model, skipping dead ones."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from moa.core._async import closing_stream
from moa.core.context import RunContext
from moa.core.errors import (
    ConfigError,
    DeadlineExceeded,
    EndpointError,
    EndpointTimeout,
    EndpointUnavailable,
)
from moa.endpoints import (
    Capability,
    Endpoint,
    Pieces,
    Prompt,
    close_all,
)
from moa.endpoints.breaker import Breaker, is_down
from moa.endpoints.neutral import PROBE_S, probe_neutrally
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.wrappers import Wrapping, innermost, shared_capabilities

T = TypeVar("T")

_GONE = (None, 502, 503)
"""Statuses of a server that is gone: none, or that of a gateway before it."""
_PROBE_TIMEOUT_S = 1.0
"""Timeout of a probe, for which a request waits."""

Probe = Callable[[Endpoint, RunContext], Awaitable[object]]
"""Asks a server something free. It raises an `EndpointError` on failure."""


async def list_models(endpoint: Endpoint, context: RunContext) -> None:
    """Ask for `GET /v1/models`. An endpoint of another kind counts as available."""
    endpoint = innermost(endpoint)
    if isinstance(endpoint, OpenAIEndpoint):
        await endpoint.client.get("/models", context)


class Replicas(Wrapping):
    """Several servers of one model behind one name.

    A request goes to the replica with the fewest outstanding requests.

    A replica that can't be reached, or that answers 502 or 503, is taken out, and its request goes
    to another at once. A stream that has yielded a piece fails instead, since a part of its answer
    was given. The next request probes a replica that is out, after a wait that doubles up to half a
    minute, and lets it in when it answers. If all are out, each request probes them.

    Where runs have an owner, such as a key of `moa serve`, no owner's inputs take a replica out for
    others: a failure of one owner counts only if another owner's or a neutral probe fails too,
    which is one token. The same request probes a replica that is out. One that can't be reached at
    all needs no second sign.

    Each replica has its own name, which trace and usage show.

    Args:
        name: Common name.
        replicas: The servers, with distinct names.
        probe: Probes a replica for a request whose run has no owner.
        clock: Returns the seconds.

    Raises:
        ConfigError: there is no replica, two have one name, or they differ in model or tier.
    """

    def __init__(
        self,
        name: str,
        replicas: Sequence[Endpoint],
        *,
        probe: Probe = list_models,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not replicas:
            raise ConfigError(f"{name}: there are no replicas")
        names = [replica.name for replica in replicas]
        if len(set(names)) < len(names):
            listing = ", ".join(names)
            raise ConfigError(f"{name}: each replica needs a name of its own, not {listing}")
        if len({(replica.model, replica.tier) for replica in replicas}) > 1:
            descriptions = ", ".join(
                f"{replica.name}: {replica.model} ({replica.tier})" for replica in replicas
            )
            raise ConfigError(f"{name}: replicas are of one model and one tier, not {descriptions}")
        super().__init__(replicas[0])
        self._name = name
        self._replicas = tuple(
            Replica(endpoint, probe, Breaker(failures=1, clock=clock)) for endpoint in replicas
        )
        self._turn = 0

    @property
    def name(self) -> str:
        """Common name."""
        return self._name

    @property
    def replicas(self) -> tuple[Endpoint, ...]:
        """All of them."""
        return tuple(replica.endpoint for replica in self._replicas)

    @property
    def alive(self) -> tuple[str, ...]:
        """Names of the replicas that get requests."""
        return tuple(replica.name for replica in self._replicas if replica.is_available)

    @property
    def capabilities(self) -> frozenset[Capability]:
        """Capabilities that all of them have."""
        return shared_capabilities(self.replicas)

    async def ask(self, send: Callable[[Endpoint], Awaitable[T]], context: RunContext) -> T:
        """Send a request to a replica, and to another if that one is gone."""
        tried_replicas = _Tried()
        while True:
            async with self._attempt(tried_replicas, context) as endpoint:
                return await send(endpoint)

    async def stream(self, prompt: Prompt, context: RunContext, /) -> Pieces:
        """See `Endpoint.stream`; another replica takes over only before the first piece."""
        tried_replicas, start_event = _Tried(), asyncio.Event()
        while True:
            async with (
                self._attempt(tried_replicas, context, start_event) as endpoint,
                closing_stream(endpoint.stream(prompt, context)) as pieces,
            ):
                async for piece in pieces:
                    start_event.set()
                    yield piece
                return

    async def close(self) -> None:
        """Close all of them, even if one fails; its error is raised at the end."""
        await close_all(self.replicas)

    @asynccontextmanager
    async def _attempt(
        self,
        tried_replicas: _Tried,
        context: RunContext,
        start_event: asyncio.Event | None = None,
    ) -> AsyncGenerator[Endpoint, None]:
        """Choose a replica. If it dies, suppress the error as long as others are left.

        Once `start_event` is set, a part of its answer was given, so that no other can take over.
        """
        replica = await self._next(tried_replicas, context)
        try:
            with replica.count_request():
                yield replica.endpoint
        except EndpointUnavailable as error:
            replica.mark_lost(error, context.owner)
            if start_event is not None and start_event.is_set():
                raise EndpointUnavailable(
                    "the stream broke off, and as a part of its answer was given, no other "
                    f"replica was asked: {error.message}",
                    endpoint=replica.name,
                    status=error.status,
                ) from error
            tried_replicas[replica] = error
            if len(tried_replicas) == len(self._replicas):
                raise self._none_available(tried_replicas) from error
            text = f"to another replica of {self.name}: {error}"
            context.note("fell back", text, endpoint=replica.name, error=error)

    async def _next(self, tried_replicas: _Tried, context: RunContext) -> Replica:
        """Choose the least busy replica, except those that failed this request already.

        Replicas whose wait is over are probed; if none is left, all but those just tried.
        """
        candidates = [replica for replica in self._replicas if replica not in tried_replicas]
        all_out = not any(replica.is_available for replica in candidates)
        if due_replicas := [
            replica for replica in candidates if all_out or replica.is_due(context.owner)
        ]:
            await asyncio.gather(*(replica.probe(context) for replica in due_replicas))
        available = [replica for replica in candidates if replica.is_available]
        if not available:
            raise self._none_available(tried_replicas)
        lowest_load = min(replica.outstanding for replica in available)
        equals = [replica for replica in available if replica.outstanding == lowest_load]
        self._turn += 1  # of equally busy ones not always the first
        return equals[self._turn % len(equals)]

    def _none_available(self, tried_replicas: _Tried) -> EndpointUnavailable:
        reasons = "; ".join(
            replica.breaker.reason for replica in self._replicas if replica.breaker.reason
        )
        message = f"none of its {len(self._replicas)} replicas answers: {reasons}"
        last = next(reversed(tried_replicas.values()), None)
        if last is None:
            return EndpointUnavailable(message, endpoint=self.name)
        # A gateway's status, or a lost connection, may be due to the request: see `Breaker`.
        return EndpointUnavailable(
            message, endpoint=self.name, status=last.status, begun=last.begun
        )


@dataclass(slots=True, eq=False)
class Replica:
    """One server, its load and its health."""

    endpoint: Endpoint
    ask: Probe
    breaker: Breaker
    outstanding: int = 0
    """Requests without an answer yet."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Name of the server."""
        return self.endpoint.name

    @property
    def is_available(self) -> bool:
        """True if it gets requests."""
        return not self.breaker.is_open

    def is_due(self, owner: str) -> bool:
        """Return True if a call should probe it. Only an owner's probes one that is suspected."""
        return self.breaker.is_due and (self.breaker.is_open or bool(owner))

    @contextmanager
    def count_request(self) -> Generator[None, None, None]:
        """Count a request as outstanding; its success resets the breaker."""
        with self._lock:
            self.outstanding += 1
        try:
            yield
            if self.is_available:
                self.breaker.succeed()
        finally:
            with self._lock:
                self.outstanding -= 1

    def mark_lost(self, error: EndpointUnavailable, owner: str) -> None:
        """Count `error` if it means that the server is gone; else raise the error."""
        if error.status not in _GONE:
            raise error
        self.breaker.fail(error, owner=owner)

    async def probe(self, context: RunContext) -> None:
        """Check whether the server is there, in at most half of the run's time."""
        left_s = context.remaining_s()
        half_s = math.inf if left_s is None else left_s / 2
        if context.owner:
            with self.breaker.probe():
                await probe_neutrally(self.endpoint, self.breaker, context, half_s, PROBE_S)
            return
        with self.breaker.probe():
            try:
                await self.ask(self.endpoint, RunContext(timeout_s=min(_PROBE_TIMEOUT_S, half_s)))
            except (EndpointError, DeadlineExceeded) as error:
                if isinstance(error, DeadlineExceeded | EndpointTimeout) or is_down(error):
                    self.breaker.fail(error, probes=True)
                    return
            self.breaker.close()


_Tried = dict[Replica, EndpointUnavailable]
"""Replicas that failed a request, with their errors."""
