"""Runs: one request is one run, within a budget and a deadline; it ends when its client goes away.

A route calls `Runs.finish` for a whole answer, or returns `Runs.stream` for one that is told while
it is made. What became of a run is kept for a while, by its id.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from moa._async import cancel, in_time
from moa.batch import Item, run_one
from moa.budget import UNLIMITED, Budget
from moa.config.endpoints import Endpoints
from moa.context import RunContext
from moa.errors import DeadlineExceeded, MoaError, RequestRefused
from moa.questions import accepted_in, answers_in
from moa.rows import taken
from moa.rows.records import usage_of
from moa.serving.http import caller_of
from moa.serving.keys import Caller
from moa.serving.served import Served
from moa.trace import Event, TextDelta

if TYPE_CHECKING:
    from moa.serving.server import Settings

_logger = logging.getLogger(__name__)
_LATE_S = 5.0
"""Seconds beyond its deadline after which a run, or a stream, that doesn't heed it is cut off."""
_SEND_S = 30.0
"""Seconds for which a client may read nothing of a stream."""
_CHUNK = 4096
"""Characters of text that count as one event in what waits for a slow reader."""
_GONE = RequestRefused("the client has gone away", status=499, code="client_gone")
_TOO_SLOW = RequestRefused(
    "the stream was read too slowly, and its run was ended: read it as it comes, or ask without "
    "streaming",
    status=408,
    code="reader_too_slow",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What became of a run."""

    id: str
    served: Served
    caller: str
    """Name of who asked."""
    item: Item[Any]
    """Its output, or its error; what it used, and its notes."""
    at: float = field(default_factory=time.monotonic)

    @property
    def output(self) -> Any:
        """What came out.

        Raises:
            MoaError: why the run failed.
        """
        if self.item.error is not None:
            raise self.item.error
        return self.item.output

    @property
    def usage(self) -> dict[str, object]:
        """What it used, as JSON: calls, tokens and cost, also by tier, node and endpoint."""
        return usage_of(self.item)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of its answer, `x-moa-…`; what isn't known is left out."""
        output = self.item.output
        decided = [note.endpoint for note in self.item.trace if note.kind == "answered"]
        answers = [*answers_in(output).values()]
        confidence = getattr(answers[0], "confidence", None) if len(answers) == 1 else None
        accepted, cost = accepted_in(output), self.item.usage.cost
        said = {
            "trace": self.id,
            "decided-by": decided[-1] if decided else None,
            "confidence": None if confidence is None else f"{confidence:.4f}",
            "accepted": None if accepted is None else str(accepted).lower(),
            "cost": None if cost is None else str(cost),
        }
        return {f"x-moa-{name}": value for name, value in said.items() if value is not None}

    @property
    def record(self) -> dict[str, object]:
        """All that is kept of it, as JSON; its input and output are not."""
        item = self.item
        what: dict[str, object] = {"id": self.id, "model": self.served.name, "status": item.status}
        if item.error is not None:
            what["error"] = type(item.error).__name__
        return what | taken(item)


class Runs:
    """The runs of a server."""

    def __init__(self, settings: Settings, endpoints: Endpoints) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._kept: dict[str, Finished] = {}
        self.listeners: list[Callable[[Finished], None]] = []
        """Called with each run that has ended, however it did."""

    async def finish(
        self, request: Request, served: Served, value: object, *, budget: Budget = UNLIMITED
    ) -> Finished:
        """Run to the end, for a request whose body has been read.

        Args:
            request: Who asks. If its client goes away, the run is cancelled.
            served: What runs.
            value: What it takes; see `Served.parse`.
            budget: Tighter limits than the caller's own, such as those that the request names.

        Raises:
            MoaError: why it failed; `faults.py` knows what to answer, and which headers.
        """
        async with self._begun(caller_of(request), served, value, budget) as run:
            working = asyncio.ensure_future(run.work())
            gone = asyncio.ensure_future(_gone(request.receive))
            try:
                await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    raise _GONE
                finished = working.result()
            finally:
                await cancel([working, gone])
        request.state.finished = finished
        if finished.item.error is not None:
            raise finished.item.error
        return finished

    async def run(
        self,
        caller: Caller,
        served: Served,
        value: object,
        listener: Callable[[Event], None] | None = None,
        *,
        budget: Budget = UNLIMITED,
    ) -> Finished:
        """Run to the end, for a route that looks itself whether its client is there.

        Where the wait is cancelled, so is the run.

        Args:
            caller: Who asks.
            served: What runs.
            value: What it takes; see `Served.parse`.
            listener: Called with each event while it goes on.
            budget: See `finish`.
        """
        async with self._begun(caller, served, value, budget) as run:
            return await run.work(listener)

    def stream(
        self,
        request: Request,
        served: Served,
        value: object,
        write: Callable[[Event | Finished], Iterable[ServerSentEvent]],
        *,
        budget: Budget = UNLIMITED,
    ) -> Stream:
        """Make the response that tells of a run while it goes on, for a body that has been read.

        What is wrong before it begins, such as a spent budget, is answered as ever. Then the
        status is 200: a run that fails is the last thing told.

        Args:
            request, served, value, budget: See `finish`.
            write: Says what is sent of an event, and at last of what became of the run: its
                output, or its error, for which `fault_of(finished.item.error).body` is sent.
        """
        return Stream(self, request, served, value, write, budget)

    def trace(self, id: str, caller: Caller) -> Finished:
        """Give a run by its id.

        Raises:
            RequestRefused: it isn't kept, any longer, or is another's (404).
        """
        self._forget()
        found = self._kept.get(id)
        if found is None or found.caller != caller.name:
            raise RequestRefused(
                f"there is no run {id!r}: of the last {self._settings.kept} each is kept for "
                f"{self._settings.kept_s:g} seconds",
                status=404,
                code="trace_not_found",
            )
        return found

    def _keep(self, finished: Finished) -> None:
        self._kept[finished.id] = finished
        self._forget()
        for listener in self.listeners:
            listener(finished)

    def _forget(self) -> None:
        oldest = time.monotonic() - self._settings.kept_s
        while self._kept:
            first = next(iter(self._kept))
            if len(self._kept) <= self._settings.kept and self._kept[first].at >= oldest:
                return
            del self._kept[first]

    @asynccontextmanager
    async def _begun(
        self, caller: Caller, served: Served, value: object, budget: Budget
    ) -> AsyncGenerator[_Run]:
        timeout_s = self._settings.timeout_s
        reference = self._endpoints.reference
        admitted = caller.admit(served.name, timeout_s=timeout_s, reference=reference)
        async with admitted as outer:
            yield _Run(served, value, caller, outer.nested(budget=budget), timeout_s, self._keep)


@dataclass(frozen=True, slots=True)
class _Run:
    served: Served
    value: object
    caller: Caller
    context: RunContext
    timeout_s: float
    keep: Callable[[Finished], None]
    id: str = field(default_factory=lambda: secrets.token_hex(16))

    async def work(self, listener: Callable[[Event], None] | None = None) -> Finished:
        """Run, and keep what became of it, also where it is cancelled."""
        self.context.listener = listener
        start = time.perf_counter()
        item: Item[Any] | None = None
        why: MoaError = _GONE
        try:
            late = "the run did not end in time, and was cut off"
            async with in_time(self.timeout_s + _LATE_S, late):
                item = await run_one(self.served.node, self.value, 1, _as_it_is, self.context)
        except DeadlineExceeded as error:
            why = error
        finally:
            finished = self._finished(item or self._failed(why, start))
            self.keep(finished)
        return finished

    def _finished(self, item: Item[Any]) -> Finished:
        return Finished(id=self.id, served=self.served, caller=self.caller.name, item=item)

    def _failed(self, error: MoaError, start: float) -> Item[Any]:
        return Item(
            number=1,
            id=1,
            input=self.value,
            status="failed",
            error=error,
            seconds=time.perf_counter() - start,
            usage=self.context.usage,
            trace=self.context.trace,
        )


class Stream:
    """A response that tells of a run while it goes on; see `Runs.stream`."""

    def __init__(
        self,
        runs: Runs,
        request: Request,
        served: Served,
        value: object,
        write: Callable[[Event | Finished], Iterable[ServerSentEvent]],
        budget: Budget,
    ) -> None:
        self._begun = lambda: runs._begun(caller_of(request), served, value, budget)
        self._settings = runs._settings
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with self._begun() as run:
            waiting = _Waiting(self._settings.waiting)
            working = asyncio.ensure_future(run.work(waiting.add))
            working.add_done_callback(lambda _: waiting.end())
            waiting.working = working
            response = EventSourceResponse(
                self._messages(run, waiting),
                headers=self._headers(run),
                send_timeout=_SEND_S,
                shutdown_grace_period=self._settings.drain_s,
            )
            try:
                async with asyncio.timeout(self._settings.timeout_s + 2 * _LATE_S):
                    await response(scope, receive, send)
            except (TimeoutError, SendTimeoutError):
                _logger.warning("a stream was cut off: its client did not read it in time")
            finally:
                await cancel([working])

    def _headers(self, run: _Run) -> Mapping[str, str]:
        return {"x-moa-trace": run.id}

    async def _messages(self, run: _Run, waiting: _Waiting) -> AsyncGenerator[ServerSentEvent]:
        while (event := await waiting.next()) is not None:
            for message in self._write(event):
                yield message
        if waiting.is_over:
            finished = run._finished(run._failed(_TOO_SLOW, time.perf_counter()))
        else:
            finished = await waiting.working
        for message in self._write(finished):
            yield message


class _Waiting:
    """Events that wait for a reader; of text the pieces of one node become one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._events: deque[Event] = deque()
        self._weight = 0
        self._there = asyncio.Event()
        self._ended = False
        self.is_over = False
        """Whether more were to wait than may."""
        self.working: asyncio.Future[Finished]

    def add(self, event: Event) -> None:
        """Add one; where too much waits, the run is cancelled."""
        if self.is_over:
            return
        last = self._events[-1] if self._events else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta) and last.node == event.node:
            self._weight -= _weight(last)
            event = replace(last, text=last.text + event.text)
            self._events[-1] = event
        else:
            self._events.append(event)
        self._weight += _weight(event)
        self._there.set()
        if self._weight > self._most:
            self.is_over = True
            self._events.clear()
            self.working.cancel()

    def end(self) -> None:
        """Say that no more come."""
        self._ended = True
        self._there.set()

    async def next(self) -> Event | None:
        """Give the next one, once it is there; `None`: no more come."""
        while not self._events:
            if self._ended or self.is_over:
                return None
            self._there.clear()
            await self._there.wait()
        event = self._events.popleft()
        self._weight -= _weight(event)
        return event


def _weight(event: Event) -> int:
    return 1 + (len(event.text) // _CHUNK if isinstance(event, TextDelta) else 0)


def _as_it_is(value: object) -> object:
    return value


async def _gone(receive: Receive) -> None:
    """Wait until the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
