"""Write: a short text in one call; a long one by an outline, and its sections side by side.

The outline that tells each writer of the others is as in Ning et al. 2024, "Skeleton-of-thought:
prompting LLMs for efficient parallel generation", arXiv:2307.15337, and Shao et al. 2024,
"Assisting in writing Wikipedia-like articles from scratch", arXiv:2402.14207.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Generic, NamedTuple

from pydantic import BaseModel, Field

from moa._text import word_count, words_in
from moa.agents import Agent
from moa.agents.base import Out
from moa.agents.prompts import Words, at_most, block, escape_tags
from moa.context import RunContext, quiet
from moa.documents.sentences import Length, sentences
from moa.graphs.fields import Large
from moa.graphs.recipe import Recipe, Sketch, each_tried, told, tried
from moa.node import Frozen, Node, Reply

WHOLE_WORDS = 400
"""Words up to which a text is written in one call: an outline and sections took six, and on the two
topics that were tried with a model of 1.5B they met less of the task."""
_WORDS_A_SECTION, _WORDS_A_SENTENCE = 100, 15
_FEW = 5
"""Words from which on a sentence can repeat another; shorter ones may be meant to."""
_MIN_SECTIONS, _MAX_SECTIONS = 2, 8
_LAST_HEADING = re.compile(r"^#{1,6}[ \t][^\n]*\Z", re.MULTILINE)
_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$", re.MULTILINE)
_SAID = re.compile(
    r"([5-9]\d|[1-9]\d{2,4})[\s-]{0,3}(?:words?|w[oö]rte[rn]*|mots|palabras|palavras|parole|woorden|ord|słów|слов)\b",
    re.IGNORECASE,
)
"""How many words a task asks for itself; fewer than 50 are rather what it is about."""
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
"""How many sections a task asks for itself."""
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
    """What is to be written."""

    text: str
    """The task, in words."""
    material: str | None = None
    """Facts to write from."""

    def __str__(self) -> str:
        return self.text

    @property
    def shown(self) -> str:
        """The task, and the material as data."""
        parts = [f"Task: {escape_tags(self.text)}"]
        if self.material:
            parts.append(block(self.material, "Material"))
        return "\n\n".join(parts)


class Form(NamedTuple):
    """How long a text is to be, and how many sections it is to have."""

    words: int
    sections: int

    def __str__(self) -> str:
        each = max(2, round(self.words / self.sections / _WORDS_A_SENTENCE))
        sections = "1 section" if self.sections == 1 else f"{self.sections} sections"
        return f"{sections} with about {each} sentences each"

    @property
    def length(self) -> Length:
        """The length alone."""
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
        lines = [self.title, *(f"All sections: {each}" for each in self.conventions)]
        for number, part in enumerate(self.sections, 1):
            lines.append(f"{number}. {part.heading}: {'; '.join(part.points)}")
        return "\n".join(lines)


class Section(Frozen):
    """A section that is written."""

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
        >>> from moa.graphs.write import Assignment, Write
        >>> large = ScriptedEndpoint(["# Whales\n\nWhales hum deep and far, and sing for company."])
        >>> task = Assignment(text="Tell how whales sing.")
        >>> article = Write(llm=large, words=10).run_sync(task).output
        >>> "deep and far" in article.text
        True
    """

    llm: Large
    """Writes a short text; else the outline and the sections."""
    words: int = Field(default=600, ge=1)
    """Of the whole text, about, where the task doesn't say it, as in "about 300 words"."""
    sections: int | None = Field(default=None, ge=1)
    """Maximum number of sections, each written by a call of its own; `None`: as many as the task
    says, as in "in two sections", or one for each 100 words, from 2 to 8."""

    def prepare(self) -> None:
        """Make the agents."""
        room = max(512, 4 * self.words)
        self.in_one = self.words <= WHOLE_WORDS and self.sections is None
        self.whole = Prompted(
            self.llm, _WHOLE, input=str, output=Reply, name="writer", max_tokens=room
        )
        self.outliner = Prompted(
            self.llm,
            _OUTLINE,
            input=str,
            output=at_most(Outline, "sections", self.sections or _MAX_SECTIONS),
            name="outline",
            max_tokens=2048,
        )
        self.section_writer = Prompted(
            self.llm, _SECTION, input=str, output=Reply, name="section", max_tokens=room
        )

    def _form_of(self, request: Assignment) -> Form:
        """Give the length and the number of sections: as the task says, or else as it is set."""
        said = _SAID.search(request.text)
        words = int(said[1]) if said else self.words
        by_length = min(_MAX_SECTIONS, max(_MIN_SECTIONS, round(words / _WORDS_A_SECTION)))
        return Form(words, self.sections or sections_in(request.text) or by_length)

    async def answer(self, request: Assignment, context: RunContext) -> Article:
        """Write it in one call; or outline it, and write the sections.

        Raises:
            MoaError: it, the outline, or no section could be written.
        """
        silent = quiet(context)  # nothing is shown before its length is checked
        form = self._form_of(request)
        if self.sections is None and form.words <= WHOLE_WORDS:
            return await told("whole", self._in_one(request, form, context, silent), context)
        outline = await told("outline", self._outlined(request, form, silent), context)
        writing = self._sections(request, outline, form.length, context, silent)
        return await told("sections", writing, context)

    def sketch(self, sketch: Sketch) -> None:
        """One writer; or the outline and the sections."""
        nodes = [self.whole] if self.in_one else [self.outliner, self.section_writer]
        sketch.chain(*nodes)

    async def _in_one(
        self, request: Assignment, form: Form, context: RunContext, silent: RunContext
    ) -> Article:
        """Write, and cut what is too much; what is too short is written again by its sections.

        Of the two the one that is nearer to the length is kept.
        """
        length = form.length
        wanted = f"Write it in {length}: a title, then {form}."
        text = (await self.whole.run(f"{request.shown}\n\n{wanted}", silent)).output.text
        article = _tidied(article_of(text, request.text), length, context)
        fault = length.fault(_prose(article.sections))
        if fault is not None and not length.too_long(_prose(article.sections)):
            context.note("repaired", f"asked again, section by section: {fault}")
            again = self._longer(request, article, form, context, silent)
            longer = await tried(again, context, "it was not written by sections")
            if longer is not None:
                tidied = _tidied(longer, length, context)
                article = min(article, tidied, key=lambda one: _off(one, length))
        if (left := length.fault(_prose(article.sections))) is not None:
            context.note("degraded", f"the length of the text: {left}")
        return article

    async def _longer(
        self,
        request: Assignment,
        article: Article,
        form: Form,
        context: RunContext,
        silent: RunContext,
    ) -> Article:
        """Write each section of a draft by itself, unseen: what is shown would be copied."""
        parts = [Part(heading=one.heading, points=[one.heading]) for one in article.sections]
        if len(parts) < _MIN_SECTIONS:
            outline = await self._outlined(request, form, silent)
        else:
            outline = Outline(title=article.title, conventions=[], sections=parts)
        return await self._sections(request, outline, form.length, context, silent)

    async def _outlined(self, request: Assignment, form: Form, silent: RunContext) -> Outline:
        """Plan; of sections of one name the first is kept."""
        wanted = f"Outline a text of {form.length} in {form.sections} sections."
        outline = (await self.outliner.run(f"{request.shown}\n\n{wanted}", silent)).output
        named = {part.heading.casefold(): part for part in reversed(outline.sections)}
        kept = [part for part in outline.sections if named[part.heading.casefold()] is part]
        if len(kept) < len(outline.sections):
            silent.note("dropped", "sections with the heading of another")
        return outline.model_copy(update={"sections": kept})

    async def _sections(
        self,
        request: Assignment,
        outline: Outline,
        length: Length,
        context: RunContext,
        silent: RunContext,
    ) -> Article:
        """Write all sections side by side, each to its share of the length.

        One that fails is left out.
        """
        parts = outline.sections
        each = Length(words=max(1, round((length.words or 0) / len(parts))))
        # Written from material, an outline may carry orders of that on.
        said = str(outline)
        plan = block(said, "Outline") if request.material else f"Outline:\n{escape_tags(said)}"

        async def write(place: int) -> Section:
            heading = parts[place].heading
            wanted = f"Write section {place + 1} in {each}: {escape_tags(heading)}"
            prompt, what = "\n\n".join([request.shown, plan, wanted]), f"section {place + 1}"
            text = await to_length(self.section_writer, prompt, each, silent, what=what)
            return Section(heading=heading, text=text)

        found = await each_tried(
            write,
            range(len(parts)),
            context,
            lambda place: f"section {parts[place].heading!r} is left out",
        )
        sections = tuple(each for each in found if isinstance(each, Section))
        return _put_together(outline.title, _said_once(sections, context))


class Prompted(Agent[str, Out], Generic[Out]):
    """Takes its prompt whole: what is data in it stands in blocks already."""

    def user_prompt(self, request: str) -> str:
        """Show it as it is."""
        return request


def _tidied(article: Article, length: Length, context: RunContext) -> Article:
    """Take out what is said twice, and then the ends of the longest sections."""
    sections = _said_once(article.sections, context)
    shorter = list(sections)
    while length.too_long(_prose(shorter)):
        longest = max(shorter, key=lambda section: word_count(section.text))
        begin, _ = sentences(longest.text)[-1]
        text = _LAST_HEADING.sub("", longest.text[:begin].rstrip()).rstrip()
        if not text:
            break
        shorter[shorter.index(longest)] = longest.model_copy(update={"text": text})
    if shorter != list(sections):
        context.note("truncated", "the ends of the longest sections, by its length")
    return _put_together(article.title, tuple(shorter))


def _off(article: Article, length: Length) -> float:
    return abs(word_count(_prose(article.sections)) - (length.words or 0))


async def to_length(
    writer: Node[str, Reply], prompt: str, length: Length, context: RunContext, *, what: str
) -> str:
    """Have a text written, and anew once where it is too short; what is too long is cut.

    The draft isn't shown again: small models copy what they read last. Where the writer fails at
    the second attempt, the first draft stands.
    """
    text = (await writer.run(prompt, context)).output.text
    fault = length.fault(text)
    if fault is not None and not length.too_long(text):
        context.note("repaired", f"{what} asked again: {fault}")
        longer = f"{prompt}\n\nA first draft was too short: {fault}. Say more, with details."
        again = writer.run(longer, context)
        anew = await tried(again, context, f"{what} was not written anew")
        drafts = [text] if anew is None else [text, anew.output.text]
        text = max(drafts, key=word_count)
    cut = length.cut(text)
    if len(cut) < len(text):
        context.note("truncated", f"{what}, by its length")
    if (left := length.fault(cut)) is not None:
        context.note("degraded", f"the length of {what}: {left}")
    return cut


def sections_in(task: str) -> int | None:
    """Read how many sections a task asks for, as in "in two sections"; `None`: it doesn't say."""
    found = _SECTIONS_SAID.search(task)
    return None if found is None else _COUNTS[found[1].casefold()]


def article_of(text: str, task: str) -> Article:
    """Read the title, else the task, and the sections of a text with any levels of headings."""
    found = [(len(m[1]), m[2], *m.span()) for m in _HEADING.finditer(text)]
    title, at = task, 0
    if found and [level for level, *_ in found].count(found[0][0]) == 1:
        (_, title, _, at), *found = found
    top = min((level for level, *_ in found), default=0)
    heads = [head for head in found if head[0] == top]
    ends = [*(start for _, _, start, _ in heads), len(text)]
    before = text[at : ends[0]].strip()
    sections = [Section(heading=title, text=before)] if before else []
    sections += [
        Section(heading=heading, text=text[begin:end].strip())
        for (_, heading, _, begin), end in zip(heads, ends[1:], strict=True)
    ]
    return _put_together(title, tuple(sections))


def _prose(sections: Sequence[Section]) -> str:
    return "\n\n".join(section.text for section in sections)


def _said_once(sections: Sequence[Section], context: RunContext) -> tuple[Section, ...]:
    """Take out sentences that one before them said word for word: near ones may mean more."""
    seen: set[tuple[str, ...]] = set()
    kept: list[Section] = []
    gone = 0
    for section in sections:
        pieces: list[str] = []
        found = sentences(section.text)
        ends = [*(start for start, _ in found), len(section.text)][1:]
        for (start, sentence), end in zip(found, ends, strict=True):
            said = tuple(words_in(sentence))
            if len(said) >= _FEW and said in seen:
                gone += 1
                continue
            seen.add(said)
            pieces.append(section.text[start:end])
        if pieces or not section.text:
            text = "".join(pieces).rstrip()
            kept.append(section.model_copy(update={"text": text}))
    if gone:
        context.note("dropped", f"sentences that said again what was said: {gone}")
    return tuple(kept)


def _put_together(title: str, sections: tuple[Section, ...]) -> Article:
    """Write Markdown; a section that has the heading of the text stands without it."""
    parts = [f"# {title}"]
    parts += [s.text if s.heading == title else f"## {s.heading}\n\n{s.text}" for s in sections]
    return Article(text="\n\n".join(parts), title=title, sections=sections)
