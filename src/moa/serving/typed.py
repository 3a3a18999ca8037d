"""Typed routes: a graph is run on JSON by its schema, at once or as it goes on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from sse_starlette import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from moa._files import dumped, jsonable
from moa.serving.faults import fault_of
from moa.serving.http import caller_of, json_response, read_json
from moa.serving.runs import Finished
from moa.serving.server import Server
from moa.trace import (
    Event,
    NodeFinished,
    NodeSkipped,
    NodeStarted,
    TextDelta,
    ToolFinished,
    ToolStarted,
)

_EVENTS: dict[type[object], str] = {
    NodeStarted: "node_started",
    TextDelta: "text",
    NodeFinished: "node_finished",
    NodeSkipped: "node_skipped",
    ToolStarted: "tool_started",
    ToolFinished: "tool_finished",
}
"""Names of events as they are sent; `result` or `error` is the last."""


def routes(server: Server) -> list[Route]:
    """Give `/run/NAME`, `/schema/NAME` and `/traces/ID`."""

    async def run(request: Request) -> Any:
        served = server.named(request.path_params["name"], caller_of(request))
        value = served.parse(await read_json(request, server.settings))
        if "text/event-stream" in request.headers.get("accept", ""):
            return server.runs.stream(request, served, value, written)
        finished = await server.runs.finish(request, served, value)
        return json_response(outcome(finished), finished.headers)

    async def schema(request: Request) -> Response:
        served = server.named(request.path_params["name"], caller_of(request))
        return json_response(served.schemas())

    async def trace(request: Request) -> Response:
        found = server.runs.trace(request.path_params["id"], caller_of(request))
        return json_response(found.record, found.headers)

    return [
        Route("/run/{name}", run, methods=["POST"]),
        Route("/schema/{name}", schema),
        Route("/traces/{id}", trace),
    ]


def outcome(finished: Finished) -> dict[str, object]:
    """Write what came out, what it used, and the id of its trace."""
    return {
        "output": finished.served.dump(finished.output),
        "status": finished.item.status,
        "usage": finished.usage,
        "trace": finished.id,
        "seconds": round(finished.item.seconds, 4),
    }


def written(event: Event | Finished) -> Iterable[ServerSentEvent]:
    """Write an event, or what became of the run, as it is sent."""
    if not isinstance(event, Finished):
        said = {key: jsonable(value) for key, value in asdict(event).items()}
        yield ServerSentEvent(dumped(said), event=_EVENTS[type(event)])
    elif event.item.error is not None:
        yield ServerSentEvent(dumped(fault_of(event.item.error).body), event="error")
    else:
        yield ServerSentEvent(dumped(outcome(event)), event="result")
