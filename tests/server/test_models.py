"""Models and vectors: what the official SDK lists, and texts that it has encoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from moa import Agent
from moa.config.endpoints import Endpoints
from moa.serving.app import serve
from moa.testing import ScriptedEndpoint, SimulatedEndpoint

from .loopback import running


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    writer = Agent(ScriptedEndpoint([]), "Write.", name="writer")
    small = SimulatedEndpoint(encoder=SimulatedEndpoint(name="encoder"))
    with running(serve(writer, endpoints=Endpoints.of(small=small))) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as found:
        yield found


def test_the_official_sdk_lists_what_is_served(client: openai.OpenAI) -> None:
    listed = client.models.list().data
    assert [one.id for one in listed] == ["writer", "decide", "encoder"]
    assert {one.owned_by for one in listed} == {"moa"}
    assert client.models.retrieve("writer").id == "writer"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("a/b?c")


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}])
def test_the_official_sdk_has_texts_turned_into_vectors(client: openai.OpenAI, form: Any) -> None:
    found = client.embeddings.create(model="encoder", input=["Hello", "Good day"], **form)
    assert [one.embedding for one in found.data] == [[5.0, 0.0, 1.0], [8.0, 1.0, 1.0]]
    assert [one.index for one in found.data] == [0, 1]
    assert found.usage.total_tokens == 10


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
def test_what_can_not_be_encoded_is_refused(client: openai.OpenAI, asked: Any) -> None:
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(**{"model": "encoder", "encoding_format": "float", **asked})
