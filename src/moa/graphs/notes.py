"""Notes: what is kept of the chunks of a text, so that a large model reads less than all of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, Field

from moa._async import gather
from moa.agents.boundary import TypedNode, require
from moa.agents.generator import Generator
from moa.agents.splitting import chunks
from moa.context import RunContext, quiet
from moa.documents.lengths import Length
from moa.documents.salience import Salience, salience_of
from moa.documents.sentences import sentences
from moa.endpoints import Endpoint
from moa.endpoints.known import can_write
from moa.endpoints.tokens import approximate_tokens
from moa.errors import BudgetExceeded, EndpointError, MissingDependency, OutputError

AT_ONCE = 8
"""Chunks that are condensed side by side."""
FAILURES = (EndpointError, OutputError, BudgetExceeded)
"""What a model can fail with, and a simpler way may stand in for."""
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


class Chunker(TypedNode[Original, Notes]):
    """Splits a text, and keeps all of it.

    Args:
        max_tokens: Most tokens of a chunk, by an estimate on the safe side.
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
        read_tokens: Most tokens to keep of the whole text; of one with no more all is kept.
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
        max_tokens: Most tokens of what is condensed at once.
        read_tokens: Most tokens to keep of the whole text.

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
        gate = asyncio.Semaphore(AT_ONCE)
        silent = quiet(context)  # notes are no part of the answer

        async def one(note: Note) -> Note:
            async with gate:
                try:
                    reply = (await self.writer.run(note.text, silent)).output
                except FAILURES as error:
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
    except (*FAILURES, MissingDependency) as error:
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


def note_drafts(context: RunContext, writers: Sequence[Endpoint]) -> None:
    """Note which of those that write are too small to do it well."""
    small = [writer.model for writer in writers if not can_write(writer.model)]
    if small:
        context.note("degraded", f"{', '.join(sorted(small))} writes badly: take it for a draft")


def sentences_in(notes: Sequence[Note]) -> list[tuple[int, str]]:
    """List the sentences of notes, each with the place of its note."""
    return [(n, text) for n, note in enumerate(notes) for _, text in sentences(note.text)]
