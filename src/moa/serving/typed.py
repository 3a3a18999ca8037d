"""Typed routes: run a graph on JSON that fits its schema, whole, streamed or as a job."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from dataclasses import fields
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from moa.core._async import Lock
from moa.core._files import dump_json, to_jsonable
from moa.core._json import JSON, is_list, is_object
from moa.core.errors import InputError, RequestRefused
from moa.core.trace import (
    Event,
    NodeFinished,
    NodeSkipped,
    NodeStarted,
    TextDelta,
    ToolFinished,
    ToolStarted,
)
from moa.graphs.engine.sketch import Drawable
from moa.serving.events import event_of
from moa.serving.faults import fault_of
from moa.serving.http import (
    TimeLimit,
    caller_of,
    json_response,
    read_body,
    read_run,
)
from moa.serving.keys import Caller
from moa.serving.openapi import Operation, Schemas, operation, parameter
from moa.serving.parsing import parse
from moa.serving.runs import FinishedRun, Stream
from moa.serving.served import Schema, ServedNode
from moa.serving.server import Server

EVENTS: dict[type[object], str] = {
    NodeStarted: "node_started",
    TextDelta: "text",
    NodeFinished: "node_finished",
    NodeSkipped: "node_skipped",
    ToolStarted: "tool_started",
    ToolFinished: "tool_finished",
}
"""Names of the server-sent events. The last event is `result` or `error`."""
_LINES = "application/x-ndjson"
_ANYTHING: Schema = {"type": "object"}
_ID = parameter("id", {"type": "string"})


def routes(server: Server) -> list[Route]:
    """Make the routes `/run`, `/schema`, `/drawing`, `/traces` and `/jobs`."""

    async def run(request: Request) -> Response | Stream:
        served = server.find(request.path_params["name"], caller_of(request))
        value = await read_run(request, server.settings, served.parse)
        if "text/event-stream" in request.headers.get("accept", ""):
            return server.runs.stream(request, served, value, write_event)
        finished = await server.runs.finish(request, served, value)
        return json_response(outcome(finished), finished.headers)

    async def schema(request: Request) -> Response:
        served = server.find(request.path_params["name"], caller_of(request))
        return json_response(served.schemas())

    drawings, turn = dict[tuple[str, bool], bytes](), Lock()
    """Drawings by the name of the graph, as SVG or not: an SVG takes about a second to make."""

    async def drawing(request: Request) -> Response:
        served = server.find(request.path_params["name"], caller_of(request))
        is_svg = "image/svg+xml" in request.headers.get("accept", "")
        drawable = _drawable(served)
        async with turn.hold(None):  # who comes meanwhile waits for what is made, in no thread
            if (served.name, is_svg) not in drawings:
                drawn = await asyncio.to_thread(_draw, drawable, is_svg=is_svg)
                drawings[served.name, is_svg] = drawn
        media_type = "image/svg+xml" if is_svg else "text/plain"
        return Response(drawings[served.name, is_svg], media_type=media_type)

    async def trace(request: Request) -> Response:
        kept = server.runs.trace(request.path_params["id"], caller_of(request))
        return Response(kept.record, 200, kept.headers, "application/json")

    return [
        Route("/run/{name}", run, methods=["POST"]),
        Route("/schema/{name}", schema, methods=["GET"]),
        Route("/drawing/{name}", drawing, methods=["GET"]),
        Route("/traces/{id}", trace, methods=["GET"]),
        *_job_routes(server),
    ]


def _job_routes(server: Server) -> list[Route]:
    jobs = server.jobs

    async def begin(request: Request) -> Response:
        caller = caller_of(request)
        body = await read_run(request, server.settings, lambda value: value)
        if not is_object(body):
            raise InputError('a job is {"model": NAME, "rows": [a text or an object, …]}')
        name, rows = body.get("model"), body.get("rows")
        if not isinstance(name, str) or not is_list(rows):
            raise InputError("a job takes model, the name of what is run, and rows, a list")
        id = await jobs.begin(server.find(name, caller), rows, caller)
        headers = {"location": f"{request.url.path}/{id}"}
        return json_response(await jobs.status(id, caller), headers, status=202)

    async def list_jobs(request: Request) -> Response:
        return json_response({"jobs": await jobs.list_for(caller_of(request))})

    async def all_jobs(request: Request) -> Response:
        return await (begin if request.method == "POST" else list_jobs)(request)

    async def status(request: Request) -> Response:
        progress = await jobs.status(request.path_params["id"], caller_of(request))
        return json_response(progress)

    async def lines(request: Request) -> _Lines:
        states = request.query_params.getlist("state")
        job_lines = jobs.lines(request.path_params["id"], caller_of(request), states)
        return _Lines(job_lines, server.settings.timeout_s)

    async def cancel(request: Request) -> Response:
        await _read_nothing(request, server)
        await jobs.cancel(request.path_params["id"], caller_of(request))
        return await status(request)

    async def resume(request: Request) -> Response:
        await _read_nothing(request, server)
        await jobs.resume(request.path_params["id"], caller_of(request))
        return await status(request)

    return [
        Route("/jobs", all_jobs, methods=["GET", "POST"]),
        Route("/jobs/{id}", status, methods=["GET"]),
        Route("/jobs/{id}/lines", lines, methods=["GET"]),
        Route("/jobs/{id}/cancel", cancel, methods=["POST"]),
        Route("/jobs/{id}/resume", resume, methods=["POST"]),
    ]


async def _read_nothing(request: Request, server: Server) -> None:
    """Read a body that says nothing more: an object, or none at all."""
    body = await read_body(request)
    if body and not await parse(body, caller_of(request).name, server.settings, is_object):
        raise InputError("send {}, or no body: the id of the job says it all")


def outcome(finished: FinishedRun) -> dict[str, object]:
    """Return the output, usage and trace id of a run as JSON."""
    return {
        "output": finished.served.dump(finished.output),
        "status": finished.item.status,
        "usage": finished.usage,
        "trace": finished.id,
        "seconds": round(finished.item.seconds, 4),
    }


def write_event(event: Event | FinishedRun) -> list[bytes]:
    """Write an event or a finished run as a server-sent event.

    It is no generator, which would keep the output beside what is written of it.
    """
    if not isinstance(event, FinishedRun):
        data = {field.name: to_jsonable(getattr(event, field.name)) for field in fields(event)}
        return [event_of(dump_json(data), EVENTS[type(event)])]
    if event.item.error is not None:
        return [event_of(dump_json(fault_of(event.item.error).body), "error")]
    return [event_of(dump_json(outcome(event)), "result")]


def _drawable(served: ServedNode) -> Drawable:
    if not isinstance(served.node, Drawable):
        raise RequestRefused(
            f"{served.name!r} is a single agent, and there is nothing in it to draw",
            status=404,
            code="nothing_to_draw",
        )
    return served.node


def _draw(graph: Drawable, *, is_svg: bool) -> bytes:
    drawing = graph.draw()
    return (drawing.svg if is_svg else drawing.mermaid).encode()


class _Lines:
    """A response of lines. What they are read from is closed with it, however it ends."""

    def __init__(self, lines: Generator[JSON], timeout_s: float) -> None:
        self._lines = lines
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        async with aclosing(_read_in_threads(self._lines)) as chunks:
            response = StreamingResponse(chunks, media_type=_LINES)
            await TimeLimit(response, self._timeout_s)(scope, receive, send)


async def _read_in_threads(lines: Generator[JSON]) -> AsyncGenerator[bytes]:
    """Read lines in batches, in threads, so that the event loop isn't blocked."""
    turn = threading.Lock()

    def read_some() -> bytes:
        with turn:
            return "".join(f"{dump_json(line)}\n" for line in islice(lines, _AT_ONCE)).encode()

    def close() -> None:
        with turn:
            lines.close()

    try:
        while chunk := await asyncio.to_thread(read_some):
            yield chunk
    finally:
        # The client may have left while a thread reads, which goes on. It isn't awaited: what is
        # cancelled may be cancelled again.
        asyncio.get_running_loop().run_in_executor(None, close)


_AT_ONCE = 100
"""Lines per batch."""


def paths(server: Server, caller: Caller, schemas: Schemas) -> dict[str, object]:
    """Describe these routes for OpenAPI, `/run` once for each graph that a caller may run."""
    path_items: dict[str, object] = {}
    for served in server.visible_to(caller):
        path_items[f"/run/{served.name}"] = {"post": _run(served, schemas)}
    name = parameter("name", {"enum": [served.name for served in server.visible_to(caller)]})
    text: Schema = {"type": "string"}
    path_items |= {
        "/schema/{name}": {"get": operation("Its schemas", _ANYTHING, parameters=[name])},
        "/drawing/{name}": {
            "get": operation("A drawing", text, answers_with="text/plain", parameters=[name])
        },
        "/traces/{id}": {"get": operation("What a run did", _ANYTHING, parameters=[_ID])},
    }
    return path_items | (_jobs_paths(name["schema"]) if server.settings.jobs else {})


def _jobs_paths(models: Schema) -> dict[str, object]:
    """Describe the routes of jobs for OpenAPI."""
    state = parameter("state", {"type": "string"}, location="query")
    body: Schema = {
        "type": "object",
        "required": ["model", "rows"],
        "properties": {
            "model": models,
            "rows": {"type": "array", "items": {"type": ["string", "object"]}, "minItems": 1},
        },
    }
    status = operation("How far a job is", _ANYTHING, parameters=[_ID])
    change = operation("How far it is", _ANYTHING, body={"type": "object"}, parameters=[_ID])
    lines = operation("Its lines", {"type": "string"}, answers_with=_LINES, parameters=[_ID, state])
    return {
        "/jobs": {
            "get": operation("The jobs", _ANYTHING),
            "post": operation("Begin a job", _ANYTHING, body=body, status=202),
        },
        "/jobs/{id}": {"get": status},
        "/jobs/{id}/lines": {"get": lines},
        "/jobs/{id}/cancel": {"post": change},
        "/jobs/{id}/resume": {"post": change},
    }


def _run(served: ServedNode, schemas: Schemas) -> Operation:
    template_in, template_out = (
        schemas.reference_template(served.name, way) for way in ("in", "out")
    )
    answer: Schema = {
        "type": "object",
        "required": ["output", "status", "usage", "trace", "seconds"],
        "properties": {
            "output": schemas.add(served.output_in(template_out), template_out),
            "status": {"enum": ["answered", "dropped"]},
            "usage": _ANYTHING,
            "trace": {"type": "string"},
            "seconds": {"type": "number"},
        },
    }
    body = schemas.add(served.input_in(template_in), template_in)
    return operation(served.description or served.name, answer, body=body, streams=True)
