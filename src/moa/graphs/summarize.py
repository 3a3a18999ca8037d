"""Summarize: small models keep what matters of each chunk, and a large one writes the summary.

Map over chunks, reduce in a tree, and one final step, as in Wu et al. 2021, "Recursively
summarizing books with human feedback", arXiv:2109.10862; but unless a small model is asked to
write, the map keeps sentences of the text as they stand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moa._async import gather
from moa.agents import Agent
from moa.agents.boundary import TypedNode, require
from moa.agents.generator import Generator
from moa.agents.prompts import block
from moa.agents.splitting import chunks
from moa.context import RunContext, quiet
from moa.documents.lengths import Length
from moa.documents.salience import Salience, salience_of
from moa.documents.sentences import sentences
from moa.endpoints import Endpoint
from moa.endpoints.encoders import SentenceEncoder
from moa.endpoints.known import can_write
from moa.endpoints.tokens import approximate_tokens
from moa.errors import MissingDependency
from moa.graphs.building.builder import Graph
from moa.graphs.building.built import BuiltGraph
from moa.graphs.fallbacks import MAX_CONCURRENCY, RECOVERABLE
from moa.graphs.fields import Large, Small
from moa.graphs.recipe import WiredRecipe
from moa.handoffs import Reply
from moa.trace import Piece

_TOKENS_A_WORD, _WORDS_A_SENTENCE = 2, 25
_ROOM = 1.5
"""How much more than the summary is long is kept at least."""
_CONDENSE = (
    "Summarize this part of a longer text in a few short sentences. Keep names, numbers and "
    "results "
    "exactly. Add nothing. Use the language of the text."
)


class Original(BaseModel):
    """A text that is to be summarised."""

    model_config = ConfigDict(frozen=True)

    text: str
    title: str | None = None
    """What it is called. It helps to find what matters."""
    focus: str | None = None
    """What the reader looks for in it."""

    def __str__(self) -> str:
        return self.text

    @property
    def about(self) -> tuple[str, ...]:
        """What is known of what it is about."""
        return tuple(each for each in (self.title, self.focus) if each)


class Note(BaseModel):
    """What is kept of one chunk, or of several."""

    model_config = ConfigDict(frozen=True)

    text: str
    chunks: tuple[int, ...]
    """Numbers of the chunks that it is of, from 1."""
    written: bool = False
    """Whether a model wrote it, or wrote what it is a part of; else it is the text's own words."""


class Notes(BaseModel):
    """What is kept of a text."""

    model_config = ConfigDict(frozen=True)

    original: Original
    spans: tuple[tuple[int, int], ...] = Field(repr=False)
    """Where each chunk stands in the text: its first character, and the one behind its last."""
    notes: tuple[Note, ...]
    """In the order of the text."""
    centroid: tuple[float, ...] = Field(default=(), repr=False)
    """The mean of the vectors of all sentences of the text; empty where it isn't known."""

    @property
    def tokens(self) -> int:
        """Tokens of all notes, by an estimate on the safe side."""
        return sum(approximate_tokens(note.text) for note in self.notes)

    def keeping(self, notes: Sequence[Note]) -> Notes:
        """Copy them with other notes; empty ones go."""
        kept = tuple(note for note in notes if note.text.strip())
        return self.model_copy(update={"notes": kept})


class Cited(BaseModel):
    """A sentence, and what it rests on."""

    model_config = ConfigDict(frozen=True)

    text: str
    chunks: tuple[int, ...]
    """Numbers of the chunks, from 1."""


class Summary(Reply):
    """A summary, sentence by sentence with the chunks of the text that each rests on."""

    sentences: tuple[Cited, ...]
    spans: tuple[tuple[int, int], ...]
    """Where each chunk stands in the text: its first character, and the one behind its last."""
    written_by: Literal["llm", "slm", "extract"]
    """`extract`: the sentences are the text's own, since no model could write. `slm`: they are of
    what the small model wrote down, since the large one could not write."""


class Summarize(WiredRecipe[Original, Summary], recipe="summarize"):
    """Summarises a text of any length, of which a large model reads what matters alone.

    Where the large model is too small to write, as the built-in one is, the summary is made of the
    text's own sentences.

    Raises:
        CapabilityError: `llm` can't complete, `slm` is to condense and can't, or the encoder can't
            embed.
    """

    slm: Small
    """Condenses the chunks, where that is asked for; else it isn't asked."""
    llm: Large
    """Writes the summary."""
    sentences: int | None = Field(default=None, ge=1)
    """Maximum number of sentences of the summary; `None`: 3, unless `words` are given."""
    words: int | None = Field(default=None, ge=1)
    """Words of the summary, about."""
    keep: float = Field(default=0.3, gt=0, le=1)
    """Share of the tokens of a longer text that the large model reads, as far as the summary
    doesn't need more."""
    read_tokens: int = Field(default=3000, ge=1)
    """Maximum number of tokens that it reads; a text with no more is read whole."""
    chunk_tokens: int = Field(default=800, ge=1)
    """Maximum number of tokens of a chunk, by an estimate on the safe side."""
    condense: bool = False
    """Whether `slm` writes down what matters in each chunk; otherwise, or where it is too small to
    write, the best sentences are kept as they stand."""
    encoder: Large | None = None
    """Turns sentences into vectors; `None`: the built-in one."""

    def wire(self) -> BuiltGraph[Original, Summary]:
        """Wire the chunks, what is kept of each, and the summary."""
        short = 3 if self.sentences is None and self.words is None else self.sentences
        length = Length(sentences=short, words=self.words)
        encoder = self.encoder or SentenceEncoder()
        kept: TypedNode[Notes, Notes] = Extracts(
            encoder, keep=self.keep, length=length, read_tokens=self.read_tokens
        )
        if self.condense and can_write(self.slm.model):
            kept = Condense(
                self.slm,
                encoder,
                length=length,
                keep=self.keep,
                max_tokens=self.chunk_tokens,
                read_tokens=self.read_tokens,
            )
        g = Graph(self.name, Original)
        notes = g.add(kept, g.add(Chunker(self.chunk_tokens), g.input))
        return g.build(g.add(Summarizer(self.llm, encoder, length=length), notes))


class Chunker(TypedNode[Original, Notes]):
    """Splits a text, and keeps all of it.

    Args:
        max_tokens: Maximum number of tokens of a chunk, by an estimate on the safe side.
    """

    def __init__(self, max_tokens: int) -> None:
        super().__init__(name="chunks")
        self.max_tokens = max_tokens

    async def answer(self, request: Original, context: RunContext) -> Notes:
        """Split.

        Raises:
            MissingDependency: `semantic-text-splitter` is not installed.
        """
        found = await asyncio.to_thread(chunks, request.text, max_tokens=self.max_tokens)
        spans = tuple((start, start + len(text)) for start, text in found)
        notes = [Note(text=text, chunks=(n,)) for n, (_, text) in enumerate(found, 1)]
        if not notes:
            context.note("skipped", "the text is empty, and so is its summary")
        return Notes(original=request, spans=spans, notes=()).keeping(notes)


class Extracts(TypedNode[Notes, Notes]):
    """Keeps the sentences of each note that say most, as they stand; nothing is written.

    A text that the model reads at once is left whole. Where the encoder fails, the first sentences
    of the note are kept.

    Args:
        encoder: Turns sentences into vectors.
        keep: Share of the tokens to keep, as far as the summary doesn't need more.
        length: Of the summary.
        read_tokens: Maximum number of tokens to keep of the whole text; of one with no more all is
            kept.
    """

    def __init__(self, encoder: Endpoint, *, keep: float, length: Length, read_tokens: int) -> None:
        super().__init__(name="extracts")
        self.endpoint = require(encoder, "embed", agent=self.name)
        self.keep = keep
        self.length = length
        self.read_tokens = read_tokens

    async def answer(self, request: Notes, context: RunContext) -> Notes:
        """Take sentences of each note, then of all together where they are still too many."""
        total = request.tokens
        if total <= self.read_tokens or not self.length.too_long(request.original.text):
            return request
        share = max(self.keep, min(1.0, self._needed / total))
        salience = await ranking(self.endpoint, request, context)
        kept = [
            note
            for whole in request.notes
            for note in _extract(salience, [whole], most=share * approximate_tokens(whole.text))
        ]
        notes = request.keeping(kept)
        if notes.tokens > self.read_tokens:
            notes = notes.keeping(_extract(salience, notes.notes, most=self.read_tokens))
        context.note("changed", f"kept {notes.tokens} of about {total} tokens, as they stand")
        centroid = () if salience is None else salience.centroid
        return notes.model_copy(update={"centroid": centroid})

    @property
    def _needed(self) -> float:
        words = self.length.words or _WORDS_A_SENTENCE * (self.length.sentences or 1)
        return _ROOM * _TOKENS_A_WORD * words


class Condense(TypedNode[Notes, Notes]):
    """Has a small model write down what matters in each note, chunks side by side.

    Notes of neighbours are condensed together, again and again, until what is left can be read at
    once. A note that the model fails on is left as it is, and cut to its best sentences.

    Args:
        slm: Writes. A text as short as its summary is left as it is.
        encoder: Turns sentences into vectors, where the model fails.
        length: Of the summary.
        keep: Share of a chunk's tokens that a note may have.
        max_tokens: Maximum number of tokens of what is condensed at once.
        read_tokens: Maximum number of tokens to keep of the whole text.

    Raises:
        CapabilityError: `slm` can't complete.
    """

    def __init__(
        self,
        slm: Endpoint,
        encoder: Endpoint,
        *,
        length: Length,
        keep: float,
        max_tokens: int,
        read_tokens: int,
    ) -> None:
        super().__init__(name="condense")
        self.length = length
        self.max_tokens = max_tokens
        self.read_tokens = read_tokens
        self.keep = keep
        self.encoder = encoder
        room = max(64, round(keep * max_tokens))
        self.endpoint = slm
        self.writer = Generator(slm, _CONDENSE, name="note", max_tokens=room)

    async def answer(self, request: Notes, context: RunContext) -> Notes:
        """Condense each, then neighbours together until it is little enough."""
        if not self.length.too_long(request.original.text):
            return request
        notes = await self._condensed(request, request.notes, context)
        while sum(approximate_tokens(n.text) for n in notes) > self.read_tokens:
            grouped = _grouped(notes, self.max_tokens)
            if len(grouped) == len(notes):
                break
            notes = await self._condensed(request, grouped, context)
        kept = request.keeping(notes)
        if kept.tokens > self.read_tokens:
            salience = await ranking(self.encoder, kept, context)
            kept = kept.keeping(_extract(salience, kept.notes, most=self.read_tokens))
        context.note("changed", f"condensed about {request.tokens} tokens to {kept.tokens}")
        return kept

    async def _condensed(
        self, whole: Notes, notes: Sequence[Note], context: RunContext
    ) -> list[Note]:
        gate = asyncio.Semaphore(MAX_CONCURRENCY)
        silent = quiet(context)  # notes are no part of the answer

        async def one(note: Note) -> Note:
            async with gate:
                try:
                    reply = (await self.writer.run(note.text, silent)).output
                except RECOVERABLE as error:
                    context.note("failed", f"no note of chunks {note.chunks}: {error}")
                    salience = await ranking(self.encoder, whole.keeping([note]), context)
                    most = self.keep * approximate_tokens(note.text)
                    (kept,) = _extract(salience, [note], most=most)
                    return kept
            return note.model_copy(update={"text": reply.text, "written": True})

        return await gather(one(note) for note in notes)


def _grouped(notes: Sequence[Note], max_tokens: int) -> list[Note]:
    """Put neighbours together as long as they fit, two at least."""
    groups: list[list[Note]] = []
    for note in notes:
        open_group = groups[-1] if groups else []
        fits = sum(approximate_tokens(n.text) for n in [*open_group, note]) <= max_tokens
        if open_group and (fits or len(open_group) < 2):
            open_group.append(note)
        else:
            groups.append([note])
    return [
        Note(
            text="\n".join(note.text for note in group),
            chunks=tuple(number for note in group for number in note.chunks),
            written=any(note.written for note in group),
        )
        for group in groups
    ]


def _extract(salience: Salience | None, notes: Sequence[Note], *, most: float) -> list[Note]:
    """Keep the best sentences of notes, up to so many tokens; one at least."""
    placed = sentences_in(notes)
    costs = [approximate_tokens(text) for _, text in placed]
    taken = picked(
        salience,
        [text for _, text in placed],
        full=lambda places: sum(costs[place] for place in places) > most,
    )
    return [
        note.model_copy(
            update={"text": " ".join(placed[place][1] for place in taken if placed[place][0] == n)}
        )
        for n, note in enumerate(notes)
    ]


async def ranking(encoder: Endpoint, notes: Notes, context: RunContext) -> Salience | None:
    """Rank the sentences of notes; `None` where the encoder fails, and the first ones are taken."""
    batches = ([text for _, text in sentences(note.text)] for note in notes.notes)
    try:
        return await salience_of(
            encoder, batches, context, about=notes.original.about, centroid=notes.centroid
        )
    except (*RECOVERABLE, MissingDependency) as error:
        context.note("degraded", f"the first sentences are taken, not the best: {error}")
        return None


def picked(
    salience: Salience | None, texts: Sequence[str], *, full: Callable[[Sequence[int]], bool]
) -> list[int]:
    """Take sentences as `Salience.pick` does; without one, the first of them."""
    if salience is not None:
        return salience.pick(texts, full=full)
    taken: list[int] = []
    for place in range(len(texts)):
        if taken and full([*taken, place]):
            break
        taken.append(place)
    return taken


def sentences_in(notes: Sequence[Note]) -> list[tuple[int, str]]:
    """List the sentences of notes, each with the place of its note."""
    return [(n, text) for n, note in enumerate(notes) for _, text in sentences(note.text)]


class _Sentence(BaseModel):
    text: str = Field(min_length=1)
    parts: list[int] = Field(min_length=1)


class _Draft(BaseModel):
    sentences: list[_Sentence] = Field(min_length=1)


class _Brief(BaseModel):
    notes: Notes
    draft: str | None = None
    fault: str | None = None
    """What is wrong with the draft."""


class _Writing:
    """What the two writers share: the words of their prompt."""

    def prompt(self, request: _Brief) -> str:
        notes = request.notes.notes
        numbered = len(notes) > 1
        lines = [f"[{n}] {note.text}" if numbered else note.text for n, note in enumerate(notes, 1)]
        original = request.notes.original
        title = [f"Title: {original.title}"] if original.title else []
        parts = [block("\n".join([*title, *lines]))]
        if original.focus:
            parts.append(block(original.focus, "The reader looks for"))
        if request.draft is not None:
            parts.append(block(request.draft, f"Write this anew, since {request.fault}"))
        return "\n\n".join(parts)


class _Plain(_Writing, Agent[_Brief, Reply]):
    """Summarises one note: every sentence rests on it."""


class _Numbered(_Writing, Agent[_Brief, _Draft]):
    """Summarises several notes, and says of each sentence on which it rests."""

    def check(self, request: _Brief, output: _Draft) -> None:
        """Refuse numbers that no part has."""
        last = len(request.notes.notes)
        wrong = sorted({n for each in output.sentences for n in each.parts if not 1 <= n <= last})
        if wrong:
            raise ValueError(f"there are no parts {wrong}, only 1 to {last}")


class Summarizer(TypedNode[Notes, Summary]):
    """Writes the summary of what is kept, checks its length, and has it written anew once.

    Where the model fails, or is too small to write, sentences of what was kept make the summary.

    Args:
        llm: Writes.
        encoder: Turns sentences into vectors, where none can be written.
        length: Of the summary.
        max_tokens: Maximum number of tokens to generate, reasoning included.

    Raises:
        CapabilityError: `llm` can't complete, or the encoder can't embed.
    """

    def __init__(
        self, llm: Endpoint, encoder: Endpoint, *, length: Length, max_tokens: int = 2048
    ) -> None:
        super().__init__(name="summary")
        self.length = length
        self.encoder = require(encoder, "embed", agent=self.name)
        self.writes = can_write(llm.model)
        self.plain = _Plain(llm, name="writer", max_tokens=max_tokens)
        self.numbered = _Numbered(llm, name="writer", max_tokens=max_tokens)
        self.endpoint = llm
        task = f"Summarize the text in {length}, in its language. Add nothing to it."
        self.plain.instructions = task
        self.numbered.instructions = (
            f"{task} Its parts are numbered: with each sentence give those that it rests on."
        )

    async def answer(self, request: Notes, context: RunContext) -> Summary:
        """Write, unless the text is as short as its summary."""
        original = request.original
        if not self.length.too_long(original.text):
            found = [
                Cited(text=text, chunks=request.notes[n].chunks)
                for n, text in sentences_in(request.notes)
            ]
            summary = _summary(found, request, "extract")
        elif not self.writes:
            context.note("degraded", f"{self.endpoint.model} is too small to write: sentences kept")
            summary = await self._extracted(request, context)
        else:
            summary = await self._written(request, context)
        for n, sentence in enumerate(summary.sentences):
            context.emit(Piece(context.node, f" {sentence.text}" if n else sentence.text))
        return summary

    async def _written(self, request: Notes, context: RunContext) -> Summary:
        silent = quiet(context)  # nothing is shown before its length is checked
        try:
            found = await self._draft(_Brief(notes=request), silent)
            fault = self.length.fault(_text(found))
            if fault is not None:
                context.note("repaired", f"asked again: {fault}", endpoint=self.endpoint.name)
                found = await self._again(request, found, fault, silent)
        except RECOVERABLE as error:
            context.note("failed", f"the summary was not written: {error}")
            made = "the text's own" if _kept_by(request) == "extract" else "the small model's"
            context.note("degraded", f"the summary is made of {made} sentences")
            return await self._extracted(request, context)
        kept = self.length.fitting(found, lambda each: each.text)
        if len(kept) < len(found):
            context.note("truncated", f"the last {len(found) - len(kept)} sentences, by its length")
        return _summary(kept, request, "llm")

    async def _again(
        self, request: Notes, found: list[Cited], fault: str, context: RunContext
    ) -> list[Cited]:
        """Have it written anew; the first try stands where that fails."""
        try:
            brief = _Brief(notes=request, draft=_text(found), fault=fault)
            anew = await self._draft(brief, context)
        except RECOVERABLE as error:
            context.note("failed", f"it was not written anew: {error}")
            return found
        left = self.length.fault(_text(anew))
        if left is not None:
            context.note("degraded", f"the length of the summary: {left}")
        return anew

    async def _draft(self, brief: _Brief, context: RunContext) -> list[Cited]:
        notes = brief.notes.notes
        if len(notes) == 1:
            text = (await self.plain.run(brief, context)).output.text
            return [Cited(text=each, chunks=notes[0].chunks) for _, each in sentences(text)]
        draft = (await self.numbered.run(brief, context)).output
        return [
            Cited(
                text=each.text.strip(),
                chunks=tuple(sorted({c for n in each.parts for c in notes[n - 1].chunks})),
            )
            for each in draft.sentences
        ]

    async def _extracted(self, request: Notes, context: RunContext) -> Summary:
        placed = sentences_in(request.notes)
        texts = [text for _, text in placed]
        taken = picked(
            await ranking(self.encoder, request, context),
            texts,
            full=lambda places: self.length.too_long(" ".join(texts[place] for place in places)),
        )
        found = [
            Cited(text=texts[place], chunks=request.notes[placed[place][0]].chunks)
            for place in taken
        ]
        return _summary(found, request, _kept_by(request))


def _kept_by(notes: Notes) -> Literal["slm", "extract"]:
    return "slm" if any(note.written for note in notes.notes) else "extract"


def _text(found: Sequence[Cited]) -> str:
    return " ".join(each.text for each in found)


def _summary(
    found: Sequence[Cited], notes: Notes, written_by: Literal["llm", "slm", "extract"]
) -> Summary:
    return Summary(
        text=_text(found), sentences=tuple(found), spans=notes.spans, written_by=written_by
    )
