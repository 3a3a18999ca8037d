"""Models and vectors: what the official SDK lists, and texts that it has encoded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from moa import Agent
from moa.config.endpoints import Endpoints
from moa.endpoints.dialects import dialect_of
from moa.serving.app import serve
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .harness import listening


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    writer = Agent(ScriptedEndpoint([]), "Write.", name="writer")
    small = SimulatedEndpoint(encoder=SimulatedEndpoint(name="encoder"))
    async with (
        listening(serve(writer, endpoints=Endpoints.of(small=small))) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as found,
    ):
        yield found


async def test_the_official_sdk_lists_what_is_served(client: openai.AsyncOpenAI) -> None:
    listed = await client.models.list()
    assert [one.id for one in listed.data] == ["writer", "decide", "encoder"]
    assert (await client.models.retrieve("writer")).id == "writer"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("a/b?c")


async def test_a_model_that_is_listed_and_asked_otherwise_says_how(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/systemone"):
        await client.chat.completions.create(
            model="decide", messages=[{"role": "user", "content": "Hi"}]
        )
    with pytest.raises(openai.NotFoundError, match="/v1/systemone"):
        await client.embeddings.create(model="decide", input="Hi")


async def test_moas_own_client_knows_the_server_by_its_models(client: openai.AsyncOpenAI) -> None:
    assert dialect_of((await client.models.list()).model_dump()).name == "moa"


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}])
async def test_the_official_sdk_has_texts_turned_into_vectors(
    client: openai.AsyncOpenAI, form: Any
) -> None:
    found = await client.embeddings.create(model="encoder", input=["Hello", "Good day"], **form)
    assert [one.embedding for one in found.data] == [[5.0, 0.0, 1.0], [8.0, 1.0, 1.0]]
    assert [one.index for one in found.data] == [0, 1]
    assert found.usage.total_tokens == 10


async def test_many_vectors_are_made_as_they_are_read() -> None:
    small = SimulatedEndpoint(encoder=SimulatedEndpoint(name="encoder"))
    app = serve(Agent(ScriptedEndpoint([]), "Write."), endpoints=Endpoints.of(small=small))
    unread = [json.dumps({"model": "encoder", "input": ["Hello"] * 2048}).encode()]
    pieces = list[bytes]()

    async def receive() -> Any:
        if not unread:
            return await asyncio.get_running_loop().create_future()
        return {"type": "http.request", "body": unread.pop()}

    async def send(message: Any) -> None:
        pieces.append(message.get("body", b""))

    names = {"host": "localhost", "content-type": "application/json"}
    headers = [(name.encode(), value.encode()) for name, value in names.items()]
    scope: Any = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": headers}
    async with app.router.lifespan_context(app):
        await app({**scope, "query_string": b"", "root_path": ""}, receive, send)
    found = json.loads(b"".join(pieces))
    assert [one["index"] for one in found["data"]] == [*range(2048)]
    assert {str(one["embedding"]) for one in found["data"]} == {"[5.0, 0.0, 1.0]"}
    assert max(map(len, pieces)) < len(b"".join(pieces)) / 100


@pytest.mark.parametrize(
    "asked",
    [
        {"input": []},
        {"input": ""},
        {"input": [[1, 2, 3]]},
        {"input": ["x"] * 2049},
        {"input": "x", "dimensions": 2},
        {"input": "x", "encoding_format": "hex"},
        {"input": "x", "model": "writer"},
    ],
)
async def test_what_can_not_be_encoded_is_refused(client: openai.AsyncOpenAI, asked: Any) -> None:
    body: Any = {"model": "encoder", "encoding_format": "float", **asked}
    with pytest.raises(openai.BadRequestError):
        await client.embeddings.create(**body)
