"""The servers of these tests: those that `.ci/vllm` starts, by the file that it names.

`$MOA_VLLM_CONFIG` is a `moa.toml` with the endpoints `small` (the embedded model's weights),
`labels` (the same, that looks for no other way to decide), `batch` (the same, served after others),
`adapted` (a random LoRA adapter on the same server) and `tiny` (a random Qwen3).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from moa.config import load
from moa.config.endpoints import Endpoints
from moa.endpoints.openai import OpenAIEndpoint
from moa.local.embedded import EmbeddedEndpoint
from moa.vllm.endpoint import VLLMServer
from moa.vllm.state import ServerFolder

CONFIG = os.environ.get("MOA_VLLM_CONFIG", "")
if not CONFIG:
    collect_ignore_glob = ["test_*.py"]


def served(name: str) -> OpenAIEndpoint:
    """Build an endpoint without retries, so that what goes wrong is seen."""
    return Endpoints(load(Path(CONFIG))).server(name)


def server_of(name: str) -> VLLMServer:
    """Ask the server itself, without a model."""
    port = load(Path(CONFIG)).served_endpoints[name].vllm.port
    key = ServerFolder.of(port).key()
    assert key is not None, f"no server of {name!r} was started on port {port}"
    return VLLMServer(name, port=port, api_key=key)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small() -> AsyncIterator[OpenAIEndpoint]:
    async with served("small") as endpoint:
        yield endpoint


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def labels() -> AsyncIterator[OpenAIEndpoint]:
    async with served("labels") as endpoint:
        yield endpoint


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny() -> AsyncIterator[OpenAIEndpoint]:
    async with served("tiny") as endpoint:
        yield endpoint


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def embedded() -> AsyncIterator[EmbeddedEndpoint]:
    async with EmbeddedEndpoint() as endpoint:
        yield endpoint
