"""Drafts: an outline, its sections written side by side, and the edits that make them agree."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from moa._async import gather
from moa._text import UNSPACED
from moa.agents import Agent
from moa.agents.boundary import TypedNode
from moa.agents.prompts import at_most, block, escaped
from moa.context import RunContext
from moa.documents.lengths import Length
from moa.endpoints import Endpoint
from moa.errors import MoaError
from moa.graphs.notes import AT_ONCE, FAILURES, note_drafts
from moa.handoffs import Reply
from moa.mixing.listening import quiet
from moa.trace import Piece

_Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Assignment(BaseModel):
    """What is to be written."""

    model_config = ConfigDict(frozen=True)

    text: str
    """The task, in words."""
    material: str | None = None
    """Facts to write from."""

    def __str__(self) -> str:
        return self.text

    @property
    def shown(self) -> str:
        """The task, and the material as data."""
        parts = [f"Task: {escaped(self.text)}"]
        if self.material:
            parts.append(block(self.material, "Material"))
        return "\n\n".join(parts)


class Part(BaseModel):
    """What a section is to say."""

    heading: _Words
    points: list[_Words] = Field(
        min_length=1, max_length=6, description="what it says, one point after another"
    )


class Outline(BaseModel):
    """What a text is to say, section by section."""

    title: _Words
    conventions: list[str] = Field(
        max_length=6, description="names, terms, numbers and the tone that every section keeps to"
    )
    sections: list[Part] = Field(min_length=1)

    def __str__(self) -> str:
        lines = [self.title, *(f"All sections: {each}" for each in self.conventions)]
        for number, part in enumerate(self.sections, 1):
            lines.append(f"{number}. {part.heading}: {'; '.join(part.points)}")
        return "\n".join(lines)


class Section(BaseModel):
    """A section that is written."""

    model_config = ConfigDict(frozen=True)

    heading: str
    text: str


class Article(Reply):
    """A text in sections, as Markdown."""

    title: str
    sections: tuple[Section, ...]


class Planned(BaseModel):
    """An assignment, and its outline."""

    assignment: Assignment
    outline: Outline


class Drafted(BaseModel):
    """Sections as they were written, apart from each other."""

    planned: Planned
    sections: tuple[Section, ...]


class Outliner(Agent[Assignment, Outline]):
    """Plans the sections of a text.

    Args:
        llm: Plans.
        length: Of the whole text.
        sections: How many it has, at most.
    """

    def __init__(self, llm: Endpoint, *, length: Length, sections: int) -> None:
        self.output_type = at_most(Outline, "sections", sections)
        self.instructions = (
            f"You are an editor. Outline a text of {length} for the task, in at most {sections} "
            "sections that do not overlap. Different writers write them, so list the names, terms, "
            "numbers and the tone that all must use. Use the language of the task."
        )
        super().__init__(llm, name="outline", max_tokens=2048)

    def prompt(self, request: Assignment) -> str:
        """Show the task and the material."""
        return request.shown

    async def answer(self, request: Assignment, context: RunContext) -> Outline:
        """Plan; of sections of one name the first is kept."""
        outline = await super().answer(request, context)
        named = {part.heading.casefold(): part for part in reversed(outline.sections)}
        kept = [part for part in outline.sections if named[part.heading.casefold()] is part]
        if len(kept) < len(outline.sections):
            context.note("dropped", "sections with the heading of another")
        return outline.model_copy(update={"sections": kept})


class _Place(BaseModel):
    planned: Planned
    place: int
    length: Length
    draft: str | None = None
    fault: str | None = None


class SectionWriter(Agent[_Place, Reply]):
    """Writes one section of an outline."""

    instructions = (
        "You write one section of a text. Cover the points of your section in the outline, use the "
        "names, terms and numbers given for all sections, and leave the other sections to others. "
        "Write only the text of the section, without a heading, in the language of the task."
    )

    def prompt(self, request: _Place) -> str:
        """Show the task, the whole outline, and which section it is."""
        outline = request.planned.outline
        heading = outline.sections[request.place].heading
        parts = [
            request.planned.assignment.shown,
            # Written from material, it may carry orders of that on.
            block(str(outline), "Outline")
            if request.planned.assignment.material
            else f"Outline:\n{escaped(str(outline))}",
            f"Write section {request.place + 1} in {request.length}: {escaped(heading)}",
        ]
        if request.draft is not None:
            parts.append(block(request.draft, f"Write this anew, since {request.fault}"))
        return "\n\n".join(parts)


class Sections(TypedNode[Planned, Drafted]):
    """Writes all sections side by side, each to its share of the length.

    A section that misses it is written anew once; what is too long then is cut. A section that
    fails is left out, and named in the trace.

    Args:
        writers: Who writes, the sections in turn.
        length: Of the whole text.

    Raises:
        CapabilityError: a writer can't complete.
    """

    def __init__(self, writers: Sequence[Endpoint], *, length: Length) -> None:
        super().__init__(name="sections")
        self.endpoint = writers[0]
        words = length.words or 0
        self.words = words
        room = max(512, 4 * words)
        self.writers = [
            SectionWriter(writer, name="section", max_tokens=room) for writer in writers
        ]

    async def answer(self, request: Planned, context: RunContext) -> Drafted:
        """Write.

        Raises:
            MoaError: no section could be written; what the first failed with.
        """
        note_drafts(context, [writer.endpoint for writer in self.writers])
        count = len(request.outline.sections)
        length = Length(words=max(1, round(self.words / count)))
        silent = quiet(context)  # sections are shown when they agree with each other
        gate = asyncio.Semaphore(AT_ONCE)

        async def write(place: int) -> Section | MoaError:
            async with gate:
                try:
                    text = await self._section(
                        _Place(planned=request, place=place, length=length), silent
                    )
                except FAILURES as error:
                    heading = request.outline.sections[place].heading
                    context.note("failed", f"section {heading!r} is left out: {error}")
                    return error
            return Section(heading=request.outline.sections[place].heading, text=text)

        found = await gather(write(place) for place in range(count))
        written = tuple(each for each in found if isinstance(each, Section))
        if not written:
            raise next(each for each in found if isinstance(each, MoaError))
        return Drafted(planned=request, sections=written)

    async def _section(self, place: _Place, context: RunContext) -> str:
        writer = self.writers[place.place % len(self.writers)]
        text = (await writer.run(place, context)).output.text
        fault = place.length.fault(text)
        if fault is None:
            return text
        context.note("repaired", f"section {place.place + 1} asked again: {fault}")
        again = place.model_copy(update={"draft": text, "fault": fault})
        try:
            text = (await writer.run(again, context)).output.text
        except FAILURES as error:
            context.note("failed", f"section {place.place + 1} was not written anew: {error}")
        cut = place.length.cut(text)
        if len(cut) < len(text):
            context.note("truncated", f"section {place.place + 1}, by its length")
        if (left := place.length.fault(cut)) is not None:
            context.note("degraded", f"the length of section {place.place + 1}: {left}")
        return cut


class Edit(BaseModel):
    """Words of the text, and what stands in their place."""

    find: str = Field(min_length=1, description="whole words, copied exactly from the text")
    replace: str


class Edits(BaseModel):
    """What is to be changed; nothing, where all is well."""

    edits: list[Edit] = Field(max_length=12)


class Editor(Agent[Drafted, Edits]):
    """Finds what doesn't agree between sections, and says what to put in its place."""

    instructions = (
        "You are a copy editor. The sections of this text were written by different writers. Find "
        "names, terms, numbers or tone that do not agree, repetitions and contradictions. Give as "
        "few "
        "and as short edits as possible; if nothing is wrong, give none. An edit replaces its "
        "words "
        "wherever they stand, so copy enough of the text to be unambiguous."
    )

    def prompt(self, request: Drafted) -> str:
        """Show what all sections are to keep to, and the text."""
        kept = "\n".join(request.planned.outline.conventions)
        text = "\n\n".join(f"## {each.heading}\n\n{each.text}" for each in request.sections)
        return "\n\n".join((block(kept, "To keep to"), block(text, "Text")))


class Consistency(TypedNode[Drafted, Article]):
    """Makes the sections agree by edits to their words, and puts the text together.

    Edits are cheaper than a text that is written anew, and what they don't name stays as it is.

    Args:
        llm: Reads the text, and gives the edits.

    Raises:
        CapabilityError: `llm` can't complete.
    """

    def __init__(self, llm: Endpoint) -> None:
        super().__init__(name="consistency")
        self.endpoint = llm
        self.editor = Editor(llm, name="editor", max_tokens=2048)

    async def answer(self, request: Drafted, context: RunContext) -> Article:
        """Edit; where that fails, the sections stand as they are."""
        sections = request.sections
        if len(sections) > 1:
            try:
                edits = (await self.editor.run(request, context)).output.edits
            except FAILURES as error:
                context.note("failed", f"no pass for consistency: {error}")
                context.note("degraded", "the sections were not checked against each other")
            else:
                sections = _edited(sections, edits, context)
        title = request.planned.outline.title
        pieces = [f"# {title}", *(f"\n\n## {s.heading}\n\n{s.text}" for s in sections)]
        for piece in pieces:
            context.emit(Piece(context.node, piece))
        return Article(text="".join(pieces), title=title, sections=sections)


def _edited(
    sections: tuple[Section, ...], edits: Sequence[Edit], context: RunContext
) -> tuple[Section, ...]:
    for edit in edits:
        find, replace = _whole(edit.find), edit.replace
        if not any(find.search(each.text) for each in sections):
            context.note("dropped", f"an edit of {edit.find[:60]!r}, which is not in the text")
            continue
        texts = [find.sub(lambda _, by=replace: by, each.text).strip() for each in sections]
        if not all(texts):
            context.note("dropped", f"an edit of {edit.find[:60]!r}, which empties a section")
            continue
        context.note("changed", f"{edit.find[:60]!r} to {edit.replace[:60]!r}")
        sections = tuple(
            each.model_copy(update={"text": text})
            for each, text in zip(sections, texts, strict=True)
        )
    return sections


def _whole(words: str) -> re.Pattern[str]:
    """Find words where they stand as such: `he` not in `then`, `5` neither in `2005` nor in `1.5`.

    In writing without spaces nobody can tell, and any place will do.
    """
    before = r"(?<!\w)(?<!\d[.,])" if _bounded(words[0]) else ""
    after = r"(?!\w)(?![.,]\d)" if _bounded(words[-1]) else ""
    return re.compile(before + re.escape(words) + after)


def _bounded(character: str) -> bool:
    return re.match(r"\w", character) is not None and UNSPACED.match(character) is None
