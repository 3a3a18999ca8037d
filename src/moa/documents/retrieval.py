"""Retrieval: passages for a query, by words and by meaning, and the fusion of several rankings."""

from __future__ import annotations

import asyncio
import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib import import_module
from operator import itemgetter
from typing import TYPE_CHECKING, Unpack

from moa.agents.base import Limits, TypedNode, require
from moa.core._async import gather
from moa.core._text import UNSPACED, words_in
from moa.core.context import RunContext
from moa.core.errors import ConfigError, MoaError, require_package
from moa.core.node import Node, Text
from moa.documents import Passage, Passages
from moa.endpoints import Endpoint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from moa.decisions.arrays import Floats

TOP_K = 5
_RANK = 60
"""The constant of reciprocal rank fusion, as its paper sets it."""


class Retriever(TypedNode[Text | str, Passages]):
    """Finds passages for a query.

    Args:
        top_k: Maximum number of passages to give.
        limits: See `Limits`.

    Raises:
        ConfigError: `top_k` is less than 1.
    """

    def __init__(self, *, top_k: int = TOP_K, **limits: Unpack[Limits]) -> None:
        super().__init__(**limits)
        if top_k < 1:
            raise ConfigError(f"{self.name}: top_k={top_k}, but it must be at least 1")
        self.top_k = top_k

    async def all(self, context: RunContext) -> tuple[Passage, ...] | None:
        """Return all passages that it searches; `None` if it can't say."""
        del context
        return None


class BM25(Retriever):
    """Finds passages that share words with the query, rare words before common ones.

    Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", with
    k1 = 1.5 and b = 0.75, as `bm25s` has them (Lù 2024, arXiv:2407.03618). No list of stop words
    and no stemmer, so it is for any language; writing without spaces goes in by pairs of
    characters. Passages that share no word with the query are not found.

    Args:
        passages: What to search. The index is built at the first search, which raises
            `MissingDependency` where `bm25s` is not installed.
        top_k: Maximum number of passages to give.
        limits: See `Limits`.

    Raises:
        ConfigError: `top_k` is less than 1.
    """

    def __init__(
        self, passages: Sequence[Passage], *, top_k: int = TOP_K, **limits: Unpack[Limits]
    ) -> None:
        super().__init__(top_k=top_k, **limits)
        self.passages = tuple(passages)

    async def all(self, context: RunContext) -> tuple[Passage, ...]:
        """Return all passages."""
        del context
        return self.passages

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Score all passages, in a thread."""
        del context
        return await asyncio.to_thread(self.best, str(request), top_k=self.top_k)

    def best(self, query: str, *, top_k: int) -> Passages:
        """Return the best passages. It blocks."""
        word_ids, score = self._index
        ids = [word_ids[word] for word in words(query) if word in word_ids]
        scores: list[float] = score(ids).tolist() if ids and score else []
        ranking = rank_by_score(self.passages, scores)[:top_k]
        return Passages(passages=tuple(passage for passage, score in ranking if score > 0))

    @cached_property
    def _index(self) -> tuple[Mapping[str, int], Callable[[list[int]], Floats] | None]:
        """Number the words, and return the function that scores all passages by such numbers."""
        word_ids: dict[str, int] = {}
        ids = [
            [word_ids.setdefault(word, len(word_ids)) for word in words(searched_text(passage))]
            for passage in self.passages
        ]
        if not word_ids:
            return word_ids, None
        # In a notebook without widgets it warns of a progress bar, which is never shown here.
        with (
            require_package("bm25s", extra="local", purpose="to search by words"),
            warnings.catch_warnings(action="ignore"),
        ):
            bm25s = import_module("bm25s")
        model = bm25s.BM25()
        model.index((ids, word_ids), show_progress=False)
        return word_ids, model.get_scores_from_ids


class Dense(Retriever):
    """Finds passages whose vectors are near to that of the query.

    Args:
        passages: What to search.
        vectors: A vector for each passage, by the endpoint: of `searched(passage)`.
        endpoint: Encoder of the query.
        top_k: As in `Retriever`.
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

    async def all(self, context: RunContext) -> tuple[Passage, ...]:
        """Return all passages."""
        del context
        return self.passages

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Embed the query, and compare."""
        return await self.nearest(str(request), context, top_k=self.top_k)

    async def nearest(self, query: str, context: RunContext, *, top_k: int) -> Passages:
        """Embed a query, and give the nearest passages."""
        if not self.passages:
            return Passages()
        embedding = await self.endpoint.embed([query], context)
        return await asyncio.to_thread(self._nearest, embedding.vectors[0], top_k)

    def _nearest(self, vector: Sequence[float], top_k: int) -> Passages:
        ranking = rank_by_score(self.passages, similarities(self._matrix, vector))[:top_k]
        return Passages(passages=tuple(passage for passage, _ in ranking))

    @cached_property
    def _matrix(self) -> NDArray[np.float32]:
        return normalise(self._vectors)


class Hybrid(Retriever):
    """Fuses what several retrievers find, by reciprocal rank fusion.

    Cormack, Clarke and Büttcher 2009, "Reciprocal Rank Fusion outperforms Condorcet and
    individual Rank Learning Methods", SIGIR. One that fails is left out, and named in the trace.

    Args:
        retrievers: Asked in parallel; each should give more passages than are wanted in the end.
        top_k: Maximum number of passages to give.
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

    async def all(self, context: RunContext) -> tuple[Passage, ...] | None:
        """Return the passages of all, each once; `None` if one of them can't say."""
        passages: dict[Passage, None] = {}
        for retriever in self.retrievers:
            own_passages = (
                await retriever.all(context) if isinstance(retriever, Retriever) else None
            )
            if own_passages is None:
                return None
            passages |= dict.fromkeys(own_passages)
        return tuple(passages)

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Ask all, and fuse; where each of them failed, the first failure is raised."""

        async def ask(retriever: Node[Text | str, Passages]) -> Passages | MoaError:
            try:
                return (await retriever.run(request, context)).output
            except MoaError as error:
                context.note("failed", f"{retriever.name!r} found nothing: {error}")
                return error

        results = await gather(map(ask, self.retrievers))
        rankings = [result for result in results if isinstance(result, Passages)]
        failures = [result for result in results if isinstance(result, MoaError)]
        if not rankings:
            raise failures[0]
        return fuse(rankings, top_k=self.top_k)


def fuse(rankings: Sequence[Passages], *, top_k: int) -> Passages:
    """Fuse rankings: each passage has the sum of 1 / (60 + its rank) over them."""
    ranks = [
        {passage: rank for rank, passage in enumerate(ranking.passages, 1)} for ranking in rankings
    ]
    return Passages(passages=fuse_ranks(ranks)[:top_k])


def fuse_ranks(rankings: Sequence[Mapping[Passage, int]]) -> tuple[Passage, ...]:
    """Fuse rankings (ranks from 1 by passage, ties allowed); the best first."""
    scores: dict[Passage, float] = {}
    for ranking in rankings:
        for passage, rank in ranking.items():
            scores[passage] = scores.get(passage, 0.0) + 1 / (_RANK + rank)
    return tuple(sorted(scores, key=scores.__getitem__, reverse=True))


def rank_by_score(
    passages: Sequence[Passage], scores: Sequence[float]
) -> list[tuple[Passage, float]]:
    """Return passages with their scores, the best first; without scores none."""
    return sorted(zip(passages, scores, strict=False), key=itemgetter(1), reverse=True)


def searched_text(passage: Passage) -> str:
    """Return the searched text of a passage: its text under the title of its document."""
    return f"{passage.title}\n{passage.text}"


def words(text: str) -> list[str]:
    """Split a text into what BM25 compares: words in small letters, pairs if no spaces are."""
    terms: list[str] = []
    for word in words_in(unicodedata.normalize("NFKC", text)):
        if UNSPACED.search(word) is None:
            terms.append(word)
            continue
        terms += UNSPACED.sub(" ", word).split()
        for run in UNSPACED.findall(word):
            terms += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
    return terms


def normalise(vectors: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """Put vectors into an array of rows of length 1."""
    from moa.decisions.arrays import np  # which says what is missing

    array = np.asarray(vectors, np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-12)


def similarities(matrix: NDArray[np.float32], vector: Sequence[float]) -> list[float]:
    """Cosine of a vector with each row of an array that `normalise` made."""
    return (matrix @ normalise([vector])[0]).tolist()
