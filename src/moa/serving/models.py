"""Models: the list of models for clients of OpenAI and System One, and embeddings."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from struct import pack
from typing import Annotated, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from moa.core._files import encode_json
from moa.core.context import RunContext, run_context
from moa.core.errors import RequestRefused
from moa.core.node import Result, finish
from moa.endpoints import Endpoint
from moa.serving.asking import Body, Ignored, body_of, read_as
from moa.serving.chat_request import request_error
from moa.serving.http import caller_of, json_response, read_run
from moa.serving.keys import Caller
from moa.serving.openapi import Schemas, operation, parameter
from moa.serving.served import Schema, ServedNode
from moa.serving.server import ENCODER, Server

OWNER = "moa"
"""Owner of the models. A moa client recognises the server by it."""
MOST_TEXTS = 2048
_AT_ONCE = 32
"""Texts encoded together. Once begun, an encoding can't be stopped."""
_PIECE = 8
"""Vectors written together. An answer of many has 38 MB, and is made as it is read."""


class EmbeddingsRequest(Body):
    """A request to turn texts into vectors."""

    model: str
    input: (
        Annotated[str, Field(min_length=1)]
        | Annotated[
            list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MOST_TEXTS)
        ]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
    user: Ignored = None

    @property
    def texts(self) -> list[str]:
        """The texts, in order."""
        return [self.input] if isinstance(self.input, str) else self.input


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of texts, in their order."""

    vectors: Sequence[tuple[float, ...]]


class EncodingNode:
    """A node that turns texts into vectors.

    Args:
        encoder: Endpoint that encodes.
    """

    name = ENCODER

    def __init__(self, encoder: Endpoint) -> None:
        self.encoder = encoder

    async def run(
        self, request: Sequence[str], /, context: RunContext | None = None
    ) -> Result[Vectors]:
        """Encode texts in batches, so that a run can be stopped. Raises as `Endpoint.embed`."""
        started = time.perf_counter()
        inner = run_context(context).nested(self.name)
        vectors: list[tuple[float, ...]] = []
        for start in range(0, len(request), _AT_ONCE):
            embeddings = await self.encoder.embed(request[start : start + _AT_ONCE], inner)
            vectors += embeddings.vectors
        return finish(Vectors(vectors), inner, seconds=time.perf_counter() - started)


def routes(server: Server) -> list[Route]:
    """Make the routes `/v1/models` and `/v1/embeddings`."""
    started = datetime.now(UTC)

    async def models(request: Request) -> Response:
        descriptions = dict(models_for(server, caller_of(request)))
        day = started.date().isoformat()
        listing = [
            {"name": name, "description": description, "release_date": day}
            for name, description in descriptions.items()
        ]
        data = [_model(name, started) for name in descriptions]
        return json_response({"object": "list", "data": data, "models": listing})

    async def model(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in dict(models_for(server, caller_of(request))):
            server.find(name, caller_of(request))  # raises, and lists the models
        return json_response(_model(name, started))

    async def embeddings(request: Request) -> Response:
        body = await read_run(request, server.settings, partial(read_as, EmbeddingsRequest))
        node = EncodingNode(_encoder(server, body.model, caller_of(request)))
        finished = await server.runs.finish(request, ServedNode(node), body.texts)
        output, tokens = finished.output, finished.item.usage.total.input_tokens
        assert isinstance(output, Vectors), "so does an encoding"
        pieces = _vectors(body.model, output.vectors, tokens, body.encoding_format == "base64")
        return StreamingResponse(pieces, 200, finished.headers, "application/json")

    return [
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]


def paths(server: Server, caller: Caller, schemas: Schemas) -> dict[str, object]:
    """Describe these routes for OpenAPI."""
    listing: Schema = {"type": "object", "required": ["object", "data", "models"]}
    model: Schema = {"type": "object", "required": ["id", "object", "created", "owned_by"]}
    vectors: Schema = {
        "type": "object",
        "required": ["object", "data", "model", "usage"],
        "properties": {"data": {"type": "array", "minItems": 1}},
    }
    names = [name for name, _ in models_for(server, caller)]
    path_items: dict[str, object] = {
        "/v1/models": {"get": operation("List the models, as OpenAI does", listing)},
        "/v1/models/{name}": {
            "get": operation("One of them", model, parameters=[parameter("name", {"enum": names})])
        },
    }
    if ENCODER in names:
        body = body_of(EmbeddingsRequest, schemas, models=[ENCODER])
        encoding = operation("Turn texts into vectors, as OpenAI does", vectors, body=body)
        path_items["/v1/embeddings"] = {"post": encoding}
    return path_items


def models_for(server: Server, caller: Caller) -> Iterator[tuple[str, str]]:
    """Yield the models that a caller may use, with their descriptions."""
    for name, served in server.served.items():
        if caller.may_run(name):
            yield name, served.description or f"{type(served.node).__name__} of this server"
    yield from server.own_models(caller).items()


def _model(name: str, started: datetime) -> dict[str, object]:
    created = int(started.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": OWNER}


def _encoder(server: Server, name: str, caller: Caller) -> Endpoint:
    if name != ENCODER or not caller.may_run(name):
        server.find(name, caller)
        raise request_error(f"{name} gives no vectors: ask {ENCODER!r}", "model")
    if server.encoder is None:
        raise RequestRefused(
            "this server has no encoder: its extra `local` brings one",
            status=404,
            code="model_not_found",
            param="model",
        )
    return server.encoder


async def _vectors(
    model: str, vectors: Sequence[tuple[float, ...]], tokens: int, is_packed: bool
) -> AsyncGenerator[bytes]:
    """Yield the answer in pieces."""
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    head = encode_json({"object": "list", "model": model, "usage": usage})
    yield head.removesuffix(b"}") + b',"data":['
    for start in range(0, len(vectors), _PIECE):
        items = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _pack(vector) if is_packed else vector,
            }
            for index, vector in enumerate(vectors[start : start + _PIECE], start)
        ]
        yield (b"," if start else b"") + encode_json(items)[1:-1]
    yield b"]}"


def _pack(vector: Sequence[float]) -> str:
    """Encode a vector as OpenAI's SDK requests it: base64 of 32-bit little-endian floats."""
    return base64.b64encode(pack(f"<{len(vector)}f", *vector)).decode()
