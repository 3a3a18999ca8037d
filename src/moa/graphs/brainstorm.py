"""Brainstorm: several personas propose, what is alike is merged, scored, and grouped by theme.

Diverging before converging is Osborn's (1953, "Applied imagination"); that many samples of a model
repeat each other, so that they have to be merged, is in Si et al. 2024, "Can LLMs generate novel
research ideas?", arXiv:2409.04109.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack, cast

from pydantic import BaseModel

from moa.agents.boundary import Limits
from moa.calibration.acceptance import text_of
from moa.context import RunContext
from moa.endpoints import Endpoint
from moa.endpoints.encoders import SentenceEncoder
from moa.errors import ConfigError
from moa.graphs.building.builder import Graph
from moa.graphs.building.handles import Handle
from moa.graphs.building.plan import Plan
from moa.graphs.ideas import Group, Idea, Merge, Persona, Pool, Proposed, Rank
from moa.graphs.notes import note_drafts
from moa.graphs.pattern import Pattern
from moa.handoffs import Reply
from moa.mixing.fan_out import fan_out
from moa.trace import Piece

PERSONAS: Mapping[str, str] = {
    "pragmatist": "You look for what can be done at once, with what is there.",
    "user": "You think as those whom it is for, and of what they need and never say.",
    "contrarian": "You doubt what everybody takes for granted, and turn it round.",
    "expert": "You know the field, and what has worked and failed in it.",
    "outsider": "You carry over what works in fields that have nothing to do with it.",
}
"""Points of view that ideas are proposed from, by the name of the persona."""


class Ideas(Reply):
    """Ideas by theme; the text lists them. The best are first, in each theme and of the themes."""

    ideas: tuple[Idea, ...]


class Brainstorm(Pattern[str | BaseModel, Ideas]):
    """What `brainstorm` makes."""

    def __init__(
        self,
        personas: Sequence[Persona],
        merge: Merge,
        rank: Rank,
        group: Group,
        **limits: Unpack[Limits],
    ) -> None:
        super().__init__(**limits)
        self.personas = tuple(personas)
        self.merge = merge
        self.rank = rank
        self.group = group

    async def answer(self, request: str | BaseModel, context: RunContext) -> Ideas:
        """Propose side by side, then merge, score and group.

        A persona that fails is left out. Of what follows, what fails leaves the ideas as they are.

        Raises:
            QuorumNotMet: no persona proposed anything; with each cause.
        """
        note_drafts(context, [persona.endpoint for persona in self.personas])
        drawn = await fan_out(self.personas, request, context)
        pool = Pool(
            request=text_of(request),
            ideas=tuple(
                Idea(text=text, proposed_by=(each.name,))
                for each in drawn
                for text in each.output.ideas
            ),
        )
        pool = (await self.merge.run(pool, context)).output
        pool = (await self.rank.run(pool, context)).output
        listed = _listed((await self.group.run(pool, context)).output)
        context.emit(Piece(context.node, listed.text))
        return listed

    @property
    def plan(self) -> Plan:
        """The personas side by side, and what becomes of their ideas, to be drawn."""
        g: Graph[Any] = Graph(self.name, self.input_type)
        proposed = [g.add(persona, g.input) for persona in self.personas]
        pool: Handle[Pool] = cast("Any", g).join(_pooled, *proposed)
        merged = g.add(self.group, g.add(self.rank, g.add(self.merge, pool)))
        return g.build(merged.map(_listed)).plan


def brainstorm(
    slm: Endpoint,
    llm: Endpoint,
    *,
    personas: Mapping[str, str] = PERSONAS,
    proposers: Sequence[Endpoint] = (),
    ideas: int = 5,
    most: int | None = None,
    alike: float = 0.8,
    temperatures: Sequence[float | None] = (1.0,),
    encoder: Endpoint | None = None,
    **limits: Unpack[Limits],
) -> Brainstorm:
    """Find ideas from several points of view, and sort them.

    Args:
        slm: Scores the ideas.
        llm: Names the themes, and proposes where no others do.
        personas: What each looks for, by its name.
        proposers: Who proposes, the personas in turn; none: the large model for all of them.
        ideas: How many each persona proposes.
        most: Ideas that are kept, by their score; `None` keeps all.
        alike: Cosine of the encoder's vectors from which on two ideas are one.
        temperatures: For the personas in turn; `None` leaves it to the server.
        encoder: Turns ideas into vectors; `None`: the built-in one.
        limits: See `Limits`.

    Raises:
        CapabilityError: `slm` can't decide, a proposer can't complete, or the encoder can't embed.
        ConfigError: there is no persona, idea or temperature.
    """
    if not personas or not temperatures or ideas < 1 or (most is not None and most < 1):
        raise ConfigError(
            f"a brainstorm with {len(personas)} personas, {ideas} ideas each, {len(temperatures)} "
            f"temperatures and most={most}, but there must be at least one of each"
        )
    encoder = encoder or SentenceEncoder()
    asked = tuple(proposers) or (llm,)
    return Brainstorm(
        [
            Persona(
                asked[n % len(asked)],
                persona,
                view,
                ideas=ideas,
                temperature=temperatures[n % len(temperatures)],
            )
            for n, (persona, view) in enumerate(personas.items())
        ],
        Merge(encoder, alike=alike),
        Rank(slm, most=most),
        Group(llm, encoder),
        **limits,
    )


def _listed(pool: Pool) -> Ideas:
    """Put the ideas in the order of their themes, that of the best idea first."""
    themes = list(dict.fromkeys(idea.group for idea in pool.ideas))
    ideas = sorted(pool.ideas, key=lambda idea: themes.index(idea.group))
    lines = [
        line
        for theme in themes
        for line in (f"{theme}:", *(f"- {idea.text}" for idea in ideas if idea.group == theme))
    ]
    return Ideas(text="\n".join(lines), ideas=tuple(ideas))


def _pooled(*proposed: Proposed) -> Pool:
    """Stand for the fan-out in drawings; it is not run."""
    del proposed
    return Pool(request="", ideas=())
