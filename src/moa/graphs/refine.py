"""Refine: a draft is criticised and revised until the critic is content; the best draft is kept.

After Madaan et al. 2023, "Self-Refine: Iterative refinement with self-feedback", arXiv:2303.17651,
which keeps the last draft. A revision can be worse, so here the one with the best score is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

from pydantic import Field

from moa.agents.boundary import In
from moa.agents.critic import Critique, Draft
from moa.agents.reviser import Criticised
from moa.calibration.acceptance import text_of
from moa.context import RunContext
from moa.errors import ConfigError, MoaError
from moa.graphs.building.builder import Graph
from moa.graphs.building.plan import Plan
from moa.graphs.building.signatures import signature_of
from moa.graphs.pattern import Pattern
from moa.handoffs import Reply
from moa.mixing.listening import quiet
from moa.mixing.passing import passes
from moa.node import Node
from moa.trace import Piece
from moa.usage import UNLIMITED, Budget


class Refined(Reply):
    """The best of the drafts that were written."""

    draft: int = Field(ge=0)
    """Which draft it is: 0 is the first."""
    drafts: int = Field(ge=1)
    """How many were written."""
    score: int | None
    """From 0 to 10, as the critic gave it; `None`: it was not criticised."""
    faults: tuple[str, ...]
    """What the critic still finds in it."""
    content: bool
    """Whether the critic is content: it finds no fault, or its score is high enough."""
    partial: bool = False
    """Whether a failure, the budget or the time ended it before that, and before the rounds."""


@dataclass(frozen=True, slots=True)
class _Scored:
    """A draft, and what the critic says of it."""

    place: int
    text: str
    critique: Critique | None = None

    @property
    def score(self) -> int:
        return -1 if self.critique is None else self.critique.score


class Refine(Pattern[In, Refined], Generic[In]):
    """What `refine` makes."""

    def __init__(
        self,
        writer: Node[In, Reply],
        critic: Node[Draft, Critique],
        reviser: Node[Criticised, Reply],
        *,
        rounds: int,
        enough: int,
        name: str,
        budget: Budget,
        timeout_s: float | None,
    ) -> None:
        if rounds < 1 or not 0 <= enough <= 10:
            raise ConfigError(
                f"{name}: rounds={rounds} and enough={enough}, but it takes 1 round or more, and "
                "a score from 0 to 10"
            )
        self.input_type = signature_of(writer).input(0)
        super().__init__(name=name, budget=budget, timeout_s=timeout_s)
        self.writer = writer
        self.critic = critic
        self.reviser = reviser
        self.rounds = rounds
        self.enough = enough

    async def answer(self, request: In, context: RunContext) -> Refined:
        """Write, criticise and revise.

        Raises:
            MoaError: the first draft could not be written, or the critic or the reviser is set up
                wrong, such as without its key.
        """
        silent = quiet(context)  # no draft is the answer before its critic has read it
        first = (await self.writer.run(request, silent)).output.text
        drafts, cause = await self._drafts(text_of(request), first, silent)
        best = max(drafts, key=lambda draft: draft.score)  # a revision must be better to replace
        if cause is not None:
            context.note("degraded", f"draft {best.place + 1} of {len(drafts)} is kept: {cause}")
        context.emit(Piece(context.node, best.text))
        return Refined(
            text=best.text,
            draft=best.place,
            drafts=len(drafts),
            score=None if best.critique is None else best.critique.score,
            faults=() if best.critique is None else best.critique.faults,
            content=self._content(best),
            partial=cause is not None,
        )

    @property
    def plan(self) -> Plan:
        """One round as a graph, to be drawn; it runs otherwise."""
        g: Graph[Any] = Graph(self.name, self.input_type)
        draft = g.add(self.writer, g.input, name="draft")
        critique = g.add(self.critic, g.join(drafted, g.input, draft), name="critique")
        revision = g.add(
            self.reviser,
            g.join(criticised, g.input, draft, critique),
            name=f"revision, up to {self.rounds} x",
        )
        again = g.add(self.critic, g.join(drafted, g.input, revision), name="its critique")
        return g.build(g.join(best_draft, draft, critique, revision, again)).plan

    async def _drafts(
        self, request: str, text: str, context: RunContext
    ) -> tuple[list[_Scored], Exception | None]:
        """Give all drafts, and what ended it early."""
        drafts: list[_Scored] = []
        try:
            for place in range(self.rounds + 1):
                drafts.append(_Scored(place, text))
                draft = Draft(request=request, text=text)
                critique = (await self.critic.run(draft, context)).output
                drafts[-1] = _Scored(place, text, critique)
                if place == self.rounds or self._content(drafts[-1]):
                    break
                faulty = Criticised(request=request, text=text, faults=critique.faults)
                text = (await self.reviser.run(faulty, context)).output.text
        except MoaError as error:
            if not passes(error):
                raise
            return drafts, error
        return drafts, None

    def _content(self, draft: _Scored) -> bool:
        critique = draft.critique
        return critique is not None and (not critique.faults or critique.score >= self.enough)


def refine(
    writer: Node[In, Reply],
    critic: Node[Draft, Critique],
    reviser: Node[Criticised, Reply],
    *,
    rounds: int = 2,
    enough: int = 9,
    name: str = "refine",
    budget: Budget = UNLIMITED,
    timeout_s: float | None = None,
) -> Refine[In]:
    """Write a draft, and have it criticised and revised until the critic is content.

    The draft with the best score is the answer; of equal ones the earlier. Where the critic or the
    reviser fails, or the budget or the time is up, it is the best draft so far, marked `partial`.

    Args:
        writer: Writes the first draft.
        critic: Finds faults and scores, such as `Critic(endpoint)` of `moa.agents.critic`.
        reviser: Mends a draft, such as `Reviser(endpoint)` of `moa.agents.reviser`.
        rounds: Most revisions. It takes up to `2 * rounds + 2` calls.
        enough: Score, from 0 to 10, at which the critic counts as content with faults left.
        name: Shown in traces, errors and drawings.
        budget: Limits on each run, on top of those of the run it is part of.
        timeout_s: Seconds for each run; `None`: as long as the run it is part of has.

    Raises:
        ConfigError: there are no rounds, or the score is none.
    """
    return Refine(
        writer,
        critic,
        reviser,
        rounds=rounds,
        enough=enough,
        name=name,
        budget=budget,
        timeout_s=timeout_s,
    )


def drafted(request: Any, text: Reply) -> Draft:
    """Give what the critic reads."""
    return Draft(request=text_of(request), text=text.text)


def criticised(request: Any, text: Reply, critique: Critique) -> Criticised:
    """Give what the reviser reads."""
    return Criticised(request=text_of(request), text=text.text, faults=critique.faults)


def best_draft(draft: Reply, critique: Critique, revision: Reply, again: Critique) -> Refined:
    """Stand for what is kept in drawings; it is not run."""
    del draft, critique, revision, again
    raise AssertionError("a plan that is drawn is not run")
