"""Write: writes a short text in one call, a long one by an outline, with sections in parallel.

Each section's writer sees the whole outline, as in Ning et al. 2024, "Skeleton-of-thought:
prompting LLMs for efficient parallel generation", arXiv:2307.15337, and Shao et al. 2024,
"Assisting in writing Wikipedia-like articles from scratch", arXiv:2402.14207.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from pydantic import BaseModel, Field

from moa.agents.prompts import Words, block, escape_tags, limit_items
from moa.core._text import word_count, words_in
from moa.core.context import RunContext, quiet
from moa.core.node import Frozen, Reply
from moa.documents.sentences import Length, sentences
from moa.documents.writing import (
    WholePrompt,
    attempt,
    attempt_each,
    report_step,
    write_to_length,
)
from moa.graphs.fields import Large
from moa.graphs.recipe import Recipe, Sketch

WHOLE_WORDS = 400
"""Maximum words of a text written in one call; an outline and its sections take six calls."""
_WORDS_A_SECTION, _WORDS_A_SENTENCE = 100, 15
_FEW = 5
"""Minimum words of a sentence that counts as a repeat; shorter ones may be repeated on purpose."""
_MIN_SECTIONS, _MAX_SECTIONS = 2, 8
_LAST_HEADING = re.compile(r"^#{1,6}[ \t][^\n]*\Z", re.MULTILINE)
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
_SAID = re.compile(
    r"([5-9]\d|[1-9]\d{2,4})[\s-]{0,3}(?:words?|w[oö]rte[rn]*|mots|palabras|palavras|parole|woorden|ord|słów|слов)\b",
    re.IGNORECASE,
)
"""Finds the number of words that a task asks for. Fewer than 50 are rather its topic."""
_COUNTS = {
    **{str(number): number for number in range(1, 9)},
    **dict.fromkeys(("one", "einem", "une", "una", "uma", "een"), 1),
    **dict.fromkeys(("two", "zwei", "deux", "dos", "due", "dois", "duas", "twee", "dwie"), 2),
    **dict.fromkeys(("three", "drei", "trois", "tres", "tre", "três", "drie", "trzy"), 3),
    **dict.fromkeys(("four", "vier", "quatre", "cuatro", "quattro", "quatro", "cztery"), 4),
    **dict.fromkeys(("five", "fünf", "cinq", "cinco", "cinque", "vijf", "pięć"), 5),
}
_SECTIONS_SAID = re.compile(
    rf"\b({'|'.join(_COUNTS)})\s+(?:\w+\s+)?"
    r"(?:sections?|abschnitte?n?|secciones|sección|sezion[ei]|seções|seção|secções|secção|secties?"
    r"|paragrafen|sekcj[eiaę]|rozdział\w*)\b",
    re.IGNORECASE,
)
"""Finds the number of sections that a task asks for."""
_WHOLE = (
    "You are a writer. Write a text for the task, in its language, in Markdown: a title that "
    "begins with #, then sections, each with a heading that begins with ##. Be concrete, write no "
    "lists unless they are asked for, no introduction and no conclusion, and say nothing twice. "
    "Write the text alone."
)
_OUTLINE = (
    "You are an editor. Outline a text for the task in sections that do not overlap. Different "
    "writers write them, so list the names, terms, numbers and the tone that all must use. Use the "
    "language of the task."
)
_SECTION = (
    "You write one section of a text. Cover the points of your section in the outline, use the "
    "names, terms and numbers given for all sections, and leave the other sections to others. "
    "Write only the text of the section, without a heading, in the language of the task."
)


class Assignment(Frozen):
    """A writing task."""

    text: str
    """The task, in words."""
    material: str | None = None
    """Facts to write from."""

    def __str__(self) -> str:
        return self.text

    @property
    def as_prompt(self) -> str:
        """The task, and the material as data."""
        parts = [f"Task: {escape_tags(self.text)}"]
        if self.material:
            parts.append(block(self.material, "Material"))
        return "\n\n".join(parts)


class Form(NamedTuple):
    """Target length and number of sections of a text."""

    words: int
    sections: int

    def __str__(self) -> str:
        count = max(2, round(self.words / self.sections / _WORDS_A_SENTENCE))
        sections = "1 section" if self.sections == 1 else f"{self.sections} sections"
        return f"{sections} with about {count} sentences each"

    @property
    def length(self) -> Length:
        """The length without the sections."""
        return Length(words=self.words)


class Part(BaseModel):
    """What a section is to say."""

    heading: Words
    points: list[Words] = Field(
        min_length=1, max_length=6, description="what it says, one point after another"
    )


class Outline(BaseModel):
    """What a text is to say, section by section."""

    title: Words
    conventions: list[str] = Field(
        max_length=6, description="names, terms, numbers and the tone that every section keeps to"
    )
    sections: list[Part] = Field(min_length=1)

    def __str__(self) -> str:
        lines = [self.title, *(f"All sections: {convention}" for convention in self.conventions)]
        for number, part in enumerate(self.sections, 1):
            lines.append(f"{number}. {part.heading}: {'; '.join(part.points)}")
        return "\n".join(lines)


class Section(Frozen):
    """A written section."""

    heading: str
    text: str


class Article(Reply):
    """A text in sections, as Markdown."""

    title: str
    sections: tuple[Section, ...]


class Write(Recipe[Assignment, Article], recipe="write"):
    r"""Writes an article: a short one in one call, else by an outline, with its sections apart.

    Up to 400 words are written in one call, unless sections are given.

    Raises:
        CapabilityError: an endpoint can't complete.

    Examples:
        >>> from moa.recipes.write import Assignment, Write
        >>> large = ScriptedEndpoint(["# Whales\n\nWhales hum deep and far, and sing for company."])
        >>> task = Assignment(text="Tell how whales sing.")
        >>> article = Write(llm=large, words=10).run_sync(task).output
        >>> "deep and far" in article.text
        True
    """

    llm: Large
    """Writes the short text, or the outline and the sections."""
    words: int = Field(default=600, ge=1)
    """Approximate length of the whole text, unless the task says it, as in "about 300 words"."""
    sections: int | None = Field(default=None, ge=1)
    """Maximum number of sections, each written by a call of its own; `None`: as many as the task
    says, as in "in two sections", or one for each 100 words, from 2 to 8."""

    def prepare(self) -> None:
        """Make the agents."""
        room = max(512, 4 * self.words)
        self.in_one = self.words <= WHOLE_WORDS and self.sections is None
        self.whole = WholePrompt(
            self.llm, _WHOLE, input=str, output=Reply, name="writer", max_tokens=room
        )
        self.outliner = WholePrompt(
            self.llm,
            _OUTLINE,
            input=str,
            output=limit_items(Outline, "sections", self.sections or _MAX_SECTIONS),
            name="outline",
            max_tokens=2048,
        )
        self.section_writer = WholePrompt(
            self.llm, _SECTION, input=str, output=Reply, name="section", max_tokens=room
        )

    def _form_of(self, request: Assignment) -> Form:
        """Return the form: the task's length, else `words`; `sections`, else the task's number."""
        match = _SAID.search(request.text)
        words = int(match[1]) if match else self.words
        by_length = min(_MAX_SECTIONS, max(_MIN_SECTIONS, round(words / _WORDS_A_SECTION)))
        return Form(words, self.sections or sections_in(request.text) or by_length)

    async def answer(self, request: Assignment, context: RunContext) -> Article:
        """Write the text in one call, or outline it and write the sections.

        Raises:
            MoaError: the text or the outline could not be written, or no section could.
        """
        silent = quiet(context)  # nothing is shown before its length is checked
        form = self._form_of(request)
        if self.sections is None and form.words <= WHOLE_WORDS:
            return await report_step("whole", self._write_whole(request, form, silent), context)
        outline = await report_step("outline", self._outline(request, form, silent), context)
        writing = self._write_sections(request, outline, form.length, silent)
        return await report_step("sections", writing, context)

    def sketch(self, sketch: Sketch) -> None:
        """Draw one writer, or the outline and the sections."""
        nodes = [self.whole] if self.in_one else [self.outliner, self.section_writer]
        sketch.chain(*nodes)

    async def _write_whole(self, request: Assignment, form: Form, context: RunContext) -> Article:
        """Write the text in one call; if it is too short, write it again by sections.

        The text that is nearer to the length is kept.
        """
        length = form.length
        instruction = f"Write it in {length}: a title, then {form}."
        text = (await self.whole.run(f"{request.as_prompt}\n\n{instruction}", context)).output.text
        article = _tidy(article_of(text, request.text), length, context)
        if (fault := length.shortfall(_prose(article.sections))) is not None:
            context.note("repaired", f"asked again, section by section: {fault}")
            rewriting = self._write_longer(request, article, form, context)
            longer = await attempt(rewriting, context, "it was not written by sections")
            if longer is not None:
                drafts = (article, _tidy(longer, length, context))
                article = min(drafts, key=lambda draft: length.miss(_prose(draft.sections)))
        if (fault := length.fault(_prose(article.sections))) is not None:
            context.note("degraded", f"the length of the text: {fault}")
        return article

    async def _write_longer(
        self, request: Assignment, article: Article, form: Form, context: RunContext
    ) -> Article:
        """Write each section anew without showing the draft: models copy what they are shown."""
        parts = [
            Part(heading=section.heading, points=[section.heading]) for section in article.sections
        ]
        if len(parts) < _MIN_SECTIONS:
            outline = await self._outline(request, form, context)
        else:
            outline = Outline(title=article.title, conventions=[], sections=parts)
        return await self._write_sections(request, outline, form.length, context)

    async def _outline(self, request: Assignment, form: Form, context: RunContext) -> Outline:
        """Plan the sections. Of sections with the same heading, the first is kept."""
        instruction = f"Outline a text of {form.length} in {form.sections} sections."
        outline = (await self.outliner.run(f"{request.as_prompt}\n\n{instruction}", context)).output
        parts: dict[str, Part] = {}
        for part in outline.sections:
            parts.setdefault(part.heading.casefold(), part)
        if len(parts) < len(outline.sections):
            context.note("dropped", "sections with the heading of another")
        return outline.model_copy(update={"sections": [*parts.values()]})

    async def _write_sections(
        self, request: Assignment, outline: Outline, length: Length, context: RunContext
    ) -> Article:
        """Write all sections in parallel, each to its share of the length.

        Failed sections are left out.
        """
        share = Length(words=max(1, round((length.words or 0) / len(outline.sections))))
        plan = str(outline)
        # An outline of untrusted material may repeat instructions in it.
        plan = block(plan, "Outline") if request.material else f"Outline:\n{escape_tags(plan)}"

        async def write(section: tuple[int, Part]) -> Section:
            number, part = section
            instruction = f"Write section {number} in {share}: {escape_tags(part.heading)}"
            prompt = "\n\n".join([request.as_prompt, plan, instruction])
            name = f"section {number}"
            text = await write_to_length(self.section_writer, prompt, share, context, what=name)
            return Section(heading=part.heading, text=text)

        results = await attempt_each(
            write,
            enumerate(outline.sections, 1),
            context,
            lambda section: f"section {section[1].heading!r} is left out",
        )
        sections = [result for result in results if isinstance(result, Section)]
        return _join(outline.title, _drop_repeats(sections, context))


def _tidy(article: Article, length: Length, context: RunContext) -> Article:
    """Remove repeated sentences, then cut the ends of the longest sections to fit the length."""
    sections = _drop_repeats(article.sections, context)
    shorter = [*sections]
    while length.too_long(_prose(shorter)):
        longest = max(shorter, key=lambda section: word_count(section.text))
        begin, _ = sentences(longest.text)[-1]
        text = _LAST_HEADING.sub("", longest.text[:begin].rstrip()).rstrip()
        if not text:
            break
        shorter[shorter.index(longest)] = longest.model_copy(update={"text": text})
    if shorter != sections:
        context.note("truncated", "the ends of the longest sections, by its length")
    return _join(article.title, shorter)


def sections_in(task: str) -> int | None:
    """Return how many sections a task asks for, as in "in two sections"; `None`: it doesn't say."""
    match = _SECTIONS_SAID.search(task)
    return None if match is None else _COUNTS[match[1].casefold()]


def article_of(text: str, task: str) -> Article:
    """Read the title and the sections of a Markdown text. Without a title, the task is used."""
    headings = [(len(m[1]), m[2], *m.span()) for m in _HEADING.finditer(text)]
    title, offset = task, 0
    if headings and [level for level, *_ in headings].count(headings[0][0]) == 1:
        (_, title, _, offset), *headings = headings
    top = min((level for level, *_ in headings), default=0)
    heads = [heading for heading in headings if heading[0] == top]
    ends = [*(start for _, _, start, _ in heads), len(text)]
    opening = text[offset : ends[0]].strip()
    sections = [Section(heading=title, text=opening)] if opening else []
    sections += [
        Section(heading=heading, text=text[begin:end].strip())
        for (_, heading, _, begin), end in zip(heads, ends[1:], strict=True)
    ]
    return _join(title, sections)


def _prose(sections: Sequence[Section]) -> str:
    return "\n\n".join(section.text for section in sections)


def _drop_repeats(sections: Sequence[Section], context: RunContext) -> list[Section]:
    """Remove sentences that repeat an earlier one word for word. Similar ones may mean more."""
    seen: set[tuple[str, ...]] = set()
    remaining: list[Section] = []
    count = 0
    for section in sections:
        starts = [*(start for start, _ in sentences(section.text)), len(section.text)]
        pieces: list[str] = []
        for start, end in pairwise(starts):
            piece = section.text[start:end]
            words = tuple(words_in(piece))
            if len(words) >= _FEW and words in seen:
                count += 1
            else:
                seen.add(words)
                pieces.append(piece)
        if pieces or not section.text:
            remaining.append(section.model_copy(update={"text": "".join(pieces).rstrip()}))
    if count:
        context.note("dropped", f"sentences that said again what was said: {count}")
    return remaining


def _join(title: str, sections: Sequence[Section]) -> Article:
    """Join the sections as Markdown. A section headed like the text is written without heading."""
    parts = [f"# {title}"]
    parts += [s.text if s.heading == title else f"## {s.heading}\n\n{s.text}" for s in sections]
    return Article(text="\n\n".join(parts), title=title, sections=tuple(sections))
