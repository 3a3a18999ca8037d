"""Rag: finds passages for a question, and answers from them with citations.

After Lewis et al. 2020, "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks",
arXiv:2005.11401. A large model writes. Small models can rewrite the question, filter the passages
and check the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Unpack

from pydantic import AfterValidator, Field

from moa.agents.agent import Agent
from moa.agents.base import Limits, TypedNode, is_endpoint, require
from moa.agents.prompts import escape_tags
from moa.core.context import RunContext, quiet
from moa.core.errors import ConfigError, InputError
from moa.core.node import Became, Frozen, Node, Reply, Text
from moa.documents import Passage, Passages
from moa.documents.claims import (
    RELEVANT,
    SUPPORTED,
    Citation,
    Claim,
    Grade,
    Grader,
    check_answer,
    cite,
    filter_text,
    grade_each,
    has_words,
    is_foreign,
    number_passages,
    quote_claims,
    without_brackets,
    word_shares,
)
from moa.documents.index import MAX_TOKENS, Index, IndexRetriever
from moa.documents.retrieval import (
    BM25,
    fuse,
    fuse_ranks,
    normalise,
    rank_by_score,
    similarities,
    words,
)
from moa.documents.writing import attempt
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.graphs.fields import File, Large, NamedEndpoints, PythonNode, Small, resolve_path
from moa.graphs.recipe import Recipe, Sketch
from moa.graphs.single_model import load_calibration
from moa.local.encoders import sentence_encoder

ABSENT = "NOT IN THE DOCUMENTS"
"""Start of a writer's answer that means "no answer". The writer isn't told to use it."""
_HELPS = 0.2
"""Minimum probability of a passage that helps, without a calibration."""
_SUPPORTS = 0.5
"""Minimum probability of a supported sentence, without a calibration."""
_LEADING = re.compile(r"^[\s\"'*_`\u201c]+")
NEAR = 0.5
"""Minimum cosine of a question and a sentence that may answer it. Chosen with `_SHARED` on half of
200 questions about XQuAD: of those whose passage is in no document, 55 % have no such sentence; of
the others, none. On the other half: 67 % and 3 %."""
_SHARED = 0.35
"""Minimum share of a question's words, rare ones counting more, in a sentence that may answer it
whatever its cosine."""
_BEHIND = 0.1
"""Maximum difference in cosine between a passage's nearest sentence and the nearest of all, for an
answer to rest on that passage alone. Of 134 passages that hold an answer about XQuAD, none was
further behind; of the others found with them, 93 % were."""
_REWRITE = (
    "Turn the question into a search query: the words and names, with synonyms, that a passage "
    "with the answer would contain, in the language of the question. Do not answer it."
)


class Sheet(Frozen):
    """A question, and the passages to answer it from."""

    question: str
    passages: tuple[Passage, ...]
    """Passages, cited by position, from 1."""


class Query(Frozen):
    """What to search for."""

    query: str = Field(min_length=1, max_length=300)


class Quote(Reply):
    """A sentence of a passage, with its citation; empty if none is near to the question."""

    near: tuple[int, ...] = ()
    """Numbers of the passages that are nearest to the question by meaning, or nearly so; empty if
    nothing was compared by meaning."""


class SourcedAnswer(Reply):
    """An answer that rests on passages."""

    kind: Literal["answer", "extract"]
    """An extract is a sentence of a passage, word for word: no model wrote it."""
    citations: tuple[Citation, ...]
    """Passages that it cites."""
    claims: tuple[Claim, ...]
    """Its sentences. The `unsupported` ones were left out of the text."""
    passages: tuple[Passage, ...]
    """All passages that it could cite; `[1]` is the first."""

    @property
    def supported(self) -> bool:
        """True if a check found every sentence of the text in the passages that it cites."""
        return all(claim.verdict in ("supported", "unsupported") for claim in self.claims)

    def __str__(self) -> str:
        sources = "; ".join(
            f"[{citation.number}] {citation.passage.source}" for citation in self.citations
        )
        extract = "extract: " if self.kind == "extract" else ""
        return f"{extract}{self.text}" + (f" ({sources})" if sources else "")


class NotInDocuments(Frozen):
    """The documents don't answer the question."""

    kind: Literal["not in the documents"] = "not in the documents"
    reason: str
    """Reason, in words."""
    passages: tuple[Passage, ...] = ()
    """Nearest passages that were found."""

    @property
    def became(self) -> Became:
        """Outcome of the question: not found."""
        return "not found"

    def __str__(self) -> str:
        return f"not in the documents: {self.reason}"


RagOutcome = SourcedAnswer | NotInDocuments


class Rag(Recipe[Text | str, RagOutcome], recipe="rag"):
    """Answers from your documents, with citations, or says that they don't hold the answer.

    Raises:
        CapabilityError: an endpoint lacks a capability.
        CalibrationError: a calibration can't be read, or is for another question.
        ConfigError: a small model is needed and missing.

    Examples:
        >>> from moa.documents import Passage
        >>> from moa.documents.retrieval import BM25
        >>> text = "Change the filter every 90 days."
        >>> passage = Passage(document="pump.md", title="Pump", text=text)
        >>> large = ScriptedEndpoint(["Every 90 days [1]."])
        >>> graph = Rag(retriever=BM25([passage]), writer=large)
        >>> print(graph.run_sync("When do I change the filter?").output)
        Every 90 days [1]. ([1] Pump)
    """

    documents: File | Sequence[File] | None = None
    """Files and folders of text, Markdown, HTML and PDF; in a table, relative to `moa.toml`.
    `None`: those in the index."""
    index: Annotated[Path, AfterValidator(resolve_path)] | None = None
    """Folder of the stored index; `None`: each process reads the files again."""
    search: Literal["words", "meaning", "both"] = "both"
    """Search by words, by meaning or by both. Without an endpoint that embeds: by words."""
    embedder: Large | None = None
    """Endpoint that embeds texts; `None`: the built-in sentence encoder, if its packages are
    installed."""
    passage_tokens: int = Field(default=MAX_TOKENS, ge=1)
    """Maximum number of tokens of a passage."""
    retriever: PythonNode[Text | str, Passages] | None = None
    """Replaces the search in `documents`: `BM25`, `Dense`, `Hybrid`, `IndexRetriever`, or
    LangChain's by `FromLangChain`. Only in Python."""
    top_k: int = Field(default=5, ge=1)
    """Maximum number of passages for the writer."""
    writer: Large | PythonNode[Sheet, Reply]
    """Writes the answer: an endpoint, or in Python a node, such as `Answerer`. The answer is shown
    once it is checked. If the model is too small to write, the nearest sentence is quoted
    (`Extractive`)."""
    small: Small | None = None
    """Rewrites, filters and checks, if that is turned on. Default in a table: the small model."""
    rewrite: bool | PythonNode[Text | str, Query] = False
    """If true, also search for the small model's rewriting of the question, with one call; or pass
    your own rewriter. The passages of both searches are fused."""
    filter: bool | File | PythonNode[Text | str, Grade] = False
    """If true, the small model removes passages that don't help, with one call each; or pass the
    file of a calibration for it, or your own filter. Otherwise only the search selects passages."""
    check: bool | File | PythonNode[Text | str, Grade] = False
    """If true, the small model checks each sentence against its cited passages, with one call each;
    or pass the file of a calibration for it, or your own check. Otherwise each sentence only has to
    cite one."""
    near: float = Field(default=NEAR, ge=0, le=1)
    """Minimum cosine of the question and a sentence that may answer it. If no sentence reaches it,
    and none has a third of the question's words, the result is `NotInDocuments`, without a call.
    The default suits the built-in encoder. 0 lets every sentence answer. Used if the search is by
    meaning and there is no `filter`."""
    max_tokens: int = Field(default=512, ge=1)
    """Maximum number of tokens of an answer."""

    @classmethod
    def complete(
        cls, table: Mapping[str, object], endpoints: NamedEndpoints
    ) -> Mapping[str, object]:
        """Use the default small model. To run, documents or an index are required."""
        if not {"documents", "index"} & {*table} and endpoints.can_be_asked:
            raise ConfigError(
                'there is nothing to search in: name files or folders by documents = ["docs"], or '
                "what moa index made by index, in the graph's table of moa.toml, such as "
                "[graphs.rag]"
            )
        return {"small": "", **table}

    def prepare(self) -> None:
        """Make the nodes."""
        embedder = self.embedder or sentence_encoder()
        self.finder = self.retriever or IndexRetriever(
            self.documents,
            Index(self.index, max_tokens=self.passage_tokens),
            endpoint=None if self.search == "words" else embedder,
            by_words=self.search != "meaning",
            top_k=self.top_k,
            name="passages",
        )
        large = self.writer
        if not is_endpoint(large):
            self.answerer: Node[Sheet, Reply] = large
        elif can_write(large.model):
            self.answerer = Answerer(large, max_tokens=self.max_tokens)
        else:
            self.answerer = Extractive(embedder, least=self.near)
        by_meaning = self.search != "words" if self.retriever is None else self.embedder is not None
        self.gates = by_meaning and embedder is not None and self.filter is False and self.near > 0
        self.extractive = Extractive(embedder if self.gates else None, least=self.near)
        self.rewriter = None if isinstance(self.rewrite, bool) else self.rewrite
        if self.rewrite is True:
            self.rewriter = Agent(self._small("rewrite"), _REWRITE, output=Query, name="rewriter")
        self.relevance = self._grader("filter", self.filter, RELEVANT, _HELPS)
        self.support = self._grader("check", self.check, SUPPORTED, _SUPPORTS)

    def _grader(
        self,
        name: str,
        setting: bool | str | Path | Node[Text | str, Grade],
        question: str,
        threshold: float,
    ) -> Node[Text | str, Grade] | None:
        if not isinstance(setting, bool | str | Path):
            return setting
        if setting is False:
            return None
        calibration = None if setting is True else load_calibration(Path(setting))
        small = self._small(name)
        return Grader(small, question, threshold=threshold, calibration=calibration, name=name)

    def _small(self, use: str) -> Endpoint:
        if self.small is None:
            raise ConfigError(f"{self.name}: small: give a small model, which {use} asks")
        return self.small

    def list_endpoints(self) -> list[Endpoint] | None:
        """Return the endpoints that are asked. If sentences are quoted, the writer isn't."""
        endpoints = super().list_endpoints()
        if endpoints is None or not isinstance(self.answerer, Extractive):
            return endpoints
        return [endpoint for endpoint in endpoints if endpoint is not self.writer]

    async def answer(self, request: Text | str, context: RunContext) -> RagOutcome:
        """Search, filter, write and check.

        Raises:
            InputError: the question is empty.
            ConfigError: a node can't run, since a package or a calibration is missing, for example.
        """
        question = question_of(request, self.name)
        passages = await self._search(question, context)
        if not passages:
            return NotInDocuments(reason="no passage was found")
        relevant = await self._filter(question, passages, context)
        if not relevant:
            reason = f"none of the {len(passages)} passages that were found helps to answer it"
            return NotInDocuments(reason=reason, passages=passages)
        return await self._answer_from(relevant, question, context)

    async def _search(self, question: str, context: RunContext) -> tuple[Passage, ...]:
        """Search for the question and for its rewriting, so that a bad rewriting loses nothing."""
        queries = [question, *await self._rewrite(question, context)]
        results = [(await self.finder.run(query, context)).output for query in queries]
        total = sum(len(result.passages) for result in results)
        return fuse(results, top_k=total).passages if len(results) > 1 else results[0].passages

    async def _rewrite(self, question: str, context: RunContext) -> list[str]:
        if self.rewriter is None:
            return []
        fallback = "the question was searched as it is"
        result = await attempt(self.rewriter.run(question, context), context, fallback)
        if result is None:
            return []
        query = result.output.query
        return [query] if set(words(query)) - set(words(question)) else []

    async def _filter(
        self, question: str, passages: tuple[Passage, ...], context: RunContext
    ) -> tuple[Passage, ...]:
        """Remove passages judged not to help. Passages in doubt stay."""
        if self.relevance is None:
            return passages[: self.top_k]
        texts = [filter_text(question, passage) for passage in passages]
        grades = await grade_each(self.relevance, texts, context)
        relevant: list[Passage] = []
        for passage, grade in zip(passages, grades, strict=True):
            if grade.met is False and grade.accepted is not False:
                suffix = (
                    "" if grade.probability is None else f", probability {grade.probability:.2f}"
                )
                context.note("dropped", f"{passage.source}: does not help to answer{suffix}")
            else:
                relevant.append(passage)
        return tuple(relevant[: self.top_k])

    async def _answer_from(
        self, passages: tuple[Passage, ...], question: str, context: RunContext
    ) -> RagOutcome:
        """Write an answer from these passages, and check it.

        No model is asked if no sentence is near to the question, by words or by meaning.
        """
        ranked = Sheet(question=question, passages=passages)
        quotes = isinstance(self.answerer, Extractive)
        nearest = self.answerer if isinstance(self.answerer, Extractive) else self.extractive
        extract = (await nearest.run(ranked, context)).output
        # Without vectors, words alone can't decide that nothing is near.
        judges = self.gates and extract.near and not is_foreign(question, passages)
        if not extract.text and (quotes or judges):
            return NotInDocuments(reason="no sentence is near to the question", passages=passages)
        if quotes:
            return await self._quote(extract, passages, context)
        # In document order, not by rank: prompts about the same passages then begin alike, and a
        # server with a prefix cache doesn't read them again.
        placed = sorted(passages, key=lambda passage: (passage.document, passage.start))
        sheet = Sheet(question=question, passages=tuple(placed))
        # Nothing is shown before it is checked.
        reply = (await self.answerer.run(sheet, quiet(context))).output
        if not has_words(reply.text) and extract.text:
            context.note("degraded", "the writer wrote no words, so the nearest sentence is given")
            return await self._quote(extract, passages, context)
        judges = judges and self.support is None
        near_passages = [passages[n - 1] for n in extract.near] if judges else ()
        return await self._check(reply.text, sheet, near_passages, context)

    async def _check(
        self, answer: str, sheet: Sheet, near_passages: Sequence[Passage], context: RunContext
    ) -> RagOutcome:
        """Keep the supported sentences. The answer must rest on one of `near_passages`, if any."""
        passages, question = sheet.passages, sheet.question
        if is_absent(answer) or not has_words(answer):
            reason = "the passages do not hold the answer"
            return NotInDocuments(reason=reason, passages=passages)
        text, citations, claims = await check_answer(
            answer, passages, self.support, context, question=question, neighbours=near_passages
        )
        if not text:
            reason = "no passage says what was answered"
            return NotInDocuments(reason=reason, passages=passages)
        uncited = sum(claim.verdict == "uncited" for claim in claims)
        if uncited:
            context.note("degraded", f"{uncited} of {len(claims)} sentences: no passage says")
        return SourcedAnswer(
            text=text, kind="answer", citations=citations, claims=claims, passages=passages
        )

    async def _quote(
        self, extract: Quote, passages: tuple[Passage, ...], context: RunContext
    ) -> SourcedAnswer:
        text, citations = await cite(extract.text, passages, context)
        return SourcedAnswer(
            text=text,
            kind="extract",
            citations=citations,
            claims=quote_claims(text),
            passages=passages,
        )

    def sketch(self, sketch: Sketch) -> None:
        """Draw the nodes in order."""
        filtered = self.relevance and (self.relevance, "filter each")
        support = None if isinstance(self.answerer, Extractive) else self.support
        checks = support and (support, "check each sentence")
        sketch.chain(self.rewriter, self.finder, filtered, self.answerer, checks)


class Answerer(Agent[Sheet, Reply]):
    """Writes an answer from passages, each sentence with the numbers of the passages it rests on.

    It isn't told what to write if they don't hold the answer: small models would then write that
    even if they do. See `Agent` for its arguments.
    """

    instructions = "You answer questions from numbered passages and from nothing else."
    asks = (
        "Answer the question in one short sentence with what was asked for and nothing else, in "
        "the language of the question. Behind it write the number of the passage it rests on, as "
        "in [2]."
    )
    """Instruction between the passages and the question."""

    def user_prompt(self, request: Sheet) -> str:
        """Put the passages first, so that a server can cache them, and the question last."""
        passages = number_passages(request.passages)
        question = escape_tags(request.question)
        return f"Passages:\n\n{passages}\n\n{self.asks}\n\nQuestion: {question}"


class Extractive(TypedNode[Sheet, Quote]):
    """Answers with one sentence of the passages, or none, if no model writes well enough.

    Sentences are ranked by the words they share with the question, by meaning if an endpoint
    embeds, and by the rank of their passage; the rankings are fused. If embedding fails, sentences
    are compared by words alone, and the trace says so.

    Args:
        endpoint: Encoder of the texts; `None`: sentences are compared by words alone.
        least: Minimum cosine of an answer, unless it has a third of the question's words. Without
            an endpoint, an answer must share a word with the question.
        limits: See `Limits`.

    Raises:
        CapabilityError: the endpoint can't embed.
    """

    def __init__(
        self, endpoint: Endpoint | None = None, *, least: float = NEAR, **limits: Unpack[Limits]
    ) -> None:
        super().__init__(**limits)
        self.endpoint = None if endpoint is None else require(endpoint, "embed", agent=self.name)
        self.least = least

    async def answer(self, request: Sheet, context: RunContext) -> Quote:
        """Rank the sentences, and return the first with the number of its passage."""
        numbers: dict[Passage, int] = {}
        for number, passage in enumerate(request.passages, 1):
            for sentence in passage.sentences():
                numbers.setdefault(sentence, number)
        sentences = list(numbers)
        by_words = BM25(sentences, top_k=max(1, len(sentences)))
        rankings = [(await by_words.run(request.question, context)).output]
        level: tuple[int, ...] = ()
        if self.endpoint is not None and sentences:
            ranked = self._rank_by_meaning(self.endpoint, request.question, numbers, context)
            fallback = "sentences are compared by words alone"
            by_meaning = await attempt(ranked, context, fallback, kind="degraded")
            if by_meaning is not None:
                rankings.append(by_meaning[0])
                level = by_meaning[1]
        candidates = set(rankings[-1].passages)
        ranks = [
            {sentence: rank for rank, sentence in enumerate(ranking.passages, 1)}
            for ranking in rankings
        ]
        best = next(
            (sentence for sentence in fuse_ranks([*ranks, numbers]) if sentence in candidates), None
        )
        if best is None:
            return Quote(text="", near=level)
        return Quote(text=f"{without_brackets(best.text)} [{numbers[best]}]", near=level)

    async def _rank_by_meaning(
        self,
        endpoint: Endpoint,
        question: str,
        numbers: Mapping[Passage, int],
        context: RunContext,
    ) -> tuple[Passages, tuple[int, ...]]:
        """Return the near sentences, and the numbers of the nearest passages."""
        sentences = list(numbers)
        texts = [question, *(sentence.text for sentence in sentences)]
        vectors = (await endpoint.embed(texts, context)).vectors
        ranking = rank_by_score(sentences, similarities(normalise(vectors[1:]), vectors[0]))
        shares = word_shares(question, [set(words(sentence.text)) for sentence in sentences])
        sharing = [
            sentence for sentence, share in zip(sentences, shares, strict=True) if share >= _SHARED
        ]
        candidates = (
            sentence for sentence, cosine in ranking if cosine >= self.least or sentence in sharing
        )
        threshold = ranking[0][1] - _BEHIND
        level = {numbers[sentence] for sentence, cosine in ranking if cosine >= threshold}
        return Passages(passages=tuple(candidates)), tuple(sorted(level))


_BEGINNING = 500
"""Characters of an answer in which `ABSENT` is looked for."""


def question_of(request: Text | str, graph: str) -> str:
    """Return the question in a request.

    Raises:
        InputError: it is empty.
    """
    question = str(request).strip()
    if not question:
        raise InputError(f"{graph}: the question is empty")
    return question


def is_absent(text: str) -> bool:
    """Return True if an answer says that the passages don't hold it."""
    return _LEADING.sub("", text[:_BEGINNING]).upper().startswith(ABSENT)
