"""Metrics: counters of runs and calls, for Prometheus."""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moa.serving.runs import FinishedRun
from moa.serving.server import Server

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counts runs by model, and calls by model, tier and endpoint. No label names the caller.

    Each server has its own registry, so two in one process don't mix.
    """

    def __init__(self, server: Server) -> None:
        self._registry = registry = CollectorRegistry()
        self._runs = Counter(
            "moa_runs", "Runs that have ended.", ["model", "status"], registry=registry
        )
        self._seconds = Histogram(
            "moa_run_seconds",
            "Wall time of runs.",
            ["model"],
            buckets=_SECONDS,
            registry=registry,
        )
        labels = ["model", "tier", "endpoint"]
        self._calls = Counter("moa_calls", "Requests to models.", labels, registry=registry)
        self._tokens = Counter(
            "moa_tokens", "Tokens of these.", [*labels, "direction"], registry=registry
        )
        self._cost = Counter(
            "moa_cost_dollars", "US dollars, of calls with a price.", labels, registry=registry
        )
        self._asked = cache(self._count)
        active = Gauge("moa_runs_active", "Runs that go on.", registry=registry)
        active.set_function(lambda: server.runs.active)
        ready = Gauge("moa_ready", "Whether models are loaded.", registry=registry)
        ready.set_function(lambda: server.is_ready)
        server.runs.listeners.append(self._add)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def _add(self, finished: FinishedRun) -> None:
        name, item = finished.served.name, finished.item
        self._runs.labels(name, item.status).inc()
        self._seconds.labels(name).observe(item.seconds)
        for part, amount in item.usage.parts.items():
            calls, tokens_in, tokens_out, cost = self._asked(name, part.tier, part.endpoint)
            calls.inc(amount.calls)
            tokens_in.inc(amount.input_tokens)
            tokens_out.inc(amount.output_tokens)
            cost.inc(float(amount.priced_cost))

    def _count(self, *labels: str) -> tuple[Counter, Counter, Counter, Counter]:
        """Return the counters of calls, input tokens, output tokens and cost for these labels."""
        return (
            self._calls.labels(*labels),
            self._tokens.labels(*labels, "in"),
            self._tokens.labels(*labels, "out"),
            self._cost.labels(*labels),
        )


def routes(server: Server) -> list[Route]:
    """Make the route `/metrics`."""
    metrics = Metrics(server)

    async def read(_: Request) -> Response:
        return Response(metrics.text(), media_type=_FORMAT)

    return [Route("/metrics", read)]
