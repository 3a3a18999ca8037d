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

from moa._async import map_async
from moa.agents import Agent
from moa.agents.boundary import require
from moa.agents.generator import Generator
from moa.agents.prompts import block
from moa.agents.splitting import chunks
from moa.context import RunContext, quiet
from moa.documents.citations import MOST_WORDS, word_shares
from moa.documents.lengths import Length
from moa.documents.retrieval import words
from moa.documents.salience import Salience, salience_of
from moa.documents.sentences import sentences
from moa.endpoints.encoders import SentenceEncoder
from moa.endpoints.known import can_write
from moa.endpoints.tokens import approximate_tokens
from moa.errors import MissingDependency, MoaError, check_recoverable
from moa.graphs.drafts import MAX_CONCURRENCY
from moa.graphs.fields import Large, Small
from moa.graphs.recipe import Recipe, Sketch, told
from moa.handoffs import Reply

_TOKENS_A_WORD, _WORDS_A_SENTENCE = 2, 25
_ROOM = 1.5
"""How much more than the summary is long is kept at least."""
_MAX_NOTES = 3
"""Maximum number of notes that a sentence rests on."""
_MAX_TOKENS = 2048
"""Of a summary that is written, reasoning included."""
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


class Summarize(Recipe[Original, Summary], recipe="summarize"):
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

    def prepare(self) -> None:
        """Make the agents."""
        short = 3 if self.sentences is None and self.words is None else self.sentences
        self.length = Length(sentences=short, words=self.words)
        self.vectors = require(self.encoder or SentenceEncoder(), "embed", agent=self.name)
        self.condenser: Generator[Reply] | None = None
        if self.condense and can_write(self.slm.model):
            room = max(64, round(self.keep * self.chunk_tokens))
            self.condenser = Generator(self.slm, _CONDENSE, name="note", max_tokens=room)
        task = f"Summarize the text in {self.length}, in its language. Add nothing to it."
        self.writer = _Writer(self.llm, instructions=task, name="writer", max_tokens=_MAX_TOKENS)

    async def answer(self, request: Original, context: RunContext) -> Summary:
        """Split, keep what matters of each chunk, and write.

        Raises:
            MissingDependency: `semantic-text-splitter` is not installed.
        """
        found = await asyncio.to_thread(chunks, request.text, max_tokens=self.chunk_tokens)
        spans = tuple((start, start + len(text)) for start, text in found)
        whole = [Note(text=text, chunks=(n,)) for n, (_, text) in enumerate(found, 1)]
        if not whole:
            context.note("skipped", "the text is empty, and so is its summary")
        notes = Notes(original=request, spans=spans, notes=()).keeping(whole)
        if not self.length.too_long(request.text):
            own = [Cited(text=text, chunks=whole[n].chunks) for n, text in sentences_in(whole)]
            return _summary(own, notes, "extract")
        if self.condenser is None:
            kept = await told("extracts", self._extracts(notes, context), context)
        else:
            kept = await told("condense", self._condensed(notes, self.condenser, context), context)
        if not can_write(self.llm.model):
            context.note("degraded", f"{self.llm.model} is too small to write: sentences kept")
            return await self._extracted(kept, context)
        return await told("summary", self._written(kept, context), context)

    def sketch(self, sketch: Sketch) -> None:
        """The chunks, what is kept of each, and who writes."""
        kept = sketch.box(self.condenser, "extracts" if self.condenser is None else "note of each")
        boxes = [sketch.box(label="chunks"), kept]
        if can_write(self.llm.model):
            boxes.append(sketch.box(self.writer, "summary"))
        sketch.arrow(sketch.input, *boxes, sketch.output)

    async def _extracts(self, notes: Notes, context: RunContext) -> Notes:
        """Keep the sentences of each note that say most, then of all where they are too many.

        A text that is read at once is left whole.
        """
        total = notes.tokens
        if total <= self.read_tokens:
            return notes
        words = self.length.words or _WORDS_A_SENTENCE * (self.length.sentences or 1)
        share = max(self.keep, min(1.0, _ROOM * _TOKENS_A_WORD * words / total))
        salience = await self._salience(notes, context)
        placed = sentences_in(notes.notes)
        kept = [
            sentence
            for n, note in enumerate(notes.notes)
            for sentence in _best(
                salience,
                [each for each in placed if each[0] == n],
                most=share * approximate_tokens(note.text),
            )
        ]
        if sum(approximate_tokens(text) for _, text in kept) > self.read_tokens:
            kept = _best(salience, kept, most=self.read_tokens)
        notes = notes.keeping(_joined(notes.notes, kept))
        context.note("changed", f"kept {notes.tokens} of about {total} tokens, as they stand")
        centroid = () if salience is None else salience.centroid
        return notes.model_copy(update={"centroid": centroid})

    async def _condensed(
        self, whole: Notes, condenser: Generator[Reply], context: RunContext
    ) -> Notes:
        """Have each note condensed, then neighbours together until they can be read at once."""
        notes = whole.keeping(await self._condensed_each(whole, whole.notes, condenser, context))
        while notes.tokens > self.read_tokens:
            grouped = _grouped(notes.notes, self.chunk_tokens)
            if len(grouped) == len(notes.notes):
                break
            notes = whole.keeping(await self._condensed_each(whole, grouped, condenser, context))
        if notes.tokens > self.read_tokens:
            salience = await self._salience(notes, context)
            notes = notes.keeping(_extract(salience, notes.notes, most=self.read_tokens))
        context.note("changed", f"condensed about {whole.tokens} tokens to {notes.tokens}")
        return notes

    async def _condensed_each(
        self,
        whole: Notes,
        notes: Sequence[Note],
        condenser: Generator[Reply],
        context: RunContext,
    ) -> list[Note]:
        """Condense notes side by side; one that fails is cut to its best sentences."""
        silent = quiet(context)  # notes are no part of the answer

        async def condensed(note: Note) -> Note:
            try:
                reply = (await condenser.run(note.text, silent)).output
            except MoaError as error:
                check_recoverable(error)
                context.note("failed", f"no note of chunks {note.chunks}: {error}")
                salience = await self._salience(whole.keeping([note]), context)
                most = self.keep * approximate_tokens(note.text)
                return _extract(salience, [note], most=most)[0]
            return note.model_copy(update={"text": reply.text, "written": True})

        return await map_async(condensed, notes, max_concurrency=MAX_CONCURRENCY)

    async def _salience(self, notes: Notes, context: RunContext) -> Salience | None:
        """Rank the sentences; `None` where the encoder fails, and the first ones are taken."""
        batches = ([text for _, text in sentences(note.text)] for note in notes.notes)
        try:
            return await salience_of(
                self.vectors, batches, context, about=notes.original.about, centroid=notes.centroid
            )
        except MoaError as error:
            if not isinstance(error, MissingDependency):
                check_recoverable(error)
            context.note("degraded", f"the first sentences are taken, not the best: {error}")
            return None

    async def _written(self, notes: Notes, context: RunContext) -> Summary:
        """Write, and anew once where it misses its length; else the sentences kept make it."""
        silent = quiet(context)  # nothing is shown before its length is checked
        try:
            found = await self._draft(_Brief(notes=notes), silent)
            fault = self.length.fault(_text(found))
            if fault is not None:
                context.note("repaired", f"asked again: {fault}", endpoint=self.llm.name)
                found = await self._again(notes, found, fault, silent)
        except MoaError as error:
            check_recoverable(error)
            context.note("failed", f"the summary was not written: {error}")
            made = "the text's own" if _kept_by(notes) == "extract" else "the small model's"
            context.note("degraded", f"the summary is made of {made} sentences")
            return await self._extracted(notes, context)
        kept = self.length.fitting(found, lambda each: each.text)
        if len(kept) < len(found):
            context.note("truncated", f"the last {len(found) - len(kept)} sentences, by its length")
        return _summary(kept, notes, "llm")

    async def _again(
        self, notes: Notes, found: list[Cited], fault: str, context: RunContext
    ) -> list[Cited]:
        """Have it written anew; the first try stands where that fails."""
        try:
            anew = await self._draft(_Brief(notes=notes, draft=_text(found), fault=fault), context)
        except MoaError as error:
            check_recoverable(error)
            context.note("failed", f"it was not written anew: {error}")
            return found
        left = self.length.fault(_text(anew))
        if left is not None:
            context.note("degraded", f"the length of the summary: {left}")
        return anew

    async def _draft(self, brief: _Brief, context: RunContext) -> list[Cited]:
        text = (await self.writer.run(brief, context)).output.text
        notes = brief.notes.notes
        held = [set(words(note.text)) for note in notes]
        found: list[Cited] = []
        for _, sentence in sentences(text):
            shares = word_shares(sentence, held)
            best = sorted(range(len(notes)), key=lambda n: -shares[n])[:_MAX_NOTES]
            enough = min(MOST_WORDS, shares[best[0]])
            rests_on = {c for n in best if shares[n] >= enough > 0 for c in notes[n].chunks}
            found.append(Cited(text=sentence, chunks=tuple(sorted(rests_on))))
        return found

    async def _extracted(self, notes: Notes, context: RunContext) -> Summary:
        """Make the summary of the sentences that were kept."""
        placed = sentences_in(notes.notes)
        texts = [text for _, text in placed]
        taken = picked(
            await self._salience(notes, context),
            texts,
            full=lambda places: self.length.too_long(" ".join(texts[place] for place in places)),
        )
        found = [
            Cited(text=texts[place], chunks=notes.notes[placed[place][0]].chunks) for place in taken
        ]
        return _summary(found, notes, _kept_by(notes))


class _Brief(BaseModel):
    notes: Notes
    draft: str | None = None
    fault: str | None = None
    """What is wrong with the draft."""


class _Writer(Agent[_Brief, Reply]):
    def prompt(self, request: _Brief) -> str:
        original = request.notes.original
        title = [f"Title: {original.title}"] if original.title else []
        parts = [block("\n\n".join([*title, *(note.text for note in request.notes.notes)]))]
        if original.focus:
            parts.append(block(original.focus, "The reader looks for"))
        if request.draft is not None:
            parts.append(block(request.draft, f"Write this anew, since {request.fault}"))
        return "\n\n".join(parts)


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
    return _joined(notes, _best(salience, sentences_in(notes), most=most))


def _best(
    salience: Salience | None, placed: Sequence[tuple[int, str]], *, most: float
) -> list[tuple[int, str]]:
    costs = [approximate_tokens(text) for _, text in placed]
    taken = picked(
        salience,
        [text for _, text in placed],
        full=lambda places: sum(costs[place] for place in places) > most,
    )
    return [placed[place] for place in taken]


def _joined(notes: Sequence[Note], placed: Sequence[tuple[int, str]]) -> list[Note]:
    """Make notes of the sentences that were kept of each, by its place."""
    return [
        note.model_copy(update={"text": " ".join(text for place, text in placed if place == n)})
        for n, note in enumerate(notes)
    ]


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
