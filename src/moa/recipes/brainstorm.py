"""Brainstorm: personas propose ideas, which are merged if alike, scored, and grouped by theme.

Diverging before converging is from Osborn (1953, "Applied imagination"). Ideas have to be merged
because many samples of a model repeat each other (Si et al. 2024, "Can LLMs generate novel research
ideas?", arXiv:2409.04109).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from moa.agents.agent import Agent
from moa.agents.base import require
from moa.agents.deciding import Decider
from moa.agents.prompts import Words, limit_items
from moa.core.context import RunContext
from moa.core.node import Frozen, Reply, text_of
from moa.core.questions import Score, score
from moa.documents.retrieval import normalise, similarities, words
from moa.documents.writing import attempt, attempt_each, attempt_writing, report_step
from moa.endpoints.known import can_write
from moa.graphs.fields import Large, Small
from moa.graphs.mixing.fan_out import fan_out
from moa.graphs.recipe import Recipe, Sketch
from moa.local.encoders import SentenceEncoder

PERSONAS: Mapping[str, str] = {
    "pragmatist": "You look for what can be done at once, with what is there.",
    "user": "You think as those whom it is for, and of what they need and never say.",
    "contrarian": "You doubt what everybody takes for granted, and turn it round.",
    "expert": "You know the field, and what has worked and failed in it.",
    "outsider": "You carry over what works in fields that have nothing to do with it.",
}
"""Points of view for proposing ideas, by name of the persona."""
_ALIKE = 0.8
"""Minimum cosine similarity, by the encoder's vectors, at which two ideas are merged."""
_LEVELS = ["poor", "fair", "good", "excellent"]


class Idea(Frozen):
    """One idea, with its proposers, score and theme."""

    text: str
    proposed_by: tuple[str, ...]
    """Names of the personas that proposed it."""
    score: float | None = None
    """Quality, from 0 to 1; `None` if it could not be scored."""
    group: str = ""
    """Theme; empty if no model named the themes."""


class Pool(BaseModel):
    """Ideas to be sorted."""

    ideas: tuple[Idea, ...]

    def __str__(self) -> str:
        return "\n".join(f"[{n}] {idea.text}" for n, idea in enumerate(self.ideas, 1))


class Proposal(BaseModel):
    """What a persona proposes."""

    # The title is part of the prompt if a server enforces no schema. Results were measured with it.
    model_config = ConfigDict(title="Proposed")

    ideas: list[Words] = Field(min_length=1)


class Ideas(Reply):
    """Ideas by theme, listed in the text. The best come first, in each theme and among themes."""

    ideas: tuple[Idea, ...]


class Brainstorm(Recipe[str | BaseModel, Ideas], recipe="brainstorm"):
    """Finds ideas from several points of view, merges those that are alike, and sorts them.

    Raises:
        CapabilityError: `slm` can't decide, a proposer can't complete, or the encoder can't embed.

    Examples:
        >>> from moa.recipes.brainstorm import Brainstorm
        >>> judged = dict.fromkeys(("useful", "original"), {"good": 1.0})
        >>> small = SimulatedEndpoint(rule=lambda _: judged)
        >>> large = SimulatedEndpoint(rule=lambda _: '{"themes": []}')
        >>> proposers = [ScriptedEndpoint(['{"ideas": ["A night bus."]}'])]
        >>> personas = {"user": "You think as those whom it is for."}
        >>> graph = Brainstorm(
        ...     slm=small, llm=large, personas=personas, proposers=proposers, encoder=small
        ... )
        >>> ideas = graph.run_sync("How can a library have more visitors?").output.ideas
        >>> [idea.text for idea in ideas]
        ['A night bus.']
    """

    slm: Small
    """Model that scores the ideas."""
    llm: Large
    """Model that names the themes, and proposes if there are no `proposers`."""
    personas: Mapping[str, str] = Field(default_factory=lambda: dict(PERSONAS), min_length=1)
    """Point of view of each persona, by name."""
    proposers: Sequence[Large] = ()
    """Models that propose, assigned to the personas in turn. If empty, the large model for all."""
    ideas: int = Field(default=5, ge=1)
    """Number of ideas per persona."""
    max_ideas: int | None = Field(default=None, ge=1)
    """Maximum number of ideas to keep, by score; `None` keeps all."""
    encoder: Large | None = None
    """Encoder of the ideas; `None` for the built-in one."""

    def prepare(self) -> None:
        """Build the agents."""
        self.likeness = require(self.encoder or SentenceEncoder(), "embed", agent=self.name)
        endpoints = self.proposers or (self.llm,)
        self.views = [
            Agent(
                endpoints[n % len(endpoints)],
                f"{view}\nPropose {self.ideas} ideas, as different from each other as possible, "
                "each in one complete sentence. Use the language of the request.",
                output=limit_items(Proposal, "ideas", self.ideas),
                name=persona,
                temperature=1.0,
                max_tokens=1024,
                tag="",
            )
            for n, (persona, view) in enumerate(self.personas.items())
        ]
        self.scorer = Decider(self.slm, Worth, name="score")
        self.sorter = Sorter(self.llm, name="sort", max_tokens=1024)

    async def answer(self, request: str | BaseModel, context: RunContext) -> Ideas:
        """Propose in parallel, then merge, score and group.

        A persona that fails is left out. If a later step fails, the ideas stay as they are.

        Raises:
            QuorumNotMet: all personas failed; with the cause of each.
        """
        results = await fan_out(self.views, request, context)
        proposed = [
            Idea(text=text, proposed_by=(result.name,))
            for result in results
            for text in result.output.ideas
        ]
        merged = await report_step("merge", self._merge(proposed, context), context)
        scoring = self._rank(text_of(request), merged, context)
        ranked = await report_step("rank", scoring, context)
        return _list(await report_step("group", self._group(ranked, context), context))

    def sketch(self, sketch: Sketch) -> None:
        """Draw the personas in parallel, and the steps after them."""
        merge, groups = sketch.box(label="merge"), [sketch.output]
        for view in self.views:
            sketch.arrow(sketch.input, sketch.box(view), merge)
        if can_write(self.llm.model):
            groups.insert(0, sketch.box(self.sorter))
        sketch.arrow(merge, sketch.box(self.scorer), *groups)

    async def _merge(self, ideas: Sequence[Idea], context: RunContext) -> list[Idea]:
        """Keep the first of equal ideas, with the names of all its proposers."""
        embeddings = None
        if len(ideas) > 1:
            fallback = "ideas are compared by their words alone"
            embedding = self.likeness.embed([idea.text for idea in ideas], context)
            embeddings = await attempt(embedding, context, fallback, kind="degraded")
        vectors = () if embeddings is None else embeddings.vectors
        rows = normalise(vectors) if vectors else None
        idea_words = [words(idea.text) for idea in ideas]
        names: dict[int, list[str]] = {}  # names of personas, by index of the kept idea
        for index, idea in enumerate(ideas):
            cosines = [0.0] * index if rows is None else similarities(rows, vectors[index])
            alike = (k for k in names if idea_words[k] == idea_words[index] or cosines[k] >= _ALIKE)
            names.setdefault(next(alike, index), []).extend(idea.proposed_by)
        if duplicates := len(ideas) - len(names):
            context.note("dropped", f"{duplicates} of {len(ideas)} ideas say the same as others")
        return [
            ideas[index].model_copy(update={"proposed_by": tuple(dict.fromkeys(personas))})
            for index, personas in names.items()
        ]

    async def _rank(
        self, request: str, ideas: Sequence[Idea], context: RunContext
    ) -> tuple[Idea, ...]:
        """Score all ideas, and sort the best first. Unscored ones come last."""

        async def score(idea: Idea) -> float:
            text = f"What is asked: {request}\n\nThe idea: {idea.text}"
            worth = (await self.scorer.run(text, context)).output
            total = worth.useful.value + worth.original.value
            return round(total / (2 * (len(_LEVELS) - 1)), 4)

        scores = await attempt_each(
            score, ideas, context, lambda idea: f"no score for {idea.text[:60]!r}", minimum=0
        )
        ranked = [
            idea.model_copy(update={"score": score}) if isinstance(score, float) else idea
            for idea, score in zip(ideas, scores, strict=True)
        ]
        ranked.sort(key=lambda idea: -1.0 if idea.score is None else idea.score, reverse=True)
        if self.max_ideas is not None and len(ranked) > self.max_ideas:
            context.note("dropped", f"{len(ranked) - self.max_ideas} ideas with the lowest scores")
        return tuple(ranked[: self.max_ideas])

    async def _group(self, ideas: tuple[Idea, ...], context: RunContext) -> Sequence[Idea]:
        """Let a large model sort the ideas by theme. If it fails, they stay in one list."""
        fallback = "no model named the themes"
        sorting = await attempt_writing(self.sorter, Pool(ideas=ideas), context, fallback)
        if sorting is None:
            return ideas
        themes = {number: theme.theme for theme in sorting.themes for number in theme.ideas}
        return [idea.model_copy(update={"group": themes[n]}) for n, idea in enumerate(ideas, 1)]


class Worth(BaseModel):
    """What is asked about each idea."""

    useful: Score = score("How well would this idea serve what is asked?", levels=_LEVELS)
    original: Score = score("How fresh and unusual is this idea?", levels=_LEVELS)


class Theme(BaseModel):
    """Ideas that belong together."""

    theme: Words
    ideas: list[int] = Field(min_length=1)


class Themes(BaseModel):
    """All ideas by their themes."""

    themes: list[Theme] = Field(min_length=1)


class Sorter(Agent[Pool, Themes]):
    """Sorts numbered ideas by theme."""

    instructions = (
        "Group the numbered ideas by theme. Use a few themes, named in one to four words in the "
        "language of the ideas. Put each number into exactly one theme."
    )

    def check(self, request: Pool, output: Themes) -> None:
        """Reject numbers that no idea has, and ideas with several themes or none."""
        numbers = [number for theme in output.themes for number in theme.ideas]
        valid_numbers = set(range(1, len(request.ideas) + 1))
        if wrong := sorted(set(numbers) - valid_numbers):
            raise ValueError(f"there are no ideas {wrong}, only 1 to {len(request.ideas)}")
        if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
            raise ValueError(f"put each idea into one theme only: {twice} are in several")
        if left := sorted(valid_numbers - set(numbers)):
            raise ValueError(f"put these ideas into a theme too: {left}")


def _list(ranked: Sequence[Idea]) -> Ideas:
    """List the ideas by theme, the theme of the best idea first."""
    themes = list(dict.fromkeys(idea.group for idea in ranked))
    ideas = sorted(ranked, key=lambda idea: themes.index(idea.group))
    lines: list[str] = []
    for theme in themes:
        lines += [f"{theme}:"] if theme else []
        lines += [f"- {idea.text}" for idea in ideas if idea.group == theme]
    return Ideas(text="\n".join(lines), ideas=tuple(ideas))
