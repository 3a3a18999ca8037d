"""Debate: several nodes answer, read each other's answers, and answer again.

After Du et al. 2023, "Improving factuality and reasoning in language models through multiagent
debate", arXiv:2305.14325.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from moa.agents.debater import Exchange
from moa.calibration.acceptance import text_of
from moa.context import RunContext
from moa.errors import BudgetExceeded, ConfigError, DeadlineExceeded, OutputError, QuorumNotMet
from moa.graphs.building.builder import Graph
from moa.graphs.building.gathering import gathered
from moa.graphs.building.plan import Plan
from moa.graphs.pattern import Pattern
from moa.handoffs import Reply
from moa.mixing.answer_extraction import Key, fitting, stated
from moa.mixing.fan_out import fan_out
from moa.mixing.judges import Candidates, Picked, distinct, picked_by
from moa.mixing.naming import told_apart
from moa.mixing.voting import Tally, Voted
from moa.node import Node, Result
from moa.trace import Piece
from moa.usage import UNLIMITED, Budget

Debating = Node[Exchange, Reply]
"""Who takes part: `Debater(endpoint)` of `moa.agents.debater`, or a node of one's own."""


class Debated(Voted):
    """What a debate comes to; `votes` are those of its last round."""

    by: Literal["agreement", "majority", "judge"]
    """What decided. Without a majority the first of the most frequent answers counts, and `tied`
    has the others."""
    rounds: int = Field(ge=0)
    """Times that the answers of others were read."""


@dataclass(frozen=True, slots=True)
class _Floor:
    """What has been answered so far."""

    request: str
    replies: Mapping[int, str]
    """The latest answer of each debater, by its place."""


@dataclass(frozen=True, slots=True)
class _Seat:
    """A debater at its place, from which it sees the others' answers and not their names."""

    debater: Debating
    place: int
    of: int

    @property
    def name(self) -> str:
        return self.debater.name

    async def run(self, floor: _Floor, context: RunContext | None = None, /) -> Result[Reply]:
        # From its own place on, so that no answer is the first that everyone reads.
        places = ((self.place + step) % self.of for step in range(1, self.of))
        exchange = Exchange(
            text=floor.request,
            own=floor.replies.get(self.place),
            others=tuple(floor.replies[place] for place in places if place in floor.replies),
        )
        return await self.debater.run(exchange, context)


class Debate(Pattern[str | BaseModel, Debated]):
    """What `debate` makes."""

    def __init__(
        self,
        debaters: Sequence[Debating],
        *,
        rounds: int,
        judge: Node[Candidates, Picked] | None,
        key: Key,
        name: str,
        budget: Budget,
        timeout_s: float | None,
    ) -> None:
        if len(debaters) < 2 or rounds < 0:
            raise ConfigError(
                f"{name}: {len(debaters)} debaters and rounds={rounds}, but a debate takes two or "
                "more, and 0 rounds or more"
            )
        super().__init__(name=name, budget=budget, timeout_s=timeout_s)
        self.debaters = tuple(debaters)
        self.rounds = rounds
        self.judge = judge
        self.key = fitting(key, Reply)

    async def answer(self, request: str | BaseModel, context: RunContext) -> Debated:
        """Let everyone answer, and answer again, until they agree or the rounds are up.

        Raises:
            QuorumNotMet: nobody answered; with the cause of each.
            OutputError: no answer could be read.
        """
        text, taken = text_of(request), 0
        replies = await self._round(range(len(self.debaters)), _Floor(text, {}), context)
        while taken < self.rounds and not self._agree(replies):
            # Who has not answered at all is out; who fails later keeps the answer it gave.
            try:
                again = await self._round(sorted(replies), _Floor(text, replies), context)
                replies = {**replies, **again}
            except (QuorumNotMet, BudgetExceeded, DeadlineExceeded) as error:
                context.note("degraded", f"the debate ends after {taken} rounds: {error}")
                break
            taken += 1
        debated = await self._decided(text, replies, taken, context)
        context.emit(Piece(context.node, debated.text))
        return debated

    @property
    def plan(self) -> Plan:
        """One round as a graph, to be drawn; it runs otherwise."""
        g: Graph[str | BaseModel] = Graph(self.name, self.input_type)
        shown = told_apart([debater.name for debater in self.debaters])
        first = g.input.map(opening)
        answers = gathered(
            g, [g.add(d, first, name=n) for d, n in zip(self.debaters, shown, strict=True)]
        )
        again = g.join(exchanged, g.input, answers)
        last: Any = answers
        if self.rounds:
            last = gathered(
                g,
                [
                    g.add(d, again, name=f"{n}, up to {self.rounds} x")
                    for d, n in zip(self.debaters, shown, strict=True)
                ],
            )
        if self.judge is None:
            return g.build(g.add(vote, last)).plan
        picked = g.add(self.judge, g.join(candidates, g.input, last))
        return g.build(g.join(best, last, picked)).plan

    async def _round(
        self, places: Sequence[int], floor: _Floor, context: RunContext
    ) -> dict[int, str]:
        seats = [_Seat(self.debaters[p], p, len(self.debaters)) for p in places]
        drawn = await fan_out(seats, floor, context, patience_s=None)
        return {places[one.place]: one.output.text for one in drawn}

    def _tally(self, replies: Mapping[int, str]) -> Tally:
        tally = Tally(left=len(self.debaters))
        for place, text in replies.items():
            tally = tally.with_vote(place, self.key(Reply(text=text)))
        return tally.without(tally.left)

    def _agree(self, replies: Mapping[int, str]) -> bool:
        return len(replies) < 2 or self._tally(replies).share == 1.0

    async def _decided(
        self, request: str, replies: Mapping[int, str], rounds: int, context: RunContext
    ) -> Debated:
        tally = self._tally(replies)
        places = sorted(replies)
        chosen, by = None, "agreement" if tally.share == 1.0 else "majority"
        if by == "majority" and self.judge is not None:
            chosen = await self._judged(self.judge, request, replies, context)
        if chosen is not None:
            by = "judge"
        elif tally.leaders:
            chosen = tally.place_of(tally.leaders[0])
        else:
            raise OutputError(
                f"in none of {len(replies)} answers something was found that could be compared. "
                "Ask for a form that the key reads, or give a judge",
                node=self.name,
                text=replies[places[0]],
            )
        answer = self.key(Reply(text=replies[chosen]))
        voted = tally.voted(replies[chosen], answer)
        return Debated(**voted.model_dump(), by=by, rounds=rounds)

    async def _judged(
        self,
        judge: Node[Candidates, Picked],
        request: str,
        replies: Mapping[int, str],
        context: RunContext,
    ) -> int | None:
        """Give the place that the judge prefers; `None` without one, or where it prefers none."""
        places = sorted(replies)
        places = [places[p] for p in distinct([replies[p] for p in places])]
        picked = await picked_by(judge, request, [replies[p] for p in places], context)
        if picked is None:
            return None
        if picked.verdict == "won":
            return places[picked.place]
        context.note("degraded", f"the verdict is {picked.verdict}, so the majority decides")
        return None


def debate(
    *debaters: Debating,
    rounds: int = 2,
    judge: Node[Candidates, Picked] | None = None,
    key: Key = stated,
    name: str = "debate",
    budget: Budget = UNLIMITED,
    timeout_s: float | None = None,
) -> Debate:
    """Let several nodes answer, read each other's answers, and answer again.

    It ends when all agree, or after the rounds: then the judge decides, or the majority where there
    is none or it prefers nothing. Who fails in the first round is left out; who fails later stands
    by the answer it gave. Where the budget or the time ends it, the answers so far are counted.

    Small models that read each other tend to get worse (arXiv:2510.05077): for those `choose_best`
    is made.

    Args:
        debaters: Two or more, such as `Debater(endpoint)`; they read answers without a name.
        rounds: Most times that answers are read and written anew; 0 is a vote. The calls are as
            many as debaters, times `rounds` and one.
        judge: Decides where they don't agree in the end, as in `best_of_n`; `None`: the majority.
        key: Turns an answer, which is a `Reply`, into what is compared: `stated`, `last_number` or
            `label_of([…])` of `moa.mixing.answer_extraction`, or one's own function.
        name: Shown in traces, errors and drawings.
        budget: Limits on each run, on top of those of the run it is part of.
        timeout_s: Seconds for each run; `None`: as long as the run it is part of has.

    Raises:
        ConfigError: there are fewer than two debaters or 0 rounds, or the key is that of a field.
    """
    return Debate(
        debaters,
        rounds=rounds,
        judge=judge,
        key=key,
        name=name,
        budget=budget,
        timeout_s=timeout_s,
    )


_DRAWN = "a plan that is drawn is not run"


def opening(request: str | BaseModel) -> Exchange:
    """Give what everyone reads in the first round."""
    return Exchange(text=text_of(request))


def exchanged(request: str | BaseModel, answers: object) -> Exchange:
    """Stand for what a debater reads in drawings; it is not run."""
    del request, answers
    raise AssertionError(_DRAWN)


def vote(answers: object) -> Debated:
    """Stand for the vote in drawings; it is not run."""
    del answers
    raise AssertionError(_DRAWN)


def candidates(request: str | BaseModel, answers: object) -> Candidates:
    """Stand for what the judge reads in drawings; it is not run."""
    del request, answers
    raise AssertionError(_DRAWN)


def best(answers: object, picked: Picked) -> Debated:
    """Stand for what was decided in drawings; it is not run."""
    del answers, picked
    raise AssertionError(_DRAWN)
