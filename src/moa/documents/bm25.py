"""BM25: retrieval by words."""

from __future__ import annotations

import asyncio
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib import import_module
from typing import Any, Unpack

from moa._text import UNSPACED
from moa.agents.boundary import Limits
from moa.context import RunContext
from moa.documents import Passage, Passages
from moa.documents.retrieval import TOP_K, Retriever, searched
from moa.errors import MissingDependency
from moa.handoffs import Text

_WORD = re.compile(r"\w+")


class BM25(Retriever):
    """Finds passages that share words with the query, rare words before common ones.

    Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", with
    k1 = 1.5 and b = 0.75, as `bm25s` has them (Lù 2024, arXiv:2407.03618). No list of stop words
    and no stemmer, so it is for any language; writing without spaces goes in by pairs of
    characters. Passages that share no word with the query are not found.

    Args:
        passages: What to search. The index is built at the first search.
        top_k: Most passages to give.
        limits: See `Limits`.

    Raises:
        ConfigError: `top_k` is less than 1.
    """

    def __init__(
        self, passages: Sequence[Passage], *, top_k: int = TOP_K, **limits: Unpack[Limits]
    ) -> None:
        super().__init__(top_k=top_k, **limits)
        self.passages = tuple(passages)

    async def answer(self, request: Text | str, context: RunContext) -> Passages:
        """Score all passages, in a thread.

        Raises:
            MissingDependency: `bm25s` is not installed.
        """
        del context
        return await asyncio.to_thread(self.best, str(request), top_k=self.top_k)

    def scores(self, query: str) -> list[float]:
        """Score each passage, in their order; 0 where no word is shared.

        Raises:
            MissingDependency: `bm25s` is not installed.
        """
        known, model = self._index
        ids = [known[word] for word in words(query) if word in known]
        if not ids:
            return [0.0] * len(self.passages)
        return model.get_scores_from_ids(ids).tolist()

    def best(self, query: str, *, top_k: int) -> Passages:
        """Give the best passages. It blocks.

        Raises:
            MissingDependency: `bm25s` is not installed.
        """
        scores = self.scores(query)
        order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:top_k]
        return Passages(passages=tuple(self.passages[i] for i in order if scores[i] > 0))

    @cached_property
    def _index(self) -> tuple[Mapping[str, int], Any]:
        known: dict[str, int] = {}
        ids = [
            [known.setdefault(word, len(known)) for word in words(searched(passage))]
            for passage in self.passages
        ]
        if not known:
            return known, None
        try:
            # In a notebook without widgets it warns of a progress bar, which is never shown here.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                bm25s: Any = import_module("bm25s")
        except ImportError as error:
            raise MissingDependency("bm25s", extra="local", purpose="to search by words") from error
        model = bm25s.BM25()
        model.index((ids, known), show_progress=False)
        return known, model


def words(text: str) -> list[str]:
    """Split a text into what BM25 compares: words in small letters, pairs where no spaces are."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if UNSPACED.search(word) is None:
            found.append(word)
            continue
        found += UNSPACED.sub(" ", word).split()
        for run in UNSPACED.findall(word):
            found += [run[i : i + 2] for i in range(max(1, len(run) - 1))]
    return found
