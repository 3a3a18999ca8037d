"""Telemetry: the spans of runs, for OpenTelemetry and for files."""

from __future__ import annotations

from collections.abc import Mapping

from moa.core.telemetry import names as names
from moa.core.telemetry.spans import OTEL, Span, Tracer, sink_of_process

__all__ = ["Span", "Tracer", "tracer_of"]


def tracer_of(headers: Mapping[str, str]) -> Tracer | None:
    """Return the tracer of a run requested over HTTP: its trace continues the caller's.

    If the server has a span of its own for the request, it goes on from that one.

    Args:
        headers: Headers of the request, with lower-case names; `traceparent` and `tracestate`
            are read.

    Returns:
        `None` if no tracer provider is set.

    Examples:
        >>> from moa.core.telemetry import tracer_of
        >>> headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
        >>> context = RunContext(tracer=tracer_of(headers))
    """
    if sink_of_process() is None:
        return None
    return Tracer(parent=OTEL.open().context_of(headers))
