"""Metrics: counters of runs and calls, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moa.serving.http import caller_of
from moa.serving.keys import Caller
from moa.serving.runs import FinishedRun
from moa.serving.server import Server

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of each caller's runs.

    Each server has its own, so two in one process don't mix.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._counters: dict[str, _Counters] = {}
        """By the name of the caller."""
        server.runs.listeners.append(self._add)

    def text(self, caller: Caller) -> bytes:
        """Return a caller's metrics in the text format of Prometheus.

        They count its own runs alone, of the graphs that it may run.
        """
        registry = CollectorRegistry()
        registry.register(_Seen(self._of(caller.name).registry, caller))
        active = Gauge("moa_runs_active", "Runs that go on.", registry=registry)
        active.set(self._server.runs.active_of(caller))
        ready = Gauge("moa_ready", "Whether models are loaded.", registry=registry)
        ready.set(self._server.is_ready)
        return generate_latest(registry)

    def _add(self, finished: FinishedRun) -> None:
        self._of(finished.caller).add(finished)

    def _of(self, name: str) -> _Counters:
        return self._counters.setdefault(name, _Counters())


class _Seen(Collector):
    """The metrics of a registry, without those of graphs that a caller may not run."""

    def __init__(self, registry: CollectorRegistry, caller: Caller) -> None:
        self._registry = registry
        self._caller = caller

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            may_run = self._caller.may_run
            metric.samples = [one for one in metric.samples if may_run(one.labels["model"])]
            yield metric


class _Counters:
    """Counts runs by model, and calls by model, tier and endpoint. No label names the caller."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._runs = Counter(
            "moa_runs", "Runs that have ended.", ["model", "status"], registry=registry
        )
        self._settled = Counter(
            "moa_settled",
            "Runs done without a large model, which nobody has to read first.",
            ["model"],
            registry=registry,
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

    def add(self, finished: FinishedRun) -> None:
        """Count a run that has ended."""
        name, item = finished.served.name, finished.item
        self._runs.labels(name, item.status).inc()
        self._settled.labels(name).inc(item.settled)
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

    async def read(request: Request) -> Response:
        return Response(metrics.text(caller_of(request)), media_type=_FORMAT)

    return [Route("/metrics", read)]
