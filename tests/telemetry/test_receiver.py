"""A real receiver of OTLP over HTTP is sent the spans, and adds up the bill."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from moa import Agent, Mixture
from moa.core.usage import Price
from moa.testing import SimulatedEndpoint

from .conftest import module


class Receiver(ThreadingHTTPServer):
    """Takes spans as OTLP's protobuf, as Langfuse, LangSmith, Phoenix and Logfire do."""

    def __init__(self) -> None:
        wire = module("collector.trace.v1.trace_service_pb2", "opentelemetry.proto")
        spans: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in wire.ExportTraceServiceRequest.FromString(body).resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *about: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)
        self.spans = spans


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as found:
        serving = threading.Thread(target=found.serve_forever, args=(0.01,))
        serving.start()
        yield found
        found.shutdown()
        serving.join()


async def test_the_leaves_that_a_receiver_is_sent_add_up_to_the_bill(
    receiver: Receiver, set_provider: Any
) -> None:
    address = f"http://127.0.0.1:{receiver.server_address[1]}/v1/traces"
    otlp = module("http.trace_exporter", "opentelemetry.exporter.otlp.proto")
    provider = module("trace").TracerProvider(shutdown_on_exit=False)
    batched = module("trace.export").BatchSpanProcessor(otlp.OTLPSpanExporter(endpoint=address))
    provider.add_span_processor(batched)
    set_provider(provider)
    price = Price(input=Decimal("0.3"), output=Decimal("1.1"))
    large = SimulatedEndpoint(rule=lambda _: "A draft.", price=price)
    proposers = [Agent(large, "Draft.", name=f"proposer_{i}") for i in range(4)]
    result = await Mixture(proposers=proposers, aggregator=large).run("A letter to Ada")
    provider.shutdown()

    parents = {span.parent_span_id for span in receiver.spans}
    leaves = [span for span in receiver.spans if span.span_id not in parents]
    found = [{one.key: one.value for one in span.attributes} for span in leaves]
    total = result.usage.total
    assert len(leaves) == total.calls == 5
    assert sum(one["gen_ai.usage.input_tokens"].int_value for one in found) == total.input_tokens
    assert sum(one["gen_ai.usage.output_tokens"].int_value for one in found) == total.output_tokens
    cost = sum(one["gen_ai.usage.cost"].double_value for one in found)
    assert cost == pytest.approx(float(total.cost or 0))
    assert len({span.trace_id for span in receiver.spans}) == 1
