"""What hears of spans in tests: OpenTelemetry's own SDK, and a file of lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from moa.adapters.span_file import SpanFile
from moa.core.context import RunContext
from moa.core.telemetry import Tracer


@dataclass(frozen=True)
class Seen:
    """A span that has ended."""

    name: str
    trace: str
    span: str
    parent: str | None
    attributes: Mapping[str, Any]
    events: tuple[str, ...]
    failed: bool

    @property
    def kind(self) -> str:
        operation = str(self.attributes.get("gen_ai.operation.name", ""))
        return _KINDS[operation] if operation else self.attributes["moa.kind"]


_KINDS = {
    "invoke_agent": "agent",
    "invoke_workflow": "workflow",
    "execute_tool": "tool",
    "chat": "call",
    "embeddings": "call",
}


class Recorder(Protocol):
    """Hears of spans."""

    def context(self, **settings: Any) -> RunContext:
        """Begin a run whose spans are heard; settings are those of its tracer."""
        ...

    @property
    def spans(self) -> list[Seen]:
        """Those that have ended, in that order."""
        ...


@dataclass
class OfFile:
    file: SpanFile
    path: Path

    def context(self, **settings: Any) -> RunContext:
        return RunContext(tracer=Tracer(file=self.file, **settings))

    @property
    def spans(self) -> list[Seen]:
        lines = [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]
        return [
            Seen(
                line["name"],
                line["trace"],
                line["span"],
                line["parent"],
                line["attributes"],
                tuple(str(event["name"]) for event in line.get("events", ())),
                "error" in line,
            )
            for line in lines
        ]


@dataclass
class OfSdk:
    exporter: Any

    def context(self, **settings: Any) -> RunContext:
        return RunContext(tracer=Tracer(**settings) if settings else None)

    @property
    def spans(self) -> list[Seen]:
        return [
            Seen(
                one.name,
                f"{one.context.trace_id:032x}",
                f"{one.context.span_id:016x}",
                f"{one.parent.span_id:016x}" if one.parent else None,
                json.loads(json.dumps(dict(one.attributes))),
                tuple(event.name for event in one.events),
                not one.status.is_unset,
            )
            for one in self.exporter.get_finished_spans()
        ]


@pytest.fixture
def sdk(set_provider: Callable[[Any], None]) -> OfSdk:
    """OpenTelemetry's SDK, with an exporter that keeps spans in memory."""
    exporter = module("trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = module("trace").TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(module("trace.export").SimpleSpanProcessor(exporter))
    set_provider(provider)
    return OfSdk(exporter)


def module(name: str, of: str = "opentelemetry.sdk") -> Any:
    """Import a module of the SDK, which is no part of what `moa` needs."""
    return pytest.importorskip(f"{of}.{name}", reason="opentelemetry-sdk is not installed")


@pytest.fixture
def set_provider(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Give what sets the provider of the process, which OpenTelemetry lets be set once alone."""
    from opentelemetry import trace

    return lambda provider: monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)


@pytest.fixture(params=["sdk", "file"])
def heard(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Recorder]:
    """Each of the two that hear of spans."""
    if request.param == "sdk":
        yield request.getfixturevalue("sdk")
        return
    path = tmp_path / "spans.jsonl"
    with SpanFile(path) as file:
        yield OfFile(file, path)
