"""Spans: the operations of a run as a tree, for OpenTelemetry, a file or both.

A context holds its innermost open span, and new spans become its children. So parents follow the
tree of the run, whichever task runs it. Only calls hold tokens and costs; the spans above them
hold sums, under `moa`'s names.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, Self

from moa.core.budget import Payment
from moa.core.doors import Door
from moa.core.telemetry import names
from moa.core.usage import ZERO, Amount

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span as OTelSpan

    from moa.adapters.span_file import SpanFile
    from moa.core.trace import Note

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value]
Side = Literal["internal", "client"]
"""`internal`: the work happens here. `client`: it is requested elsewhere."""
CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""Environment variable that makes OpenTelemetry's own instrumentations record texts."""
_CAPTURES = ("true", "1", "span_only", "span_and_event")
UNTRACED: AbstractContextManager[None] = nullcontext()


class Sink(Protocol):
    """A tracer of OpenTelemetry."""

    def start(  # noqa: D102
        self,
        name: str,
        attributes: Attributes,
        side: Side,
        around: Context | None,
        start_ns: int,
        /,
    ) -> OTelSpan: ...

    def end(  # noqa: D102
        self,
        span: OTelSpan,
        attributes: Attributes,
        events: Sequence[tuple[str, int, Attributes]],
        error: str | None,
        end_ns: int,
        /,
    ) -> None: ...

    def child_context(self, span: OTelSpan, around: Context | None, /) -> Context: ...  # noqa: D102

    def ambient(self) -> Context: ...  # noqa: D102

    def remote(self, trace_id: int, span_id: int, around: Context, /) -> Context: ...  # noqa: D102

    def id_in(self, context: Context | None, /) -> int: ...  # noqa: D102


class OTel(Protocol):
    """What spans ask of `moa.adapters.otel`."""

    def sink(self) -> Sink | None: ...  # noqa: D102

    def context_of(self, headers: Mapping[str, str], /) -> Context: ...  # noqa: D102


OTEL: Door[OTel] = Door("moa.adapters.otel")


class MaskSession(Protocol):
    """Masks the texts of one span."""

    def mask(self, text: str, /) -> str:
        """Return a text without personal data."""
        ...


class Masks(Protocol):
    """Masks personal data in texts, as `moa.guards.pii.Pii` does."""

    def session(self) -> AbstractContextManager[MaskSession]:
        """Open a session for the texts of one span."""
        ...


class Tracer:
    """Traces runs, as in `RunContext(tracer=Tracer(content=True))`.

    Spans go to OpenTelemetry if a tracer provider is set, and to a file if one is given.
    Without either, nothing is recorded. A context without a tracer uses a default one without
    a file. It records texts if `$OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` is
    `true`.

    Args:
        file: File to write each ended span to, as a line.
        content: True to record texts too: those that models and tools get and return, and those
            of notes and errors; `None`: as the environment says.
        pii: Masks personal data in these texts first. If it fails, they are left out.
        parent: Context that the trace continues; `None`: the current one when the run begins.

    Examples:
        >>> from moa.core.telemetry import Tracer
        >>> context = RunContext(tracer=Tracer(content=True))
        >>> agent = Agent(ScriptedEndpoint(["Hello!"]), "Greet.")
        >>> print(agent.run_sync("Hi", context).output)
        Hello!
    """

    is_call = False
    is_recorded = True
    headers: ClassVar[Mapping[str, str] | None] = None
    """`None`: there is no span to continue."""

    def __init__(
        self,
        *,
        file: SpanFile | None = None,
        content: bool | None = None,
        pii: Masks | None = None,
        parent: Context | None = None,
    ) -> None:
        self.file = file
        self.pii = pii
        self._content = content
        self.context = parent
        """The context that the trace continues."""

    @property
    def content(self) -> bool:
        """True if texts are recorded."""
        if self._content is None:
            return os.environ.get(CAPTURE, "").lower() in _CAPTURES
        return self._content

    def start(
        self,
        name: str,
        attributes: Attributes,
        *,
        side: Side = "internal",
        start_ns: int | None = None,
        is_call: bool = False,
        resumes: str | None = None,
    ) -> Span:
        """Begin a trace with its first span, or continue one; see `Span.start`.

        `resumes` is the `traceparent` of the span to continue.
        """
        sink, around = sink_of_process(), None
        before = _ids_in(resumes)
        if sink is not None:
            around = self.context or sink.ambient()
            if before is not None:
                around = sink.remote(*before, around)
        return Span(
            self,
            None,
            name,
            attributes,
            side,
            sink,
            around,
            before=before,
            start_ns=start_ns,
            is_call=is_call,
        )

    def note(self, note: Note, error: BaseException | None) -> None:
        """Ignore a note that belongs to no span."""

    def payment_for(self, part: tuple[str, str, str], amount: Amount) -> Payment | None:
        """Begin the span of a call without one from an endpoint; see `Span.payment_for`."""
        if not (amount.calls or amount.tokens):
            return None
        return _start_call_span(self, part)


class Span:
    """An operation in a run, from start to end. `end` must always be called.

    As a context manager it ends with the block, and records the block's error. A span that a
    sampler drops has no attributes and no children.

    Args:
        tracer: Tracer that began the trace.
        parent: Parent span; `None`: it is the first.
        name: Its name.
        attributes: Attributes known at its start.
        side: Where the work happens; see `Side`.
        sink: Sink to OpenTelemetry; `None`: none.
        around: OpenTelemetry context that it begins in.
        before: Ids of the trace and the span that the first span continues.
        start_ns: Start time in nanoseconds since 1970; `None`: now.
        is_call: True for a call. Only calls hold tokens and costs.
    """

    def __init__(
        self,
        tracer: Tracer,
        parent: Span | None,
        name: str,
        attributes: Attributes,
        side: Side,
        sink: Sink | None,
        around: Context | None,
        *,
        before: tuple[int, int] | None = None,
        start_ns: int | None = None,
        is_call: bool = False,
    ) -> None:
        self.tracer = tracer
        self.parent = parent
        self.name = name
        self.is_call = is_call
        self._attributes = attributes
        self._late_attributes: dict[str, Value] = {}
        self._events: Sequence[tuple[str, int, Attributes]] = ()
        self._side: Side = side
        self._start_ns = start_ns = start_ns or time.time_ns()
        self._error: str | None = None
        self._amounts: list[Amount] = []
        """Amounts of its own call, or of all calls below it."""
        self._ended = False
        self.sink, self._around, self._context = sink, around, None
        self.is_recorded = True
        """False if it is dropped, such as by a sampler."""
        self._span: OTelSpan | None = None
        self._ids: tuple[int, int, int] | None = None
        if sink is None:
            self._ids = _new_ids(before if parent is None else parent.ids[:2])
        else:
            self._span = sink.start(name, attributes, side, around, start_ns)
            self.is_recorded = tracer.file is not None or self._span.is_recording()
        self.content: bool = self.is_recorded and (parent or tracer).content
        """True if texts are recorded."""

    @property
    def ids(self) -> tuple[int, int, int]:
        """Ids of the trace, the span and its parent; without a parent, the last is 0."""
        if self._ids is None:
            assert self.sink is not None, "others have their ids from the start"
            assert self._span is not None, "OpenTelemetry has begun it"
            span_context = self._span.get_span_context()
            around = self.parent.ids[1] if self.parent else self.sink.id_in(self._around)
            self._ids = span_context.trace_id, span_context.span_id, around
        return self._ids

    def start(
        self,
        name: str,
        attributes: Attributes,
        *,
        side: Side = "internal",
        start_ns: int | None = None,
        is_call: bool = False,
        resumes: str | None = None,
    ) -> Span:
        """Begin a child of this span; see the class.

        `resumes` is ignored: the child continues this span.
        """
        del resumes
        return Span(
            self.tracer,
            self,
            name,
            attributes,
            side,
            self.sink,
            self.context,
            start_ns=start_ns,
            is_call=is_call,
        )

    @property
    def context(self) -> Context | None:
        """OpenTelemetry context for its children; `None` without OpenTelemetry."""
        if self._context is None and self.sink is not None and self._span is not None:
            self._context = self.sink.child_context(self._span, self._around)
        return self._context

    @property
    def headers(self) -> Mapping[str, str]:
        """HTTP headers with which the called server continues the trace."""
        headers = {"traceparent": self.traceparent}
        if self._span is not None and (state := self._span.get_span_context().trace_state):
            headers["tracestate"] = state.to_header()
        return headers

    @property
    def traceparent(self) -> str:
        """Its position in the trace, as the header `traceparent`."""
        if self._span is None:
            (trace_id, span_id, _), flags = self.ids, 1
        else:
            span_context = self._span.get_span_context()
            trace_id, span_id, flags = (
                span_context.trace_id,
                span_context.span_id,
                span_context.trace_flags,
            )
        return f"00-{trace_id:032x}-{span_id:016x}-{flags:02x}"

    def set(self, name: str, value: Value | None) -> None:
        """Set an attribute, unless the value is `None`."""
        if value is not None:
            self._late_attributes[name] = value

    def note(self, note: Note, error: BaseException | None) -> None:
        """Record a note as an event, unless it is `answered`. After the end, its parent does."""
        if self._ended:
            if self.parent is not None:
                self.parent.note(note, error)
            return
        if note.kind == "answered" or not self.is_recorded:
            return
        if note.kind == "escalated":
            self._late_attributes[names.DECISION_ESCALATED] = True
        attributes: dict[str, Value] = {names.NODE: note.node}
        if note.endpoint is not None:
            attributes[names.ENDPOINT] = note.endpoint
        if error is not None:
            attributes |= _error_attributes(error)
        if self.content:
            from moa.core.telemetry.content import mask

            if (text := mask(note.text, self.tracer.pii)) is not None:
                attributes[names.TEXT] = text
        self._events = (*self._events, (names.event(note.kind), time.time_ns(), attributes))

    def payment_for(self, part: tuple[str, str, str], amount: Amount) -> Payment | None:
        """Return the receiver of a call's amount: the call's span, or a new one."""
        if self.is_call:
            return self
        return (
            _start_call_span(self, part)
            if self.is_recorded and (amount.calls or amount.tokens)
            else None
        )

    def settle(self, amount: Amount) -> None:
        """Add the amount of a call, here and in the sums of all spans above."""
        around: Span | None = self
        while around is not None:
            around._amounts.append(amount)  # atomic, since threads settle too
            around = around.parent

    def fail(self, error: BaseException) -> None:
        """Record the error that ended it."""
        ending = _ending_of(error)
        if ending is not None:
            self._late_attributes[names.ENDED] = ending
            return
        self._late_attributes |= _error_attributes(error)
        self._error = ""
        if self.content:
            from moa.core.telemetry.content import mask

            self._error = mask(str(error), self.tracer.pii) or ""

    def end(self) -> None:
        """End the span. Further calls do nothing."""
        if self._ended:
            return
        self._ended, end_ns = True, time.time_ns()
        if self.is_recorded:
            self._add_usage()
        if self.sink is not None and self._span is not None:
            self.sink.end(self._span, self._late_attributes, self._events, self._error, end_ns)
        if self.tracer.file is not None:
            self.tracer.file.add(self._line(end_ns), last=self.parent is None)

    def _add_usage(self) -> None:
        """Set the usage of a call, or the sum of several calls. A first span sums even one call."""
        amounts, attributes = self._amounts, self._late_attributes
        requests = sum([amount.calls for amount in amounts])
        if not amounts or not (self.is_call or self.parent is None or requests > 1):
            return
        input_tokens = sum([amount.input_tokens for amount in amounts])
        output_tokens = sum([amount.output_tokens for amount in amounts])
        cost: float | None = None
        if not sum([amount.unpriced_calls for amount in amounts]):
            cost = float(sum([amount.priced_cost for amount in amounts], ZERO))
        if not self.is_call:
            attributes[names.SUM_REQUESTS] = requests
            attributes[names.SUM_INPUT_TOKENS] = input_tokens
            attributes[names.SUM_OUTPUT_TOKENS] = output_tokens
            self.set(names.SUM_COST, cost)
            return
        attributes[names.INPUT_TOKENS] = input_tokens
        attributes[names.OUTPUT_TOKENS] = output_tokens
        self.set(names.COST, cost)
        if requests != 1:
            attributes[names.REQUESTS] = requests
        if cached := sum([amount.cached_input_tokens for amount in amounts]):
            attributes[names.CACHED_TOKENS] = cached

    def _line(self, end_ns: int) -> Mapping[str, object]:
        """Return the span as a line of a file; see docs/tracing.md."""
        trace_id, span_id, parent_id = self.ids
        line: dict[str, object] = {
            "trace": f"{trace_id:032x}",
            "span": f"{span_id:016x}",
            "parent": f"{parent_id:016x}" if parent_id else None,
            "name": self.name,
            "kind": self._side,
            "start": _seconds(self._start_ns),
            "end": _seconds(end_ns),
            "attributes": {**self._attributes, **self._late_attributes},
        }
        if self._events:
            line["events"] = [
                {"name": name, "time": _seconds(time_ns), "attributes": attributes}
                for name, time_ns, attributes in self._events
            ]
        if self._error is not None:
            line["error"] = self._error or self._late_attributes.get(names.ERROR)
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.fail(error)
        self.end()


class _CallSpan:
    """The span of a call outside of any endpoint, such as by another framework."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def settle(self, amount: Amount) -> None:
        if amount.calls or amount.tokens:
            self._span.settle(amount)
        self._span.end()


def _start_call_span(around: Tracer | Span, part: tuple[str, str, str]) -> Payment:
    tier, _, endpoint = part
    attributes: Attributes = {
        names.OPERATION: names.CHAT,
        names.PROVIDER: names.OTHER_PROVIDER,
        names.ENDPOINT: endpoint,
        names.TIER: tier,
    }
    name = f"{names.CHAT} {endpoint}"
    return _CallSpan(around.start(name, attributes, side="client", is_call=True))


def start(
    around: Tracer | Span,
    kind: names.Kind,
    name: str,
    node: str,
    *,
    start_ns: int | None = None,
    resumes: str | None = None,
) -> Span:
    """Begin a span of a node, a tool, a decision or a guard. Endpoints begin those of calls."""
    operation = names.OPERATIONS.get(kind)
    attributes: dict[str, Value] = {names.NODE: node}
    if operation is None:
        attributes[names.KIND] = kind
    else:
        attributes[names.OPERATION] = operation
    if (named_by := names.NAMED_BY.get(kind)) is not None:
        attributes[named_by] = name
    span_name = f"{operation or kind} {name}"
    return around.start(span_name, attributes, start_ns=start_ns, resumes=resumes)


def _new_ids(around: tuple[int, int] | None) -> tuple[int, int, int]:
    """Make the ids of a span, in the trace of its parent or in a new one."""
    trace_id, parent_id = around or (int.from_bytes(os.urandom(16)), 0)
    return trace_id, int.from_bytes(os.urandom(8)), parent_id


def _ids_in(traceparent: str | None) -> tuple[int, int] | None:
    """Read the trace and span ids of a `traceparent`; `None`: there are none."""
    parts = (traceparent or "").split("-")
    try:
        trace_id, span_id = int(parts[1], 16), int(parts[2], 16)
    except (IndexError, ValueError):
        return None
    return (trace_id, span_id) if trace_id and span_id else None


@contextmanager
def attach_to(around: Tracer | Span | None) -> Generator[None]:
    """Make a span OpenTelemetry's current one, for the spans of third-party code.

    Use it around one `await`, never around a `yield`: a generator may be closed by another task,
    which can't detach the span.
    """
    inner = around and around.context
    if inner is None:
        yield
        return
    from opentelemetry.context import attach, detach

    token = attach(inner)
    try:
        yield
    finally:
        detach(token)


def _seconds(ns: int) -> float:
    return ns // 1000 / 1e6


def _error_attributes(error: BaseException) -> dict[str, Value]:
    """Return the class and the HTTP status of an error, without its text."""
    attributes: dict[str, Value] = {names.ERROR: type(error).__name__}
    status: object = getattr(error, "status", None)
    if isinstance(status, int):
        attributes[names.HTTP_STATUS] = status
    return attributes


def _ending_of(error: BaseException) -> str | None:
    """Return how a span ended without a failure; `None`: it failed."""
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    from moa.core.journal import interrupts_of  # it loads pydantic, which `moa --help` doesn't need

    return "asks a person" if interrupts_of(error) else None


def sink_of_process() -> Sink | None:
    """Return the sink to OpenTelemetry; `None`: no provider is set, or it isn't loaded."""
    if "opentelemetry.trace" not in sys.modules:  # setting a provider imports it
        return None
    return _finder()()


@cache
def _finder() -> Callable[[], Sink | None]:
    return OTEL.open().sink


_DEFAULT = Tracer()
"""Tracer of contexts without one."""


def tracer_for(tracer: Tracer | None) -> Tracer | None:
    """Return the tracer that a context uses; `None` if its spans would not be recorded."""
    if tracer is not None and tracer.file is not None:
        return tracer
    return (tracer or _DEFAULT) if sink_of_process() is not None else None
