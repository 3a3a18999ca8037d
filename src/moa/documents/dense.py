"""Dense: retrieval by meaning, which vectors of an endpoint stand for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Unpack

from moa.agents.boundary import Limits, require
from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.documents.retrieval import TOP_K, Retriever
from moa.endpoints import Endpoint
from moa.errors import ConfigError, MissingDependency
from moa.handoffs import Text


class Dense(Retriever):
    """Finds passages whose vectors are near to that of the query.

    Args:
        passages: What to search.
        vectors: A vector for each passage, by the endpoint: of `searched(passage)`.
        endpoint: Who turns the query into a vector.
        top_k: Most passages to give.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't embed.
        ConfigError: there are not as many vectors as passages, or `top_k` is less than 1.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        vectors: Sequence[Sequence[float]],
        endpoint: Endpoint,
        *,
        top_k: int = TOP_K,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(top_k=top_k, **limits)
        self.endpoint = require(endpoint, "embed", agent=self.name)
        self.passages = tuple(passages)
        if len(vectors) != len(self.passages):
            raise ConfigError(
                f"{self.name}: {len(self.passages)} passages and {len(vectors)} vectors, but each "
                "passage has one"
            )
        self._vectors = vectors

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Embed the query, and compare.

        Raises:
            MissingDependency: `numpy` is not installed.
        """
        return await self.nearest(str(request), context, top_k=self.top_k)

    async def nearest(self, query: str, context: RunContext, *, top_k: int) -> Passages:
        """Embed a query, and give the nearest passages.

        Raises:
            MissingDependency: `numpy` is not installed.
            MoaError: what the endpoint failed with.
        """
        if not self.passages:
            return Passages()
        found = await self.endpoint.embed([query], context)
        return await asyncio.to_thread(self._nearest, found.vectors[0], top_k)

    def _nearest(self, vector: Sequence[float], top_k: int) -> Passages:
        near = similarities(self._matrix, vector)
        order = sorted(range(len(near)), key=near.__getitem__, reverse=True)[:top_k]
        return Passages(passages=tuple(self.passages[i] for i in order))

    @cached_property
    def _matrix(self) -> Any:
        return normalised(self._vectors)


def normalised(vectors: Sequence[Sequence[float]]) -> Any:
    """Put vectors into an array of rows of length 1.

    Raises:
        MissingDependency: `numpy` is not installed.
    """
    try:
        import numpy as np
    except ImportError as error:
        raise MissingDependency("numpy", extra="local", purpose="to compare vectors") from error
    array = np.asarray(vectors, np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)


def similarities(matrix: Any, vector: Sequence[float]) -> list[float]:
    """Cosine of a vector with each row of an array that `normalised` made."""
    return (matrix @ normalised([vector])[0]).tolist()
