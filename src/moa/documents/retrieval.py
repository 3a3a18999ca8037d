"""Retrieval: passages for a query; what retrievers share, and the fusion of several."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Unpack

from moa.agents.boundary import Limits, TypedNode
from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.errors import ConfigError, MoaError
from moa.handoffs import Text
from moa.node import Node

TOP_K = 5
_RANK = 60
"""The constant of reciprocal rank fusion, as its paper sets it."""


class Retriever(TypedNode[Text | str, Passages]):
    """Finds passages for a query.

    Args:
        top_k: Most passages to give.
        limits: See `Limits`.

    Raises:
        ConfigError: `top_k` is less than 1.
    """

    def __init__(self, *, top_k: int = TOP_K, **limits: Unpack[Limits]) -> None:
        super().__init__(**limits)
        if top_k < 1:
            raise ConfigError(f"{self.name}: top_k={top_k}, but it must be at least 1")
        self.top_k = top_k


class Hybrid(Retriever):
    """Fuses what several retrievers find, by reciprocal rank fusion.

    Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and
    individual Rank Learning Methods", SIGIR. One that fails is left out, and named in the trace.

    Args:
        retrievers: Asked side by side; each should give more passages than are wanted in the end.
        top_k: Most passages to give.
        limits: See `Limits`.

    Raises:
        ConfigError: there is none, or `top_k` is less than 1.
    """

    def __init__(
        self,
        retrievers: Sequence[Node[Text | str, Passages]],
        *,
        top_k: int = TOP_K,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(top_k=top_k, **limits)
        self.retrievers = tuple(retrievers)
        if not self.retrievers:
            raise ConfigError(f"{self.name} has no retriever to ask")

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Ask all, and fuse.

        Raises:
            MoaError: every one of them failed; what the first failed with.
        """
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(_found_by(retriever, request, context))
                for retriever in self.retrievers
            ]
        found = [task.result() for task in asked]
        rankings = [each for each in found if isinstance(each, Passages)]
        failures = [each for each in found if isinstance(each, MoaError)]
        if not rankings:
            raise failures[0]
        return fused(rankings, top_k=self.top_k)


async def _found_by(
    retriever: Node[Text | str, Passages], request: Text | str, context: RunContext
) -> Passages | MoaError:
    try:
        return (await retriever.run(request, context)).output
    except MoaError as error:
        context.note("failed", f"{retriever.name!r} found nothing: {error}")
        return error


def fused(rankings: Sequence[Passages], *, top_k: int) -> Passages:
    """Fuse rankings: each passage has the sum of 1 / (60 + its rank) over them.

    Args:
        rankings: The best first in each.
        top_k: Most passages to give.
    """
    ranks = [
        {passage: rank for rank, passage in enumerate(ranking.passages, 1)} for ranking in rankings
    ]
    return Passages(passages=fused_ranks(ranks)[:top_k])


def fused_ranks(rankings: Sequence[Mapping[Passage, int]]) -> tuple[Passage, ...]:
    """Fuse rankings in which several passages may share a rank; the best comes first.

    Args:
        rankings: The rank of each passage, from 1; of one that a ranking doesn't hold, none.
    """
    scores: dict[Passage, float] = {}
    for ranking in rankings:
        for passage, rank in ranking.items():
            scores[passage] = scores.get(passage, 0.0) + 1 / (_RANK + rank)
    return tuple(sorted(scores, key=scores.__getitem__, reverse=True))


def searched(passage: Passage) -> str:
    """Give what a passage is found by: its text, under the title of its document."""
    return f"{passage.title}\n{passage.text}"
