"""Summarize: small models keep what matters of each chunk, and a large one writes the summary.

Map over chunks, reduce in a tree, and one final step, as in Wu et al. 2021, "Recursively
summarizing books with human feedback", arXiv:2109.10862; but unless a small model is asked to
write, the map keeps sentences of the text as they stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from moa.agents import Agent
from moa.agents.boundary import TypedNode, require
from moa.agents.prompts import block
from moa.context import RunContext, quiet
from moa.documents.lengths import Length
from moa.documents.sentences import sentences
from moa.endpoints import Endpoint
from moa.endpoints.encoders import SentenceEncoder
from moa.endpoints.known import can_write
from moa.errors import ConfigError
from moa.graphs.building.builder import Graph
from moa.graphs.building.built import BuiltGraph
from moa.graphs.notes import (
    FAILURES,
    Chunker,
    Condense,
    Extracts,
    Notes,
    Original,
    picked,
    ranking,
    sentences_in,
)
from moa.handoffs import Reply
from moa.trace import Piece

THREE_SENTENCES = Length(sentences=3)


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
        max_tokens: Most tokens to generate, reasoning included.

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
        except FAILURES as error:
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
        except FAILURES as error:
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


def summarize(
    slm: Endpoint,
    llm: Endpoint,
    *,
    length: Length = THREE_SENTENCES,
    keep: float = 0.3,
    read_tokens: int = 3000,
    chunk_tokens: int = 800,
    condense: bool = False,
    encoder: Endpoint | None = None,
    name: str = "summarize",
) -> BuiltGraph[Original, Summary]:
    """Build the graph: chunks, what is kept of each, and a summary of a given length.

    Args:
        slm: Condenses the chunks, where that is asked for; else it isn't asked.
        llm: Writes the summary. Where it is too small to write, as the built-in model is, the
            summary is made of the text's own sentences.
        length: Of the summary.
        keep: Share of the tokens of a longer text that the large model reads, as far as the summary
            doesn't need more.
        read_tokens: Most tokens that it reads; a text with no more is read whole.
        chunk_tokens: Most tokens of a chunk, by an estimate on the safe side.
        condense: Whether `slm` writes down what matters in each chunk; otherwise, or where it is
            too small to write, the best sentences are kept as they stand.
        encoder: Turns sentences into vectors; `None`: the built-in one.
        name: Shown in traces, errors and drawings.

    Raises:
        CapabilityError: `llm` can't complete, `slm` is to condense and can't, or the encoder can't
            embed.
        ConfigError: the length says nothing, `keep` is no share, or a number of tokens is less
            than 1.
    """
    if not str(length):
        raise ConfigError(f"{name}: give its length in words or in sentences")
    if not 0 < keep <= 1 or min(read_tokens, chunk_tokens) < 1:
        raise ConfigError(
            f"{name}: keep={keep}, read_tokens={read_tokens} and chunk_tokens={chunk_tokens}, but "
            "keep is a share above 0, and the others are at least 1"
        )
    encoder = encoder or SentenceEncoder()
    kept: TypedNode[Notes, Notes] = Extracts(
        encoder, keep=keep, length=length, read_tokens=read_tokens
    )
    if condense and can_write(slm.model):
        kept = Condense(
            slm,
            encoder,
            length=length,
            keep=keep,
            max_tokens=chunk_tokens,
            read_tokens=read_tokens,
        )
    g = Graph(name, Original)
    notes = g.add(kept, g.add(Chunker(chunk_tokens), g.input))
    return g.build(g.add(Summarizer(llm, encoder, length=length), notes))


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
