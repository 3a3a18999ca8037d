"""Traces of a server: a run goes on with the trace of the request that asked for it."""

from __future__ import annotations

from typing import Any

import pytest

from .harness import client_of, greeter, server_with

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_SDK = "opentelemetry.sdk.trace"


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Any:
    sdk: Any = pytest.importorskip(_SDK, reason="opentelemetry-sdk is not installed")
    memory: Any = pytest.importorskip(f"{_SDK}.export.in_memory_span_exporter")
    export: Any = pytest.importorskip(f"{_SDK}.export")
    from opentelemetry import trace

    found, provider = memory.InMemorySpanExporter(), sdk.TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(export.SimpleSpanProcessor(found))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return found


@pytest.mark.parametrize("accepts", ["application/json", "text/event-stream"])
async def test_a_run_goes_on_with_the_trace_of_its_request(exporter: Any, accepts: str) -> None:
    _, app = server_with(greeter("Hello!"))
    async with client_of(app) as client:
        headers = {"traceparent": CALLER, "accept": accepts}
        answer = await client.post("/run/greeter", json="Hi", headers=headers)
    assert answer.status_code == 200
    call, agent, run = exporter.get_finished_spans()
    assert {one.context.trace_id for one in (call, agent, run)} == {int(CALLER.split("-")[1], 16)}
    assert (call.parent.span_id, agent.parent.span_id) == (
        agent.context.span_id,
        run.context.span_id,
    )
    assert run.parent.span_id == int(CALLER.split("-")[2], 16)


async def test_requests_without_a_trace_have_one_each(exporter: Any) -> None:
    _, app = server_with(greeter("Hello!", "Hello!"))
    async with client_of(app) as client:
        for _ in range(2):
            await client.post("/run/greeter", json="Hi")
    runs = [one for one in exporter.get_finished_spans() if one.name == "run greeter"]
    assert len({one.context.trace_id for one in runs}) == 2


async def test_a_run_of_mcp_goes_on_with_the_trace_of_its_request(exporter: Any) -> None:
    pytest.importorskip("mcp", reason="mcp is not installed")
    _, app = server_with(greeter("Hello!"))
    asked = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "greeter", "arguments": {"text": "Hi"}},
    }
    async with client_of(app) as client:
        headers = {"traceparent": CALLER, "accept": "application/json, text/event-stream"}
        answer = await client.post("/mcp", json=asked, headers=headers)
    assert answer.status_code == 200, answer.text
    (run,) = [one for one in exporter.get_finished_spans() if one.name == "run greeter"]
    assert run.context.trace_id == int(CALLER.split("-")[1], 16)
