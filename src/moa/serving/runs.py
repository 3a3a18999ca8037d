"""Runs: each request is a run with a budget and a deadline, cancelled if its client disconnects.

A route calls `Runs.finish` for a whole answer, or returns `Runs.stream` for a streamed one. The
record of a run is kept for a while, by its id.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from moa.config.endpoints import Endpoints
from moa.core._async import cancel, time_limit
from moa.core._files import encode_json
from moa.core.batch import Item, run_one
from moa.core.context import Reference, RunContext
from moa.core.errors import DeadlineExceeded, MoaError, RequestRefused
from moa.core.questions import answers_in, is_accepted, questions_in
from moa.core.telemetry import tracer_of
from moa.core.trace import Event, TextDelta
from moa.rows import resources_of
from moa.rows.records import usage_of
from moa.serving.events import PING, PING_S, send_events
from moa.serving.http import caller_of
from moa.serving.keys import Caller
from moa.serving.served import ServedNode

if TYPE_CHECKING:
    from moa.serving.server import Settings

_logger = logging.getLogger(__name__)
_LATE_S = 5.0
"""Seconds after its deadline at which an unfinished run is cut off; twice as long for a stream."""
_RECORD = 16 << 10
"""Maximum bytes kept per kept run, on average. A run of many nodes has thousands of notes."""
_LONGEST_NAME = 500
"""Characters of a node's name that are kept. Notes keep no text: some quote models and servers."""
_CHUNK = 4096
"""Waiting pieces of a text are joined until they have this many characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """The result of a run."""

    id: str
    served: ServedNode
    caller: str
    """Name of the caller."""
    item: Item[object]
    """Output or error, usage and notes."""
    headers: Mapping[str, str]
    """Response headers `x-moa-…`. Unknown values are left out."""
    failure: str | None = None
    """Class name of its error."""
    at: float = field(default_factory=time.monotonic)

    @property
    def output(self) -> object:
        """The output of the run.

        Raises:
            MoaError: the run failed.
        """
        if self.item.error is not None:
            raise self.item.error
        return self.item.output

    @property
    def usage(self) -> dict[str, object]:
        """Its usage as JSON: calls, tokens and cost, also by tier, node and endpoint."""
        return usage_of(self.item)


@dataclass(frozen=True, slots=True)
class KeptRun:
    """What is kept of a run that has ended: nothing that the client or a model wrote."""

    id: str
    caller: str
    """Name of the caller."""
    headers: Mapping[str, str]
    """Response headers `x-moa-…`."""
    failure: str | None
    """Class name of its error."""
    at: float
    """Its end, by `time.monotonic`."""
    record: bytes
    """JSON of its model, status, usage and notes, these without their text."""

    @classmethod
    def of(cls, finished: FinishedRun) -> KeptRun:
        """Make the record of a finished run."""
        notes = [
            replace(note, node=note.node[:_LONGEST_NAME], text="") for note in finished.item.trace
        ]
        record: dict[str, object] = {
            "id": finished.id,
            "model": finished.served.name,
            "status": finished.item.status,
            **({} if finished.failure is None else {"error": finished.failure}),
            **resources_of(replace(finished.item, trace=tuple(notes))),
        }
        return cls(
            id=finished.id,
            caller=finished.caller,
            headers=finished.headers,
            failure=finished.failure,
            at=finished.at,
            record=encode_json(record),
        )


def headers_of(id: str, item: Item[object]) -> dict[str, str]:
    """Return the headers: trace id, deciding endpoint, confidence, acceptance and cost."""
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
    """Replace characters that a header can't hold. Users choose the names of endpoints."""
    return value.encode("ascii", "replace").decode() if value.isprintable() else "?"


class Runs:
    """The runs of a server."""

    def __init__(self, settings: Settings, endpoints: Endpoints) -> None:
        self._settings = settings
        self._endpoints = endpoints
        self._kept: dict[str, KeptRun] = {}
        self._bytes = 0
        """Bytes of the records of the kept runs."""
        self._active: dict[str, _Run] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.listeners: list[Callable[[FinishedRun], None]] = []
        """Callbacks for each run that has ended, including failed and cancelled ones."""

    async def finish(
        self,
        request: Request,
        served: ServedNode,
        value: object,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> FinishedRun:
        """Run to the end, for a request whose body has been read.

        Args:
            request: The HTTP request. If its client goes away, the run is cancelled.
            served: Node to run.
            value: Its input; see `ServedNode.parse`.
            prepare: Called once the caller is admitted, before the run begins.

        Raises:
            MoaError: the run failed; `faults.py` maps the error to a response and headers.
        """
        caller, headers = caller_of(request), request.headers
        async with self.admit(caller, served, value, headers) as run:
            if prepare is not None:
                await prepare()
            working = run.begin()
            disconnect = asyncio.ensure_future(_wait_for_disconnect(request.receive))
            try:
                await asyncio.wait((working, disconnect), return_when=asyncio.FIRST_COMPLETED)
                if not working.done():
                    raise _client_gone_error()
                finished = working.result()
            finally:
                await cancel([working, disconnect])
        request.state.headers = finished.headers  # not its output, which may be large
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
        """Run to the end, for a route that checks itself whether its client is connected.

        Cancelling the wait cancels the run.

        Args:
            caller: The caller.
            served: Node to run.
            value: Its input; see `ServedNode.parse`.
            listener: Called with each event of the run.
        """
        async with self.admit(caller, served, value) as run:
            return await run.begin(listener)

    def stream(
        self,
        request: Request,
        served: ServedNode,
        value: object,
        write: Callable[[Event | FinishedRun], Iterable[bytes]],
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> Stream:
        """Return a response that streams a run, for a request whose body has been read.

        Errors before the run begins, such as a spent budget, are answered as usual. After that
        the status is 200, and a failure is the last event.

        Args:
            request, served, value, prepare: See `finish`.
            write: Returns the messages to send for an event, and at the end for the finished run:
                its output, or `fault_of(finished.item.error).body` for an error. At the end, each
                is asked for in a thread, when the last one has left.
        """
        admit = partial(self.admit, caller_of(request), served, value, request.headers)
        return Stream(admit, write, self._settings, prepare)

    @cached_property
    def _reference(self) -> Reference | None:
        return self._endpoints.reference

    @property
    def active(self) -> int:
        """Number of runs in progress."""
        return len(self._active)

    def active_of(self, caller: Caller) -> int:
        """Return the number of a caller's active runs."""
        return sum(run.caller.name == caller.name for run in self._active.values())

    def stop_all(self) -> None:
        """Stop all active runs, and tell their clients that the server is shutting down."""
        for run in [*self._active.values()]:
            run.stop(_server_ends_error())

    async def wait_until_idle(self) -> None:
        """Wait briefly for the active runs to end. They have been cancelled before."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LATE_S):
                await self._idle.wait()

    def trace(self, id: str, caller: Caller) -> KeptRun:
        """Return what is kept of a run, by its id.

        Raises:
            RequestRefused: the run isn't kept (any more), or is another caller's (404).
        """
        self._forget()
        kept = self._kept.get(id)
        if kept is None or kept.caller != caller.name:
            raise RequestRefused(
                f"there is no run {id!r:.40}: of the last {self._settings.kept} each is kept for "
                f"{self._settings.kept_s:g} seconds",
                status=404,
                code="trace_not_found",
            )
        return kept

    def _keep(self, finished: FinishedRun) -> None:
        for listener in self.listeners:
            listener(finished)
        kept = self._kept[finished.id] = KeptRun.of(finished)
        self._bytes += len(kept.record)
        self._forget()

    def _forget(self) -> None:
        limit, oldest = self._settings.kept, time.monotonic() - self._settings.kept_s
        while self._kept:
            first = next(iter(self._kept.values()))
            fits = len(self._kept) <= limit and self._bytes <= limit * _RECORD
            if fits and first.at >= oldest:
                return
            del self._kept[first.id]
            self._bytes -= len(first.record)

    @asynccontextmanager
    async def admit(
        self,
        caller: Caller,
        served: ServedNode,
        value: object,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[_Run]:
        """Admit a run for the time of the block. Its trace continues that of the `headers`."""
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
    """Reason for stopping it early."""

    def begin(self, listener: Callable[[Event], None] | None = None) -> asyncio.Future[FinishedRun]:
        """Start the run. Its result is kept, even if it is cancelled."""
        self.context.listener = listener
        self._working = asyncio.ensure_future(self._work())
        return self._working

    async def end(self) -> FinishedRun:
        """Wait for the run, and leave its result to the caller alone: it may be large."""
        assert self._working is not None, "it has begun"
        finished = await self._working
        self._working = None
        return finished

    async def cancel(self) -> None:
        """Cancel the run if it hasn't ended, and wait until it has."""
        if self._working is not None:
            await cancel([self._working])

    def stop(self, reason: RequestRefused) -> None:
        """Stop the run early, so that it fails for this reason."""
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
            self.context.listener = None  # it may lead here, and would keep all texts until then
        return finished

    def _result(self, item: Item[object]) -> FinishedRun:
        """Return the finished run of an item."""
        return FinishedRun(
            id=self.id,
            served=self.served,
            caller=self.caller.name,
            item=item,
            headers=headers_of(self.id, item),
            failure=None if item.error is None else type(item.error).__name__,
        )

    def _failure(self, error: MoaError, start: float) -> Item[object]:
        """Return a failed item with its error."""
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
    """A response that streams a run; see `Runs.stream`."""

    def __init__(
        self,
        admit: Callable[[], AbstractAsyncContextManager[_Run]],
        write: Callable[[Event | FinishedRun], Iterable[bytes]],
        settings: Settings,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._admit = admit
        self._prepare = prepare
        self._write = write
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        async with self._admit() as run:
            if self._prepare is not None:
                await self._prepare()
            queue = _EventQueue(self._settings.waiting, lambda: run.stop(_slow_reader_error()))
            run.begin(queue.add).add_done_callback(lambda _: queue.end())
            events = self._events(run, queue)
            sending = asyncio.ensure_future(send_events(events, send, {"x-moa-trace": run.id}))
            leaving = asyncio.ensure_future(_wait_for_disconnect(receive))
            try:
                done, _ = await asyncio.wait(
                    (sending, leaving),
                    timeout=self._settings.timeout_s + 2 * _LATE_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    raise TimeoutError
                if sending in done:
                    sending.result()
            except TimeoutError:
                _logger.warning("a stream was cut off: its client did not read it in time")
            finally:
                await run.cancel()
                await cancel([sending, leaving])

    async def _events(self, run: _Run, queue: _EventQueue) -> AsyncGenerator[bytes]:
        while True:
            try:
                async with asyncio.timeout(PING_S):
                    event = await queue.next()
            except TimeoutError:
                yield PING
                continue
            if event is None:
                break
            for message in self._write(event):
                yield message
        messages = iter(self._write(await run.end()))
        while (message := await asyncio.to_thread(next, messages, None)) is not None:
            yield message


class _EventQueue:
    """Events that wait for a reader. Pieces of one node's text are joined.

    Args:
        most: Maximum events that wait.
        stop: Called to stop the run if there are more.
    """

    def __init__(self, most: int, stop: Callable[[], None]) -> None:
        self._most = most
        self._stop = stop
        self._events: deque[Event] = deque()
        self._there = asyncio.Event()
        self._ended = False

    def add(self, event: Event) -> None:
        """Add an event. If too many wait, stop the run."""
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
        """Wait for the next event; `None` at the end."""
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
