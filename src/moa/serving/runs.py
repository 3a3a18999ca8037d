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
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from moa._async import cancel, time_limit
from moa.batch import Item, run_one
from moa.config.endpoints import Endpoints
from moa.context import Reference, RunContext
from moa.errors import DeadlineExceeded, MoaError, RequestRefused
from moa.questions import answers_in, is_accepted, questions_in
from moa.rows import resources_of
from moa.rows.records import usage_of
from moa.serving.http import caller_of
from moa.serving.keys import Caller
from moa.serving.served import ServedNode
from moa.telemetry import tracer_of
from moa.trace import Event, TextDelta

if TYPE_CHECKING:
    from moa.serving.server import Settings

_logger = logging.getLogger(__name__)
_LATE_S = 5.0
"""Seconds beyond its deadline after which a run, or a stream, that doesn't heed it is cut off."""
_SEND_S = 30.0
"""Seconds for which a client may read nothing of a stream."""
_LAST_S = 1.0
"""Seconds for the last words of a stream whose run is ended with the server."""
_NOTES = 100
"""Notes of traces that are kept, for each run that is: a run of many nodes has thousands."""
_CHUNK = 4096
"""Characters from which on pieces of a text, of which a reader is late, are no longer joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """The result of a run."""

    id: str
    served: ServedNode
    caller: str
    """Name of who asked."""
    item: Item[object]
    """Its output, or its error; what it used, and its notes."""
    headers: Mapping[str, str]
    """Those of its answer, `x-moa-…`; what isn't known is left out."""
    failure: str | None = None
    """Kind of its error."""
    at: float = field(default_factory=time.monotonic)

    @property
    def output(self) -> object:
        """The output of the run.

        Raises:
            MoaError: why the run failed.
        """
        if self.item.error is not None:
            raise self.item.error
        return self.item.output

    @property
    def usage(self) -> dict[str, object]:
        """Its usage as JSON: calls, tokens and cost, also by tier, node and endpoint."""
        return usage_of(self.item)

    @property
    def record(self) -> dict[str, object]:
        """Its stored record as JSON, without input and output."""
        item = self.item
        record: dict[str, object] = {
            "id": self.id,
            "model": self.served.name,
            "status": item.status,
        }
        if self.failure is not None:
            record["error"] = self.failure
        return record | resources_of(item)

    def without_content(self) -> FinishedRun:
        """Return it without its input, output and error, which may be large."""
        result = self.item.result
        bare_result = result and replace(result, output=None, trace=(), messages=())
        return replace(self, item=replace(self.item, input=None, result=bare_result, error=None))


def headers_of(id: str, item: Item[object]) -> dict[str, str]:
    """Write headers: who decided, the confidence, whether it is accepted, and the cost."""
    deciders = [note.endpoint for note in item.trace if note.kind in ("answered", "cached")]
    accepted, cost = is_accepted(item.output), item.usage.cost
    values = {
        "trace": id,
        "decided-by": next(filter(None, reversed(deciders)), None),
        "confidence": _confidence_in(item.output),
        "accepted": None if accepted is None else str(accepted).lower(),
        "cost": None if cost is None else f"{cost:f}",
    }
    return {f"x-moa-{name}": _in_a_header(value) for name, value in values.items() if value}


def _confidence_in(output: object) -> str | None:
    """Return the lowest confidence of an output that is an answer, or consists of answers."""
    answers = answers_in(output)
    if not answers or ("" not in answers and not questions_in(output)):
        return None
    confidences = [
        answer.confidence for answer in answers.values() if answer.confidence is not None
    ]
    return f"{min(confidences):.4f}" if confidences else None


def _in_a_header(value: str) -> str:
    """Leave out what no header takes; names of endpoints are users' own."""
    return value.encode("ascii", "replace").decode() if value.isprintable() else "?"


class Runs:
    """The runs of a server."""

    def __init__(self, settings: Settings, endpoints: Endpoints) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._kept: dict[str, FinishedRun] = {}
        self._notes = 0
        """Notes of the runs that are kept."""
        self._active: dict[str, _Run] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.listeners: list[Callable[[FinishedRun], None]] = []
        """Called with each run that has ended, however it did."""

    async def finish(self, request: Request, served: ServedNode, value: object) -> FinishedRun:
        """Run to the end, for a request whose body has been read.

        Args:
            request: The HTTP request. If its client goes away, the run is cancelled.
            served: What runs.
            value: What it takes; see `ServedNode.parse`.

        Raises:
            MoaError: why it failed; `faults.py` knows what to answer, and which headers.
        """
        caller, headers = caller_of(request), request.headers
        async with self.admit(caller, served, value, headers) as run:
            working = run.begin()
            disconnect = asyncio.ensure_future(_wait_for_disconnect(request.receive))
            try:
                await asyncio.wait((working, disconnect), return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    raise _client_gone_error()
                finished = working.result()
            finally:
                await cancel([working, disconnect])
        request.state.finished = finished
        if finished.item.error is not None:
            raise finished.item.error
        return finished

    async def run(
        self,
        caller: Caller,
        served: ServedNode,
        value: object,
        listener: Callable[[Event], None] | None = None,
    ) -> FinishedRun:
        """Run to the end, for a route that looks itself whether its client is there.

        If the wait is cancelled, so is the run.

        Args:
            caller: The caller.
            served: What runs.
            value: What it takes; see `ServedNode.parse`.
            listener: Called with each event while it goes on.
        """
        async with self.admit(caller, served, value) as run:
            return await run.begin(listener)

    def stream(
        self,
        request: Request,
        served: ServedNode,
        value: object,
        write: Callable[[Event | FinishedRun], Iterable[ServerSentEvent]],
    ) -> Stream:
        """Make the response that tells of a run while it goes on, for a body that has been read.

        What is wrong before it begins, such as a spent budget, is answered as ever. Then the
        status is 200: a run that fails is the last thing told.

        Args:
            request, served, value: See `finish`.
            write: Says what is sent of an event, and at last of what became of the run: its
                output, or its error, for which `fault_of(finished.item.error).body` is sent.
        """
        admit = partial(self.admit, caller_of(request), served, value, request.headers)
        return Stream(admit, write, self._settings)

    @cached_property
    def _reference(self) -> Reference | None:
        return self._endpoints.reference

    @property
    def active(self) -> int:
        """Number of runs in progress."""
        return len(self._active)

    def stop_all(self) -> None:
        """Stop all active runs; their clients are told that the server ends."""
        for run in [*self._active.values()]:
            run.stop(_server_ends_error())

    async def wait_until_idle(self) -> None:
        """Wait a moment until the active runs have ended; they are cancelled by then."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LATE_S):
                await self._idle.wait()

    def trace(self, id: str, caller: Caller) -> FinishedRun:
        """Return a run by its id.

        Raises:
            RequestRefused: it isn't kept, any longer, or is another's (404).
        """
        self._forget()
        finished = self._kept.get(id)
        if finished is None or finished.caller != caller.name:
            raise RequestRefused(
                f"there is no run {id!r:.40}: of the last {self._settings.kept} each is kept for "
                f"{self._settings.kept_s:g} seconds",
                status=404,
                code="trace_not_found",
            )
        return finished

    def _keep(self, finished: FinishedRun) -> None:
        for listener in self.listeners:
            listener(finished)
        self._kept[finished.id] = finished.without_content()
        self._notes += len(finished.item.trace)
        self._forget()

    def _forget(self) -> None:
        limit, oldest = self._settings.kept, time.monotonic() - self._settings.kept_s
        while self._kept:
            first = next(iter(self._kept.values()))
            fits = len(self._kept) <= limit and self._notes <= limit * _NOTES
            if fits and first.at >= oldest:
                return
            del self._kept[first.id]
            self._notes -= len(first.item.trace)

    @asynccontextmanager
    async def admit(
        self,
        caller: Caller,
        served: ServedNode,
        value: object,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[_Run]:
        """Admit a run; it is over when this ends. Its trace goes on from the caller's `headers`."""
        timeout_s = self._settings.timeout_s
        admission = caller.admit(served.name, timeout_s=timeout_s, reference=self._reference)
        async with admission as outer:
            context = outer.nested()
            context.tracer = tracer_of(headers or {}) or context.tracer
            run = _Run(served, value, caller, context, timeout_s, self._keep)
            self._active[run.id] = run
            self._idle.clear()
            try:
                yield run
            finally:
                del self._active[run.id]
                if not self._active:
                    self._idle.set()


@dataclass(slots=True)
class _Run:
    served: ServedNode
    value: object
    caller: Caller
    context: RunContext
    timeout_s: float
    keep: Callable[[FinishedRun], None]
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    _working: asyncio.Future[FinishedRun] | None = field(default=None, init=False)
    _why: RequestRefused | None = field(default=None, init=False)
    """Why it is ended early."""

    def begin(self, listener: Callable[[Event], None] | None = None) -> asyncio.Future[FinishedRun]:
        """Begin to run; what became of it is kept, also if it is cancelled."""
        self.context.listener = listener
        self._working = asyncio.ensure_future(self._work())
        return self._working

    def stop(self, reason: RequestRefused) -> None:
        """End it early: it has failed, for this reason."""
        if self._working is not None and self._why is None:
            self._why = reason
            self._working.cancel()

    async def _work(self) -> FinishedRun:
        start = time.perf_counter()
        item: Item[object] | None = None
        reason: MoaError = _client_gone_error()
        try:
            message = "the run did not end in time, and was cut off"
            async with time_limit(self.timeout_s + _LATE_S, message):
                node = self.served.node_of(self.caller)
                item = await run_one(node, self.value, 1, _identity, self.context)
        except DeadlineExceeded as error:
            reason = error
        except asyncio.CancelledError:
            if self._why is None:
                raise
            reason = self._why
        finally:  # also on cancellation: a cancelled run has been paid for, and has a trace
            finished = self._result(item or self._failure(reason, start))
            self.keep(finished)
        return finished

    def _result(self, item: Item[object]) -> FinishedRun:
        """Return its result."""
        return FinishedRun(
            id=self.id,
            served=self.served,
            caller=self.caller.name,
            item=item,
            headers=headers_of(self.id, item),
            failure=None if item.error is None else type(item.error).__name__,
        )

    def _failure(self, error: MoaError, start: float) -> Item[object]:
        """Return an item without output, with the reason."""
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
        admit: Callable[[], AbstractAsyncContextManager[_Run]],
        write: Callable[[Event | FinishedRun], Iterable[ServerSentEvent]],
        settings: Settings,
    ) -> None:
        self._admit = admit
        self._write = write
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        async with self._admit() as run:
            queue = _EventQueue(self._settings.waiting, lambda: run.stop(_slow_reader_error()))
            working = run.begin(queue.add)
            working.add_done_callback(lambda _: queue.end())
            response = EventSourceResponse(
                self._messages(queue, working),
                headers={"x-moa-trace": run.id},
                send_timeout=_SEND_S,
                shutdown_grace_period=self._settings.drain_s + _LAST_S,
            )
            try:
                async with asyncio.timeout(self._settings.timeout_s + 2 * _LATE_S):
                    await response(scope, receive, send)
            except (TimeoutError, SendTimeoutError):
                _logger.warning("a stream was cut off: its client did not read it in time")
            finally:
                await cancel([working])

    async def _messages(
        self, queue: _EventQueue, working: asyncio.Future[FinishedRun]
    ) -> AsyncGenerator[ServerSentEvent]:
        while (event := await queue.next()) is not None:
            for message in self._write(event):
                yield message
        for message in self._write(await working):
            yield message


class _EventQueue:
    """Events that wait for a reader; of text the pieces of one node become one.

    Args:
        most: How many may.
        stop: Ends the run, where more would.
    """

    def __init__(self, most: int, stop: Callable[[], None]) -> None:
        self._most = most
        self._stop = stop
        self._events: deque[Event] = deque()
        self._there = asyncio.Event()
        self._ended = False

    def add(self, event: Event) -> None:
        """Add one; where too much waits, the run is stopped."""
        if self._ended:
            return
        last = self._events[-1] if self._events else None
        if (
            isinstance(event, TextDelta)
            and isinstance(last, TextDelta)
            and last.node == event.node
            and len(last.text) < _CHUNK
        ):
            self._events[-1] = replace(last, text=last.text + event.text)
        else:
            self._events.append(event)
        self._there.set()
        if len(self._events) > self._most:
            self._events.clear()
            self.end()
            self._stop()

    def end(self) -> None:
        """Mark the end: no more events come."""
        self._ended = True
        self._there.set()

    async def next(self) -> Event | None:
        """Wait for the next event; `None`: no more come."""
        while not self._events:
            if self._ended:
                return None
            self._there.clear()
            await self._there.wait()
        return self._events.popleft()


def _client_gone_error() -> RequestRefused:
    return RequestRefused("the client has gone away", status=499, code="client_gone")


def _server_ends_error() -> RequestRefused:
    return RequestRefused(
        "the server was told to end, and the run had not ended by then: ask again",
        status=503,
        code="server_ends",
    )


def _slow_reader_error() -> RequestRefused:
    return RequestRefused(
        "the stream was read too slowly, and its run was ended: read it as it comes, or ask "
        "without streaming",
        status=408,
        code="reader_too_slow",
    )


def _identity(value: object) -> object:
    return value


async def _wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
