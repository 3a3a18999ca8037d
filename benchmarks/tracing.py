"""What traces cost a call: `python benchmarks/tracing.py`.

The same process works on W3 of overhead.py with spans off, and on in several ways, in turns,
against the mock server of another process: so drift of the machine, and what a process happens to
hold, hit all alike. It needs opentelemetry-sdk.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased

from moa import RunContext
from moa.adapters.span_file import SpanFile
from moa.core.telemetry import Tracer
from overhead import CALLS, HERE, Process
from overhead_peer import moa_peer
from report import table, verdict, write

Run = Callable[[], RunContext | None]
IN_FLIGHT = 64
GOAL = ("at most", 0.05, 0.05)


class Drops(SpanExporter):
    """Takes spans, and sends them nowhere: what is measured is what making them takes."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class BareSpan(trace.NonRecordingSpan):
    """Is told all that a span is told, and does nothing with it."""

    def is_recording(self) -> bool:
        return True


class Bare(trace.NoOpTracer):
    """Begins spans for nothing: what is measured is what `moa` does itself."""

    def start_span(self, *about: Any, **further: Any) -> trace.Span:
        return BareSpan(KNOWN)


class BareProvider(trace.TracerProvider):
    """Of such spans."""

    def get_tracer(self, *about: Any, **further: Any) -> trace.Tracer:
        return Bare()

    def shutdown(self) -> None: ...


class Empty(trace.Tracer):
    """Begins the SDK's spans, and puts nothing into them."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(self, name: str, context: Any = None, **about: Any) -> trace.Span:
        span = self._tracer.start_span(name, context, start_time=about["start_time"])
        span.set_attributes = lambda attributes: None
        return span

    def start_as_current_span(self, *about: Any, **further: Any) -> Any:
        raise NotImplementedError


class EmptyProvider(trace.TracerProvider):
    """Of such spans."""

    def __init__(self) -> None:
        self._provider = to_sdk()

    def get_tracer(self, *about: Any, **further: Any) -> trace.Tracer:
        return Empty(self._provider.get_tracer("empty"))

    def shutdown(self) -> None:
        self._provider.shutdown()


KNOWN = trace.SpanContext(1, 1, is_remote=False, trace_flags=trace.TraceFlags(1))


@contextmanager
def provided(provider: Any) -> Iterator[Run]:
    """Set a provider, as a program does once; here it is taken away again."""
    setattr(trace, "_TRACER_PROVIDER", provider)  # noqa: B010
    try:
        yield lambda: None
    finally:
        setattr(trace, "_TRACER_PROVIDER", None)  # noqa: B010
        provider.shutdown()


def to_sdk(**about: Any) -> TracerProvider:
    provider = TracerProvider(shutdown_on_exit=False, **about)
    provider.add_span_processor(BatchSpanProcessor(Drops()))
    return provider


@contextmanager
def off() -> Iterator[Run]:
    yield lambda: None


@contextmanager
def to_file() -> Iterator[Run]:
    with tempfile.TemporaryDirectory() as folder, SpanFile(Path(folder) / "s.jsonl") as file:
        yield lambda: RunContext(tracer=Tracer(file=file))


WAYS: dict[str, Callable[[], Any]] = {
    "off": off,
    "off, again": off,
    "moa's own part": lambda: provided(BareProvider()),
    "OpenTelemetry, no trace sampled": lambda: provided(to_sdk(sampler=ALWAYS_OFF)),
    "OpenTelemetry, one trace of ten": lambda: provided(to_sdk(sampler=TraceIdRatioBased(0.1))),
    "OpenTelemetry, every trace, empty spans": lambda: provided(EmptyProvider()),
    "OpenTelemetry, every trace": lambda: provided(to_sdk()),
    "a file of lines": to_file,
}


async def cpu_s(graph: Any, items: int, run: Run) -> float:
    """Run items, so many in flight, and give the CPU seconds of the process."""
    left = iter(range(items))

    async def worker() -> None:
        for _ in left:
            await graph(run())

    gc.collect()
    start = time.process_time()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return time.process_time() - start


async def measured(url: str, repeats: int, items: int) -> dict[str, list[float]]:
    """CPU milliseconds of a call, by way, one for each repeat."""
    graph = moa_peer(url)["W3"]
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    for repeat in range(repeats + 1):
        for way, made in WAYS.items():
            with made() as run:
                seconds = await cpu_s(graph, items, run)
            if repeat:
                took[way].append(seconds / items / CALLS * 1e3)
        print(f"repeat {repeat} of {repeats}" + (" (warm-up)" if not repeat else ""))
    return took


def section(took: dict[str, list[float]]) -> str:
    base = [(a + b) / 2 for a, b in zip(took["off"], took["off, again"], strict=True)]
    over = {
        way: median(one / without for one, without in zip(each, base, strict=True)) - 1
        for way, each in took.items()
    }
    rows = [
        [way, f"{median(each):.3f}", "-" if way == "off" else f"{over[way]:+.1%}"]
        for way, each in took.items()
    ]
    way, target, aim = GOAL
    goals = [
        [
            f"`{name}`",
            f"{over[name]:+.1%}",
            f"{way} {target:.0%}",
            verdict(over[name], way, target, aim),
        ]
        for name in ("moa's own part", "OpenTelemetry, every trace", "a file of lines")
    ]
    return f"""## Traces

W3 of the section on overhead, five calls a graph, {IN_FLIGHT} in flight, at zero latency: 11 spans
a run, one of the graph, and of each agent and call. CPU is that of the whole process: making spans
and handing them to an exporter that drops them. What sending them takes is the exporter's, and
not in it. `moa`'s own part is measured with a provider whose spans do nothing; what is above it is
the SDK's, most of which its spans take with nothing in them, too. Each ratio is the median of those
of one repeat, over the mean of both `off` beside it.

{table(["spans", "CPU ms a call", "over off"], rows)}

{table(["over off", "measured", "target", ""], goals)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--items", type=int, default=192)
    parser.add_argument("--no-docs", action="store_true", help="leave docs/benchmarks.md alone")
    args = parser.parse_args()
    os.environ.pop("OTEL_SDK_DISABLED", None)
    server = Process(str(HERE / "mock_server.py"))
    url = f"http://127.0.0.1:{server.read()}/v1"
    try:
        took = asyncio.run(measured(url, args.repeats, args.items))
    finally:
        server.close()
    body = section(took)
    print(body)
    if not args.no_docs:
        write("tracing", f"python benchmarks/tracing.py --repeats {args.repeats}", body)


if __name__ == "__main__":
    main()
