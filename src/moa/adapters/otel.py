"""OTel: sends spans to OpenTelemetry. It is imported only if a tracer provider may be set."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.propagate import extract

from moa.core.telemetry import names
from moa.core.telemetry.spans import Attributes, Side

_SIDES: Mapping[Side, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "client": trace.SpanKind.CLIENT,
}
_NONE = Context()
_logger = logging.getLogger(__name__)


class Sink:
    """The tracer of one provider."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self.provider = provider
        self._tracer = provider.get_tracer(
            "moa", _version(), attributes={names.CONVENTIONS_KEY: names.CONVENTIONS}
        )

    def start(
        self,
        name: str,
        attributes: Attributes,
        side: Side,
        around: Context | None,
        start_ns: int,
    ) -> trace.Span:
        """Begin a span in the given context, never in the current one.

        If the provider raises, the span is an invalid one, which is never recorded.
        """
        try:
            return self._tracer.start_span(
                name,
                context=_NONE if around is None else around,
                kind=_SIDES[side],
                attributes=attributes,
                start_time=start_ns,
            )
        except Exception:
            _logger.warning("a span can't be begun", exc_info=True)
            return trace.INVALID_SPAN

    @staticmethod
    def end(
        span: trace.Span,
        attributes: Attributes,
        events: Sequence[tuple[str, int, Attributes]],
        error: str | None,
        end_ns: int,
    ) -> None:
        """End a span with its attributes and events."""
        try:
            if error is not None:
                span.set_status(trace.StatusCode.ERROR, error or None)
            for name, time_ns, event_attributes in events:
                span.add_event(name, event_attributes, timestamp=time_ns)
            if attributes:
                span.set_attributes(attributes)
            span.end(end_ns)
        except Exception:
            _logger.warning("a span can't be ended", exc_info=True)

    @staticmethod
    def child_context(span: trace.Span, around: Context | None) -> Context:
        """Return the context for children of a span."""
        return trace.set_span_in_context(span, _NONE if around is None else around)

    @staticmethod
    def ambient() -> Context:
        """Return OpenTelemetry's current context."""
        return get_current()

    @staticmethod
    def remote(trace_id: int, span_id: int, around: Context) -> Context:
        """Return the context that continues a span of an earlier process, or of this one."""
        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        before = trace.SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
        return trace.set_span_in_context(trace.NonRecordingSpan(before), around)

    @staticmethod
    def id_in(context: Context | None) -> int:
        """Return the span id of a context; 0 if there is none."""
        return 0 if context is None else trace.get_current_span(context).get_span_context().span_id


_sink: Sink | None = None


def sink() -> Sink | None:
    """Return the sink of the current provider; `None`: no provider is set."""
    global _sink
    try:
        provider = trace.get_tracer_provider()
    except Exception as error:  # noqa: BLE001 the environment may name one that isn't installed
        _tell_missing(str(error))
        return None
    if _sink is not None and _sink.provider is provider:
        return _sink
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return None
    _sink = Sink(provider)
    return _sink


@cache
def _tell_missing(reason: str) -> None:
    """Log the reason once."""
    _logger.warning("there are no spans, as no tracer provider can be had: %s", reason)


def context_of(headers: Mapping[str, str]) -> Context:
    """Return the context of the trace to continue: the server's own span, else the headers."""
    current = get_current()
    if trace.get_current_span(current).get_span_context().is_valid:
        return current
    return extract(headers, context=current)


def _version() -> str:
    try:
        return version("mixture-of-agents")
    except PackageNotFoundError:  # it runs from its sources
        return ""
