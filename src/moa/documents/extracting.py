"""Extracting: the sentence of the passages that is nearest to a question, word for word."""

from __future__ import annotations

from typing import Unpack

from moa.agents.boundary import Limits, TypedNode, require
from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.documents.answering import Sheet
from moa.documents.bm25 import BM25
from moa.documents.chunking import sentences_of
from moa.documents.citing import unbracketed
from moa.documents.dense import normalised, similarities
from moa.documents.retrieval import fused_ranks
from moa.endpoints import Endpoint
from moa.errors import DeadlineExceeded, MoaError
from moa.handoffs import Reply

LEAST = 0.4
"""Cosine of a question with a sentence under which the sentence is no answer to it."""


class Extracted(Reply):
    """A sentence of a passage, with its citation; empty where none is near to the question."""


class Extractive(TypedNode[Sheet, Extracted]):
    """Answers by one sentence of the passages, where no model writes well enough.

    Sentences are ranked by the words that they share with the question, by meaning where there is
    an endpoint that embeds, and by the rank of their passage; the rankings are fused. Where vectors
    can't be had, sentences are compared by words alone, and the trace says so.

    Args:
        endpoint: Who turns texts into vectors; `None`: sentences are compared by words alone.
        least: Cosine under which a sentence is no answer. Without an endpoint, a sentence that
            shares no word with the question is none.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't embed.
    """

    def __init__(
        self, endpoint: Endpoint | None = None, *, least: float = LEAST, **limits: Unpack[Limits]
    ) -> None:
        super().__init__(**limits)
        self.endpoint = None if endpoint is None else require(endpoint, "embed", agent=self.name)
        self.least = least

    async def answer(self, request: Sheet, context: RunContext) -> Extracted:
        """Rank the sentences, and give the first with the number of its passage."""
        numbers: dict[Passage, int] = {}
        for number, passage in enumerate(request.passages, 1):
            for sentence in sentences_of(passage):
                numbers.setdefault(sentence, number)
        sentences = list(numbers)
        rankings = [await self._by_words(request.question, sentences, context)]
        if self.endpoint is not None and sentences:
            try:
                rankings.append(await self._by_meaning(request.question, sentences, context))
            except DeadlineExceeded:
                raise
            except MoaError as error:
                context.note("degraded", f"sentences are compared by words alone: {error}")
        near = set(rankings[-1].passages)
        ranks = [{each: rank for rank, each in enumerate(found.passages, 1)} for found in rankings]
        best = next((each for each in fused_ranks([*ranks, numbers]) if each in near), None)
        if best is None:
            return Extracted(text="")
        return Extracted(text=f"{unbracketed(best.text)} [{numbers[best]}]")

    async def _by_words(
        self, question: str, sentences: list[Passage], context: RunContext
    ) -> Passages:
        ranking = BM25(sentences, top_k=max(1, len(sentences)))
        return (await ranking.run(question, context)).output

    async def _by_meaning(
        self, question: str, sentences: list[Passage], context: RunContext
    ) -> Passages:
        assert self.endpoint is not None, "asked only where there is one"
        texts = [question, *(sentence.text for sentence in sentences)]
        vectors = (await self.endpoint.embed(texts, context)).vectors
        near = similarities(normalised(vectors[1:]), vectors[0])
        order = sorted(range(len(near)), key=near.__getitem__, reverse=True)
        return Passages(passages=tuple(sentences[i] for i in order if near[i] >= self.least))
