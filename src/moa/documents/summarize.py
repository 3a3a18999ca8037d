"""Summarize: keeps each chunk's most important sentences, from which a large model writes.

A map over chunks and one final step, as in Wu et al. 2021, "Recursively summarizing books with
human feedback", arXiv:2109.10862; but the map keeps sentences unchanged.

A sentence is scored by its figures, and by its cosine with the centroid of the text and with its
title and focus (Radev et al. 2004, "Centroid-based summarization of multiple documents"; with
vectors of sentences, Rossiello et al. 2017, "Centroid-based text summarization through
compositionality of word embeddings"). Likeness to a sentence already picked lowers the score
(maximal marginal relevance, Carbonell and Goldstein 1998).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from typing import Literal, TypeVar

from pydantic import Field

from moa.agents.base import require
from moa.agents.prompts import block
from moa.agents.splitting import chunks
from moa.core._async import off_loop
from moa.core._text import word_count
from moa.core.context import RunContext, quiet
from moa.core.node import Frozen, Reply
from moa.core.numbers import find_numbers
from moa.core.numbers import format_number as in_digits
from moa.documents.claims import MOST_WORDS, word_shares
from moa.documents.retrieval import normalise, words
from moa.documents.sentences import Length, sentences
from moa.documents.writing import WholePrompt, attempt, report_step, write_to_length
from moa.endpoints.known import can_write
from moa.endpoints.tokens import approximate_tokens
from moa.graphs.fields import Large
from moa.graphs.recipe import Recipe, Sketch
from moa.local.encoders import SentenceEncoder

T = TypeVar("T")
_SENTENCES, _MOST_SENTENCES, _WORDS_A_FURTHER = 3, 8, 300
"""Default number of sentences: 3, and 1 for each further 300 words of the text, 8 at most."""
_WRITE = (
    "You summarize texts. Say what was decided, found or asked for, with the names, figures and "
    "dates that matter most. Write full sentences, in the language of the text, and nothing that "
    "the text doesn't say."
)
_TOKENS_A_WORD, _WORDS_A_SENTENCE = 2, 25
_ROOM = 1.5
"""Minimum length of the kept sentences, as a multiple of the summary's."""
_MAX_CHUNKS = 3
"""Maximum number of chunks cited for a sentence."""
_MAX_TOKENS = 2048
_CHUNK_TOKENS = 800
"""Maximum number of tokens of a chunk, by a cautious estimate."""
"""Maximum number of tokens of a written summary, reasoning included."""
_REDUNDANCY = 0.3
"""Weight of a sentence's cosine with the nearest one already picked, subtracted from its score."""
_FIGURE, _MOST_FIGURES = 0.15, 3
"""Score that each figure of a sentence adds, and maximum number of figures that count. In minutes
and contracts the most central sentences name topics; those with figures say what is settled. Chosen
on one writer's business texts (.25 of their facts kept without it, .49 with); on another's, .23 and
.38."""
_SAME = 0.95
"""Minimum cosine at which a sentence repeats one already picked, and is left out."""


class Original(Frozen):
    """A text to summarise."""

    text: str
    title: str | None = None
    """Title. It helps to find what matters."""
    focus: str | None = None
    """Topic that the reader looks for."""

    def __str__(self) -> str:
        return self.text

    @property
    def about(self) -> tuple[str, ...]:
        """The title and the focus, if given."""
        return tuple(text for text in (self.title, self.focus) if text)


class Sentence(Frozen):
    """A sentence, and the chunks that it rests on."""

    text: str
    chunks: tuple[int, ...]
    """Numbers of the chunks, from 1."""


class Summary(Reply):
    """A summary, sentence by sentence with the chunks of the text that each rests on."""

    sentences: tuple[Sentence, ...]
    spans: tuple[tuple[int, int], ...]
    """Position of each chunk: `text[start:end]`."""
    written_by: Literal["llm", "extract"]
    """`extract`: the sentences are the text's own, since no model could write or was needed."""


class Summarize(Recipe[Original, Summary], recipe="summarize"):
    """Summarises a text of any length; a large model reads only the parts that matter.

    If the large model is too small to write, as the built-in one is, the summary consists of the
    text's own sentences.

    Raises:
        CapabilityError: `llm` can't complete, or the encoder can't embed.

    Examples:
        >>> from moa.documents.summarize import Original
        >>> large = ScriptedEndpoint(["Ships are too loud for whales."])
        >>> graph = Summarize(llm=large, words=6)
        >>> text = "Whales sing to each other. Ships drown them out."
        >>> print(graph.run_sync(Original(text=text)).output.text)
        Ships are too loud for whales.
    """

    llm: Large
    """Writes the summary."""
    sentences: int | None = Field(default=None, ge=1)
    """Maximum number of sentences of the summary; `None`: from 3 to 8 by the length of the text,
    unless `words` are given."""
    words: int | None = Field(default=None, ge=1)
    """Approximate number of words of the summary."""
    keep: float = Field(default=0.3, gt=0, le=1)
    """Share of a longer text's tokens that the large model reads, unless the summary needs
    more."""
    read_tokens: int = Field(default=3000, ge=1)
    """Maximum number of tokens that the large model reads; a shorter text is read whole."""
    encoder: Large | None = None
    """Endpoint that embeds sentences; `None`: the built-in encoder."""

    def prepare(self) -> None:
        """Make the agents."""
        self.vectors = require(self.encoder or SentenceEncoder(), "embed", agent=self.name)
        self.writer = WholePrompt(
            self.llm, _WRITE, input=str, output=Reply, name="writer", max_tokens=_MAX_TOKENS
        )

    def _length_of(self, text: str) -> Length:
        """Return the target length of a text's summary."""
        if self.sentences is not None or self.words is not None:
            return Length(sentences=self.sentences, words=self.words)
        extra = max(0, word_count(text) // _WORDS_A_FURTHER - 1)
        return Length(sentences=min(_MOST_SENTENCES, _SENTENCES + extra))

    async def answer(self, request: Original, context: RunContext) -> Summary:
        """Split, keep what matters of each chunk, and write.

        Raises:
            MissingDependency: `semantic-text-splitter` is not installed.
        """
        text = request.text
        pieces, sentences = await asyncio.to_thread(_split, text)
        if not sentences:
            context.note("skipped", "the text is empty, and so is its summary")
        length = await _off_loop(lambda: self._length_of(text), request, context)
        summary, selection = list[Sentence](), sentences
        if await _off_loop(lambda: length.too_long(text), request, context):
            extracting = self._extract(request, length, sentences, context)
            extracts, salience = await report_step("extracts", extracting, context)
            summary = await self._write(request, length, sentences, extracts, context)
            if not summary:
                ranks = salience or await self._rank(request, extracts, context)
                selection = await _off_loop(
                    lambda: ranks.pick(extracts, full=lambda picks: length.too_long(_text(picks))),
                    request,
                    context,
                )
        return Summary(
            text=_text(summary or selection),
            sentences=tuple(summary or selection),
            spans=tuple((start, start + len(text)) for start, text in pieces),
            written_by="llm" if summary else "extract",
        )

    def sketch(self, sketch: Sketch) -> None:
        """Draw the chunks, their extracts, and the writer."""
        writes = can_write(self.llm.model)
        sketch.chain("chunks", "extracts", (self.writer, "summary") if writes else None)

    async def _extract(
        self,
        request: Original,
        length: Length,
        sentences: Sequence[Sentence],
        context: RunContext,
    ) -> tuple[Sequence[Sentence], Salience | None]:
        """Keep the most important sentences of each chunk, then of all if they are too many.

        A text within `read_tokens` is kept whole.
        """
        total = approximate_tokens(request.text)
        if total <= self.read_tokens:
            return sentences, None
        words = length.words or _WORDS_A_SENTENCE * (length.sentences or 1)
        share = max(self.keep, min(1.0, _ROOM * _TOKENS_A_WORD * words / total))
        salience = await self._rank(request, sentences, context)

        def take() -> list[Sentence]:
            taken = [
                sentence
                for chunk in _by_chunk(sentences)
                for sentence in salience.take(share * _tokens(chunk), chunk)
            ]
            if _tokens(taken) > self.read_tokens:
                return salience.take(self.read_tokens, taken)
            return taken

        extracts = await _off_loop(take, request, context)
        context.note("changed", f"kept {_tokens(extracts)} of about {total} tokens, as they stand")
        return extracts, salience

    async def _rank(
        self, request: Original, sentences: Sequence[Sentence], context: RunContext
    ) -> Salience:
        """Rank the sentences; if the encoder fails, the first ones count as the best."""
        about = [text for text in request.about if text.strip()]

        async def embed() -> Mapping[str, Sequence[float]]:
            by_text: dict[str, Sequence[float]] = {}
            for batch in (
                about,
                *([sentence.text for sentence in chunk] for chunk in _by_chunk(sentences)),
            ):
                new = [text for text in dict.fromkeys(batch) if text not in by_text]
                if new:
                    vectors = (await self.vectors.embed(new, context)).vectors
                    by_text |= zip(new, vectors, strict=True)
            return by_text

        fallback = "the first sentences are taken, not the best"
        return Salience(await attempt(embed(), context, fallback, kind="degraded"), about)

    async def _write(
        self,
        request: Original,
        length: Length,
        sentences: Sequence[Sentence],
        extracts: Sequence[Sentence],
        context: RunContext,
    ) -> list[Sentence]:
        """Write the summary from the kept sentences; return an empty list if that fails."""
        if not can_write(self.llm.model):
            context.note("degraded", f"{self.llm.model} is too small to write: sentences kept")
            return []
        is_whole = len(extracts) == len(sentences)
        read = request.text if is_whole else "\n\n".join(map(_text, _by_chunk(extracts)))
        prompt = f"{_prompt(request, read)}\n\nSummarize the text in {length}."
        silent = quiet(context)  # nothing is shown before its length is checked
        writing = write_to_length(self.writer, prompt, length, silent, what="the summary")
        fallback = "it is made of the text's own sentences, since it was not written"
        trying = attempt(writing, context, fallback, kind="degraded")
        text = await report_step("summary", trying, context)
        summary = [] if text is None else _cite(text, [*_by_chunk(extracts)])
        unknown = await _off_loop(lambda: _unknown_figures(summary, request), request, context)
        if unknown:
            listing = ", ".join(dict.fromkeys(map(in_digits, unknown)))
            context.note(
                "degraded", f"the text doesn't have these figures of the summary: {listing:.200}"
            )
        return summary


class Salience:
    """Ranks sentences of one text by their vectors.

    Args:
        vectors: Vectors by text; `None`: the first sentences count as the best.
        about: What the text is about; each has a vector.
    """

    def __init__(
        self, vectors: Mapping[str, Sequence[float]] | None, about: Sequence[str] = ()
    ) -> None:
        self._vectors = vectors
        self._about = tuple(about)
        if vectors is not None:
            rows = [vector for text, vector in vectors.items() if text not in about]
            centroid = normalise(rows or [*vectors.values()] or [()]).mean(axis=0)
            self._centroid = normalise([centroid])[0]

    def pick(
        self, taken_sentences: Sequence[Sentence], *, full: Callable[[list[Sentence]], bool]
    ) -> list[Sentence]:
        """Pick the most important sentences, and return them in the order of the text.

        Args:
            taken_sentences: The sentences to choose from, in the order of the text.
            full: Called with the sentences picked so far, and one more: `True` drops that one, and
                a shorter one may still be picked. The first is always picked.
        """
        if self._vectors is None:
            ends = (n for n in range(2, len(taken_sentences) + 1) if full([*taken_sentences[:n]]))
            return [*taken_sentences[: next(ends, len(taken_sentences) + 1) - 1]]
        if not taken_sentences:
            return []
        rows = normalise([self._vectors[sentence.text] for sentence in taken_sentences])
        scores = rows @ self._centroid
        for text in self._about:
            scores = scores + rows @ normalise([self._vectors[text]])[0]
        scores = scores + [
            _FIGURE * min(_MOST_FIGURES, len(find_numbers(sentence.text)))
            for sentence in taken_sentences
        ]
        nearest = scores * 0
        picks: list[int] = []
        while (best := int(scores.argmax())) not in picks and scores[best] > -math.inf:
            if not picks or not full([taken_sentences[n] for n in (*picks, best)]):
                picks.append(best)
                nearer = (rows @ rows[best]).clip(min=nearest)
                scores, nearest = scores - _REDUNDANCY * (nearer - nearest), nearer
                scores[nearest >= _SAME] = -math.inf
            scores[best] = -math.inf
        return [taken_sentences[n] for n in sorted(picks)]

    def take(self, tokens: float, taken_sentences: Sequence[Sentence]) -> list[Sentence]:
        """Take the best sentences, at least one, up to a number of tokens."""
        return self.pick(taken_sentences, full=lambda picks: _tokens(picks) > tokens)


async def _off_loop(work: Callable[[], T], request: Original, context: RunContext) -> T:
    return await off_loop(work, context.remaining_s(), owner=context.owner, size=len(request.text))


def _unknown_figures(summary: Sequence[Sentence], original: Original) -> list[Fraction]:
    """List the figures of a summary that aren't in the text: they may be made up."""
    figures = [figure for sentence in summary for figure in find_numbers(sentence.text)]
    if not figures:
        return []
    known = {*find_numbers(original.text), *find_numbers(original.title or "")}
    return [figure for figure in figures if figure not in known]


def _prompt(original: Original, read: str) -> str:
    """Write the prompt: the title, the kept text, and the focus."""
    title = [f"Title: {original.title}"] if original.title else []
    parts = [block("\n\n".join([*title, read]))]
    if original.focus:
        parts.append(block(original.focus, "The reader looks for"))
    return "\n\n".join(parts)


def _cite(text: str, read: Sequence[Sequence[Sentence]]) -> list[Sentence]:
    """Return each sentence with the chunks that share most of its words."""
    word_sets = [{word for sentence in chunk for word in words(sentence.text)} for chunk in read]
    result: list[Sentence] = []
    for _, sentence in sentences(text):
        shares = word_shares(sentence, word_sets)
        best = sorted(range(len(read)), key=lambda n: -shares[n])[:_MAX_CHUNKS]
        threshold = min(MOST_WORDS, shares[best[0]])
        rests_on = {c for n in best if shares[n] >= threshold > 0 for c in read[n][0].chunks}
        result.append(Sentence(text=sentence, chunks=tuple(sorted(rests_on))))
    return result


def _split(text: str) -> tuple[list[tuple[int, str]], list[Sentence]]:
    """Return the chunks of a text with their starts, and their sentences."""
    pieces = list(chunks(text, max_tokens=_CHUNK_TOKENS))
    all_sentences = [
        Sentence(text=sentence, chunks=(n,))
        for n, (_, chunk) in enumerate(pieces, 1)
        for _, sentence in sentences(chunk)
    ]
    return pieces, all_sentences


def _by_chunk(sentences: Iterable[Sentence]) -> Iterator[list[Sentence]]:
    return ([*group] for _, group in groupby(sentences, key=lambda sentence: sentence.chunks))


def _tokens(sentences: Iterable[Sentence]) -> int:
    return sum(approximate_tokens(sentence.text) for sentence in sentences)


def _text(sentences: Iterable[Sentence]) -> str:
    return " ".join(sentence.text for sentence in sentences)
